"""How long each stage of a run took, in whichever thread, to which peak of memory, and how often things were done."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from petct.memory import peak_bytes

_seconds: dict[str, float] = {}
_peak_bytes: dict[str, int] = {}
_counts: dict[str, int] = {}
_lock = threading.Lock()
_running = threading.local()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the wall time of what follows to a stage.

    A stage within another is taken off it, so that within a thread no second counts twice. Stages of different threads
    may overlap.
    """
    outer: list[float] | None = getattr(_running, "inner_s", None)
    inner_s = [0.0]
    _running.inner_s = inner_s
    started_s = time.perf_counter()
    try:
        yield
    finally:
        passed_s = time.perf_counter() - started_s
        _running.inner_s = outer
        if outer is not None:
            outer[0] += passed_s
        add(name, passed_s - inner_s[0])


def add(name: str, seconds: float) -> None:
    """Add to a stage a time that was taken elsewhere."""
    peak = peak_bytes()
    with _lock:
        _seconds[name] = _seconds.get(name, 0.0) + seconds
        _peak_bytes[name] = max(peak, _peak_bytes.get(name, 0))


def stage_seconds() -> dict[str, float]:
    """Seconds of every stage since the process started or since `reset`, in the order in which they ended first."""
    with _lock:
        return dict(_seconds)


def stage_peak_bytes() -> dict[str, int]:
    """Most memory that the process held until the end, the last one, of every stage; in their order."""
    with _lock:
        return dict(_peak_bytes)


def seconds_since_start() -> float:
    """Seconds since this process was started, to a hundredth."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def count(name: str, number: int) -> None:
    """Add to what is counted under a name."""
    with _lock:
        _counts[name] = _counts.get(name, 0) + number


def counts() -> dict[str, int]:
    """What was counted since the process started or since `reset`."""
    with _lock:
        return dict(_counts)


def reset() -> None:
    """Start to count anew."""
    with _lock:
        _seconds.clear()
        _peak_bytes.clear()
        _counts.clear()
