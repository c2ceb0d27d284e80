"""Starting a server as a process, asking it things, and linking cases to its folders as the platform does."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 120.0  # on a busy machine; nothing waits that long when all is well
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        return json.loads(self.body)["detail"]


class Served:
    """A running server and the folders that its input and output are links in."""

    def __init__(self, command: Sequence[str], *, folder: Path) -> None:
        self.input, self.output = folder / "input", folder / "output"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._folder = folder
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={
                **os.environ,
                "TMPDIR": str(self.temporary),
                "PYTHONPATH": str(REPOSITORY),
                "PYTHONUNBUFFERED": "1",
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._ports: queue.Queue[int | None] = queue.Queue()
        self._pool = ThreadPoolExecutor()
        self._log = threading.Thread(target=self._read_log, daemon=True)
        self._log.start()
        self.port = self._ports.get(timeout=START_S)

    def _read_log(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"listening on .*:(\d+)$", line):
                self._ports.put(int(found[1]))
        self._ports.put(None)

    def link(self, case: Path, *, output: Path) -> None:
        """Wipe and link again, as the platform does between cases."""
        for link, target in ((self.input, case), (self.output, output)):
            target.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def ask(self, method: str, path: str, *, body: bytes | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        try:
            connection.request(method, path, body=body)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def invoke(self) -> Reply:
        return self.ask("POST", "/invoke", body=b"")

    def invoke_beside(self) -> Future[Reply]:
        return self._pool.submit(self.invoke)

    def wait_until_healthy(self) -> None:
        wait_until(lambda: self.ask("GET", "/health").status == 200)

    def wait_for_end(self, *, timeout_s: float = START_S) -> tuple[int, str]:
        """Exit code and stderr."""
        code = self.process.wait(timeout=timeout_s)
        self._log.join(timeout=START_S)
        return code, self.process.stderr.read()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.join(timeout=START_S)
        self._pool.shutdown()
        self.process.stdout.close()
        self.process.stderr.close()


@contextmanager
def running(command: Sequence[str], *, folder: Path) -> Iterator[Served]:
    served = Served(command, folder=folder)
    try:
        yield served
    finally:
        served.close()


@contextmanager
def fake_service(folder: Path, *options: str) -> Iterator[Served]:
    program = Path(__file__).with_name("fake_service.py")
    command = [sys.executable, str(program), str(folder / "input"), str(folder / "output"), *options]
    with running(command, folder=folder) as served:
        yield served


def wait_until(is_so, *, timeout_s: float = START_S) -> None:
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until_s, "it must become so in time"
        time.sleep(0.02)
