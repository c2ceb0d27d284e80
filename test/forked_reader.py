"""Reads cases as the program does, each in a process of its own with 1 GiB and 10 s; imports once, forks for each.

    python test/forked_reader.py

Reads lines `{"case": FOLDER, "stdout": FILE, "stderr": FILE}` on stdin, and answers each with a line
`{"status": exit code or -signal, "seconds": .., "own_mib": peak memory above the imports, "peak_mib": ..}`. A status of
-9 is a case that took longer than the limit. What a case says goes to its two files.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from petct.errors import CaseError
from petct.folders import read_case

LIMIT_S = 10.0
LIMIT_MIB = 1024


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        started_s = time.monotonic()
        child = os.fork()
        if child == 0:
            _become_reader(request)
        used, status = _wait(child, deadline_s=started_s + LIMIT_S)
        base_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = {
            "status": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - started_s,
            "own_mib": max(0, used.ru_maxrss - base_kib) / 1024,
            "peak_mib": used.ru_maxrss / 1024,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _wait(child: int, *, deadline_s: float) -> tuple[resource.struct_rusage, int]:
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            return used, status
        if time.monotonic() > deadline_s:
            os.kill(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            return used, status
        time.sleep(0.005)


def _become_reader(request: dict[str, str]) -> None:
    """In the child: read the case, say what the program would, and leave without what belongs to the parent."""
    status = 2
    try:
        for name, stream in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        in_use = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (in_use + (LIMIT_MIB << 20), resource.RLIM_INFINITY))
        with open(1, "w", encoding="utf-8", closefd=False) as out, open(2, "w", encoding="utf-8", closefd=False) as err:
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=out, force=True)
            try:
                # A name from the command line may hold bytes that are no text.
                read_case(Path(os.fsdecode(request["case"].encode("utf-8", "surrogateescape"))))
                status = 0
            except CaseError as error:
                err.write(f"{error}\n")
                status = 1
            except Exception as error:  # noqa: BLE001 - whatever it is, the table wants to know
                err.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
