import threading
import time

import pytest

from petct import stages


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only the test moves."""
    stages.reset()
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_seconds_add_up_and_an_inner_stage_is_taken_off(clock: list[float]) -> None:
    for _ in range(2):
        with stages.stage("outer"):
            clock[0] += 1.0
            with stages.stage("inner"):
                clock[0] += 0.25
            clock[0] += 2.0
    assert stages.stage_seconds() == {"inner": 2 * 0.25, "outer": 2 * (1.0 + 2.0)}


def test_another_threads_stage_is_not_an_inner_one(clock: list[float]) -> None:
    def work() -> None:
        with stages.stage("beside"):
            clock[0] += 4.0

    with stages.stage("outer"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        clock[0] += 1.0
    assert stages.stage_seconds() == {"beside": 4.0, "outer": 4.0 + 1.0}


def test_a_stage_that_fails_counts(clock: list[float]) -> None:
    def work() -> None:
        with stages.stage("outer"), stages.stage("inner"):
            clock[0] += 2.0
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert stages.stage_seconds() == {"inner": 2.0, "outer": 0.0}


def test_counts_add_up_until_reset() -> None:
    stages.reset()
    stages.count("windows", 3)
    stages.count("windows", 4)
    stages.add("imports", 1.5)
    assert stages.counts() == {"windows": 7}
    assert stages.stage_seconds() == {"imports": 1.5}
    stages.reset()
    assert (stages.counts(), stages.stage_seconds()) == ({}, {})


def test_seconds_since_this_process_started() -> None:
    first_s = stages.seconds_since_start()
    time.sleep(0.05)
    assert first_s > 0.0
    assert stages.seconds_since_start() - first_s >= 0.05


def test_the_peak_of_memory_is_that_until_a_stage_ends(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    peak = [100]
    monkeypatch.setattr(stages, "peak_bytes", lambda: peak[0])
    with stages.stage("outer"):
        peak[0] = 300
        with stages.stage("inner"):
            peak[0] = 500
        peak[0] = 900
    assert stages.stage_peak_bytes() == {"inner": 500, "outer": 900}
    stages.reset()
    assert stages.stage_peak_bytes() == {}
