"""Work on many cases in several processes: as many as memory allows, and none dies unseen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import SimpleITK as sitk

from petct.errors import CaseError

Item = TypeVar("Item")
Result = TypeVar("Result")

USABLE_SHARE = 0.7  # of the memory that is free now; the rest is for the file cache and for whoever else works here
_CGROUP_LIMITS = (  # version 2, version 1: limit and use
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], *, processes: int
) -> Iterator[tuple[Item, Result | Exception]]:
    """Call a function on every item, and give the results in the items' order as they come.

    Processes are spawned, not forked: a forked one inherits handlers of signals and locks of threads. A single one is
    this process itself.

    Args:
        function: Can be pickled.
        items: What to call it on.
        processes: How many at the same time.

    Yields:
        Item and result, or the exception that it raised.

    Raises:
        CaseError: A process was killed, which nearly always means for memory.
    """
    workers = min(processes, len(items))
    if workers <= 1:
        for item in items:
            yield item, _result_or_exception(function, item)
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_set_threads, initargs=(workers,)
    ) as pool:
        jobs = [pool.submit(function, item) for item in items]
        try:
            for item, job in zip(items, jobs, strict=True):
                error = job.exception()
                if isinstance(error, BrokenProcessPool):
                    rule = "a worker process was killed, probably for memory; use fewer --processes"
                    raise CaseError("--processes", rule, str(processes)) from error
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield item, job.result() if error is None else error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result_or_exception(function: Callable[[Item], Result], item: Item) -> Result | Exception:
    try:
        return function(item)
    except Exception as error:  # noqa: BLE001 - as a process would hand it over; the caller decides
        return error


def _set_threads(workers: int) -> None:
    """Share the cores among the processes; each would take them all."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(max(1, (os.cpu_count() or 1) // workers))


def affordable_processes(wanted: int, *, bytes_each: int, available_bytes: int | None = None) -> int:
    """How many processes of a given need fit into memory, at least one.

    Args:
        wanted: The most to use.
        bytes_each: What one needs at its peak.
        available_bytes: Memory to share; by default what is free now.
    """
    available = usable_memory_bytes() if available_bytes is None else available_bytes
    return max(1, min(wanted, available // max(bytes_each, 1)))


def usable_memory_bytes() -> int:
    """Memory that may be used now: 70 % of what the machine, or the container, has free."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = _meminfo_available_bytes()
    free = [pages if meminfo is None else meminfo]
    for limit, use in _CGROUP_LIMITS:
        try:
            free.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
        except (OSError, ValueError):  # not in a cgroup of that version, or "max"
            continue
    return max(0, int(USABLE_SHARE * min(free)))


def _meminfo_available_bytes() -> int | None:
    """What Linux could give without swapping, file cache included."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
