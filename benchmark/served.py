"""Many cases in one process of the HTTP way: what each is answered, and what memory the process holds after it."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import find_files
from petct.output import mask_file

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, str(Path(__file__).resolve().parents[1] / "inference.py"), "serve")
START_S = 300.0  # the platform's patience
_POLL_S = 0.2
_END_S = 10.0
_BAD_EVERY = 5
_KIB_PER_MIB = 1024
_FORGET_PEAK = "5"  # proc(5): the peak of the resident set starts anew


@dataclass(frozen=True)
class ServedCase:
    """One case of a server's life.

    Attributes:
        number: Its place, from 1.
        name: Which case it was.
        is_good: Whether it was to be served, and not refused.
        status: What it was answered.
        detail: The answer's line.
        masks_sha256: Digest of both masks; None when there are none.
        wall_s: From the request to the answer.
        peak_mib: Most memory that the process held meanwhile.
        resident_mib: Memory that it held afterwards.
        threads: Threads that it had afterwards.
        files: Files that it had open afterwards.
        temporary_files: What lay in the folder for temporary files afterwards.
    """

    number: int
    name: str
    is_good: bool
    status: int
    detail: str
    masks_sha256: str | None
    wall_s: float
    peak_mib: float
    resident_mib: float
    threads: int
    files: int
    temporary_files: int


def bad_cases(good: Path, *, folder: Path) -> list[Path]:
    """Cases that are refused, each for something else: a PET that is missing, one cut short, a threshold in words.

    Args:
        good: The case that they are made of.
        folder: Where they go; what is there is replaced.

    Raises:
        CaseError: It is no case.
    """
    made = []
    for name in ("without-pet", "short-pet", "threshold-in-words"):
        place = folder / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(good, place)
        files = find_files(place)
        match name:
            case "without-pet":
                files[Tracer.PSMA].pet.path.unlink()
            case "short-pet":
                os.truncate(files[Tracer.FDG].pet.path, files[Tracer.FDG].pet.path.stat().st_size // 2)
            case _:
                files[Tracer.FDG].threshold.path.write_text('{"suv_threshold": "high"}', encoding="utf-8")
        made.append(place)
    return made


def order_of_cases(good: Sequence[Path], *, bad: Sequence[Path], cases: int) -> Iterator[tuple[Path, bool]]:
    """The good cases in turns, so many in all, and after every fifth a bad one; each with whether it is good."""
    for number in range(cases):
        yield good[number % len(good)], True
        if bad and number % _BAD_EVERY == _BAD_EVERY - 1:
            yield bad[number // _BAD_EVERY % len(bad)], False


class Server:
    """The program as a server, and the links that stand for the platform's /input and /output.

    Args:
        process: The running program.
        port: Where it listens.
        folder: Holds `input`, `output` and `tmp`.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, port: int, folder: Path) -> None:
        self._process = process
        self._port = port
        self._folder = folder

    def wait_until_healthy(self) -> None:
        """Wait until the models are loaded.

        Raises:
            CaseError: It has ended, or is not ready in time.
        """
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            if self._process.poll() is not None:
                raise CaseError("server", "must get ready", f"exit code {self._process.returncode}")
            with suppress(OSError):
                if self._ask("GET", "/health")[0] == HTTPStatus.OK:
                    return
            time.sleep(_POLL_S)
        raise CaseError("server", f"must get ready within {START_S:g} s")

    def run(self, case: Path, *, number: int, is_good: bool) -> ServedCase:
        """Link a case and have it run."""
        output = self._folder / "masks"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        for link, target in ((self._folder / "input", case), (self._folder / "output", output)):
            link.unlink(missing_ok=True)
            link.symlink_to(target.resolve())
        process = Path("/proc") / str(self._process.pid)
        (process / "clear_refs").write_text(_FORGET_PEAK, encoding="ascii")
        started_s = time.perf_counter()
        status, detail = self._ask("POST", "/invoke")
        wall_s = time.perf_counter() - started_s
        facts = _status(process)
        return ServedCase(
            number=number,
            name=case.name,
            is_good=is_good,
            status=status,
            detail=detail,
            masks_sha256=_digest(output),
            wall_s=wall_s,
            peak_mib=facts["VmHWM"] / _KIB_PER_MIB,
            resident_mib=facts["VmRSS"] / _KIB_PER_MIB,
            threads=facts["Threads"],
            files=len(list((process / "fd").iterdir())),
            temporary_files=len(list((self._folder / "tmp").iterdir())),
        )

    def _ask(self, method: str, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, str(json.loads(response.read())["detail"])
        finally:
            connection.close()


@contextmanager
def served(options: Sequence[str], *, folder: Path, program: Sequence[str] = PROGRAM) -> Iterator[Server]:
    """A server while the context lasts.

    Args:
        options: More options of `inference.py serve`.
        folder: A folder of its own; the server's log is `server.log` in it.
        program: What is started.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    place = ["--input", str(folder / "input"), "--output", str(folder / "output")]
    with (folder / "server.log").open("wb") as stream:
        process = subprocess.Popen(
            [*program, *place, "--host", "127.0.0.1", "--port", str(port), *options],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str((folder / "tmp").resolve())},
        )
    try:
        yield Server(process, port=port, folder=folder)
    finally:
        process.terminate()
        try:
            process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve_cases(
    order: Sequence[tuple[Path, bool]], *, server: Server, keep: Callable[[ServedCase], None]
) -> list[ServedCase]:
    """Have cases run one after the other; each is handed to `keep` as it is done."""
    done: list[ServedCase] = []
    for number, (case, is_good) in enumerate(order, start=1):
        one = server.run(case, number=number, is_good=is_good)
        log.info(
            "%s: %d, %.1f s, peak %.0f MiB, then %.0f MiB (%d of %d)",
            one.name,
            one.status,
            one.wall_s,
            one.peak_mib,
            one.resident_mib,
            number,
            len(order),
        )
        keep(one)
        done.append(one)
    return done


def _status(process: Path) -> Mapping[str, int]:
    """The whole numbers of a process's status; memory in KiB."""
    lines = (process / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    fields = (line.partition(":") for line in lines)
    return {name: int(value.split()[0]) for name, _, value in fields if value.split() and value.split()[0].isdecimal()}


def _digest(output: Path) -> str | None:
    files = [mask_file(output, tracer) for tracer in Tracer]
    if not all(file.is_file() for file in files):
        return None
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
