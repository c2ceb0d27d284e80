"""Standard streams that cannot fail: a log that nobody reads, or that finds its disk full, must not cost a case."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def steady_streams() -> None:
    """Open closed standard streams on /dev/null, and make what is written to them text that every reader takes.

    To be called before anything else is opened: a file could take a closed stream's number, and then whatever a library
    prints would go into it. Errors of the log are not told on stderr, where the platform flags them.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) < len(_STREAMS):
        os.set_inheritable(opened, True)
    os.close(opened)
    for number, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:  # how Python says that it was closed
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # bytes that are not UTF-8 would end a job on the platform
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    logging.raiseExceptions = False


def say(line: str) -> None:
    """Write a line to stderr at once, if that can be."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
