"""The doctor on the machine: memory, processors, limits, folders, user, clock, packages."""

import os
import pwd
import resource
import shutil
import tempfile
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from operation import doctor_folders, doctor_machine, doctor_packages
from operation.doctor_verdicts import Place, Verdict

GIB = 1 << 30
Usage = namedtuple("Usage", "total used free")


def the_verdict(check: Callable[[Place], Iterator[Verdict]], *, output: Path | None = None, program: Path = Path()):
    (verdict,) = check(Place(program=program, output=output, wanted_device="auto"))
    return verdict.line


@pytest.mark.parametrize(
    ("free_bytes", "limit", "expected"),
    [
        (9 * GIB, resource.RLIM_INFINITY, "ok   memory: 9.0 GiB free (no RLIMIT_DATA, control group 16.0 GiB)"),
        (7 * GIB, 15 * GIB, "warn memory: free memory should be 8.0 GiB or more, got 7.0 GiB (RLIMIT_DATA 15.0 GiB, "),
        (900 << 20, 15 * GIB, "FAIL memory: free memory must be 4.0 GiB or more, got 900 MiB (RLIMIT_DATA 15.0 GiB, "),
    ],
)
def test_memory(free_bytes: int, limit: int, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_machine, "free_bytes", lambda: free_bytes)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    monkeypatch.setattr(doctor_machine, "_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{16 * GIB}\n")
    assert the_verdict(doctor_machine.check_memory).startswith(expected)


def test_control_groups_of_both_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_machine, "_GROUP", tmp_path)
    assert doctor_machine.group_memory_bytes() is None
    assert doctor_machine.quota_processors() is None
    for folder in ("memory", "cpu", "pids"):
        (tmp_path / folder).mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert doctor_machine.group_memory_bytes() is None
    assert doctor_machine.quota_processors() is None
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("4096\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    assert doctor_machine.group_memory_bytes() == 4096
    assert doctor_machine.quota_processors() == 150000 / 100000
    # Version 2 comes first.
    (tmp_path / "memory.max").write_text("8192\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor_machine.group_memory_bytes() == 8192
    assert doctor_machine.quota_processors() is None
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert doctor_machine.quota_processors() == 250000 / 100000


@pytest.mark.parametrize(
    ("threads", "quota", "expected"),
    [
        (4, "max 100000", "ok   processors: 4 usable; PyTorch takes 4 threads"),
        (2, "150000 100000", "ok   processors: 4 usable, 1.5 by the control group's quota; PyTorch takes 2 threads"),
        (
            4,
            "150000 100000",
            "warn processors: PyTorch must take no more threads than there are processors "
            "(4 usable, 1.5 by the control group's quota), got 4 -> set OMP_NUM_THREADS=2",
        ),
        (
            5,
            "max 100000",
            "warn processors: PyTorch must take no more threads than there are processors (4 usable), got 5 -> "
            "set OMP_NUM_THREADS=4",
        ),
    ],
)
def test_processors(threads: int, quota: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4, 6})
    monkeypatch.setattr(doctor_machine, "_GROUP", tmp_path)
    (tmp_path / "cpu.max").write_text(quota)
    assert the_verdict(doctor_machine.check_processors) == expected


@pytest.mark.parametrize(
    ("uid", "limit", "group", "expected"),
    [
        (1000, resource.RLIM_INFINITY, "max", "ok   threads: no limit"),
        (0, 10, "max", "ok   threads: no limit"),  # root is not bound by RLIMIT_NPROC
        (1000, 4000, "512", "ok   threads: 500 more allowed by the control group"),
        (1000, 400, "512", "ok   threads: 397 more allowed by RLIMIT_NPROC"),
        (1000, 66, "512", "FAIL threads: RLIMIT_NPROC must leave 64 threads and processes or more, got 63 -> "),
        (1000, 4000, "70", "FAIL threads: the control group must leave 64 threads and processes or more, got 58 -> "),
    ],
)
def test_threads(
    uid: int, limit: int, group: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)  # 32 + 8 x 4 = 64
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(doctor_machine, "_owner", lambda folder: 1000)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    monkeypatch.setattr(doctor_machine, "_GROUP", tmp_path)
    monkeypatch.setattr(doctor_machine, "_PROC", tmp_path / "proc")
    for task in ("11/task/11", "11/task/12", "13/task/13"):  # two processes of this user, three threads in all
        (tmp_path / "proc" / task).mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir()
    (tmp_path / "pids.max").write_text(f"{group}\n")
    (tmp_path / "pids.current").write_text("12\n")
    assert the_verdict(doctor_machine.check_thread_limit).startswith(expected)


def test_the_time_limit_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PSMA_FDG_TTB_TIME_LIMIT_S", raising=False)
    assert the_verdict(doctor_machine.check_time_limit) == "ok   time limit: 1500 s for each case"
    monkeypatch.setenv("PSMA_FDG_TTB_TIME_LIMIT_S", "none")
    assert the_verdict(doctor_machine.check_time_limit) == "ok   time limit: none"
    monkeypatch.setenv("PSMA_FDG_TTB_TIME_LIMIT_S", "25min")
    assert the_verdict(doctor_machine.check_time_limit) == (
        "FAIL PSMA_FDG_TTB_TIME_LIMIT_S: time limit must be seconds above 0, or none, got '25min' -> "
        "unset PSMA_FDG_TTB_TIME_LIMIT_S, or set it to seconds"
    )


def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Size = namedtuple("Size", "f_frsize f_blocks")
    monkeypatch.setattr(os, "statvfs", lambda path: Size(4096, 16384))
    assert the_verdict(doctor_machine.check_shared_memory) == "ok   /dev/shm: 64 MiB; no array goes through it"
    monkeypatch.setattr(os, "statvfs", lambda path: Size(4096, 1024))
    assert the_verdict(doctor_machine.check_shared_memory) == (
        "warn /dev/shm: size should be 16 MiB or more, got 4 MiB -> docker run --shm-size 64m"
    )
    monkeypatch.undo()
    monkeypatch.setattr(doctor_machine, "_SHARED", tmp_path / "none")
    assert "none: must be there, got No such file" in the_verdict(doctor_machine.check_shared_memory)


def test_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "operation").mkdir()
    (tmp_path / "operation" / "doctor.py").touch()
    assert the_verdict(doctor_machine.check_clock, program=tmp_path).startswith("ok   clock: ")
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s - 3 * 86400.0)
    assert "must not be before that of the program's own files, got 3 days before" in the_verdict(
        doctor_machine.check_clock, program=tmp_path
    )
    monkeypatch.undo()
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)  # it stands still
    assert the_verdict(doctor_machine.check_clock, program=tmp_path).startswith("FAIL clock: 0.01 s must pass")


