"""The challenge's rank: runs are ranked in each of the twelve categories, and by the mean of those ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evaluation.categories import CATEGORIES, Category, shared_scores
from evaluation.judgement import Judgement
from petct.case import Tracer


@dataclass(frozen=True)
class CategoryRanks:
    """One category's result.

    Attributes:
        category: The category.
        patients: Number of patients that count: those where every run has a score.
        means: Each run's mean score, in the order of the runs; for a ratio the score is |1 - ratio|.
        ranks: Each run's rank, 1 the best; runs with the same mean share the mean of their ranks.
    """

    category: Category
    patients: int
    means: tuple[float, ...]
    ranks: tuple[float, ...]


@dataclass(frozen=True)
class Ranking:
    """Who wins.

    Attributes:
        runs: The runs, in the order given.
        categories: The categories that have a patient.
        mean_ranks: Each run's mean rank over them.
        places: Each run's place, from 1. The same mean rank is decided by the mean of the tracers' mean Dice; after
            that runs share a place.
    """

    runs: tuple[str, ...]
    categories: tuple[CategoryRanks, ...]
    mean_ranks: tuple[float, ...]
    places: tuple[int, ...]


def rank_runs(judgements: Sequence[Judgement], *, runs: Sequence[str]) -> Ranking | None:
    """Rank runs as the challenge's leaderboard does, on the patients that all of them have.

    Returns:
        The ranking; None when there is no patient that all runs have a score for.
    """
    ranked = [found for category in CATEGORIES if (found := _rank(judgements, category, runs=runs)) is not None]
    if not ranked:
        return None
    mean_ranks = np.mean([found.ranks for found in ranked], axis=0)
    dice = {found.category.tracer: found.means for found in ranked if found.category.metric == "dice"}
    order = [(round(float(rank), 9), -_mean_dice(dice, run)) for run, rank in enumerate(mean_ranks)]
    return Ranking(
        runs=tuple(runs),
        categories=tuple(ranked),
        mean_ranks=tuple(mean_ranks.tolist()),
        places=tuple(1 + sum(other < mine for other in order) for mine in order),
    )


def _rank(judgements: Sequence[Judgement], category: Category, *, runs: Sequence[str]) -> CategoryRanks | None:
    scores = np.array(shared_scores(judgements, runs=runs, category=category))
    if not scores.size:
        return None
    # Sums of the same numbers in another order differ in their last digits, and are a tie all the same.
    means = np.round(scores.mean(axis=1), 12)
    ranks = stats.rankdata(-means if category.is_higher_better else means)
    return CategoryRanks(category, scores.shape[1], tuple(means.tolist()), tuple(ranks.tolist()))


def _mean_dice(dice: Mapping[Tracer, Sequence[float]], run: int) -> float:
    return round(float(np.mean([means[run] for means in dice.values()])), 9) if dice else 0.0
