"""The first plan of a case: as asked for if that surely fits, or after windows are counted and one network is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from operation.deadline_books import Books
from operation.deadline_plan import Plan
from operation.machine_speed import MachineSpeed

_COMFORTABLE = 6.0  # times as long as predicted; the quick measurement is not wrong by more
_FIRST_MARGIN = 1.1  # the mode is chosen for good, after one network was timed
_PILOT_SHARE = 0.1  # a window that takes longer than this share of what is left is not worth timing
_STALL = (
    3.0  # times as long as predicted: a window is timed again if that is no more than such a share, or not believed
)

# Measures a device, the second time with windows of a size.
Measure = Callable[[torch.device, Sequence[int] | None], MachineSpeed]


def first_plan(books: Books, *, measure: Measure) -> tuple[Plan, Plan]:
    """What is asked for, and what of it fits.

    Args:
        books: The case; what is found out is taken over, and which fold is run first on each scan.
        measure: Measures the machine.
    """
    wanted = books.wanted()
    if not _may_not_fit(wanted, books=books):
        return wanted, wanted
    for scan in books.scans.values():
        scan.look()
    if _may_not_fit(books.wanted(), books=books):
        _time_window(books, measure=measure)
    plan = books.fit(margin=_FIRST_MARGIN)
    if not plan.fits:
        books.start_with_the_cheapest()
        plan = books.fit(margin=_FIRST_MARGIN)
    return books.wanted(), plan


def _may_not_fit(wanted: Plan, *, books: Books) -> bool:
    return _COMFORTABLE * wanted.seconds > books.left_s


def _time_window(books: Books, *, measure: Measure) -> None:
    """Time the first network on a window, or the one that takes the least, or if even that is too slow a part of it."""
    first = next(iter(books.starters.values()))
    quickest = min(books.costs(), key=lambda cost: cost.pass_s[books.mode]).task
    for task in (first, quickest):
        scan, work, pass_s = books.scans[task.tracer], books.works[task], books.cost(task).pass_s[books.mode]
        if pass_s < _PILOT_SHARE * books.left_s:
            times = scan.time_window(work)
            books.rates.opened(times.open_s)
            timed_s, is_sure = times.pass_s, times.pass_s <= _STALL * pass_s
            if not is_sure and timed_s < _PILOT_SHARE * books.left_s:
                timed_s, is_sure = min(timed_s, scan.time_window(work).pass_s), True
            books.measured(task, pass_s=timed_s, is_sure=is_sure)
            return
    speed = measure(scan.running.device, work.model.configuration.patch_size)
    books.measured(task, pass_s=pass_s * books.rates.speed.torch_flops_per_s / speed.torch_flops_per_s)
