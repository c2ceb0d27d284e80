"""How TotalSegmentator's process reads a checkpoint: the very bytes whose SHA-256 is the manifest's, and no others.

A pickle can call anything. nnU-Net's checkpoints are pickles, of tensors and numbers mostly, which PyTorch reads with
an unpickler of its own that knows nothing else; but that one has had holes (CVE-2025-32434, CVE-2026-24747), so that no
file is given to it that the manifest does not answer for. Everywhere else in the process unpickling is an error.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

_allowed = threading.local()


def forbid_unpickling() -> None:
    """Make every unpickling of anything but built-in values an error in this process, for good."""

    def refuse(event: str, details: tuple[Any, ...]) -> None:
        if event == "pickle.find_class" and not getattr(_allowed, "now", False):
            name = ".".join(map(str, details[-2:]))
            raise RuntimeError(f"TotalSegmentator must unpickle nothing but pinned checkpoints, {name} was asked for")

    sys.addaudithook(refuse)


def read_checkpoint(path: Path, *, sha256: str | None) -> dict[str, Any]:
    """What nnU-Net has stored, with all tensors on the CPU.

    Args:
        path: The checkpoint, `.pth`.
        sha256: The digest that the manifest gives for it; None if it gives none, which is an error.

    Raises:
        RuntimeError: The file has another digest, or none is given.
    """
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise RuntimeError(f"sha256 of {path} must be {sha256 or 'in the manifest'}, got {actual}")
    stream = io.BytesIO(content)
    del content
    try:
        with torch.serialization.safe_globals(_numbers()):
            checkpoint = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        stream.seek(0)
        with _unpickling():
            checkpoint = torch.load(stream, map_location="cpu", weights_only=False)
    return dict(checkpoint)


def _numbers() -> list[Any]:
    """What nnU-Net's records of a training are made of: numbers of numpy, under their old and new names."""
    scalar = np.float64(0).__reduce__()[0]  # numpy's own maker of numbers
    types = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *types]


@contextmanager
def _unpickling() -> Iterator[None]:
    _allowed.now = True
    try:
        yield
    finally:
        _allowed.now = False
