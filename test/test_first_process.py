"""The container's first process, with stand-ins for the program."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import operation.first_process
from petct import mask_places

FIRST = Path(operation.first_process.__file__)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A copy of it, which starts the stand-in beside."""
    copy = tmp_path / "operation" / FIRST.name
    copy.parent.mkdir()
    copy.write_text(FIRST.read_text(encoding="utf-8"), encoding="utf-8")
    places = Path(mask_places.__file__)
    (tmp_path / "petct").mkdir()
    (tmp_path / "petct" / places.name).write_text(places.read_text(encoding="utf-8"), encoding="utf-8")
    return copy


def stand_in(first: Path, program: str) -> list[str]:
    """The command that runs a program in the place of inference.py."""
    (first.parents[1] / "inference.py").write_text(f"import os, signal, sys, time\n{program}\n", encoding="utf-8")
    return [sys.executable, "-P", str(first), "--one", "two words"]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_streams_arguments_and_exit_code_are_the_programs(first: Path, code: int) -> None:
    program = f"print(sys.argv[1:])\nprint('why', file=sys.stderr)\nsys.exit({code})"
    done = run(stand_in(first, program))
    assert (done.returncode, done.stdout, done.stderr) == (code, "['--one', 'two words']\n", "why\n")


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("SIGKILL", r" \(memory exhausted, most likely\)"),
        ("SIGABRT", r" \(a library gave up, most likely for memory\)"),
        ("SIGSEGV", r" \(a library crashed\)"),
        ("SIGILL", ""),
    ],
)
def test_a_death_without_a_word_is_told(first: Path, name: str, cause: str) -> None:
    done = run(stand_in(first, f"os.kill(os.getpid(), signal.{name})"))
    assert done.returncode == 128 + signal.Signals[name]
    assert re.fullmatch(f"inference: must end by itself, got {name}{cause}\n", done.stderr)


WAITS = """
def hear(number, frame):
    print(f'heard {number}', flush=True)
    sys.exit(77)
signal.signal(signal.SIGTERM, hear)
signal.signal(signal.SIGINT, hear)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("sent", "heard"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM)],
)
def test_signals_reach_the_program(first: Path, sent: signal.Signals, heard: signal.Signals) -> None:
    process = subprocess.Popen(stand_in(first, WAITS), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(sent)
    rest, _ = process.communicate(timeout=60)
    assert (process.returncode, rest) == (77, f"heard {int(heard)}\n")


def test_a_program_that_does_not_leave_is_killed_in_time(first: Path) -> None:
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen(stand_in(first, program), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    started_s = time.monotonic()
    process.terminate()
    time.sleep(1.0)
    process.terminate()  # a second one must not put the end off
    _, said = process.communicate(timeout=60)
    assert process.returncode == 137
    assert time.monotonic() - started_s < 8.0
    assert said.startswith("inference: must end by itself, got SIGTERM and did not end")


def test_the_program_does_not_outlive_it(first: Path) -> None:
    process = subprocess.Popen(stand_in(first, WAITS), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=60)
    deadline_s = time.monotonic() + 20.0
    while _is_running(pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_number_for_a_file(first: Path, tmp_path: Path, closed: str) -> None:
    file = tmp_path / "file"
    program = f"f = open({str(file)!r}, 'w')\nos.write(1, b'to stdout')\nos.write(2, b'to stderr')\nf.write('mine')"
    done = run(["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *stand_in(first, program)])
    assert done.returncode == 0
    assert file.read_text(encoding="utf-8") == "mine"
    assert done.stdout == ("" if ">&-" in closed.split() else "to stdout")


def test_it_takes_little_memory_and_starts_at_once(first: Path) -> None:
    program = "print(open(f'/proc/{os.getppid()}/status').read())"
    done = run(stand_in(first, program), env=os.environ | {"PYTHONPATH": ""})
    (peak_kib,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert int(peak_kib) < 64 << 10


DIES, REFUSES = "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(1)"


@pytest.mark.parametrize(
    ("program", "options", "are_left"),
    [
        (DIES, ["--output", "{output}"], False),
        (DIES, ["--device", "cpu", "--output={output}"], False),
        (REFUSES, ["--output", "{output}"], False),
        ("import gone", ["--output", "{output}"], False),
        ("sys.exit(0)", ["--output", "{output}"], True),
        ("sys.exit(2)", ["--output", "{output}"], True),  # it cleans up by itself, or has not understood its options
        (DIES, ["serve", "--output", "{output}"], True),
        (DIES, ["--output"], True),
    ],
)
def test_who_dies_leaves_no_mask_of_an_earlier_case(
    first: Path, tmp_path: Path, program: str, options: list[str], are_left: bool
) -> None:
    output = tmp_path / "output"
    ours = [output / place / "ttb.mha" for place in ("images/psma-pet-ttb", "images/fdg-pet-ttb")]
    other = output / "images" / "psma-pet-ttb" / "mine.mha"
    for path in (*ours, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mask", encoding="utf-8")
    command = stand_in(first, program)[:3]
    run([*command, *(option.format(output=output) for option in options)])
    assert [path.exists() for path in ours] == [are_left] * 2
    assert other.exists()


@pytest.mark.parametrize(("limit_mib", "is_started"), [(800, False), (1279, False), (1280, True), (4000, True)])
def test_too_little_memory_to_load_is_refused_at_once(
    first: Path, tmp_path: Path, limit_mib: int, is_started: bool
) -> None:
    stale = tmp_path / "output" / "images" / "fdg-pet-ttb" / "ttb.mha"
    stale.parent.mkdir(parents=True)
    stale.write_text("mask", encoding="utf-8")
    command = [*stand_in(first, "print('started')")[:3], "--output", str(tmp_path / "output")]
    done = run(["/bin/sh", "-c", f'ulimit -d {limit_mib << 10}; exec "$@"', "sh", *command])
    assert done.stdout == ("started\n" if is_started else "")
    assert stale.exists() is is_started
    if not is_started:
        assert done.returncode == 1
        got = f"{limit_mib / 1024:.3g}"
        assert done.stderr == f"memory: limit on data must be at least 1.25 GiB, got {got} GiB\n"
