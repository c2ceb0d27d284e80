"""The server as a process: when it is healthy, what it answers to a case, what is left after one, and how it ends."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from petct.case import Tracer
from petct.output import mask_file
from served import Served, fake_service, wait_until

END_S = 5.0  # the platform's patience after SIGTERM
MUST_NOT_FAIL = "inference: must not fail on a case that passed all checks"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with fake_service(tmp_path) as service:
        service.wait_until_healthy()
        yield service


def case(served: Served, folder: Path, words: str) -> Path:
    """Link a case that does what the words say; returns its output folder."""
    folder.mkdir()
    (folder / "what.txt").write_text(words, encoding="utf-8")
    served.link(folder, output=folder / "masks")
    return folder / "masks"


def masks(output: Path) -> list[str]:
    return [mask_file(output, tracer).read_text(encoding="utf-8") for tracer in Tracer]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def is_alive(pid: int) -> bool:
    """A child that was killed stays behind as a zombie where nobody waits for orphans."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_it_is_healthy_only_when_the_models_are_loaded(tmp_path: Path) -> None:
    with fake_service(tmp_path, "waits") as served:
        served.link(tmp_path / "case", output=tmp_path / "masks")
        for answer in (served.ask("GET", "/health"), served.invoke()):
            assert (answer.status, answer.detail) == (503, "the models are not loaded yet")
        assert served.ask("HEAD", "/health").status == 503
        (served.input / "go").touch()
        served.wait_until_healthy()
        answer = served.ask("HEAD", "/health")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["Content-Length"]) == len(served.ask("GET", "/health").body)


def test_it_ends_at_once_when_models_cannot_be_loaded(tmp_path: Path) -> None:
    with fake_service(tmp_path, "refuses") as served:
        assert served.wait_for_end() == (1, "manifest: member must be there\n")


def test_it_ends_at_once_when_the_port_is_taken(served: Served, tmp_path: Path) -> None:
    from operation.server import serve
    from petct.errors import CaseError

    with pytest.raises(CaseError, match=rf"127.0.0.1:{served.port}: address must be free to listen on, got .*in use"):
        serve(lambda: None, lambda: None, host="127.0.0.1", port=served.port)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_cases_follow_each_other_and_each_finds_its_own_folders(served: Served, tmp_path: Path) -> None:
    for number in range(3):
        output = case(served, tmp_path / f"case_{number}", f"good {number}")
        answer = served.invoke()
        assert (answer.status, answer.detail) == (201, "done")
        assert masks(output) == [f"good {number}"] * 2
        assert not Path((served.input / "temporary_file").read_text(encoding="utf-8")).exists()
    assert not list(served.temporary.iterdir())


def test_it_serves_the_case_that_lies_there_and_not_the_folder_that_was_there(served: Served, tmp_path: Path) -> None:
    """The platform may wipe and fill the same folders instead of linking others."""
    output = case(served, tmp_path / "case", "first")
    assert served.invoke().status == 201
    for file in files(output):
        file.unlink()
    (tmp_path / "case/what.txt").write_text("second", encoding="utf-8")
    assert served.invoke().status == 201
    assert masks(output) == ["second"] * 2


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ("half refuse", 422, "psma-pet: file must be there, got none"),
        (
            "half crash",
            500,
            "inference: must not fail on a case that passed all checks, got ZeroDivisionError: one two",
        ),
        (
            "half leave",
            500,
            "inference: must not fail on a case that passed all checks, got SystemExit: a library leaves",
        ),
        ("half memory", 500, "inference: must fit in memory, got MemoryError:"),
    ],
)
def test_a_bad_case_is_answered_and_the_next_one_runs(
    served: Served, tmp_path: Path, words: str, status: int, line: str
) -> None:
    output = case(served, tmp_path / "bad", words)
    answer = served.invoke()
    assert (answer.status, answer.detail) == (status, line)
    assert not files(output)
    assert not list(served.temporary.iterdir())
    assert served.ask("GET", "/health").status == 200
    output = case(served, tmp_path / "good", "good")
    assert served.invoke().status == 201
    assert masks(output) == ["good"] * 2
    served.process.terminate()
    _, stderr = served.wait_for_end()
    assert stderr.splitlines()[0] == line


