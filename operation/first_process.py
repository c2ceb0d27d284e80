"""The container's first process: starts the program, hands signals on, and says how it died when it could not itself.

    python -P operation/first_process.py [OPTION ...]     the options are inference.py's

A process that the kernel kills for memory, or that a library ends with abort or a segmentation fault, leaves no word.
This one is small, so that the kernel takes the other. It needs nothing but the standard library.

No failure may leave an earlier case's masks to be taken for this one's. The program sees to that as soon as it runs;
when it dies, or cannot even be loaded, this process does.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "inference.py"
_OUTPUT = Path("/output")  # the platform's
_REFUSED = 1  # also Python's own exit code when a module cannot be loaded
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# With less, not even all libraries load: OpenBLAS then waits for ever for memory, and others crash. A small case has
# been seen to need 1.5 GiB.
LEAST_DATA_GIB = 1.25
# The program ends itself by force after 4 s, and all must be over after 5 s.
GRACE_S = 4.7
_PR_SET_PDEATHSIG = 1
_CAUSES = {
    signal.SIGKILL: "memory exhausted, most likely",
    signal.SIGABRT: "a library gave up, most likely for memory",
    signal.SIGSEGV: "a library crashed",
    signal.SIGBUS: "a file that was being read has become shorter, or its disk is full",
}


def main(arguments: Sequence[str]) -> int:
    """Run the program; returns its exit code, or 128 + the number of the signal that ended it."""
    _open_closed_streams()
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit_bytes != resource.RLIM_INFINITY and limit_bytes < LEAST_DATA_GIB * 2**30:
        _take_away_masks(arguments)
        _say(f"memory: limit on data must be at least {LEAST_DATA_GIB:g} GiB, got {limit_bytes / 2**30:.3g} GiB")
        return _REFUSED
    # Until the program's process is known there is nobody to hand a signal to.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    child = subprocess.Popen([sys.executable, str(PROGRAM), *arguments], preexec_fn=_begin_child)

    asked: list[signal.Signals] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        # SIGHUP: what closes a terminal asks for the same as who stops the program.
        wanted = signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
        with suppress(ProcessLookupError):
            os.kill(child.pid, wanted)
        if not asked:
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)
        asked.append(wanted)

    def kill(_number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)

    for number in FORWARDED:
        signal.signal(number, forward)
    signal.signal(signal.SIGALRM, kill)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    code = _wait(child.pid)
    if code < 0 or code == _REFUSED:
        _take_away_masks(arguments)
    if code >= 0:
        return code
    ended_by = signal.Signals(-code)
    got = f"{ended_by.name} ({_CAUSES[ended_by]})" if ended_by in _CAUSES else ended_by.name
    if asked and ended_by is signal.SIGKILL:
        got = f"{asked[0].name} and did not end within {GRACE_S:g} s"
    _say(f"inference: must end by itself, got {got}")
    return 128 + ended_by


def _say(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _take_away_masks(arguments: Sequence[str]) -> None:
    if arguments and not arguments[0].startswith("-"):
        return  # a subcommand: a server's last masks are whole, and there are commands without any
    sys.path.append(str(ROOT))  # last, so that nothing of ours hides a package
    from petct.mask_places import take_away_masks

    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--output", type=Path, default=_OUTPUT)
    with suppress(argparse.ArgumentError):
        take_away_masks(parser.parse_known_args(arguments)[0].output)


def _wait(pid: int) -> int:
    """The exit code of the program, or minus the signal that ended it. Collects orphans as well, as process 1 must."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _begin_child() -> None:
    """In the child: it does not outlive this process, and hears signals again."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)


def _open_closed_streams() -> None:
    """Give a standard stream that is closed /dev/null, lest the next file that is opened takes its number."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
