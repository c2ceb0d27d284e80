import resource
from pathlib import Path

import numpy as np
import pytest

from petct import memory

GIB = 1 << 30


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 20 GiB free, and a process of 3 GiB without a limit."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:  {20 * GIB >> 10} kB\n")
    (tmp_path / "status").write_text(f"Name:\tx\nVmHWM:\t 77 kB\nVmData:\t {3 * GIB >> 10} kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    groups = [tuple(tmp_path / f"{version}.{what}" for what in ("max", "current", "stat")) for version in (2, 1)]
    monkeypatch.setattr(memory, "_GROUPS", tuple(groups))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return tmp_path


def test_the_machines_free_memory_where_nothing_limits(files: Path) -> None:
    assert memory.free_bytes() == 20 * GIB


def test_the_limit_on_data_less_what_is_taken(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (15 * GIB, 15 * GIB))
    assert memory.free_bytes() == (15 - 3) * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_the_groups_limit_less_what_is_used_for_good(files: Path, version: int) -> None:
    (files / f"{version}.max").write_text(f"{8 * GIB}\n")
    (files / f"{version}.current").write_text(f"{6 * GIB}\n")
    (files / f"{version}.stat").write_text(f"anon {4 * GIB}\ninactive_file {1 * GIB}\n")
    assert memory.free_bytes() == (8 - 6 + 1) * GIB


def test_a_group_without_a_limit_limits_nothing(files: Path) -> None:
    (files / "2.max").write_text("max\n")
    (files / "2.current").write_text(f"{19 * GIB}\n")
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
