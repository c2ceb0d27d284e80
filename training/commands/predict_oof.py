"""`python -m training predict-oof`."""

from __future__ import annotations

import argparse
from pathlib import Path

from petct.errors import CaseError
from training.commands.arguments import patient_folders

HELP = "predict every training patient with the folds that have not seen him, going on where it was interrupted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--recipe", type=Path, required=True, help="the networks; of each fold, those that are trained")
    parser.add_argument("--nnunet", type=Path, required=True, help="folder with nnU-Net's three folders")
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX with truth")
    parser.add_argument("--output", type=Path, required=True, help="folder for the predictions")
    parser.add_argument(
        "--base", type=Path, default=Path("resources/paper.toml"), help="thresholds and rules (%(default)s)"
    )
    parser.add_argument(
        "--organs", choices=("auto", "given", "totalsegmentator"), default="auto",
        help="organ maps: the patients' if they have them, only theirs, or always computed (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="(%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="train_XXXX", help="only these patients")
    parser.add_argument(
        "--overwrite", action="store_true", help="predict patients again that were predicted with other networks"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 1 when a patient is broken, 0 when patients are only left out."""
    from operation.setting import choose_device
    from petct.manifest import read_manifest
    from segmentation.organ_maps import OrganSource
    from training.networks.recipe import read_recipe
    from training.studies.out_of_fold.predict import predict_out_of_fold

    patients = patient_folders(options.patients)
    if unknown := sorted(set(options.only or ()) - {patient.name for patient in patients}):
        raise CaseError("--only", f"must be patients of {options.patients}", ", ".join(unknown))
    outcome = predict_out_of_fold(
        read_recipe(options.recipe),
        nnunet=options.nnunet,
        patients=[patient for patient in patients if not options.only or patient.name in options.only],
        base=read_manifest(options.base),
        organ_source=OrganSource(options.organs),
        output=options.output,
        device=choose_device(options.device),
        overwrite=options.overwrite,
    )
    for title, reasons in (("left out", outcome.left_out), ("broken", outcome.broken)):
        for name, reason in reasons.items():
            print(f"{title}: {name}: {reason}")
    print(
        f"{len(outcome.predicted)} predicted, {len(outcome.there)} there already, {len(outcome.left_out)} left out, "
        f"{len(outcome.broken)} broken"
    )
    return 1 if outcome.broken else 0
