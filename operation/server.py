"""The platform's HTTP way: `/health` says when the models are loaded, `/invoke` runs the case in the input folder.

Cases run in the main thread, requests are answered by others. In the main thread a case is stopped by a signal as it is
without a server, and every case meets the same threads of OpenMP, which keeps a set of them for each thread that has
ever computed.

The protocol is a program's, and its only client is the platform: the standard library's HTTP is all it needs
(`operation.service_http`), and there is no package more to keep up to date.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from queue import SimpleQueue
from typing import NoReturn

from operation.ending import Stopped, ended_by_signals, leave
from operation.service_case import CaseRunner
from operation.service_http import Answer, Routes, listening
from operation.streams import say
from segmentation.short_memory import release_unused

log = logging.getLogger(__name__)

HOST = "0.0.0.0"
PORT = 4743  # the platform's
DOUBT_EXIT_CODE = 3
_LAST_ANSWER_S = 1.0  # how long the end waits until the last answer is on its way


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where to listen."""
    parser.add_argument("--host", default=HOST, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="(%(default)s)")


class Service:
    """What the server says and takes on, for the threads that answer requests and for the one that runs cases."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: str | None = "the models are not loaded yet"
        self._running: Future[Answer] | None = None
        self._cases: SimpleQueue[Future[Answer]] = SimpleQueue()

    @property
    def routes(self) -> Routes:
        """What answers which request."""
        return {"/health": {"GET": self.health, "HEAD": self.health}, "/invoke": {"POST": self.invoke}}

    def health(self) -> Answer:
        """200 when the models are loaded, also while a case runs; 503 before, and when the process is about to end."""
        with self._lock:
            reason = self._reason
        return Answer(HTTPStatus.OK, "ready") if reason is None else Answer(HTTPStatus.SERVICE_UNAVAILABLE, reason)

    def invoke(self) -> Answer:
        """Have the case run that now lies in the input folder; returns when it is done.

        One at a time, and none waits: by the time its turn came another case could lie in the input folder.
        """
        with self._lock:
            if self._reason is not None:
                return Answer(HTTPStatus.SERVICE_UNAVAILABLE, self._reason)
            if self._running is not None:
                return Answer(HTTPStatus.CONFLICT, "a case is running, and the folders are its own until it is done")
            case: Future[Answer] = Future()
            self._running = case
        self._cases.put(case)
        return case.result()

    def open(self) -> None:
        """The models are loaded."""
        with self._lock:
            self._reason = None

    def close(self, reason: str) -> None:
        """Take no more cases."""
        with self._lock:
            self._reason = reason

    def wait_for_case(self) -> None:
        """Wait until a case is asked for."""
        self._cases.get()

    def answer(self, answer: Answer) -> None:
        """Answer the case that runs, if one does; the next may come."""
        with self._lock:
            case, self._running = self._running, None
        if case is not None:
            case.set_result(answer)
            answer.is_sent.wait(_LAST_ANSWER_S)


def serve(
    load: Callable[[], None],
    invoke: Callable[[], None],
    *,
    host: str = HOST,
    port: int = PORT,
    clear: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Answer requests until a signal ends the process, or it is in doubt. To be called in the main thread.

    It listens from the start, so that `/health` can say that the models are not loaded yet. The process ends with 143
    on SIGTERM and 130 on SIGINT, within 5 s whatever runs; with 142 on SIGALRM, which is for a case that hangs; and
    with 3 when it can no longer be trusted to run a case (CUDA fails for good, or memory was short for two cases in a
    row), after that case was answered.

    Args:
        load: Loads the models; what it raises ends the server.
        invoke: Runs the case that now lies in the input folder. What it raises is answered, and the server goes on.
        host: Address to listen on.
        port: Port to listen on.
        clear: Takes masks out of the output folder; called after a case that failed or was stopped.

    Raises:
        CaseError: The address cannot be listened on.
    """
    service = Service()
    runner = CaseRunner(invoke, clear=clear)

    def end_by_force(name: str) -> None:
        runner.abandon()
        _say_stopped(service, name=name)

    try:
        with (
            listening(host, port, routes=service.routes) as server,
            ended_by_signals(
                when_heard=lambda name: service.close(f"stopped by {name}"),
                clean_up=end_by_force,
            ),
        ):
            log.info("listening on %s:%d", *server.server_address[:2])
            try:
                load()
                service.open()
                log.info("ready")
                while True:
                    service.wait_for_case()
                    _run(service, runner=runner)
            except Stopped as stop:
                _say_stopped(service, name=stop.name)
                leave(stop.exit_code)
    except Stopped as stop:  # it came before there was anything to stop
        leave(stop.exit_code)


def _run(service: Service, *, runner: CaseRunner) -> None:
    started_s = time.monotonic()
    outcome = runner.run()
    log.info("case: %d %s, %.1f s", outcome.status, outcome.status.phrase, time.monotonic() - started_s)
    release_unused()  # memory would not grow without; between two demo cases 90 MiB less are held with it
    if outcome.status is not HTTPStatus.CREATED:
        say(outcome.line)
    if outcome.doubt is not None:
        service.close(outcome.doubt)
        say(f"server: ends after this case: {outcome.doubt}")
    service.answer(Answer(outcome.status, outcome.line))
    if outcome.doubt is not None:
        leave(DOUBT_EXIT_CODE)


def _say_stopped(service: Service, *, name: str) -> None:
    is_hung = name == signal.Signals.SIGALRM.name
    say(f"server: {'case must end in time' if is_hung else 'must run until it is stopped'}, got {name}")
    service.answer(Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"stopped by {name}"))
