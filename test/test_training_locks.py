"""Two processes and one lock."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from training.networks.command_lines import CODE_FOLDER
from training.networks.locks import LockedError, held, holder

HOLD = """
import sys, time
from pathlib import Path
from training.networks.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(lock: Path) -> "subprocess.Popen[str]":
    """A process that holds the lock until it reads a line."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    process = subprocess.Popen(command, cwd=CODE_FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_comes_second_is_refused_and_told_who_came_first(tmp_path: Path) -> None:
    lock = tmp_path / "results" / ".fold_3.lock"
    assert holder(lock) == ""
    process = hold(lock)
    owner = rf"process {process.pid} on .+ since \d{{4}}-\d\d-\d\d"
    assert re.match(owner, holder(lock))
    error = rf"\.fold_3\.lock: must not be written by two processes at once, got {owner}"
    with pytest.raises(LockedError, match=error), held(lock):
        pytest.fail("the lock was held")
    process.communicate("\n")
    assert process.returncode == 0
    assert holder(lock) == ""
    with held(lock):
        assert str(os.getpid()) in lock.read_text(encoding="utf-8")
    assert not lock.exists()


def test_a_dead_process_lock_is_taken_over_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock = tmp_path / ".fold_0.lock"
    process = hold(lock)
    process.kill()
    process.wait()
    assert lock.exists()  # nobody was left to remove it
    assert holder(lock) == ""
    with held(lock):
        pass
    (message,) = caplog.messages
    assert message.startswith(f".fold_0.lock: taken over from process {process.pid} on ")
    assert message.endswith(", which has ended without releasing it")


def test_a_forked_process_does_not_keep_the_lock_of_a_dead_one(tmp_path: Path) -> None:
    # As nnU-Net's loaders outlive a training that is killed.
    lock = tmp_path / ".fold_0.lock"
    script = HOLD.replace('    print("held"', '    import os\n    os.fork() or time.sleep(60)\n    print("held"')
    command = [sys.executable, "-c", script, str(lock)]
    process = subprocess.Popen(
        command, cwd=CODE_FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        assert str(process.pid) in holder(lock)
        process.kill()
        process.wait()
        assert holder(lock) == ""
        with held(lock):
            pass
    finally:
        os.killpg(process.pid, 9)


def test_a_failure_releases_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".fold_0.lock"
    with pytest.raises(ValueError, match="broken"), held(lock):
        raise ValueError("broken")
    assert not lock.exists()


def test_waiting_ends_when_the_lock_is_free(tmp_path: Path) -> None:
    lock = tmp_path / ".splits.lock"
    process = hold(lock)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    with held(lock, wait=True):
        assert str(os.getpid()) in lock.read_text(encoding="utf-8")
    process.wait()
