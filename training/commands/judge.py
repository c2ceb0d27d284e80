"""`python -m training judge`."""

from __future__ import annotations

import argparse
from pathlib import Path

from petct.errors import CaseError
from training.commands.arguments import patient_folders

HELP = "run a manifest on patients with known truth and print Dice"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX with truth and organ maps")
    parser.add_argument("--manifest", type=Path, default=Path("resources/demo.toml"), help="(%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--csv", type=Path, help="also write every score here")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from operation.setting import choose_device
    from petct.manifest import read_manifest
    from training.studies.judge import judge, table, write_csv

    if options.csv and not options.csv.resolve().parent.is_dir():
        raise CaseError("--csv", "folder must exist", str(options.csv.parent))
    patients = patient_folders(options.patients)
    scores = judge(patients, manifest=read_manifest(options.manifest), device=choose_device(options.device))
    print(table(scores))
    if options.csv:
        write_csv(scores, options.csv)
    return 0