def test_user(monkeypatch: pytest.MonkeyPatch) -> None:
    Entry = namedtuple("Entry", "pw_name")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: Entry("somebody"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert the_verdict(doctor_folders.check_user) == "ok   user: somebody, uid 1000"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert the_verdict(doctor_folders.check_user).startswith("warn user: must not be root, is root -> ")

    def nobody(uid: int):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert the_verdict(doctor_folders.check_user).startswith("warn user: uid 4711 must be in /etc/passwd, is not -> ")


@pytest.mark.parametrize(
    ("free_bytes", "expected"),
    [
        (3 * GIB, "ok   temporary folder: {}, 3.0 GiB free"),
        (1 * GIB, "warn temporary folder: {} should have 2.0 GiB free or more, got 1.0 GiB -> "),
        (100 << 20, "FAIL temporary folder: {} must have 512 MiB free or more, got 100 MiB -> "),
    ],
)
def test_room_in_the_temporary_folder(
    free_bytes: int, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(9 * GIB, 0, free_bytes))
    assert the_verdict(doctor_folders.check_temporary).startswith(expected.format(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # /proc refuses everybody, root included, as a read-only file system does.
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    assert the_verdict(doctor_folders.check_temporary).startswith(
        "FAIL temporary folder: /proc must be writable, got No such file or directory -> set TMPDIR"
    )
    assert the_verdict(doctor_folders.check_output, output=Path("/proc/masks")).startswith(
        "FAIL output: /proc must be writable, got "
    )
    assert list(doctor_folders.check_output(Place(program=Path(), output=None, wanted_device="auto"))) == []
    assert the_verdict(doctor_folders.check_output, output=tmp_path / "not" / "yet").startswith("ok   output: ")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(GIB, GIB, 1 << 20))
    assert the_verdict(doctor_folders.check_output, output=tmp_path).startswith(
        f"FAIL output: {tmp_path} must have 256 MiB free or more, got 1 MiB -> "
    )


def test_an_output_folder_that_a_case_would_be_refused_for(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "fdg-pet-ttb"
    folder.mkdir(parents=True)
    (folder / "ttb.mha").write_bytes(b"an earlier run's")
    assert the_verdict(doctor_folders.check_output, output=tmp_path).startswith("ok   output: ")
    (folder / "mine.nrrd").touch()
    assert the_verdict(doctor_folders.check_output, output=tmp_path) == (
        f"FAIL {folder}: must hold nothing but ttb.mha, got mine.nrrd -> "
        "empty that folder, or name another one with --output"
    )
    assert (folder / "ttb.mha").exists()  # looking takes nothing away


def test_a_full_disk_is_not_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    assert doctor_folders.why_not_writable(tmp_path) is None
    monkeypatch.setattr(os, "fsync", full)
    assert doctor_folders.why_not_writable(tmp_path) == "No space left on device"


def test_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in doctor_folders._CACHES:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("HOME", "/proc/none")
    assert the_verdict(doctor_folders.check_caches) == f"ok   caches: writable, {tmp_path}/XDG_CACHE_HOME and others"
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/numba")
    line = the_verdict(doctor_folders.check_caches)
    assert line.startswith("warn caches: folders for caches must be writable, got /proc/none/.config/matplotlib: ")
    assert line.endswith(" -> set MPLCONFIGDIR, NUMBA_CACHE_DIR to writable folders")
    assert list(tmp_path.iterdir()) == []


def write_lists(folder: Path, *, direct: str, lock: str) -> None:
    (folder / "requirements.txt").write_text(direct)
    (folder / "requirements.lock").write_text(lock)


def test_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lines() -> list[str]:
        place = Place(program=tmp_path, output=None, wanted_device="auto")
        return [verdict.line for verdict in doctor_packages.check_packages(place)]

    installed = {"numpy": "2.0.1", "simpleitk": "2.5.7", "torch": "2.8.0+cpu"}
    monkeypatch.setattr(doctor_packages, "installed_versions", lambda: installed)
    lock = "numpy==2.0.1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\nSimple_ITK==2.5.7\n"
    write_lists(tmp_path, direct="# first\nnumpy==2.0.1\nSimpleITK==2.5.7  # why\ntorch==2.8.0\n", lock=lock)
    installed["simple-itk"] = "2.5.7"
    assert lines() == [
        "ok   packages: 3 of requirements.txt, in its versions",
        "ok   packages: 2 of requirements.lock, in its versions",
    ]
    del installed["simple-itk"]
    installed["numpy"] = "2.1.0"
    assert lines() == [
        "warn packages: versions must be those of requirements.txt, got numpy 2.1.0 instead of 2.0.1 -> "
        "install what requirements.lock says",
        "warn packages: versions must be those of requirements.lock, got numpy 2.1.0 instead of 2.0.1; "
        "simple-itk missing -> install what requirements.lock says",
    ]
    write_lists(tmp_path, direct="\n".join(f"package{number}==1" for number in range(7)), lock=lock)
    assert lines()[0] == (
        "FAIL packages: those of requirements.txt must be installed, package0, package1, package2, package3 and 3 more "
        "missing -> install what requirements.lock says"
    )
    (tmp_path / "requirements.lock").unlink()
    assert lines()[1].startswith("warn packages: requirements.lock is missing: ")


def test_what_is_installed_here() -> None:
    installed = doctor_packages.installed_versions()
    assert installed["torch"].startswith(torch.__version__.partition("+")[0])
    assert "connected-components-3d" in installed


def test_another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_packages.sys, "version_info", (3, 13, 2, "final", 0))
    assert the_verdict(doctor_packages.check_python) == "FAIL python: must be 3.11, got 3.13.2 -> run with python3.11"
