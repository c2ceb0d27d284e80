"""What of an ensemble fits in the time that is left: the least valuable work is given up first.

The one order in which work is given up:

1. exact's windows for balanced's: their masks differ little;
2. mirrorings, by halves, 8 to 4 to 2 to 1: of the last folds of the lightest members first, of all before any is halved
   again;
3. balanced's windows for fast's;
4. folds beyond a member's first, from the last on, evenly over members, of the lightest first;
5. members, the one first whose share in its scan's mean is the smallest at the time.

What is protected is never given up: one fold of one member for each scan. What was given up last is taken back first,
as far as there is room: a large step leaves some.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from petct.manifest import Mode
from segmentation.pace import FoldTask

_CHEAPER = {Mode.EXACT: Mode.BALANCED, Mode.BALANCED: Mode.FAST}
_MIRRORINGS = (4, 2, 1)


@dataclass(frozen=True)
class FoldCost:
    """What a fold costs.

    Attributes:
        task: The fold.
        rank: Its place among the member's folds, from 0.
        share: The member's weight as a fraction of all members' of the scan.
        windows: Windows in each mode.
        mirrorings: Mirrorings that are asked for in each mode.
        pass_s: Seconds of one window once, in each mode.
        opening_s: Seconds until the first window.
        member_s: Seconds to make what the member sees and to put away what it says, once for all of its folds.
    """

    task: FoldTask
    rank: int
    share: float
    windows: Mapping[Mode, int]
    mirrorings: Mapping[Mode, int]
    pass_s: Mapping[Mode, float]
    opening_s: float
    member_s: float

    def seconds(self, *, mode: Mode, mirrorings: int) -> float:
        """Seconds of the fold alone, at most with so many mirrorings."""
        passes = self.windows[mode] * min(mirrorings, self.mirrorings[mode])
        return self.opening_s + passes * self.pass_s[mode] if mirrorings else 0.0

    @property
    def member(self) -> tuple[str, int]:
        """What tells its member from all others, of whatever name."""
        return self.task.tracer, self.task.number - self.rank


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        mode: Mode of all folds.
        mirrorings: Mirrorings of each fold, 0 for those that are given up.
        seconds: How long that takes.
        fits: Whether that is no more than there is.
    """

    mode: Mode
    mirrorings: Mapping[FoldTask, int]
    seconds: float
    fits: bool


def fit(
    costs: Sequence[FoldCost],
    *,
    mode: Mode,
    left_s: float,
    protected: Collection[FoldTask],
    done_shares: Mapping[str, float] | None = None,
    may_change_mode: bool,
) -> Plan:
    """As much of the folds as fits in the time, at least what is protected.

    Args:
        costs: All folds that have not been run.
        mode: The mode that is asked for, or the one that has been settled.
        left_s: Seconds for all of them.
        protected: Folds that are kept whatever they take; one for each scan of which nothing has been run.
        done_shares: The sum of the shares of members that have been run, by tracer.
        may_change_mode: Whether a cheaper mode may be chosen.
    """
    draft = _Draft(costs, mode=mode)
    order = _Order(draft, protected=protected, done_shares=done_shares or {}, may_change_mode=may_change_mode)
    given_up = []
    for step in order.steps():
        if draft.seconds <= left_s:
            break
        given_up.append((step, draft.take(step)))
    for step, before in reversed(given_up):
        if draft.may_take_back(step):
            draft.take(before)
            if draft.seconds > left_s:
                draft.take(step)
    kept = {cost.task: min(draft.kept[cost.task], cost.mirrorings[draft.mode]) for cost in costs}
    return Plan(draft.mode, kept, draft.seconds, draft.seconds <= left_s)


@dataclass(frozen=True)
class _Step:
    """A fold's number of mirrorings, or, without a fold, a mode."""

    cost: FoldCost | None
    mirrorings: int
    mode: Mode


