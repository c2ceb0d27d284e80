"""`python -m training check`."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from petct.errors import CaseError
from training.commands.arguments import count, patient_folders

HELP = "check every file of a folder of patients, and say what is wrong"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX")
    parser.add_argument("--processes", type=count, default=os.cpu_count(), help="patients at the same time")
    parser.add_argument("--csv", type=Path, help="also write every finding here")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns 1 when a patient is broken, 0 otherwise, warnings or not."""
    from training.checks.findings import has_error, summary, table, write_csv
    from training.checks.patients import check_patients
    from training.memory import checking_bytes
    from training.processes import affordable_processes

    if options.csv and not options.csv.resolve().parent.is_dir():
        raise CaseError("--csv", "folder must exist", str(options.csv.parent))
    patients = patient_folders(options.patients)
    processes = affordable_processes(options.processes, bytes_each=checking_bytes(patients))
    log.info("checks %d patients of %s, %d at the same time", len(patients), options.patients, processes)
    findings = check_patients(patients, processes=processes)
    if options.csv:
        write_csv(findings, options.csv)
    if findings:
        print(table(findings))
    print(summary(findings, patients=len(patients)))
    return 1 if has_error(findings) else 0
