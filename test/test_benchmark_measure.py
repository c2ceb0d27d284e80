import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.measure import ColdRun, run_cold, session_processes

MIB = 2**20
# A child of a child, as nnU-Net's workers are; it fills memory of its own and waits to be seen.
NESTED = """
import subprocess, sys, time
held = bytearray({own} * 2**20)
held[::4096] = b"1" * len(held[::4096])
child = "import time; held = bytearray({child} * 2**20); held[::4096] = b'1' * len(held[::4096]); time.sleep(1.5)"
subprocess.run([sys.executable, "-c", child], check=True)
print("last words")
sys.exit({code})
"""


def run(script: str, folder: Path) -> tuple[ColdRun, str]:
    log = folder / "log.txt"
    measured = run_cold([sys.executable, "-c", script], log=log, folder=folder, environment=os.environ)
    return measured, log.read_text()


def test_the_memory_of_the_whole_tree_is_seen(tmp_path: Path) -> None:
    measured, said = run(NESTED.format(own=70, child=90, code=0), tmp_path)
    assert measured.exit_code == 0
    assert said == "last words\n"
    # Two interpreters of some 10 MiB beside what they hold.
    assert 160 < measured.peak_tree_mib < 220
    assert 90 < measured.peak_process_mib < 120
    assert measured.peak_host_mib == measured.peak_tree_mib
    assert measured.wall_s >= 1.5
    assert 0 < measured.cpu_s < measured.wall_s


def test_what_this_process_held_is_not_taken_for_the_childs(tmp_path: Path) -> None:
    held = bytearray(300 * MIB)
    held[::4096] = b"1" * len(held[::4096])
    measured, _ = run("pass", tmp_path)
    assert measured.peak_process_mib < 100
    assert len(held) == 300 * MIB


def test_a_peak_between_two_samples_is_not_missed(tmp_path: Path) -> None:
    # Freed long before the process is looked at again; the kernel remembers it.
    script = "import time; b'1' * (150 * 2**20); time.sleep(1.0)"
    measured, _ = run(script, tmp_path)
    assert 150 < measured.peak_host_mib < 190


def test_a_failure_is_told(tmp_path: Path) -> None:
    measured, said = run("import sys; sys.exit('no memory left')", tmp_path)
    assert measured.exit_code == 1
    assert said == "no memory left\n"
    killed, _ = run("import os; os.kill(os.getpid(), 9)", tmp_path)
    assert killed.exit_code == -signal.SIGKILL


def test_a_run_that_never_ends_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    measured = run_cold(command, log=tmp_path / "log.txt", folder=tmp_path, environment=os.environ, timeout_s=0.5)
    assert (measured.exit_code, measured.is_timed_out) == (-signal.SIGKILL, True)
    measured, _ = run("pass", tmp_path)
    assert not measured.is_timed_out


def test_nothing_of_a_run_is_left(tmp_path: Path) -> None:
    script = "import subprocess, sys, os; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    _, said = run(script + "; print(p.pid)", tmp_path)
    orphan = Path("/proc") / said.strip()
    for _ in range(50):
        if not orphan.exists() or ") Z" in (orphan / "stat").read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child of the run goes on")


def test_an_interrupted_run_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def interrupted(pid: int, _options: int) -> None:
        started.append(pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "wait4", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(600)", tmp_path)
    assert list(session_processes(started[0])) == []


def test_a_session_is_found_by_its_first_process(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        assert [folder.name for folder in session_processes(process.pid)] == [str(process.pid)]
        process.communicate(b"\n")
    assert list(session_processes(process.pid)) == []
