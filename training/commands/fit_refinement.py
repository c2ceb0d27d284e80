"""`python -m training fit-refinement`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from petct.errors import CaseError

HELP = "fit the classifier of FDG lesions on out-of-fold predictions, judge it on patients held out, write a manifest"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--oof", type=Path, required=True, help="folder that predict-oof wrote")
    parser.add_argument("--manifest", type=Path, required=True, help="its limit of p and its rules are kept")
    parser.add_argument("--output", type=Path, required=True, help="the new manifest, in the folder of the old one")
    parser.add_argument("--plot", type=Path, help="also draw ROC, calibration and coefficients here, as a PNG")
    parser.add_argument("--csv", type=Path, help="also write every lesion with its p here")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from petct.manifest import read_manifest
    from training.studies.refinement.plot import draw_study
    from training.studies.refinement.report import check_place, record_file, study_table, write_refined_manifest
    from training.studies.refinement.study import study_refinement, write_study_csv

    manifest = read_manifest(options.manifest)
    check_place(options.output, manifest=manifest)
    for file in (options.output, record_file(options.output), options.plot, options.csv):
        if file is not None and not file.resolve().parent.is_dir():
            raise CaseError(str(file), "folder must exist", str(file.parent))
        if file is not None and file.exists() and not options.overwrite:
            raise CaseError(str(file), "file must not exist yet; use --overwrite to replace it")
    study = study_refinement(options.oof, manifest=manifest)
    print(study_table(study))
    if options.csv:
        write_study_csv(study, options.csv)
    if options.plot:
        draw_study(study, options.plot)
    record = write_refined_manifest(study, manifest=manifest, file=options.output)
    log.info("%s and %s written", options.output, record.name)
    return 0
