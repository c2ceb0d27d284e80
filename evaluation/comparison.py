"""Whether one run is better than another on the same patients: paired tests over the twelve categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from evaluation.categories import CATEGORIES, Category, shared_scores
from evaluation.judgement import Judgement
from evaluation.statistics import Interval, mean_with_interval


@dataclass(frozen=True)
class PairedTest:
    """Second run minus first in one category, over the patients that both have.

    Attributes:
        category: The category.
        difference: Mean difference of the scores with its interval; for a ratio the score is |1 - ratio|.
        rank_sum: Sum of the signed ranks that the test looks at; > 0 where the second run scores more.
        zeros: Number of patients where both score the same; the test leaves them out.
        p_value: Wilcoxon signed-rank test, two-sided; 1 when all score the same, None when there is no patient.
        p_holm: The same after Holm's correction over the twelve categories.
    """

    category: Category
    difference: Interval
    rank_sum: float
    zeros: int
    p_value: float | None
    p_holm: float | None


def compare_runs(judgements: Sequence[Judgement], *, first: str, second: str) -> tuple[PairedTest, ...]:
    """Test two runs against each other in every category.

    Args:
        judgements: Of both runs, and perhaps of others.
        first: A run's name.
        second: Another's.

    Returns:
        One test per category, in their order.
    """
    tests = [_test(judgements, category, runs=(first, second)) for category in CATEGORIES]
    adjusted = iter(holm([test.p_value for test in tests if test.p_value is not None]))
    return tuple(test if test.p_value is None else replace(test, p_holm=next(adjusted)) for test in tests)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the smallest of m p-values times m, the next times m - 1, ..., never falling and at most 1."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _test(judgements: Sequence[Judgement], category: Category, *, runs: tuple[str, str]) -> PairedTest:
    first, second = shared_scores(judgements, runs=runs, category=category)
    differences = np.round(np.subtract(second, first), 12)  # equal scores may differ in their last digits
    different = differences[differences != 0.0]
    p_value = None
    if len(differences):
        p_value = float(stats.wilcoxon(different).pvalue) if len(different) else 1.0
    return PairedTest(
        category=category,
        difference=mean_with_interval(differences.tolist()),
        rank_sum=float(np.sum(np.sign(different) * stats.rankdata(np.abs(different)))),
        zeros=len(differences) - len(different),
        p_value=p_value,
        p_holm=None,
    )
