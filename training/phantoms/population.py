"""Many phantom patients at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from training.phantoms.folder import write_patient
from training.phantoms.patient import PhantomSize, generate_patient
from training.phantoms.scanner import PetGrids

log = logging.getLogger(__name__)


def write_patients(
    seeds: Sequence[int], *, size: PhantomSize, folder: Path, processes: int, pet_grids: PetGrids | None = None
) -> None:
    """Write a patient per seed; those that are there already are left as they are.

    Args:
        seeds: The seeds; patient `train_0007` comes of seed 7.
        size: How large the images are.
        folder: Where the patients go.
        processes: Patients made at the same time.
        pet_grids: The PETs' grids, clinical size only; None draws each from those of real scanners.
    """
    todo = [seed for seed in seeds if not (folder / f"train_{seed:04d}").exists()]
    log.info("%d phantom patients to make, %d are there already", len(todo), len(seeds) - len(todo))
    with get_context("spawn").Pool(min(processes, max(len(todo), 1))) as pool:
        write = partial(_write_one, size=size, folder=folder, pet_grids=pet_grids)
        for done, path in enumerate(pool.imap(write, todo), start=1):
            log.info("%s (%d of %d)", path.name, done, len(todo))


def _write_one(seed: int, *, size: PhantomSize, folder: Path, pet_grids: PetGrids | None) -> Path:
    return write_patient(generate_patient(seed, size=size, pet_grids=pet_grids), folder)
