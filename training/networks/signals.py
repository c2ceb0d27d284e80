"""Being told to stop: SIGTERM of a cluster and SIGHUP of a closed terminal end a training as tidily as Ctrl-C does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt, with the signal as its argument, when this process gets SIGTERM or SIGHUP meanwhile.

    Only for the main thread. Processes forked meanwhile end at once, as they would have without.
    """
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        raise KeyboardInterrupt(number)

    # Under nohup the terminal's end is ignored, and stays so.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(stop: KeyboardInterrupt) -> int:
    """What a shell shows for a program that was stopped: 128 and the signal's number."""
    return 128 + (int(stop.args[0]) if stop.args else signal.SIGINT)
