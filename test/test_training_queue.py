"""The queue over GPUs, with real processes that train nothing."""

import os
import signal
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from training.networks import gpu_queue
from training.networks.gpu_queue import BUSY_CODE, Outcome, Result, Task, last_line, run_tasks


def task(name: str, script: str, *, logs: Path) -> Task:
    return Task(name, (sys.executable, "-c", script), logs / f"{name}.log")


def is_running(process_id: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_gpu_runs_one_command_at_a_time_and_each_command_once(tmp_path: Path) -> None:
    note = "import os, time; t = time.time(); time.sleep(0.1); gpu = os.environ['CUDA_VISIBLE_DEVICES']"
    note += "; print(gpu, t, time.time())"
    tasks = [task(f"job_{number}", note, logs=tmp_path / "logs") for number in range(7)]
    outcomes = run_tasks(tasks, gpus=["5", "GPU-8f6d"], folder=tmp_path)
    assert sorted(outcome.name for outcome in outcomes) == [f"job_{number}" for number in range(7)]
    assert {outcome.result for outcome in outcomes} == {Result.DONE}
    runs: dict[str, list[tuple[float, float]]] = {}
    for one in tasks:
        gpu, start_s, end_s = last_line(one.log).split()
        runs.setdefault(gpu, []).append((float(start_s), float(end_s)))
    assert set(runs) == {"5", "GPU-8f6d"}
    for spans in runs.values():
        spans.sort()
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
    # Not one after the other: some run on one GPU began while one on the other was under way.
    assert any(a[0] < b[1] and b[0] < a[1] for a in runs["5"] for b in runs["GPU-8f6d"])


def test_a_failure_is_named_with_the_last_line_of_its_log_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scripts = {
        "first": "print('epoch 0'); raise MemoryError('no room for a patch')",
        "second": "print('trained')",
        "third": f"raise SystemExit({BUSY_CODE})",
        "fourth": "import os; print('  going'); print(); os.kill(os.getpid(), 9)",
    }
    outcomes = run_tasks([task(n, s, logs=tmp_path) for n, s in scripts.items()], gpus=["0"], folder=tmp_path)
    assert outcomes == (
        Outcome("first", Result.FAILED, "exit code 1: MemoryError: no room for a patch"),
        Outcome("second", Result.DONE, ""),
        Outcome("third", Result.BUSY, ""),
        Outcome("fourth", Result.FAILED, "SIGKILL: going"),
    )
    (line,) = [message for message in caplog.messages if message.startswith("first failed")]
    assert line == f"first failed: exit code 1: MemoryError: no room for a patch ({tmp_path / 'first.log'})"


def test_a_log_is_continued_and_says_which_run_it_was(tmp_path: Path) -> None:
    one = task("job", "print('hello')", logs=tmp_path)
    for gpu in ("0", "1"):
        run_tasks([one], gpus=[gpu], folder=tmp_path)
    lines = [line for line in one.log.read_text(encoding="utf-8").splitlines() if line]
    assert [line.partition(" job ")[2] or line for line in lines] == ["on GPU 0", "hello", "on GPU 1", "hello"]


def test_what_a_dead_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    # A loader whose training was killed.
    script = "import os, time; child = os.fork() or time.sleep(60); print(child, flush=True); os._exit(1)"
    (outcome,) = run_tasks([task("job", script, logs=tmp_path)], gpus=["0"], folder=tmp_path)
    orphan = int(outcome.message.split()[-1])
    deadline_s = time.monotonic() + 5
    while is_running(orphan):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize(("ignores", "how"), [(False, "asked"), (True, "killed")])
def test_being_stopped_stops_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignores: bool, how: str
) -> None:
    monkeypatch.setattr(gpu_queue, "GRACE_S", 0.3)
    handler = "signal.SIG_IGN" if ignores else "lambda *_: (print('asked', flush=True), sys.exit())"
    script = (
        f"import os, signal, sys, time; signal.signal(15, {handler}); print('pid', os.getpid(), flush=True);"
        " open('{}', 'w').close(); time.sleep(60)"
    )
    started = [tmp_path / f"started_{number}" for number in range(2)]
    tasks = [task(path.name, script.format(path), logs=tmp_path) for path in started]
    waiting = task("waiting", "print('never')", logs=tmp_path)

    def interrupt_when_started() -> None:
        while not all(path.exists() for path in started):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_when_started)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_tasks([*tasks, waiting], gpus=["0", "1"], folder=tmp_path)
    thread.join()
    assert not waiting.log.exists()
    for one in tasks:
        assert ("asked" in one.log.read_text(encoding="utf-8")) == (how == "asked")
        assert not is_running(int(one.log.read_text(encoding="utf-8").split("pid ")[1].split()[0]))
