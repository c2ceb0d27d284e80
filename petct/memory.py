"""How much memory this process may still take, how much it took, and whether an error says that there was none left."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Hierarchy:
    """Where control groups of one version say what they may hold, do hold, and hold of files."""

    root: Path
    limit: str
    use: str
    files: tuple[str, str]


# `memory.stat` is called so in both. Version 1 is mounted beside version 2 on machines that have both.
_VERSION_1 = _Hierarchy(
    Path("/sys/fs/cgroup/memory"),
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
_VERSION_2 = _Hierarchy(Path("/sys/fs/cgroup"), "memory.max", "memory.current", ("inactive_file", "active_file"))

# Of libraries that have no exception class of their own for it, in lower case.
_OUT_OF_MEMORY = re.compile(
    "|".join(
        (
            "out of memory",  # CUDA, cuDNN, cuBLAS by PyTorch; strerror(ENOMEM) of some libraries
            "can't allocate memory",  # PyTorch's DefaultCPUAllocator
            "cannot allocate memory",  # strerror(ENOMEM)
            r"bad[_ ]alloc",  # C++, through OpenVINO, SimpleITK and pybind11
            "failed to allocate",  # ITK, oneDNN
            "could not allocate",
            "memory allocation (failed|failure)",  # ITK's MemoryAllocationError, oneDNN
            "unable to allocate",  # numpy
            "cublas_status_alloc_failed",
            "cudnn_status_alloc_failed",
            "can't start new thread",  # Python: no memory for its stack
        )
    )
)
_GPU = re.compile("cuda|cublas|cudnn")
_MOST_CAUSES = 20


@dataclass(frozen=True)
class Budget:
    """What this process may still take.

    Attributes:
        data_bytes: Private memory that may still be asked for, touched or not (RLIMIT_DATA); None without a limit.
        resident_bytes: Memory that may still be touched: the least of the control groups' and the machine's.
        resident_by: What limits that ("the machine", "the control group").
    """

    data_bytes: int | None
    resident_bytes: int
    resident_by: str

    @property
    def free_bytes(self) -> int:
        """The least of all."""
        return self.resident_bytes if self.data_bytes is None else min(self.resident_bytes, self.data_bytes)

    @property
    def limited_by(self) -> str:
        """What the least is due to."""
        is_data = self.data_bytes is not None and self.data_bytes <= self.resident_bytes
        return "RLIMIT_DATA" if is_data else self.resident_by


def memory_budget() -> Budget:
    """What this process may still take by RLIMIT_DATA, its control groups and the machine's available memory."""
    resident_bytes, resident_by = _kib(_MEMINFO, "MemAvailable") or 0, "the machine"
    for free in _group_bytes():
        if free < resident_bytes:
            resident_bytes, resident_by = free, "the control group"
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    # The kernel counts what VmData shows: every private writable mapping, touched or not, but neither shared memory,
    # nor mapped files that are only read, nor the main thread's stack.
    data_bytes = None if limit == resource.RLIM_INFINITY else max(0, limit - data_bytes_now())
    return Budget(data_bytes, resident_bytes, resident_by)


def free_bytes() -> int:
    """Bytes that may still be allocated: the least of RLIMIT_DATA, the control groups and the machine's memory."""
    return memory_budget().free_bytes


def peak_bytes() -> int:
    """Most memory that this process held at any time (resident set)."""
    # Not getrusage's figure, which a process inherits from a larger parent.
    return _kib(_STATUS, "VmHWM") or 0


def data_bytes_now() -> int:
    """Private memory that this process has asked for, touched or not: what RLIMIT_DATA counts."""
    return _kib(_STATUS, "VmData") or 0


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that the host or the GPU had no memory left.

    PyTorch, OpenVINO and SimpleITK tell that in the text of an otherwise common RuntimeError.
    """
    for _ in range(_MOST_CAUSES):
        if error is None:
            return False
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        # A text of anything else may quote a file's words.
        if isinstance(error, (RuntimeError, OSError)) and _OUT_OF_MEMORY.search(str(error).lower()):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_gpu_out_of_memory(error: BaseException | None) -> bool:
    """Whether it was the GPU that had none left."""
    for _ in range(_MOST_CAUSES):
        if error is None:
            return False
        is_torchs = type(error).__name__ == "OutOfMemoryError"
        if is_torchs or (is_out_of_memory(error) and _GPU.search(str(error).lower())):
            return True
        error = error.__cause__ or error.__context__
    return False


def gib(number: float) -> str:
    """Bytes for a message, in GiB."""
    return f"{number / 2**30:.2f} GiB"


def _group_bytes() -> Iterator[int]:
    """What each control group leaves that this process lies in, from its own to the outermost that is seen here."""
    for hierarchy, path in _own_groups():
        for folder in (path, *path.parents):
            inside = hierarchy.root / folder.relative_to("/")
            most, used = _number(inside / hierarchy.limit), _number(inside / hierarchy.use)
            if most is not None and used is not None:
                # Pages of files that were read, once or again, are given up when memory is short.
                of_files = sum(_stat(inside / "memory.stat", name) for name in hierarchy.files)
                yield max(0, most - used + min(of_files, used))


def _own_groups() -> Iterator[tuple[_Hierarchy, PurePosixPath]]:
    """The groups of this process, `version:controllers:/path` in each line.

    In a container the path is often one of the host, which does not exist there; then the root is the container's.
    """
    root = PurePosixPath("/")
    paths = {_VERSION_1: root, _VERSION_2: root}
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        hierarchy = _VERSION_1 if "memory" in controllers.split(",") else _VERSION_2 if not controllers else None
        if hierarchy is not None and path.startswith("/") and ".." not in path:
            paths[hierarchy] = PurePosixPath(path)
    yield from paths.items()


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
