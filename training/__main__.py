"""`python -m training`: from phantoms or patients to packed weights, and to knowing how good they are."""

from __future__ import annotations

import argparse
import logging
import sys
from importlib import import_module

from petct.errors import CaseError

# In the order in which a user needs them; each is a module of training.commands.
COMMANDS = (
    "phantom",
    "check",
    "dataset",
    "folds",
    "train",
    "predict-oof",
    "fit-refinement",
    "sweep",
    "pack",
    "pack-model",
    "judge",
    "ablate",
    "picture",
)


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = import_module(f"training.commands.{name.replace('-', '_')}")
        command_parser = commands.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(command_parser)
        command_parser.set_defaults(run=command.run)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    try:
        return int(options.run(options))
    except CaseError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
