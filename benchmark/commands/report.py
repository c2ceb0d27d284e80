"""`python -m benchmark report FILE...`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from petct.errors import CaseError

HELP = "the tables of one or more results of `python -m benchmark --case`, in Markdown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("results", nargs="+", type=Path, help="JSON files, one per case")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from benchmark.report import render

    print(render([_read(file) for file in options.results]), end="")
    return 0


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(str(file), "results must be readable as JSON", str(error)) from error
    if not isinstance(content, dict) or not {"case", "modes", "reference", "machine"} <= set(content):
        raise CaseError(str(file), "must be results of python -m benchmark --case")
    return content
