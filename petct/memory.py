"""How much memory this process may still take: the least of what the machine, the container and the limits leave."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
# The group's limit and use, as a container sees its own: version 2, then version 1.
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.stat")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.stat"),
    ),
)


def free_bytes() -> int:
    """Bytes that may still be allocated: the least of RLIMIT_DATA, the control group and the machine's free memory."""
    free = [_kib(_MEMINFO, "MemAvailable") or 0]
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        free.append(max(0, limit - (_kib(_STATUS, "VmData") or 0)))
    for limit_file, use_file, stat_file in _GROUPS:
        most, used = _number(limit_file), _number(use_file)
        if most is not None and used is not None:
            # Pages of files that were read are given up when memory is short.
            free.append(max(0, most - used + _stat(stat_file, "inactive_file")))
            break
    return min(free)


def peak_bytes() -> int:
    """Most memory that this process held at any time (resident set)."""
    # Not getrusage's figure, which a process inherits from a larger parent.
    return _kib(_STATUS, "VmHWM") or 0


def _kib(file: Path, name: str) -> int | None:
    """A line `Name:  123 kB` as bytes."""
    try:
        for line in file.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return None


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # version 2 says `max` where there is no limit


def _stat(file: Path, name: str) -> int:
    try:
        for line in file.read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except OSError:
        pass
    return 0
