"""What the doctor says of folders that are written to, and of the user who writes."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from operation.doctor_verdicts import Place, Verdict, fail, gib, ok, refused, warn
from petct.errors import CaseError
from petct.output import check_places

# TotalSegmentator's process gets each CT as a file and answers with another, and keeps copies at its own spacing: the
# largest CT that was seen (1000 x 512 x 512 voxels of 2 bytes) takes about 2 GiB in all.
USUAL_TEMPORARY_BYTES = 2 << 30
LEAST_TEMPORARY_BYTES = 512 << 20
LEAST_OUTPUT_BYTES = 256 << 20  # two masks of the largest grid, 92 million voxels of a byte, are 184 MB

# Where packages keep things, by the variable that says so, and below the home without it. TOTALSEG_HOME_DIR is not
# among them: TotalSegmentator gets one of its own in the temporary folder.
_CACHES = {
    "XDG_CACHE_HOME": ".cache",
    "XDG_CONFIG_HOME": ".config",
    "MPLCONFIGDIR": ".config/matplotlib",
    "NUMBA_CACHE_DIR": ".cache/numba",
    "TORCH_HOME": ".cache/torch",
    "TRITON_CACHE_DIR": ".triton/cache",
    "CUDA_CACHE_PATH": ".nv/ComputeCache",
}


def check_user(_place: Place) -> Iterator[Verdict]:
    """Who runs it: not root, and somebody whom the system knows."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        yield warn("user", f"uid {uid} must be in /etc/passwd, is not", remedy="run as a user of the machine or image")
        return
    if uid == 0:
        yield warn("user", "must not be root, is root", remedy="run as an ordinary user; nothing here needs more")
    else:
        yield ok("user", f"{name}, uid {uid}")


def check_temporary(_place: Place) -> Iterator[Verdict]:
    """The temporary folder can be written and has room."""
    about, remedy = "temporary folder", "set TMPDIR to a writable folder, or mount one at /tmp"
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        yield fail(about, f"must be writable, got {error.strerror or error}", remedy=remedy)
        return
    if problem := why_not_writable(folder):
        yield fail(about, f"{folder} must be writable, got {problem}", remedy=remedy)
        return
    free = shutil.disk_usage(folder).free
    if free < LEAST_TEMPORARY_BYTES:
        rule = f"{folder} must have {gib(LEAST_TEMPORARY_BYTES)} free or more, got {gib(free)}"
        yield fail(about, rule, remedy="make room there, or set TMPDIR to another folder")
    elif free < USUAL_TEMPORARY_BYTES:
        rule = f"{folder} should have {gib(USUAL_TEMPORARY_BYTES)} free or more, got {gib(free)}"
        yield warn(about, rule, remedy="make room there, or set TMPDIR to another folder")
    else:
        yield ok(about, f"{folder}, {gib(free)} free")


def check_output(place: Place) -> Iterator[Verdict]:
    """The output folder, or where it would be made, can be written and has room."""
    if place.output is None:
        return
    about, folder = "output", _nearest(place.output)
    if problem := why_not_writable(folder):
        remedy = "give this user the right to write, or name another folder with --output"
        yield fail(about, f"{folder} must be writable, got {problem}", remedy=remedy)
        return
    try:
        check_places(place.output)
    except CaseError as error:
        yield refused(error, remedy="empty that folder, or name another one with --output")
        return
    free = shutil.disk_usage(folder).free
    if free < LEAST_OUTPUT_BYTES:
        rule = f"{folder} must have {gib(LEAST_OUTPUT_BYTES)} free or more, got {gib(free)}"
        yield fail(about, rule, remedy="make room there, or name another folder with --output")
    else:
        yield ok(about, f"{place.output}, {gib(free)} free")


def check_caches(_place: Place) -> Iterator[Verdict]:
    """The home, and what stands in for it where packages keep their caches, can be written."""
    home = _home()
    unwritable = {}
    for variable, below_home in _CACHES.items():
        named = os.environ.get(variable)
        folder = Path(named) if named else home and home / below_home
        if folder is None:
            unwritable[variable] = "this user has no home"
        elif problem := why_not_writable(_nearest(folder)):
            unwritable[variable] = f"{folder}: {problem}"
    if unwritable:
        first = next(iter(unwritable))
        rule = f"folders for caches must be writable, got {unwritable[first]}"
        yield warn("caches", rule, remedy=f"set {', '.join(unwritable)} to writable folders")
    else:
        yield ok("caches", f"writable, {os.environ.get('XDG_CACHE_HOME') or home} and others")


def why_not_writable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, or None if it can; what is tried leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())  # a full disk may say so only now
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above that is there."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
