"""Folders for temporary files, and what a user is told when there can be none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from petct.errors import CaseError

_PROBE_BYTES = 64 << 10


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder that is gone at the end, whatever happens in it.

    Args:
        prefix: What its name begins with.

    Raises:
        CaseError: No folder for temporary files can be written to, or it is full.
    """
    try:
        # What cannot be removed is not worth a case: the masks may be written already.
        folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    except OSError as error:
        # Without any usable folder the error says so, and lists those that were tried.
        where = tempfile.tempdir or "temporary folder"
        raise CaseError(where, "must be a folder that can be written to", error.strerror or str(error)) from error
    with folder as name:
        yield Path(name)


def why_unwritable(folder: Path) -> str | None:
    """What the system says when a little more is written to a folder ("No space left on device"); None if it can be.

    ITK's writers, and a program whose own words go to a full disk, do not tell.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            written = probe.write(bytes(_PROBE_BYTES))
        return None if written == _PROBE_BYTES else f"room for {written} bytes"
    except OSError as error:
        return error.strerror or str(error)
