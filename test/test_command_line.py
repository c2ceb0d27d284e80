"""The command line around a case: when a hang is ended, and what a failing extra costs."""

import logging
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from operation import command_line, server
from operation.run_record import write_record
from petct.case import Tracer
from petct.output import mask_file
from run_records import run_record


class Method:
    """Stands in for the method: writes masks, and keeps what is left on the clock that ends a hang."""

    def __init__(self, *, hangs_s: float = 0.0) -> None:
        self.left_s: list[float] = []
        self._hangs_s = hangs_s

    def __call__(self, setting: object, *, output: Path, **_: object) -> None:
        self.left_s.append(signal.getitimer(signal.ITIMER_REAL)[0])
        for tracer in Tracer:
            file = mask_file(output, tracer)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"mask")
        time.sleep(self._hangs_s)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    (tmp_path / "case").mkdir()
    return ["--input", str(tmp_path / "case"), "--output", str(tmp_path / "masks"), "--device", "cpu"]


def masks(tmp_path: Path) -> list[bool]:
    return [mask_file(tmp_path / "masks", tracer).is_file() for tracer in Tracer]


def test_a_case_that_hangs_is_ended_and_leaves_no_mask(folders: list[str], tmp_path: Path) -> None:
    started_s = time.monotonic()
    assert command_line.main([*folders, "--time-limit", "0.1"], run_case=Method(hangs_s=60.0)) == 128 + signal.SIGALRM
    assert time.monotonic() - started_s < 30.0
    assert masks(tmp_path) == [False, False]
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def test_a_case_without_a_limit_and_a_replay_are_not_ended(folders: list[str], tmp_path: Path) -> None:
    write_record(run_record(), tmp_path / "then.json")
    method = Method()
    assert command_line.main([*folders, "--time-limit", "1e6"], run_case=method) == 0
    assert command_line.main([*folders, "--time-limit", "none"], run_case=method) == 0
    replay = ["--time-limit", "1e6", "--replay", str(tmp_path / "then.json")]
    assert command_line.main([*folders, *replay], run_case=method) == 0
    assert method.left_s[0] > 0.0
    assert method.left_s[1:] == [0.0, 0.0]


def test_a_served_case_that_hangs_is_ended(folders: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    left_afterwards_s: list[float] = []

    def serve(load: Any, invoke: Any, **_: object) -> None:
        load()
        for _ in range(2):
            invoke()
            left_afterwards_s.append(signal.getitimer(signal.ITIMER_REAL)[0])

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(command_line, "load_models", lambda setting: None)
    method = Method()
    command_line.main(["serve", *folders, "--time-limit", "200"], run_case=method)
    assert all(200.0 < left_s <= 220.0 for left_s in method.left_s)
    assert len(method.left_s) == 2
    assert left_afterwards_s == [0.0, 0.0]


def test_timings_that_cannot_be_written_take_no_mask_away(
    folders: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timings = tmp_path / "nowhere" / "timings.json"
    with caplog.at_level(logging.WARNING):
        assert command_line.main([*folders, "--timings", str(timings)], run_case=Method()) == 0
    assert masks(tmp_path) == [True, True]
    assert f"timings: must be written to {timings}, got No such file or directory" in caplog.text