def test_health_is_answered_and_another_case_refused_while_one_runs(served: Served, tmp_path: Path) -> None:
    output = case(served, tmp_path / "case", "begin wait")
    running = served.invoke_beside()
    wait_until((served.input / "begun").exists)
    assert served.ask("GET", "/health").status == 200
    answer = served.invoke()
    assert (answer.status, answer.detail) == (409, "a case is running, and the folders are its own until it is done")
    assert not running.done()
    (served.input / "go").touch()
    assert running.result().status == 201
    assert masks(output) == ["begin wait"] * 2
    case(served, tmp_path / "next", "next")
    assert served.invoke().status == 201


def test_a_client_that_goes_away_leaves_the_server_to_others(served: Served, tmp_path: Path) -> None:
    import socket

    output = case(served, tmp_path / "case", "begin wait")
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(b"POST /invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        wait_until((served.input / "begun").exists)
    (served.input / "go").touch()
    wait_until(lambda: mask_file(output, Tracer.FDG).exists())
    wait_until(lambda: served.invoke().status == 201)


def test_memory_that_is_short_twice_in_a_row_ends_it(served: Served, tmp_path: Path) -> None:
    for number, words in enumerate(("memory", "good", "memory", "crash", "memory")):
        case(served, tmp_path / f"case_{number}", words)
        assert served.invoke().status == (201 if words == "good" else 500)
        assert served.ask("GET", "/health").status == 200
    case(served, tmp_path / "last", "memory")
    assert served.invoke().status == 500
    code, stderr = served.wait_for_end()
    assert code == 3
    reason = "memory must suffice, and has not for two cases in a row"
    assert stderr.splitlines()[-1] == f"server: ends after this case: {reason}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_when_it_waits(served: Served, number: signal.Signals, code: int) -> None:
    served.process.send_signal(number)
    line = f"server: must run until it is stopped, got {number.name}\n"
    assert served.wait_for_end(timeout_s=END_S) == (code, line)


def test_a_signal_ends_it_while_it_loads(tmp_path: Path) -> None:
    with fake_service(tmp_path, "waits") as served:
        served.link(tmp_path / "case", output=tmp_path / "masks")
        served.process.terminate()
        assert served.wait_for_end(timeout_s=END_S)[0] == 143


@pytest.mark.parametrize("how", ["wait", "compute"])
def test_a_signal_ends_a_running_case_in_time_and_nothing_is_left(served: Served, tmp_path: Path, how: str) -> None:
    """`wait` hears the signal itself; `compute` is one step of the interpreter that lasts for hours."""
    output = case(served, tmp_path / "case", f"half child begin {how}")
    running = served.invoke_beside()
    wait_until((served.input / "begun").exists)
    assert len(files(output)) == 1
    child = int((served.input / "child").read_text(encoding="utf-8"))
    started_s = time.monotonic()
    served.process.terminate()
    if how == "compute":
        wait_until(lambda: served.ask("GET", "/health").detail == "stopped by SIGTERM")
    code, stderr = served.wait_for_end(timeout_s=END_S)
    assert time.monotonic() - started_s <= END_S
    assert code == 143
    assert not files(output)
    assert not list(served.temporary.iterdir())
    assert stderr == "server: must run until it is stopped, got SIGTERM\n"
    answer = running.result()
    assert (answer.status, answer.detail) == (503, "stopped by SIGTERM")
    if how == "wait":
        os.kill(child, signal.SIGKILL)  # a case that hears the signal ends its own children; the fake one does not
    else:
        assert not is_alive(child)
