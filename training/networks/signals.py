"""Being told to stop: SIGTERM, as a cluster or a container sends it, ends a training as tidily as Ctrl-C does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt, with the signal as its argument, when this process gets SIGTERM during the block.

    Only for the main thread. Processes forked meanwhile end at once, as they would have without.
    """
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(stop: KeyboardInterrupt) -> int:
    """What a shell shows for a program that was stopped: 128 and the signal's number."""
    return 128 + (int(stop.args[0]) if stop.args else signal.SIGINT)
