"""Lesions found over false ones, as the score that a predicted lesion must have is lowered (FROC)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.judgement import Judgement
from petct.case import Tracer


@dataclass(frozen=True)
class FrocCurve:
    """A free-response curve, from no lesion at all to the whole prediction.

    Attributes:
        false_per_patient: False lesions per patient, rising from 0.
        sensitivity: True lesions that a predicted lesion of high enough score touches / all true lesions, rising.
        is_by_probability: Whether lesions are scored by their highest probability of disease, or by SUVmax.
    """

    false_per_patient: tuple[float, ...]
    sensitivity: tuple[float, ...]
    is_by_probability: bool


def froc_curve(judgements: Sequence[Judgement], *, run: str, tracer: Tracer) -> FrocCurve | None:
    """The curve of one run and tracer.

    Lesions are scored by probability where every patient of the run and tracer has a probability map, and otherwise
    by the SUVmax of the predicted lesion: two kinds of score cannot be put in one order.

    Returns:
        The curve; None when there is no true lesion.
    """
    mine = [judgement for judgement in judgements if judgement.run == run and judgement.tracer is tracer]
    by_probability = [judgement.probability_scores for judgement in mine]
    is_by_probability = all(scores is not None for scores in by_probability)
    chosen = [
        judgement.probability_scores if is_by_probability and judgement.probability_scores else judgement.suv_scores
        for judgement in mine
    ]
    true = [score for scores in chosen for score in scores.true]
    if not true:
        return None
    found = np.array([score for score in true if score is not None])
    false = np.array([score for scores in chosen for score in scores.false])
    thresholds = np.unique(np.concatenate((found, false)))[::-1]
    return FrocCurve(
        false_per_patient=(0.0, *(float((false >= least).sum()) / len(mine) for least in thresholds)),
        sensitivity=(0.0, *(float((found >= least).sum()) / len(true) for least in thresholds)),
        is_by_probability=is_by_probability,
    )
