"""`python -m training dataset`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from training.commands.arguments import count, patient_folders

HELP = "check patients, and write, plan and preprocess nnU-Net data sets of them"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    numbers = "801 802, 901 902, 911 912, 921 922, or 298 for the organ network"
    parser.add_argument("numbers", type=int, nargs="+", help=numbers)
    parser.add_argument("--patients", type=Path, required=True, help="folder of train_XXXX")
    parser.add_argument("--nnunet", type=Path, required=True, help="folder for nnUNet_raw, _preprocessed and _results")
    parser.add_argument(
        "--processes", type=count, default=os.cpu_count(), help="cases at the same time, fewer where memory is short"
    )
    parser.add_argument(
        "--corrected",
        type=Path,
        help="folder with train_XXXX/{PSMA,FDG}/TTB_fixed or TTB, for 911 and 912; else TTB_fixed beside TTB is taken",
    )
    parser.add_argument("--clip-ct", action="store_true", help="clip the CT to the data set's 5th-95th percentile")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="PATIENT", help="without these patients")
    parser.add_argument("--leave-out-broken", action="store_true", help="without the patients that are found broken")
    parser.add_argument("--overwrite", action="store_true", help="make anew what is there of something else")
    parser.add_argument(
        "--manifest",
        type=Path,
        default=Path("resources/paper.toml"),
        help="whose TotalSegmentator computes missing organ maps (%(default)s)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="for TotalSegmentator (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    import torch

    from training.datasets.build import BuildRequest, build_datasets
    from training.datasets.build_report import report
    from training.datasets.refused import RefusedPatientsError

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    patients = patient_folders(options.patients)
    numbers = list(dict.fromkeys(options.numbers))
    request = BuildRequest(
        patients=tuple(patients),
        nnunet=options.nnunet,
        leave_out=frozenset(options.leave_out),
        leaves_out_broken=options.leave_out_broken,
        corrected=options.corrected,
        is_ct_clipped=options.clip_ct,
        overwrites=options.overwrite,
        processes=options.processes,
        manifest=options.manifest,
        device=device,
    )
    log.info("makes %d data sets of %d patients in %s", len(numbers), len(patients), options.nnunet)
    try:
        built = build_datasets(numbers, request)
    except RefusedPatientsError as error:
        for refusal in error.refused.values():
            print(refusal, file=sys.stderr)
        raise  # the last line says how many
    print(report(built))
    return 0
