"""`python -m training phantom`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from training.commands.arguments import count, seeds

HELP = "make phantom patients in the training set's layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--size", choices=("tiny", "demo", "clinical"), default="demo")
    parser.add_argument("--seeds", type=seeds, required=True, help="e.g. 0-39; one patient per seed")
    parser.add_argument("--output", type=Path, required=True, help="folder for train_XXXX")
    parser.add_argument("--processes", type=count, default=os.cpu_count())


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from training.phantoms import PhantomSize
    from training.phantoms.population import write_patients

    write_patients(options.seeds, size=PhantomSize(options.size), folder=options.output, processes=options.processes)
    return 0
