"""What is given up when an ensemble does not fit, by numbers alone."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operation.deadline_plan import FoldCost, fit
from petct.manifest import Mode
from segmentation.pace import FoldTask

WINDOWS = {Mode.EXACT: 27, Mode.BALANCED: 9, Mode.FAST: 4}
MIRRORINGS = {Mode.EXACT: 8, Mode.BALANCED: 8, Mode.FAST: 2}


def member(
    tracer: str,
    name: str,
    *,
    folds: int = 1,
    share: float,
    first: int = 0,
    pass_s: float = 1.0,
    opening_s: float = 0.0,
    member_s: float = 0.0,
    windows: dict[Mode, int] | None = None,
) -> list[FoldCost]:
    return [
        FoldCost(
            task=FoldTask(tracer, name, rank, first + rank),
            rank=rank,
            share=share,
            windows=windows or WINDOWS,
            mirrorings=MIRRORINGS,
            pass_s=dict.fromkeys(Mode, pass_s),
            opening_s=opening_s,
            member_s=member_s,
        )
        for rank in range(folds)
    ]


def firsts(costs: list[FoldCost]) -> list[FoldTask]:
    """The first fold of each scan."""
    return [next(cost.task for cost in costs if cost.task.tracer == tracer) for tracer in ("PSMA", "FDG")]


def chosen(costs: list[FoldCost], left_s: float, *, mode: Mode = Mode.EXACT, may_change_mode: bool = True):
    return fit(costs, mode=mode, left_s=left_s, protected=firsts(costs), may_change_mode=may_change_mode)


# Two folds of a heavy PSMA member, one of a light one; one FDG member. In exact 27 windows with 8 mirrorings: 216 each.
ENSEMBLE = [
    *member("PSMA", "heavy", folds=2, share=0.75),
    *member("PSMA", "light", share=0.25, first=2),
    *member("FDG", "only", share=1.0),
]


@pytest.mark.parametrize(
    ("left_s", "mode", "mirrorings"),
    [
        (4 * 216.0, Mode.EXACT, [8, 8, 8, 8]),
        (4 * 216.0 - 0.1, Mode.BALANCED, [8, 8, 8, 8]),  # 1. exact's windows
        (4 * 72.0, Mode.BALANCED, [8, 8, 8, 8]),
        (3 * 72.0 + 36.0, Mode.BALANCED, [8, 8, 4, 8]),  # 2. mirrorings: of the lightest member first
        (2 * 72.0 + 2 * 36.0, Mode.BALANCED, [8, 4, 4, 8]),  # then of the last fold; first folds last
        (4 * 36.0, Mode.BALANCED, [4, 4, 4, 4]),
        (3 * 36.0 + 18.0, Mode.BALANCED, [4, 4, 2, 4]),  # all are halved before one is halved again
        (4 * 9.0, Mode.BALANCED, [1, 1, 1, 1]),
        (4 * 9.0 - 0.1, Mode.FAST, [2, 2, 2, 2]),  # 3. fast's windows; two mirrorings fit in what that leaves
        (2 * 4.0 + 2 * 4.0, Mode.FAST, [1, 1, 1, 1]),
        (3 * 4.0, Mode.FAST, [1, 0, 1, 1]),  # 4. the second fold
        (2 * 4.0, Mode.FAST, [1, 0, 0, 1]),  # 5. the lightest member
        (1.0, Mode.FAST, [1, 0, 0, 1]),  # never less than one fold of each scan
    ],
)
def test_work_is_given_up_in_one_order(left_s: float, mode: Mode, mirrorings: list[int]) -> None:
    plan = chosen(ENSEMBLE, left_s)
    assert (plan.mode, list(plan.mirrorings.values())) == (mode, mirrorings)
    seconds = sum(WINDOWS[mode] * count for count in mirrorings)
    assert plan.seconds == pytest.approx(seconds)
    assert plan.fits == (seconds <= left_s)


def test_a_settled_mode_stays() -> None:
    plan = chosen(ENSEMBLE, 4 * 27.0, may_change_mode=False)
    assert (plan.mode, list(plan.mirrorings.values())) == (Mode.EXACT, [1, 1, 1, 1])
    plan = chosen(ENSEMBLE, 3 * 27.0, may_change_mode=False)
    assert list(plan.mirrorings.values()) == [1, 0, 1, 1]


def test_members_go_evenly_by_their_share_of_what_is_left() -> None:
    # FDG's five members count less each than PSMA's two, until two of them are left as well.
    costs = [
        *member("PSMA", "a", share=0.5),
        *member("PSMA", "b", share=0.5, first=1),
        *(cost for n in range(5) for cost in member("FDG", f"m{n}", share=0.2, first=n)),
    ]
    for kept, expected in (
        (6, [1, 1, 1, 1, 1, 1, 0]),
        (4, [1, 1, 1, 1, 0, 0, 0]),
        (3, None),
        (2, [1, 0, 1, 0, 0, 0, 0]),
    ):
        plan = chosen(costs, kept * 4.0, mode=Mode.FAST)
        found = list(plan.mirrorings.values())
        assert sum(found) == kept
        assert expected is None or found == expected


def test_what_a_large_step_leaves_room_for_is_taken_back() -> None:
    # Without the slow member there is time for all mirrorings of the others again.
    costs = [
        *member("PSMA", "first", share=0.4),
        *member("PSMA", "slow", share=0.2, first=1, pass_s=100.0),
        *member("PSMA", "third", share=0.4, first=2),
        *member("FDG", "only", share=1.0),
    ]
    plan = chosen(costs, 300.0, mode=Mode.BALANCED, may_change_mode=False)
    assert list(plan.mirrorings.values()) == [8, 0, 8, 8]


def test_a_members_inputs_are_paid_for_once() -> None:
    costs = [*member("PSMA", "a", folds=3, share=1.0, member_s=50.0, opening_s=2.0), *member("FDG", "b", share=1.0)]
    plan = chosen(costs, 1e9, mode=Mode.FAST)
    assert plan.seconds == 50.0 + 3 * (2.0 + 4 * 2.0) + 4 * 2.0
    assert chosen(costs, 50.0 + 2 * (2.0 + 4.0) + 4.0, mode=Mode.FAST).mirrorings[costs[2].task] == 0


def test_shares_of_what_has_been_run_count() -> None:
    # PSMA has run members of 0.8: another 0.2 is worth less than FDG's second member of 0.5.
    costs = [
        *member("PSMA", "p", share=0.2, first=3),
        *member("FDG", "f", share=0.5),
        *member("FDG", "g", share=0.5, first=1),
    ]
    plan = fit(
        costs,
        mode=Mode.FAST,
        left_s=8.0,
        protected=[costs[1].task],
        done_shares={"PSMA": 0.8},
        may_change_mode=False,
    )
    assert list(plan.mirrorings.values()) == [0, 1, 1]


@st.composite
def ensembles(draw: st.DrawFn, most_members: int = 4, most_folds: int = 5) -> list[FoldCost]:
    costs = []
    for tracer in ("PSMA", "FDG"):
        weights = draw(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=most_members))
        first = 0
        for number, weight in enumerate(weights):
            folds = draw(st.integers(1, most_folds))
            exact = draw(st.integers(1, 60))
            balanced = draw(st.integers(1, exact))
            costs += member(
                tracer,
                str(number),
                folds=folds,
                share=weight / sum(weights),
                first=first,
                pass_s=draw(st.floats(0.01, 50.0)),
                opening_s=draw(st.floats(0.0, 20.0)),
                member_s=draw(st.floats(0.0, 50.0)),
                windows={Mode.EXACT: exact, Mode.BALANCED: balanced, Mode.FAST: draw(st.integers(1, balanced))},
            )
            first += folds
    return costs


def seconds_of(costs: list[FoldCost], mode: Mode, mirrorings: dict[FoldTask, int]) -> float:
    kept = [cost for cost in costs if mirrorings[cost.task]]
    members = {cost.member: cost.member_s for cost in kept}
    passes = sum(cost.windows[mode] * mirrorings[cost.task] * cost.pass_s[mode] + cost.opening_s for cost in kept)
    return passes + sum(members.values())


@given(ensembles(), st.floats(0.0, 1.5), st.sampled_from(list(Mode)))
@settings(max_examples=300, deadline=None)
def test_whatever_the_ensemble(costs: list[FoldCost], part: float, mode: Mode) -> None:
    everything = chosen(costs, math.inf, mode=mode)
    left_s = part * everything.seconds
    plan = chosen(costs, left_s, mode=mode)
    assert plan.seconds == pytest.approx(seconds_of(costs, plan.mode, dict(plan.mirrorings)), abs=1e-6)
    assert all(plan.mirrorings[task] >= 1 for task in firsts(costs))
    if part >= 1.0:
        assert plan == everything
    for cost in costs:
        assert plan.mirrorings[cost.task] in {0, 1, 2, 4, 8}
        # A fold is not run when one before it is not.
        before = [other for other in costs if other.member == cost.member and other.rank == cost.rank - 1]
        assert not plan.mirrorings[cost.task] or all(plan.mirrorings[other.task] for other in before)
    if not plan.fits:  # only when nothing more can be given up
        kept = [task for task, count in plan.mirrorings.items() if count]
        assert (plan.mode, sorted(map(str, kept))) == (Mode.FAST, sorted(map(str, firsts(costs))))
        return
    assert plan.seconds <= left_s
    # Nothing that was given up fits by itself.
    for cost in costs:
        more = dict(plan.mirrorings)
        more[cost.task] = max(1, 2 * more[cost.task])
        before = [other for other in costs if other.member == cost.member and other.rank == cost.rank - 1]
        if more[cost.task] <= cost.mirrorings[plan.mode] and all(plan.mirrorings[other.task] for other in before):
            assert seconds_of(costs, plan.mode, more) > left_s - 1e-6


def value(costs: list[FoldCost], mirrorings: dict[FoldTask, int]) -> float:
    """Shares of each scan's mean that are there; a fold without mirrorings is worth 0.8 of one with all."""
    total = 0.0
    for cost in costs:
        folds = sum(other.member == cost.member for other in costs)
        count = mirrorings[cost.task]
        total += cost.share / folds * (0.8 + 0.2 * math.log2(count) / 3 if count else 0.0)
    return total


@given(ensembles(most_members=2, most_folds=2), st.floats(0.02, 1.0))
@settings(max_examples=60, deadline=None)
def test_it_is_not_far_from_the_best_of_all_plans(costs: list[FoldCost], part: float) -> None:
    costs = costs[:5] if any(cost.task.tracer == "FDG" for cost in costs[:5]) else [*costs[:4], costs[-1]]
    protected = firsts(costs)
    left_s = part * chosen(costs, math.inf, mode=Mode.BALANCED, may_change_mode=False).seconds
    plan = chosen(costs, left_s, mode=Mode.BALANCED, may_change_mode=False)
    best = 0.0
    for counts in itertools.product((0, 1, 2, 4, 8), repeat=len(costs)):
        mirrorings = {cost.task: count for cost, count in zip(costs, counts, strict=True)}
        if all(mirrorings[task] for task in protected) and seconds_of(costs, Mode.BALANCED, mirrorings) <= left_s:
            best = max(best, value(costs, mirrorings))
    assert plan.fits == (best > 0.0)
    if plan.fits:
        assert value(costs, dict(plan.mirrorings)) >= 0.7 * best
