"""What the doctor says of memory, processors and limits."""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from operation.doctor_verdicts import Place, Verdict, fail, gib, ok, refused, warn
from operation.setting import TIME_LIMIT_VARIABLE, choose_time_limit
from petct.errors import CaseError
from petct.memory import free_bytes

# Peaks of docs/performance.md: 2.5 to 2.7 GiB for a common case, 4.6 GiB for the largest, with the demo networks and
# organ maps given. Real networks and TotalSegmentator's own process take their share on top.
LEAST_MEMORY_BYTES = 4 << 30
USUAL_MEMORY_BYTES = 8 << 30
# Nothing of ours puts arrays there; PyTorch and OpenVINO keep locks.
_LEAST_SHARED_BYTES = 16 << 20
# Pools of PyTorch, OpenVINO and TotalSegmentator's process, a thread of each per processor, and some of their own.
_THREADS_PER_PROCESSOR = 8
_OTHER_THREADS = 32

_GROUP = Path("/sys/fs/cgroup")
_SHARED = Path("/dev/shm")
_PROC = Path("/proc")


def check_memory(_place: Place) -> Iterator[Verdict]:
    """Free memory, whatever limits it."""
    free, (limit, _) = free_bytes(), resource.getrlimit(resource.RLIMIT_DATA)
    limits = "no RLIMIT_DATA" if limit == resource.RLIM_INFINITY else f"RLIMIT_DATA {gib(limit)}"
    if (group := group_memory_bytes()) is not None:
        limits += f", control group {gib(group)}"
    if free < LEAST_MEMORY_BYTES:
        rule = f"free memory must be {gib(LEAST_MEMORY_BYTES)} or more, got {gib(free)} ({limits})"
        yield fail("memory", rule, remedy="end other programs or raise the limit")
    elif free < USUAL_MEMORY_BYTES:
        rule = f"free memory should be {gib(USUAL_MEMORY_BYTES)} or more, got {gib(free)} ({limits})"
        yield warn("memory", rule, remedy="the largest scans may be computed in a slower way, or not at all")
    else:
        yield ok("memory", f"{gib(free)} free ({limits})")


def check_shared_memory(_place: Place) -> Iterator[Verdict]:
    """/dev/shm is there."""
    try:
        size = os.statvfs(_SHARED)
    except OSError as error:
        yield warn(str(_SHARED), f"must be there, got {error.strerror}", remedy="mount a tmpfs there")
        return
    size_bytes = size.f_frsize * size.f_blocks
    if size_bytes < _LEAST_SHARED_BYTES:
        rule = f"size should be {gib(_LEAST_SHARED_BYTES)} or more, got {gib(size_bytes)}"
        yield warn(str(_SHARED), rule, remedy="docker run --shm-size 64m")
    else:
        yield ok(str(_SHARED), f"{gib(size_bytes)}; no array goes through it")


def check_processors(_place: Place) -> Iterator[Verdict]:
    """As many threads as processors that may be used."""
    threads, usable, quota = torch.get_num_threads(), len(os.sched_getaffinity(0)), quota_processors()
    found = f"{usable} usable" if quota is None else f"{usable} usable, {quota:g} by the control group's quota"
    most = usable if quota is None else min(usable, max(1, math.ceil(quota)))
    if threads > most:
        rule = f"PyTorch must take no more threads than there are processors ({found}), got {threads}"
        yield warn("processors", rule, remedy=f"set OMP_NUM_THREADS={most}")
    else:
        yield ok("processors", f"{found}; PyTorch takes {threads} thread{'s'[: threads > 1]}")


def check_thread_limit(_place: Place) -> Iterator[Verdict]:
    """Threads and processes that may still be started."""
    needed = _OTHER_THREADS + _THREADS_PER_PROCESSOR * torch.get_num_threads()
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    left = {}
    if limit != resource.RLIM_INFINITY and os.geteuid() != 0:
        left["RLIMIT_NPROC"] = limit - _tasks_of(os.geteuid())
    for folder in (_GROUP, _GROUP / "pids"):
        most, used = _number(folder / "pids.max"), _number(folder / "pids.current")
        if most is not None:
            left["the control group"] = most - (used or 0)
            break
    if not left:
        yield ok("threads", "no limit")
        return
    who = min(left, key=lambda name: left[name])
    if left[who] < needed:
        rule = f"{who} must leave {needed} threads and processes or more, got {left[who]}"
        yield fail("threads", rule, remedy="raise the limit (docker run --pids-limit 512)")
    else:
        yield ok("threads", f"{left[who]} more allowed by {who}")


def check_clock(place: Place) -> Iterator[Verdict]:
    """The clock is not before the program's own files, and time passes."""
    newest_s = max(path.stat().st_mtime for path in (place.program / "operation").glob("*.py"))
    behind_s, before_s = newest_s - time.time(), time.monotonic()
    time.sleep(0.01)
    if behind_s > 86400.0:
        rule = f"time must not be before that of the program's own files, got {behind_s / 86400.0:.0f} days before"
        yield warn("clock", rule, remedy="set the clock: records of runs bear its time")
    elif not 0.0 < time.monotonic() - before_s < 5.0:
        rule = f"0.01 s must pass in 0.01 s, got {time.monotonic() - before_s:g} s"
        yield fail("clock", rule, remedy="time limits cannot be kept on this machine")
    else:
        yield ok("clock", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def check_time_limit(_place: Place) -> Iterator[Verdict]:
    """What the environment says of a case's time limit."""
    try:
        limit_s = choose_time_limit(None)
    except CaseError as error:
        yield refused(error, remedy=f"unset {TIME_LIMIT_VARIABLE}, or set it to seconds")
    else:
        yield ok("time limit", "none" if limit_s is None else f"{limit_s:g} s for each case")


def quota_processors() -> float | None:
    """Processors' worth of time that the control group may take, or None for no limit."""
    try:
        quota, period = (_GROUP / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):  # version 1
        quota_us, period_us = _number(_GROUP / "cpu" / "cpu.cfs_quota_us"), _number(_GROUP / "cpu/cpu.cfs_period_us")
        return quota_us / period_us if quota_us is not None and period_us else None
    return int(quota) / int(period) if quota.isdigit() else None


def group_memory_bytes() -> int | None:
    """The control group's limit of memory, or None for none."""
    limit = _number(_GROUP / "memory.max")
    if limit is None:
        limit = _number(_GROUP / "memory" / "memory.limit_in_bytes")
    # Version 1 has no word for "no limit" but a number near 2^63.
    return limit if limit is not None and limit < 1 << 60 else None


def _tasks_of(uid: int) -> int:
    """How many threads a user has, as far as they can be seen; each counts against RLIMIT_NPROC."""
    tasks = 0
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has just ended, or is hidden
                if _owner(folder) == uid:
                    tasks += len(os.listdir(folder / "task"))
    return tasks


def _owner(folder: Path) -> int:
    return folder.stat().st_uid


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None  # `max` and -1 say that there is no limit
