"""One cold run: a new process, its wall time, and the peak memory of it and of every process that it starts."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.2
# Asking the kernel for a process's share of its pages costs time for every page: at most a twentieth of the run's.
SHARE_OF_TIME = 0.05
_KIB_PER_MIB = 1024


@dataclass(frozen=True)
class ColdRun:
    """What was measured of a process from outside.

    Attributes:
        exit_code: Of the process; negative for a signal.
        wall_s: From its start to its end.
        cpu_s: Processor time of it and of the processes that it waited for.
        peak_host_mib: Peak memory of the whole tree: the larger of the two below.
        peak_tree_mib: Highest sum over the tree of each process's proportional set size, in which a page that several
            processes share counts once; sampled every 0.2 s, or less often where asking takes long.
        peak_process_mib: Highest resident set of any one process: a lower bound that no sample can miss.
        is_timed_out: Whether it was killed because it took too long.
    """

    exit_code: int
    wall_s: float
    cpu_s: float
    peak_host_mib: float
    peak_tree_mib: float
    peak_process_mib: float
    is_timed_out: bool = False


class TreeSampler:
    """Watches the memory of a session's processes until it is stopped.

    Args:
        session: Process id of the session's first process; its descendants are in the session wherever they hang.
    """

    def __init__(self, session: int) -> None:
        self.peak_tree_kib = 0
        self.peak_process_kib = 0
        self._session = session
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more samples."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            started_s = time.perf_counter()
            self._sample()
            took_s = time.perf_counter() - started_s
            if self._stop.wait(max(INTERVAL_S, took_s / SHARE_OF_TIME)):
                return

    def _sample(self) -> None:
        tree_kib = 0
        for process in session_processes(self._session):
            # A process may end while it is looked at.
            with suppress(OSError, KeyError):
                self.peak_process_kib = max(self.peak_process_kib, _kib(process / "status", "VmHWM"))
                tree_kib += _kib(process / "smaps_rollup", "Pss")
        self.peak_tree_kib = max(self.peak_tree_kib, tree_kib)


def run_cold(
    command: Sequence[str],
    *,
    log: Path,
    folder: Path,
    environment: Mapping[str, str],
    timeout_s: float | None = None,
) -> ColdRun:
    """Run a command in a session of its own and wait for it.

    Args:
        command: Program and arguments.
        log: Where its stdout and stderr go; replaced.
        folder: Its working directory.
        environment: All of its environment.
        timeout_s: Killed after so many seconds: nnU-Net waits for ever for a worker that died. None waits for ever.

    Returns:
        What was measured; nothing of the session is left running.
    """
    with log.open("wb") as stream:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(environment),
            start_new_session=True,
        )
        sampler = TreeSampler(process.pid)
        is_late = threading.Event()
        alarm = threading.Timer(timeout_s or threading.TIMEOUT_MAX, _kill_late, (process.pid, is_late))
        alarm.daemon = True
        alarm.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - started_s
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            alarm.cancel()
            sampler.stop()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.returncode is None:  # interrupted
                process.wait()
    peak_process_kib = max(sampler.peak_process_kib, _own_part(usage.ru_maxrss))
    return ColdRun(
        exit_code=process.returncode,
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_host_mib=max(sampler.peak_tree_kib, peak_process_kib) / _KIB_PER_MIB,
        peak_tree_mib=sampler.peak_tree_kib / _KIB_PER_MIB,
        peak_process_mib=peak_process_kib / _KIB_PER_MIB,
        is_timed_out=is_late.is_set(),
    )


def _kill_late(session: int, is_late: threading.Event) -> None:
    is_late.set()
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def session_processes(session: int) -> Iterator[Path]:
    """The folders in /proc of a session's processes."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                # After the name, which may hold blanks and brackets: state, parent, group, session.
                fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if int(fields[3]) == session:
                    yield folder


def _own_part(max_rss_kib: int) -> int:
    """The kernel's peak of a child, unless it may be this process's own.

    Between fork and exec a child is a copy of its parent, and Linux counts that copy's peak as the child's.
    """
    return max_rss_kib if max_rss_kib > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss else 0


def _kib(file: Path, key: str) -> int:
    """A value in kB out of one of /proc's files.

    Raises:
        OSError: The process has ended.
        KeyError: It has no memory any more.
    """
    for line in file.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0])
    raise KeyError(key)
