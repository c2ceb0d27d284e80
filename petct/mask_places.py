"""Where masks lie in an output folder; the standard library is enough for it, because not all can load more."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PSMA_FOLDER = "images/psma-pet-ttb"
FDG_FOLDER = "images/fdg-pet-ttb"
MASK_NAME = "ttb.mha"
HIDDEN_NAME = f".{MASK_NAME}.partial"


def take_away_masks(output: Path) -> None:
    """Remove our own masks, whole or not, and nothing else; what cannot be removed stays."""
    for folder in (PSMA_FOLDER, FDG_FOLDER):
        for name in (MASK_NAME, HIDDEN_NAME):
            with suppress(OSError):
                (output / folder / name).unlink()