class _Draft:
    """A plan while it is made, with its sum kept up to date."""

    def __init__(self, costs: Sequence[FoldCost], *, mode: Mode) -> None:
        self.costs = costs
        self.mode = mode
        self.kept = {cost.task: cost.mirrorings[mode] for cost in costs}
        self._by_place = {(cost.member, cost.rank): cost for cost in costs}
        self._folds_of: dict[tuple[str, int], int] = {}
        for cost in costs:
            self._folds_of[cost.member] = self._folds_of.get(cost.member, 0) + 1
        self.seconds = 0.0
        self._sum()

    def take(self, step: _Step) -> _Step:
        """Do a step; returns the one back."""
        if step.cost is None:
            before = _Step(None, 0, self.mode)
            self.mode = step.mode
            self._sum()
            return before
        cost = step.cost
        kept, wanted = self.kept[cost.task], step.mirrorings
        self.kept[cost.task] = wanted
        self.seconds += cost.seconds(mode=self.mode, mirrorings=wanted) - cost.seconds(mode=self.mode, mirrorings=kept)
        change = (wanted > 0) - (kept > 0)
        if change:
            self._folds_of[cost.member] += change
            if self._folds_of[cost.member] == max(change, 0):  # the first fold that is kept, or the last that was
                self.seconds += change * cost.member_s
        return _Step(cost, kept, self.mode)

    def may_take_back(self, step: _Step) -> bool:
        """Whether the step is the last that was done to its fold, and the folds before that fold are there."""
        if step.cost is None:
            return self.mode is step.mode
        before = self._by_place.get((step.cost.member, step.cost.rank - 1))
        is_next = before is None or self.kept[before.task] > 0
        return self.kept[step.cost.task] == step.mirrorings and (step.mirrorings > 0 or is_next)

    def _sum(self) -> None:
        members: dict[tuple[str, int], float] = {}
        self.seconds = 0.0
        for cost in self.costs:
            if self.kept[cost.task]:
                self.seconds += cost.seconds(mode=self.mode, mirrorings=self.kept[cost.task])
                members[cost.member] = cost.member_s
        self.seconds += sum(members.values())


class _Order:
    """The steps, each made when it is asked for, out of what is kept then."""

    def __init__(
        self,
        draft: _Draft,
        *,
        protected: Collection[FoldTask],
        done_shares: Mapping[str, float],
        may_change_mode: bool,
    ) -> None:
        self._draft = draft
        self._protected = protected
        self._done_shares = done_shares
        self._may_change_mode = may_change_mode
        self._lightest = sorted(
            draft.costs,
            key=lambda cost: (cost.task in protected, cost.share, -cost.rank, -cost.task.number, cost.task.tracer),
        )

    def steps(self) -> Iterator[_Step]:
        """All steps, the least loss first."""
        if self._draft.mode is Mode.EXACT:
            yield from self._cheaper()
        yield from self._mirrorings()
        if self._draft.mode is Mode.BALANCED:
            yield from self._cheaper()
        yield from self._folds()
        yield from self._members()

    def _cheaper(self) -> Iterator[_Step]:
        if self._may_change_mode:
            yield _Step(None, 0, _CHEAPER[self._draft.mode])

    def _mirrorings(self) -> Iterator[_Step]:
        for fewer in _MIRRORINGS:
            for cost in self._lightest:
                if self._draft.kept[cost.task] > fewer:
                    yield self._step(cost, fewer)

    def _folds(self) -> Iterator[_Step]:
        for rank in sorted({cost.rank for cost in self._draft.costs if cost.rank > 0}, reverse=True):
            for cost in self._lightest:
                if cost.rank == rank and cost.task not in self._protected:
                    yield self._step(cost, 0)

    def _members(self) -> Iterator[_Step]:
        while True:
            kept = [cost for cost in self._lightest if self._draft.kept[cost.task]]
            shares = dict(self._done_shares)
            for cost in kept:
                shares[cost.task.tracer] = shares.get(cost.task.tracer, 0.0) + cost.share
            loose = [cost for cost in kept if cost.task not in self._protected]
            if not loose:
                return
            yield self._step(min(loose, key=lambda cost: cost.share / shares[cost.task.tracer]), 0)

    def _step(self, cost: FoldCost, mirrorings: int) -> _Step:
        return _Step(cost, mirrorings, self._draft.mode)
