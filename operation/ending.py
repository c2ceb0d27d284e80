"""Ending in time on a signal, whatever the process is doing, with nothing half done left behind."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
# A process that is asked to stop shall be gone within 5 s; two of them are for what is then done by force.
GRACE_S = 3.0


class Stopped(SystemExit):
    """A signal asks the process to end; raised in the main thread, so that what it was doing cleans up on the way out.

    Args:
        number: The signal.

    Attributes:
        name: The signal's name.
        exit_code: What the process ends with, as a shell reports it.
    """

    def __init__(self, number: int) -> None:
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number
        super().__init__(self.exit_code)


@contextmanager
def ended_by_signals(*, when_heard: Callable[[str], None], clean_up: Callable[[str], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT end what follows: by `Stopped` if the main thread hears it in time, else by force.

    Python hears a signal only between two steps of the main thread, and a step may be one window of a large network:
    half a minute on a CPU. So a thread of its own is told of the signal at once. When the process has not ended by
    itself within 3 s, that thread ends its child processes and the process. To be used in the main thread.

    Args:
        when_heard: Called at once, in that thread, with the signal's name; must neither block nor fail.
        clean_up: Called before the end by force, so too; the main thread may still be computing.

    Raises:
        Stopped: In the main thread, once, whatever it is doing.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    is_over = threading.Event()

    def watch() -> None:
        with ours:
            number = next((byte[0] for byte in iter(lambda: ours.recv(1), b"") if byte[0] in SIGNALS), None)
        if number is None:
            return
        name = signal.Signals(number).name
        when_heard(name)
        if not is_over.wait(GRACE_S):
            log.warning("what runs does not stop by itself and is ended")
            end_children()
            with suppress(Exception):
                clean_up(name)
            leave(128 + number)

    has_heard = False

    def hear(number: int, _frame: FrameType | None) -> None:
        nonlocal has_heard
        if not has_heard:  # a second one must not break into the cleaning up
            has_heard = True
            raise Stopped(number)

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    wakeup_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        is_over.set()
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()  # which ends the thread; it has the other end to itself


def end_children() -> None:
    """Kill this process's children, and the groups that they lead."""
    for child in _children(os.getpid()):
        with suppress(OSError):
            if os.getpgid(child) == child:
                os.killpg(child, signal.SIGKILL)
            else:
                os.kill(child, signal.SIGKILL)


def leave(code: int) -> NoReturn:
    """End the process now, its streams flushed.

    The interpreter's own end waits for threads and runs what libraries left for it, which can hang after a CUDA error
    or while a network computes.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _children(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                # After the name, which may hold blanks and brackets: state, parent.
                fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(folder.name))
    return found
