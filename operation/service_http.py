"""A small HTTP/1.1 server that nobody can keep from answering: what is slow, half open or too large is cut off.

The standard library's request parser under our own limits. `http.server.HTTPServer` itself asks the resolver for the
machine's name when it starts, which may take long where there is no network.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from io import BufferedReader
from typing import Any
from urllib.parse import urlsplit

from operation.service_reader import IDLE_S, REQUEST_BYTES, REQUEST_S, WRITE_S, RequestReader, drain
from petct.errors import CaseError, one_line

log = logging.getLogger(__name__)

MOST_BODY_BYTES = 64 << 10  # the platform sends none at all
MOST_WAITING = 32  # each is a thread, whose stack counts against the limit on memory
_LONGEST_REQUEST_LINE = 65536  # http.server's


@dataclass(frozen=True)
class Answer:
    """An answer to a request.

    Attributes:
        status: The status.
        line: One line that says why.
        allow: The methods that would have done.
        is_sent: Set once it is written, or the client has gone.
    """

    status: HTTPStatus
    line: str
    allow: tuple[str, ...] = ()
    is_sent: threading.Event = field(default_factory=threading.Event, compare=False)


Routes = Mapping[str, Mapping[str, Callable[[], Answer]]]


class Server(socketserver.ThreadingTCPServer):
    """Answers each connection in a thread of its own.

    Args:
        host: Address to listen on; one with a colon is IPv6.
        port: Port; 0 takes a free one.
        routes: Per path and method what answers; it may block.

    Raises:
        CaseError: The address cannot be listened on.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int, *, routes: Routes) -> None:
        self.routes = routes
        self._waiting: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise CaseError(f"{host}:{port}", "address must be free to listen on", str(error)) from error

    @contextmanager
    def waiting(self, connection: socket.socket) -> Iterator[None]:
        """While a request is waited for; of too many that are, the one that takes longest is closed."""
        with self._lock:
            self._waiting[connection] = None
            longest = next(iter(self._waiting)) if len(self._waiting) > MOST_WAITING else None
            if longest is not None:
                del self._waiting[longest]
                with suppress(OSError):
                    longest.shutdown(socket.SHUT_RDWR)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(connection, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An error of ours or of the connection; nobody is left to be told, so it goes to the log."""
        log.warning("connection from %s ended: %r", client_address, sys.exc_info()[1])


@contextmanager
def listening(host: str, port: int, *, routes: Routes) -> Iterator[Server]:
    """A server that answers in threads while the context lasts; see `Server`."""
    with Server(host, port, routes=routes) as server:
        thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader = RequestReader(self.connection)
        self.rfile = self._requests = BufferedReader(self._reader)
        self._idle_s = REQUEST_S  # a new connection brings its request at once

    def handle_one_request(self) -> None:
        self.close_connection = True
        self.requestline = self.request_version = self.command = ""
        try:
            with self.server.waiting(self.connection):
                is_read = self._read_request()
            if is_read:
                self._send(self._route())
                self._idle_s = IDLE_S
        except (OSError, HTTPException) as error:
            self.close_connection = True
            log.debug("%s: connection ended: %r", self.client_address[0], error)

    def _read_request(self) -> bool:
        """Read a request; False when there is none to answer any more, because it was refused or never came."""
        self._reader.begin(self._idle_s)
        if not self._requests.peek(1):
            return False
        self._reader.begin(REQUEST_S, most_bytes=REQUEST_BYTES)
        self.raw_requestline = self.rfile.readline(_LONGEST_REQUEST_LINE + 1)
        if len(self.raw_requestline) > _LONGEST_REQUEST_LINE:
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
            return False
        if not self.parse_request():
            return False
        refusal = self._read_body()
        if refusal is not None:
            self.close_connection = True  # where the next request begins is not known
            self._send(refusal)
            drain(self.connection)
        return refusal is None

    def _read_body(self) -> Answer | None:
        """Read the body away; an answer when it cannot be."""
        if self.headers.get("Transfer-Encoding") is not None:
            return Answer(HTTPStatus.LENGTH_REQUIRED, "body must come with a Content-Length")
        lengths = set(self.headers.get_all("Content-Length", []))
        if not lengths:
            return None
        length = lengths.pop().strip()
        if lengths or not (length.isascii() and length.isdecimal()):
            return Answer(HTTPStatus.BAD_REQUEST, "Content-Length must be one whole number")
        if len(length) > 9 or int(length) > MOST_BODY_BYTES:
            rule = f"body must have at most {MOST_BODY_BYTES} bytes"
            return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, rule)
        if len(self.rfile.read(int(length))) < int(length):
            raise ConnectionError("the body ended early")
        return None

    def _route(self) -> Answer:
        try:
            path = urlsplit(self.path).path
        except ValueError:
            return Answer(HTTPStatus.BAD_REQUEST, "target must be a path")
        methods = self.server.routes.get(path)
        if methods is None:
            return Answer(HTTPStatus.NOT_FOUND, f"path must be one of {', '.join(self.server.routes)}")
        action = methods.get(self.command)
        if action is None:
            allow = tuple(methods)
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, f"method must be {' or '.join(allow)}", allow=allow)
        return action()

    def _send(self, answer: Answer) -> None:
        body = (json.dumps({"detail": answer.line}) + "\n").encode("ascii")
        self.connection.settimeout(WRITE_S)
        self.request_version = self.protocol_version  # http.server's guess at a broken request is one without headers
        try:
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if answer.allow:
                self.send_header("Allow", ", ".join(answer.allow))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        finally:
            answer.is_sent.set()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the request's parser refuses, in our form."""
        self.close_connection = True
        self._send(Answer(HTTPStatus(code), one_line(message or HTTPStatus(code).phrase)))
        drain(self.connection)

    def version_string(self) -> str:
        """What the server calls itself: no versions."""
        return "psma-fdg-ttb"

    def log_message(self, format: str, *values: Any) -> None:  # noqa: A002 (its name in the base class)
        """A request, for the log; health is asked for every few seconds."""
        level = logging.DEBUG if self.command in ("GET", "HEAD") else logging.INFO
        log.log(level, "%s", one_line(f"{self.client_address[0]}: {format % values}"))
