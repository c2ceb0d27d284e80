"""Many phantom patients at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from training.phantoms.folder import write_patient
from training.phantoms.patient import PhantomSize, generate_patient

log = logging.getLogger(__name__)


def write_patients(seeds: Sequence[int], *, size: PhantomSize, folder: Path, processes: int) -> None:
    """Write a patient per seed; those that are there already are left as they are.

    Args:
        seeds: The seeds; patient `train_0007` comes of seed 7.
        size: How large the images are.
        folder: Where the patients go.
        processes: Patients made at the same time.
    """
    todo = [seed for seed in seeds if not (folder / f"train_{seed:04d}").exists()]
    log.info("%d phantom patients to make, %d are there already", len(todo), len(seeds) - len(todo))
    with get_context("spawn").Pool(min(processes, max(len(todo), 1))) as pool:
        for done, path in enumerate(pool.imap(partial(_write_one, size=size, folder=folder), todo), start=1):
            log.info("%s (%d of %d)", path.name, done, len(todo))


def _write_one(seed: int, *, size: PhantomSize, folder: Path) -> Path:
    return write_patient(generate_patient(seed, size=size), folder)
