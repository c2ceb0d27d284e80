"""Locks between processes: two trainings of the same fold would overwrite each other's checkpoints."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from petct.errors import CaseError

PATIENCE_S = 1.0  # long enough for a look by `holder`, which holds the lock for an instant
_RETRY_S = 0.05

log = logging.getLogger(__name__)


class LockedError(CaseError):
    """Another process holds the lock."""


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs.

    The lock is the kernel's, on the file and for this process alone (POSIX `lockf`, which network file systems pass on
    to each other's machines): it ends with the process however that ends, and processes forked meanwhile, such as
    nnU-Net's data loaders, do not keep it. The file says whose it is; text found in a file that nobody holds is a dead
    process's, and is taken over.

    Args:
        path: The lock file; its folder is made when it is missing. It is removed at the end.
        wait: Whether to wait until the lock is free, for a second's work; otherwise whoever comes second is refused.

    Raises:
        LockedError: Another process holds the lock, and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, wait=wait)
    try:
        if owner := _text(descriptor):
            log.warning("%s: taken over from %s, which has ended without releasing it", path.name, owner)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _myself().encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock goes, so that nobody can have taken it over meanwhile
        os.close(descriptor)


def holder(path: Path) -> str:
    """Who holds a lock, as `process 4711 on gpu-node-3 since ...`; "" when nobody does.

    Not for a lock that this process holds itself: closing the file here would release it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return _text(descriptor) or "another process"
    finally:
        os.close(descriptor)
    return ""


def _acquire(path: Path, *, wait: bool) -> int:
    """A descriptor of the lock file, locked."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o664)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            owner = _text(descriptor)
            os.close(descriptor)
            if not wait and time.monotonic() > give_up_s:
                rule = "must not be written by two processes at once"
                raise LockedError(str(path), rule, f"{owner or 'another process'} at it") from error
            time.sleep(_RETRY_S)
            continue
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # its last owner removed it between the opening and the locking


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _text(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace").strip()


def _myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
