"""`python -m training pack-model`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from petct.errors import CaseError
from petct.manifest import Checkpoint
from training.commands.pack import one_line

HELP = "pack one nnU-Net results folder and print its digests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("results", type=Path, help="nnU-Net's <trainer>__<plans>__<configuration> folder")
    parser.add_argument("--folds", type=int, nargs="+", required=True)
    parser.add_argument("--checkpoint", choices=[checkpoint.value for checkpoint in Checkpoint], default="final")
    parser.add_argument("--output", type=Path, required=True, help="the packed model's folder")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    parser.add_argument(
        "--clip", type=float, nargs=2, metavar=("LOW_HU", "HIGH_HU"), help="what the training data's CT was clipped to"
    )
    parser.add_argument("--licence", type=one_line, default="not stated", help="of the weights, e.g. CC-BY-4.0")
    parser.add_argument("--overwrite", action="store_true", help="replace a packed model that is there")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from petct.channels import ClipHU
    from training.weights.pack import pack_model

    if options.clip and not -math.inf < options.clip[0] < options.clip[1] < math.inf:
        raise CaseError("--clip", "must be two numbers that rise", f"{options.clip[0]:g} {options.clip[1]:g} HU")
    digests = pack_model(
        options.results,
        folds=options.folds,
        checkpoint=options.checkpoint,
        destination=options.output,
        half=options.half,
        clip=ClipHU(low_hu=options.clip[0], high_hu=options.clip[1]) if options.clip else None,
        provenance={"licence": options.licence},
        overwrite=options.overwrite,
    )
    print("# for the member's sha256 table in the manifest")
    for file, digest in digests.items():
        print(f'"{file}" = "{digest}"')
    return 0
