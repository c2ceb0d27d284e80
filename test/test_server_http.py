"""The server's HTTP: other paths and methods, bodies, and clients that are slow, silent or hostile."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus

import pytest

from operation import service_http
from operation.service_http import MOST_BODY_BYTES, Answer, Server, listening

WAIT_S = 60.0  # on a busy machine


@pytest.fixture(scope="module")
def all_invoked() -> list[str]:
    return []


@pytest.fixture
def invoked(all_invoked: list[str]) -> list[str]:
    """A word for each case that the test has made run."""
    all_invoked.clear()
    return all_invoked


@pytest.fixture(scope="module")
def server(all_invoked: list[str]) -> Iterator[Server]:
    def health() -> Answer:
        return Answer(HTTPStatus.OK, "ready")

    def invoke() -> Answer:
        all_invoked.append("case")
        return Answer(HTTPStatus.CREATED, "dône")

    routes = {"/health": {"GET": health, "HEAD": health}, "/invoke": {"POST": invoke}}
    with listening("127.0.0.1", 0, routes=routes) as listener:
        yield listener


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.server_address[:2], timeout=WAIT_S)


def answer_to(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """The answer to a request as it is; the connection must end with it."""
    with connect(server) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body


def request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1") + body


def received_or_closed(connection: socket.socket) -> bytes:
    """What has come; nothing when the other side has closed, in whatever way."""
    try:
        return connection.recv(1)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/health?verbose=1", 200),
        ("GET", "http://somewhere:4743/health", 200),
        ("POST", "/invoke", 201),
        ("GET", "/", 404),
        ("GET", "/health/", 404),  # a redirect would be a failure on the platform
        ("GET", "/Health", 404),
        ("POST", "/invocations", 404),
        ("GET", "/../etc/passwd", 404),
        ("BREW", "/pot", 404),
    ],
)
def test_paths(server: Server, invoked: list[str], method: str, path: str, status: int) -> None:
    got, headers, body = answer_to(server, request(method, path))
    assert got == status
    assert not 300 <= got < 400
    assert headers["Content-Type"] == "application/json"
    if method == "HEAD":
        assert body == b""
        assert int(headers["Content-Length"]) == len(answer_to(server, request("GET", path))[2])
    else:
        assert int(headers["Content-Length"]) == len(body)
        assert body.count(b"\n") == 1
        assert isinstance(json.loads(body)["detail"], str)
    assert invoked == ["case"] * (status == 201)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/health", "GET, HEAD"),
        ("GET", "/invoke", "POST"),
        ("HEAD", "/invoke", "POST"),
        ("PUT", "/invoke", "POST"),
        ("BREW", "/invoke", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    server: Server, invoked: list[str], method: str, path: str, allow: str
) -> None:
    status, headers, _ = answer_to(server, request(method, path))
    assert (status, headers["Allow"]) == (405, allow)
    assert not invoked


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * MOST_BODY_BYTES])
def test_a_body_is_read_away_and_the_connection_goes_on(server: Server, body: bytes) -> None:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=WAIT_S)
    connection.connect()
    first = connection.sock
    for path, status in (("/invoke", 201), ("/nowhere", 404), ("/invoke", 201)):
        connection.request("POST", path, body=body)
        response = connection.getresponse()
        assert response.status == status
        response.read()
        assert not response.will_close
        assert connection.sock is first
    connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Content-Length: 65537"], 413),
        (["Content-Length: 99999999999999999999"], 413),
        (["Content-Length: -1"], 400),
        (["Content-Length: +1"], 400),
        (["Content-Length: 1e3"], 400),
        (["Content-Length: \u00b2"], 400),
        (["Content-Length:"], 400),
        (["Content-Length: 3", "Content-Length: 4"], 400),
        (["Transfer-Encoding: chunked"], 411),
        (["Transfer-Encoding: chunked", "Content-Length: 3"], 411),
        ([f"X-{number}: y" for number in range(101)], 431),
        (["X: " + "y" * 65536], 431),
        ([f"X-{number}: " + "y" * 60000 for number in range(4)], 431),
    ],
)
def test_what_cannot_be_read_is_refused_and_the_connection_closed(
    server: Server, invoked: list[str], headers: list[str], status: int
) -> None:
    got, answered, _ = answer_to(server, request("POST", "/invoke", *headers, body=b"abc"))
    assert (got, answered["Connection"]) == (status, "close")
    assert not invoked


def test_a_client_that_sends_a_large_body_gets_to_read_why_it_is_refused(server: Server) -> None:
    size = MOST_BODY_BYTES * 8
    with connect(server) as connection:
        connection.sendall(request("POST", "/invoke", f"Content-Length: {size}", body=b"x" * size))
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"body must have at most 65536 bytes" in received


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),  # TLS
        (b"GET /health HTTP/9.1\r\n\r\n", 505),
        (b"GET /health HTTP/x\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /health\r\n", 200),
    ],
)
def test_odd_requests(server: Server, raw: bytes, status: int) -> None:
    assert answer_to(server, raw)[0] == status


def test_requests_sent_ahead_are_answered_in_turn(server: Server, invoked: list[str]) -> None:
    with connect(server) as connection:
        connection.sendall(request("POST", "/invoke", "Content-Length: 3", body=b"abc") + request("GET", "/health"))
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"201", b"200"]
    assert invoked == ["case"]


@pytest.mark.parametrize("sent", [b"", b"POST /invoke HT", b"POST /invoke HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"])
def test_half_a_request_runs_no_case(server: Server, invoked: list[str], sent: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert not invoked
    assert b"HTTP/1.1 2" not in received


def test_a_request_that_comes_drop_by_drop_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and all together do not."""
    monkeypatch.setattr(service_http, "REQUEST_S", 0.5)
    started_s = time.monotonic()
    with connect(server) as connection:
        connection.settimeout(0.05)
        received = None
        while received is None and time.monotonic() < started_s + WAIT_S:
            with suppress(TimeoutError, ConnectionError):
                connection.sendall(b"G")
            with suppress(TimeoutError):
                received = received_or_closed(connection)
    assert received == b""
    assert time.monotonic() >= started_s + 0.5


def test_silent_clients_do_not_keep_others_from_being_answered(server: Server) -> None:
    silent = [connect(server) for _ in range(3 * service_http.MOST_WAITING)]
    for connection in silent[::2]:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
    assert answer_to(server, request("GET", "/health"))[0] == 200
    assert len(threading.enumerate()) < 2 * service_http.MOST_WAITING
    for connection in silent:
        connection.close()


def test_many_clients_at_once(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: answer_to(server, request("GET", "/health"))[0], range(64))
    assert set(answers) == {200}


def test_the_log_of_a_request_is_one_line(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        answer_to(server, b"POST /x\x1b[31m\x0bfake HTTP/1.1\r\n\r\n")
    assert all(message.isprintable() for message in caplog.messages)
    assert "\\x1b[31m" in caplog.text


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.fail("this machine's Python has no IPv6")
    routes = {"/health": {"GET": lambda: Answer(HTTPStatus.OK, "ready")}}
    with listening("::1", 0, routes=routes) as server:
        assert answer_to(server, request("GET", "/health"))[0] == 200
