"""`python -m benchmark`: how fast the method is beside the reference way, and what that costs in agreement.

Without a command's name it is `case`: one case, the reference way and our modes in turns.
"""

from __future__ import annotations

import argparse
import logging
import sys
from importlib import import_module

from petct.errors import CaseError

DEFAULT_COMMAND = "case"
# Modules of benchmark.commands; only the one that is asked for is imported.
COMMANDS = (DEFAULT_COMMAND, "report", "modes", "growth", "networks", "organs", "served", "deadlines")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    is_named = bool(given) and given[0] in COMMANDS
    name = given[0] if is_named else DEFAULT_COMMAND
    command = import_module(f"benchmark.commands.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmark {name}" if is_named else "python -m benchmark",
        description=command.HELP,
        epilog=f"Commands: {', '.join(COMMANDS)}; python -m benchmark COMMAND --help explains one.",
    )
    command.add_arguments(parser)
    options = parser.parse_args(given[1:] if is_named else given)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    try:
        return int(command.run(options))
    except CaseError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
