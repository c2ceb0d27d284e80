"""The challenge's twelve categories, six metrics of two tracers, and what a scan scores in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from evaluation.judgement import Judgement
from evaluation.metrics import METRICS, Metrics
from petct.case import Tracer

RATIOS: Final = ("suv_mean_ratio", "volume_ratio")
HIGHER_IS_BETTER: Final = ("dice", "surface_dice")
NOTHING_PREDICTED: Final = 1.0  # a mask that is not there is 100 % off


@dataclass(frozen=True)
class Category:
    """One metric of one tracer."""

    tracer: Tracer
    metric: str

    @property
    def name(self) -> str:
        """`PSMA dice`."""
        return f"{self.tracer.name} {self.metric}"

    @property
    def is_higher_better(self) -> bool:
        """Whether more is better; a volume or a distance from 1 is better when it is less."""
        return self.metric in HIGHER_IS_BETTER


CATEGORIES: Final = tuple(Category(tracer, metric) for tracer in Tracer for metric in METRICS)


def score(metrics: Metrics, *, metric: str) -> float | None:
    """What counts when runs are compared: the metric itself, and for a ratio how far it is from 1.

    The challenge ranks "percentage agreement" of SUVmean and volume and does not say how; here it is |1 - ratio|. An
    empty prediction on a diseased scan has no SUVmean ratio. Leaving it out would reward a run for finding nothing, so
    it counts as 1 (100 % off), which its volume ratio of 0 gives too.

    Returns:
        A number, or None where the metric is undefined for both a good and a bad prediction.
    """
    value: float | None = getattr(metrics, metric)
    if metric not in RATIOS:
        return value
    if value is None:
        return NOTHING_PREDICTED if metrics.truth_ml > 0.0 and metrics.predicted_ml == 0.0 else None
    return abs(1.0 - value)


def shared_scores(judgements: Sequence[Judgement], *, runs: Sequence[str], category: Category) -> list[list[float]]:
    """What each run scores in a category, over the patients where every run has a score.

    Returns:
        A list per run, in the order of `runs`; the patients in the same order in each.
    """
    scores: dict[str, dict[str, float]] = {}
    for judgement in judgements:
        if judgement.tracer is category.tracer:
            value = score(judgement.metrics, metric=category.metric)
            if value is not None:
                scores.setdefault(judgement.case, {})[judgement.run] = value
    complete = [by_run for _, by_run in sorted(scores.items()) if all(run in by_run for run in runs)]
    return [[by_run[run] for by_run in complete] for run in runs]
