"""A queue of commands over the GPUs of one machine, one process on each GPU at a time."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from training.networks.environment import training_environment

BUSY_CODE = 75  # sysexits.h's EX_TEMPFAIL: another process trains the fold
GRACE_S = 30.0  # from asking a command to stop to killing it
_LOOK_AGAIN_S = 0.1
_TAIL_BYTES = 8192

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One command.

    Attributes:
        name: What it is called.
        command: Program and arguments.
        log: The file that its output is appended to.
    """

    name: str
    command: tuple[str, ...]
    log: Path


class Result(StrEnum):
    """How a command ended."""

    DONE = "done"
    BUSY = "in training by another process"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        name: The task's name.
        result: How it ended.
        message: The last line of its log when it failed; "" otherwise.
    """

    name: str
    result: Result
    message: str


def run_tasks(tasks: Sequence[Task], *, gpus: Sequence[str], folder: Path) -> tuple[Outcome, ...]:
    """Run commands, each on the first GPU that is free, in their order; a failure does not stop the others.

    Args:
        tasks: The commands.
        gpus: What CUDA_VISIBLE_DEVICES is set to, one for each GPU.
        folder: The folder to run in.

    Returns:
        Outcomes in the order of the ends.

    Raises:
        KeyboardInterrupt: The program was told to stop; all commands have ended, killed after `GRACE_S`.
    """
    waiting, free = deque(tasks), deque(gpus)
    running: dict[str, subprocess.Popen[bytes]] = {}
    ended: SimpleQueue[tuple[Task, str]] = SimpleQueue()
    outcomes: list[Outcome] = []
    try:
        while waiting or running:
            while waiting and free:
                task, gpu = waiting.popleft(), free.popleft()
                number = len(tasks) - len(waiting)
                log.info("%s starts on GPU %s (%d of %d), output in %s", task.name, gpu, number, len(tasks), task.log)
                running[task.name] = _start(task, gpu=gpu, folder=folder)
                Thread(target=_report_end, args=(task, gpu, running[task.name].pid, ended), daemon=True).start()
            task, gpu = ended.get()
            code = running.pop(task.name).wait()
            free.append(gpu)
            outcomes.append(_outcome(task, code=code))
            _log_end(outcomes[-1], log_file=task.log)
    except KeyboardInterrupt:
        log.warning("stopping %d commands: %s", len(running), ", ".join(running))
        _stop(list(running.values()))
        raise
    return tuple(outcomes)


def last_line(path: Path) -> str:
    """The last line of a log that is not empty; "" when there is none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _start(task: Task, *, gpu: str, folder: Path) -> subprocess.Popen[bytes]:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as file:
        file.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} {task.name} on GPU {gpu}\n".encode())
        file.flush()
        # In a session of its own, so that Ctrl-C reaches this program only, which then asks each command to stop.
        return subprocess.Popen(
            task.command,
            cwd=folder,
            env=training_environment(os.environ) | {"CUDA_VISIBLE_DEVICES": gpu},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _report_end(task: Task, gpu: str, process_id: int, ended: SimpleQueue[tuple[Task, str]]) -> None:
    """Wait for a command, then end what it has left behind: loaders that outlive a killed training keep its memory."""
    with suppress(ChildProcessError):  # stopped and reaped meanwhile
        # Until it is reaped, which the caller does, its number cannot become somebody else's.
        os.waitid(os.P_PID, process_id, os.WEXITED | os.WNOWAIT)
        _kill_group(process_id)
        ended.put((task, gpu))


def _kill_group(process_id: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process_id, signal.SIGKILL)


def _outcome(task: Task, *, code: int) -> Outcome:
    if code == 0:
        return Outcome(task.name, Result.DONE, "")
    if code == BUSY_CODE:
        return Outcome(task.name, Result.BUSY, "")
    how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    return Outcome(task.name, Result.FAILED, f"{how}: {last_line(task.log)}")


def _log_end(outcome: Outcome, *, log_file: Path) -> None:
    if outcome.result is Result.FAILED:
        log.error("%s failed: %s (%s)", outcome.name, outcome.message, log_file)
    else:
        log.info("%s: %s", outcome.name, outcome.result.value)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all to stop, and kill those that have not within `GRACE_S`, or at once when told to stop again."""
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    give_up_s = time.monotonic() + GRACE_S
    with suppress(KeyboardInterrupt):
        while time.monotonic() < give_up_s and not all(map(_has_ended, processes)):
            time.sleep(_LOOK_AGAIN_S)
    for process in processes:
        if not _has_ended(process):
            log.warning("process %d has not stopped and is killed", process.pid)
        _kill_group(process.pid)
        process.wait()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended, without reaping it."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
