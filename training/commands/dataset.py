"""`python -m training dataset`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from petct.manifest import Architecture
from training.commands.arguments import count, patient_folders

HELP = "write, plan and preprocess nnU-Net data sets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("numbers", type=int, nargs="+", help="801 802 901 902 921 922, or 298 for the organ network")
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX")
    parser.add_argument("--nnunet", type=Path, required=True, help="folder for nnUNet_raw, _preprocessed and _results")
    parser.add_argument("--processes", type=count, default=os.cpu_count())


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from training.datasets.descriptions import dataset_name
    from training.datasets.planning import plan_and_preprocess, set_nnunet_folders
    from training.datasets.write import write_dataset

    patients = patient_folders(options.patients)
    for number in options.numbers:
        dataset_name(number)  # one that does not exist is refused before hours go into the others
    set_nnunet_folders(options.nnunet)
    for number in options.numbers:
        write_dataset(number, patients=patients, raw=options.nnunet / "nnUNet_raw", processes=options.processes)
        plan_and_preprocess(
            number,
            architectures=Architecture,
            preprocessed=options.nnunet / "nnUNet_preprocessed" / dataset_name(number),
            processes=options.processes,
        )
    return 0
