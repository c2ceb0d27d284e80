"""What the sub-commands' arguments have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from petct.errors import CaseError


def seeds(text: str) -> tuple[int, ...]:
    """Seeds from `3`, `0-39` or `0-9,20,30-32`, each once."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"seeds must look like 0-39 or 3,5,7, got {text!r}")
        if int(last or first) < int(first):
            raise argparse.ArgumentTypeError(f"seeds must rise within a range, got {part!r}")
        found.extend(range(int(first), int(last or first) + 1))
    if len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"seeds must not repeat, got {text!r}")
    return tuple(found)


def count(text: str) -> int:
    """A whole number >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


def patient_folders(folder: Path) -> list[Path]:
    """The patients of a folder, in the order of their names.

    Raises:
        CaseError: There are none.
    """
    patients = sorted(path for path in folder.glob("train_*") if path.is_dir())
    if not patients:
        raise CaseError(str(folder), "must hold patients named train_XXXX", "none")
    return patients
