"""nnU-Net's checkpoints: which of a fold's can be read, where a training goes on, and writing them whole."""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from petct.written_whole import written_whole

FINAL = "checkpoint_final.pth"
# The latest comes every so many epochs, the best at any time: whichever is further is gone on with.
RESUMABLE = ("checkpoint_latest.pth", "checkpoint_best.pth")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """Where an interrupted training goes on.

    Attributes:
        checkpoint: The file.
        epoch: The epoch that comes next, from 0.
    """

    checkpoint: Path
    epoch: int


def next_epoch(checkpoint: Path) -> int | None:
    """The epoch that comes after a checkpoint, or None when it is not there or cannot be read.

    A file that was cut off while it was written has lost the directory at its end, and is found out without reading
    its tensors. It is unpickled, so it must be one that you have trained or trust.
    """
    if not checkpoint.is_file():
        return None
    try:
        content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)
        return int(content["current_epoch"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, OSError, TypeError, ValueError):
        return None


def is_finished(folder: Path) -> bool:
    """Whether a fold's folder holds the checkpoint of a training's end, whole; a broken one is reported."""
    final = folder / FINAL
    if not final.is_file():
        return False
    if next_epoch(final) is None:
        _report(final)
        return False
    return True


def resume_point(folder: Path) -> ResumePoint | None:
    """Where a fold's training goes on; None for its beginning. Checkpoints that cannot be read are reported."""
    points, broken = [], False
    for name in RESUMABLE:
        checkpoint = folder / name
        epoch = next_epoch(checkpoint)
        if epoch is not None:
            points.append(ResumePoint(checkpoint, epoch))
        elif checkpoint.is_file():
            broken = True
            _report(checkpoint)
    if broken and not points:
        log.warning("%s: no checkpoint can be read, the training starts again at epoch 0", folder)
    return max(points, key=lambda point: point.epoch, default=None)


def write_whole(trainer: Any) -> None:
    """Let a trainer's checkpoints appear whole or not at all: nnU-Net writes into the file that it continues from."""
    save = trainer.save_checkpoint

    def save_whole(path: str) -> None:
        if trainer.disable_checkpointing:  # then nnU-Net writes none, and says so
            save(path)
            return
        with written_whole(Path(path)) as partial:
            save(str(partial))

    trainer.save_checkpoint = save_whole


def _report(checkpoint: Path) -> None:
    log.warning("%s: cannot be read, so it was cut off while it was written; not used", checkpoint)
