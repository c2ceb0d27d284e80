"""What the measurements of an ablation say: means, paired differences, and whether they are more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
import numpy.typing as npt

from evaluation.categories import Category, score
from evaluation.metrics import METRICS
from evaluation.statistics import CONFIDENCE, SEED, Interval, mean_with_interval, share_with_interval
from petct.case import Tracer
from training.studies.ablation.rows import Row
from training.studies.ablation.variants import Comparison, Study

FEWEST_PATIENTS = 10  # the bootstrap's intervals of fewer are too narrow to call a difference by
FEWEST_CHANGED = 6  # with 5 differences that are not 0, no sign-flip test has p below 2 / 2^5 = 0.06
FLIPS = 9999


class Verdict(StrEnum):
    """What a difference's interval and sign-flip test say."""

    BETTER = "better"
    WORSE = "worse"
    OPEN = "no difference shown"
    SAME = "the same in every patient"
    RARE = "not 0 in too few patients"
    FEW = "too few patients"


@dataclass(frozen=True)
class Effect:
    """A comparison in one metric: score of the setting minus score of its reference, paired by patient.

    Attributes:
        category: Tracer and metric; a ratio's score is its distance from 1.
        difference: Mean difference with its interval.
        verdict: On which side of 0 the difference is, if interval and sign-flip test agree that it is not 0.
    """

    category: Category
    difference: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Kept:
    """Lesions of FDG before and after a refinement; each is disease when it touches the truth.

    Attributes:
        sensitivity: Share of the diseased lesions that are kept.
        specificity: Share of the other lesions that are dropped.
        diseased: Number of diseased lesions before.
        other: Number of other lesions before.
    """

    sensitivity: Interval
    specificity: Interval
    diseased: int
    other: int


class Findings:
    """The rows of a study, asked by tracer and setting.

    Args:
        rows: Rows of patients of whom every variant is measured.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows: dict[tuple[Tracer, str], list[Row]] = {}
        for row in rows:
            self._rows.setdefault((row.tracer, row.name), []).append(row)

    def scores(self, tracer: Tracer, name: str, metric: str, *, repeat: str | None = None) -> dict[str, float]:
        """A setting's scores by patient, the mean over its repeats or those of one; undefined ones are left out."""
        found: dict[str, list[float]] = {}
        for row in self._rows.get((tracer, name), ()):
            value = score(row.metrics, metric=metric)
            if value is not None and repeat in (None, row.repeat):
                found.setdefault(row.case, []).append(value)
        return {case: float(np.mean(values)) for case, values in found.items()}

    def mean(self, tracer: Tracer, name: str, metric: str) -> Interval:
        """A setting's mean score over patients with its interval."""
        return mean_with_interval(list(self.scores(tracer, name, metric).values()))

    def repeats(self, tracer: Tracer, name: str) -> tuple[str, ...]:
        """Names of a setting's repeats, in order; one alone is "" or a name."""
        return tuple(sorted({row.repeat for row in self._rows.get((tracer, name), ())}))

    def effects(self, comparison: Comparison) -> tuple[Effect, ...]:
        """A comparison's difference in each of the six metrics."""
        return tuple(self._effect(comparison, metric) for metric in METRICS)

    def kept(self, comparison: Comparison, *, without: str) -> Kept:
        """What a refinement keeps and drops of the lesions there are without one.

        It drops whole lesions, so those that are left are among those that there were.

        Args:
            comparison: Tracer and setting.
            without: The setting without refinement.
        """
        before, after = (self._lesions(comparison.tracer, name) for name in (without, comparison.name))
        pairs = [(before[case], after[case]) for case in before if case in after]
        return Kept(
            sensitivity=share_with_interval([a[0] for _, a in pairs], [b[0] for b, _ in pairs]),
            specificity=share_with_interval([b[1] - a[1] for b, a in pairs], [b[1] for b, _ in pairs]),
            diseased=sum(b[0] for b, _ in pairs),
            other=sum(b[1] for b, _ in pairs),
        )

    def _effect(self, comparison: Comparison, metric: str) -> Effect:
        category = Category(comparison.tracer, metric)
        new, old = (self.scores(comparison.tracer, name, metric) for name in (comparison.name, comparison.reference))
        # Equal scores may differ in their last digits.
        differences = [round(new[case] - old[case], 12) for case in new if case in old]
        difference = mean_with_interval(differences)
        return Effect(category, difference, _judge(difference, category=category, differences=differences))

    def _lesions(self, tracer: Tracer, name: str) -> dict[str, tuple[int, int]]:
        """Diseased and other lesions by patient."""
        return {
            row.case: (row.metrics.predicted_lesions - row.metrics.false_lesions, row.metrics.false_lesions)
            for row in self._rows.get((tracer, name), ())
        }


@dataclass(frozen=True)
class Chance:
    """How many of a study's differences are marked as better or worse, and how many would be by chance alone.

    Attributes:
        possible: Number of differences that could be: those that are not 0 in enough patients.
        marked: Those that are.
    """

    possible: int
    marked: int

    @property
    def expected(self) -> float:
        """How many would be marked, at most, if no setting made a difference: the sign-flip test's share of errors."""
        return self.possible * (1.0 - CONFIDENCE)


def find_effects(findings: Findings, *, study: Study) -> dict[Comparison, tuple[Effect, ...]]:
    """The effects of all comparisons of a study."""
    return {one: findings.effects(one) for question in study.questions for one in question.comparisons}


def count_chance(effects: Mapping[Comparison, Sequence[Effect]]) -> Chance:
    """Count the differences of all comparisons."""
    verdicts = [effect.verdict for found in effects.values() for effect in found]
    marked = sum(verdict in (Verdict.BETTER, Verdict.WORSE) for verdict in verdicts)
    return Chance(possible=marked + verdicts.count(Verdict.OPEN), marked=marked)


def flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of a mean against the same differences with random signs: 0 is what to expect without an effect.

    A bootstrap's interval is too narrow where few differences are not 0; this test keeps its 5 % there.

    Args:
        differences: A patient each.
    """
    values = np.asarray(differences, dtype=float)
    # The slack is for sums that differ by their order only.
    reached = np.abs(_signs(len(values)) @ values) >= abs(values.sum()) * (1.0 - 1e-9)
    return float((reached.sum() + 1) / (FLIPS + 1))


@cache
def _signs(count: int) -> npt.NDArray[np.float64]:
    """The random signs of so many patients, the same ones each time, (flips, patients)."""
    return np.random.default_rng(SEED).choice((-1.0, 1.0), size=(FLIPS, count))


def _judge(difference: Interval, *, category: Category, differences: Sequence[float]) -> Verdict:
    if difference.count < FEWEST_PATIENTS or difference.low is None or difference.high is None:
        return Verdict.FEW
    if not any(differences):
        return Verdict.SAME
    if np.count_nonzero(differences) < FEWEST_CHANGED:
        return Verdict.RARE
    if difference.low <= 0.0 <= difference.high or flip_p(differences) >= 1.0 - CONFIDENCE:
        return Verdict.OPEN
    return Verdict.BETTER if (difference.low > 0.0) == category.is_higher_better else Verdict.WORSE
