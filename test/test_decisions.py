import logging
import threading

import pytest

from petct.decisions import Decision, decide, decisions, forget_decisions


@pytest.fixture(autouse=True)
def _nothing_decided():
    forget_decisions()
    yield
    forget_decisions()


def test_decisions_are_kept_in_order_as_text() -> None:
    decide("FDG folds", (0, 3), because="two of five fit in 90.5 s", is_loss=True)
    decide("mode", 2, because="the manifest says so")
    assert decisions() == (
        Decision("FDG folds", "(0, 3)", "two of five fit in 90.5 s", is_loss=True),
        Decision("mode", "2", "the manifest says so", is_loss=False),
    )


def test_only_a_loss_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    decide("mode", "fast", because="exact takes 40 min of 25", is_loss=True)
    decide("batch", 2, because="9.5 GiB are free")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "mode: fast, because exact takes 40 min of 25"),
        ("INFO", "batch: 2, because 9.5 GiB are free"),
    ]


def test_what_another_thread_decides_is_kept_too() -> None:
    thread = threading.Thread(target=decide, args=("batch", 1), kwargs={"because": "memory is short"})
    thread.start()
    thread.join()
    assert [decision.about for decision in decisions()] == ["batch"]


def test_the_next_case_starts_with_none_and_changes_nothing_that_was_read() -> None:
    decide("mode", "fast", because="the first case is large")
    first = decisions()
    forget_decisions()
    assert decisions() == ()
    decide("mode", "exact", because="the second one is not")
    assert [decision.chosen for decision in first] == ["fast"]
    assert [decision.chosen for decision in decisions()] == ["exact"]
