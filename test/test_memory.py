import mmap
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from petct import memory

GIB = 1 << 30


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 20 GiB free, and a process of 3 GiB without a limit."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:  {20 * GIB >> 10} kB\n")
    (tmp_path / "status").write_text(f"Name:\tx\nVmHWM:\t 77 kB\nVmData:\t {3 * GIB >> 10} kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    for version, name in ((1, "_VERSION_1"), (2, "_VERSION_2")):
        (tmp_path / f"v{version}").mkdir()
        monkeypatch.setattr(memory, name, replace(getattr(memory, name), root=tmp_path / f"v{version}"))
    (tmp_path / "cgroup").write_text("3:cpu:/job\n4:memory:/\n0::/\n")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return tmp_path


def test_the_machines_free_memory_where_nothing_limits(files: Path) -> None:
    assert memory.free_bytes() == 20 * GIB


def test_the_limit_on_data_less_what_is_taken(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (15 * GIB, 15 * GIB))
    assert memory.free_bytes() == (15 - 3) * GIB
    budget = memory.memory_budget()
    assert (budget.data_bytes, budget.resident_bytes) == ((15 - 3) * GIB, 20 * GIB)
    assert budget.limited_by == "RLIMIT_DATA"


def write_group(folder: Path, *, version: int, limit: str, used: int, inactive: int = 0, active: int = 0) -> None:
    """A control group's files; what groups inside it read counts for it in version 1 under a name of its own."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    own = f"inactive_file {inactive}\nactive_file {active}\n"
    if version == 1:
        own = f"inactive_file 17\nactive_file 18\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n"
    (folder / "memory.stat").write_text(f"anon {4 * GIB}\n{own}")


@pytest.mark.parametrize("version", [1, 2])
def test_the_groups_limit_less_what_is_used_for_good(files: Path, version: int) -> None:
    write_group(files / f"v{version}", version=version, limit=str(8 * GIB), used=6 * GIB, inactive=GIB, active=2 * GIB)
    assert memory.free_bytes() == (8 - 6 + 1 + 2) * GIB
    assert memory.memory_budget().limited_by == "the control group"


@pytest.mark.parametrize("version", [1, 2])
def test_no_more_is_given_up_than_is_used(files: Path, version: int) -> None:
    write_group(files / f"v{version}", version=version, limit=str(8 * GIB), used=3 * GIB, inactive=GIB, active=4 * GIB)
    assert memory.free_bytes() == 8 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_the_narrowest_of_groups_that_lie_in_each_other(files: Path, version: int) -> None:
    (files / "cgroup").write_text("4:memory:/outer/inner\n" if version == 1 else "0::/outer/inner\n")
    write_group(files / f"v{version}", version=version, limit=str(16 * GIB), used=2 * GIB)
    write_group(files / f"v{version}/outer", version=version, limit=str(9 * GIB), used=4 * GIB)
    write_group(files / f"v{version}/outer/inner", version=version, limit=str(8 * GIB), used=1 * GIB)
    assert memory.free_bytes() == (9 - 4) * GIB


def test_a_path_of_the_host_that_a_container_does_not_see(files: Path) -> None:
    (files / "cgroup").write_text("0::/system.slice/../docker/abc\n")
    write_group(files / "v2", version=2, limit=str(7 * GIB), used=1 * GIB)
    assert memory.free_bytes() == (7 - 1) * GIB
    (files / "cgroup").write_text("0::/docker/abc\n")
    assert memory.free_bytes() == (7 - 1) * GIB


def test_a_group_without_a_limit_limits_nothing(files: Path) -> None:
    write_group(files / "v2", version=2, limit="max", used=19 * GIB)
    assert memory.free_bytes() == 20 * GIB


def test_nothing_is_free_beyond_a_limit(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 * GIB, 1 * GIB))
    assert memory.free_bytes() == 0


def test_the_most_that_was_held(files: Path) -> None:
    assert memory.peak_bytes() == 77 << 10


def test_on_this_machine() -> None:
    assert 0 < memory.free_bytes() < 1 << 50
    before = memory.peak_bytes()
    kept = np.ones(1 << 27, dtype=np.uint8)
    assert memory.peak_bytes() >= max(before, kept.nbytes)


def test_what_is_asked_for_counts_before_it_is_touched() -> None:
    before = memory.data_bytes_now()
    kept = np.zeros(1 << 28, dtype=np.uint8)
    assert memory.data_bytes_now() >= before + kept.nbytes
    # Nor does a map of a file or of shared memory, though it is larger.
    with mmap.mmap(-1, 1 << 30) as shared:
        assert memory.data_bytes_now() < before + kept.nbytes + len(shared)


def _cause(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as cause:
            raise ValueError("a stage failed") from cause
    except ValueError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "is_gpu"),
    [
        (MemoryError(), False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you"), False),
        (RuntimeError("Exception from allocator.cpp:79:\nstd::bad_alloc\n"), False),
        (RuntimeError("itkImportImageContainer.hxx:179:\nFailed to allocate memory for image."), False),
        (OSError(12, "Cannot allocate memory"), False),
        (RuntimeError("can't start new thread"), False),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
    ],
)
def test_errors_that_say_that_there_was_no_memory(error: Exception, is_gpu: bool) -> None:
    for told in (error, _cause(error)):
        assert memory.is_out_of_memory(told)
        assert memory.is_gpu_out_of_memory(told) is is_gpu


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("out of memory"),  # a file's words
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(28, "No space left on device"),
        KeyError("bad_alloc"),
    ],
)
def test_other_errors_do_not(error: Exception | None) -> None:
    assert not memory.is_out_of_memory(error)
    assert not memory.is_gpu_out_of_memory(error)


@pytest.mark.parametrize("what", ["numpy", "torch", "SimpleITK", "bytearray"])
def test_what_libraries_really_say(what: str) -> None:
    asked = {
        "numpy": "import numpy; numpy.zeros(3 << 30, numpy.uint8)",
        "torch": "import torch; torch.zeros(3 << 30, dtype=torch.uint8)",
        "SimpleITK": "import SimpleITK; SimpleITK.Image(2000, 1500, 1100, SimpleITK.sitkUInt8)",
        "bytearray": "bytearray(3 << 30)",
    }[what]
    code = f"""
import resource
from petct.memory import is_out_of_memory
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
try:
    {asked}
except Exception as error:
    print(is_out_of_memory(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\n"
