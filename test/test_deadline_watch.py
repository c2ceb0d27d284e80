"""Watching one fold under a clock that the test moves."""

from dataclasses import dataclass

import pytest

from operation.deadline_watch import Watch
from segmentation.pace import FoldGivenUp


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def watch(clock: Clock, *, passes: int, end_s: float, is_open: bool = False) -> Watch:
    """One pass is expected to take a second."""
    return Watch(clock, passes=passes, pass_s=1.0, end_s=lambda _: end_s, is_worth=lambda *_: True, is_open=is_open)


def run(watching: Watch, clock: Clock, *, passes: int) -> None:
    """So many passes of a second each after the network was opened, and asking before the next."""
    for done in range(passes + 1):
        watching.passed(done)
        clock.now_s += done < passes


def test_a_fold_that_runs_again_from_where_it_was_is_not_counted_from_its_beginning() -> None:
    # A GPU ran out of memory after 9 of 10 passes, and what is under way there is not known for a moment: 0 are done.
    clock = Clock()
    watching = watch(clock, passes=10, end_s=112.0)
    run(watching, clock, passes=9)
    clock.now_s += 0.5
    watching.passed(0)
    # Nine passes too many would have been too much; two of three that are left end in time.
    late = Clock()
    watching = watch(late, passes=11, end_s=111.0)
    run(watching, late, passes=8)
    late.now_s += 0.5
    with pytest.raises(FoldGivenUp):
        watching.passed(0)


def test_a_network_is_opened_once() -> None:
    clock = Clock()
    watching = watch(clock, passes=10, end_s=1000.0)
    assert watching.opening_s is None
    clock.now_s += 3.0
    watching.passed(0)
    clock.now_s += 4.0
    watching.passed(0)  # a GPU has not answered yet
    clock.now_s += 1.0
    watching.passed(1)
    assert watching.opening_s == 3.0
    assert watching.pass_s == 4.0 + 1.0


def test_a_network_that_is_open_says_nothing_of_what_opening_takes() -> None:
    clock = Clock()
    watching = watch(clock, passes=10, end_s=1000.0, is_open=True)
    run(watching, clock, passes=3)
    assert watching.opening_s is None
    assert watching.pass_s == 1.0
