"""Runs a program under RLIMIT_DATA and says how much memory it asked for and held at most.

    python test/memory_peak.py --limit-gib 15 --log LOG -- PROGRAM [ARGUMENT ...]

Ends with the program's exit code; its stdout and stderr go to the log.
"""

import argparse
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_INTERVAL_S = 0.005
_PEAKS = ("VmData", "VmHWM")


@dataclass(frozen=True)
class Watched:
    """A program that has ended.

    Attributes:
        exit_code: Its exit code; negative for a signal.
        log: stdout and stderr.
        data_bytes: The highest VmData, which is what RLIMIT_DATA counts, as far as samples saw it.
        resident_bytes: VmHWM, which misses nothing.
    """

    exit_code: int
    log: str
    data_bytes: int
    resident_bytes: int


def run_watched(
    command: Sequence[str],
    *,
    limit_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Watched:
    """Run a program, watching its memory."""

    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))

    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, preexec_fn=limit
    )
    peaks = dict.fromkeys(_PEAKS, 0)
    ended = threading.Event()

    def watch() -> None:
        status = Path(f"/proc/{process.pid}/status")
        while not ended.wait(_INTERVAL_S):
            try:
                text = status.read_text(encoding="ascii", errors="replace")
            except OSError:
                return
            for name in _PEAKS:
                found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
                peaks[name] = max(peaks[name], int(found[1]) << 10 if found else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        log, _ = process.communicate(timeout=timeout_s)
    finally:
        if process.poll() is None:
            process.kill()
        ended.set()
        watcher.join()
    return Watched(process.returncode, log, peaks["VmData"], peaks["VmHWM"])


def main() -> int:
    """The command line; returns the program's exit code."""
    parser = argparse.ArgumentParser(description="How much memory a program takes under RLIMIT_DATA.")
    parser.add_argument("--limit-gib", type=float, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    watched = run_watched(options.command, limit_bytes=round(options.limit_gib * 2**30))
    options.log.write_text(watched.log, encoding="utf-8")
    sys.stdout.write(
        f"exit code {watched.exit_code}, asked for {watched.data_bytes / 2**20:.0f} MiB (VmData), "
        f"held {watched.resident_bytes / 2**20:.0f} MiB (VmHWM)\n"
    )
    return watched.exit_code


if __name__ == "__main__":
    sys.exit(main())
