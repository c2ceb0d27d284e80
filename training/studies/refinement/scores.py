"""How well a classifier tells disease among FDG lesions, and what true disease it costs; intervals by patient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from evaluation.statistics import CONFIDENCE, Interval, share_with_interval
from petct.manifest import Refinement
from postprocessing.refine import decide
from training.studies.out_of_fold.lesions import JudgedLesion
from training.studies.refinement.calibration import in_the_large, slope

RESAMPLES = 2000
_WHOLE_PER_ML = 1_000_000  # volumes as whole numbers, for shares of them

Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Dropped:
    """What a classifier takes out of the FDG masks.

    Attributes:
        lesions: Lesions dropped.
        disease_lesions: Those of them that touch true disease.
        true_ml: True disease in them, in mL.
        true_share: Share that it is of the true disease in all lesions.
        false_ml: All else in them, in mL.
    """

    lesions: int
    disease_lesions: int
    true_ml: float
    true_share: Interval
    false_ml: float


@dataclass(frozen=True)
class Scores:
    """A classifier on lesions.

    Attributes:
        sensitivity: Share of the lesions that are disease with p at or above the limit; the rules are not asked.
        specificity: Share of the others with p below it.
        roc_auc: Area under the ROC curve.
        brier: Mean squared difference of p and truth: 0 is perfect.
        mean_p: Mean of p; well calibrated, it is the share of lesions that are disease.
        calibration_in_the_large: Mean p minus that share: 0 is perfect.
        calibration_slope: Slope of the truth on the logit of p: 1 is perfect, below 1 p is too sure; no value where p
            tells the kinds apart without error.
        dropped_by_p: What is dropped by p alone.
        dropped_with_rules: What is dropped when the manifest's rules keep some lesions whatever their p.
    """

    sensitivity: Interval
    specificity: Interval
    roc_auc: Interval
    brier: Interval
    mean_p: float
    calibration_in_the_large: Interval
    calibration_slope: Interval
    dropped_by_p: Dropped
    dropped_with_rules: Dropped


def score(
    lesions: Sequence[JudgedLesion],
    *,
    p: Float,
    refinement_of: Callable[[int], Refinement],
    seed: int,
) -> Scores:
    """Score p on lesions.

    Args:
        lesions: Lesions of both kinds.
        p: The classifier's p of each.
        refinement_of: The refinement that judges a lesion, by its number from 0: that which gave its p.
        seed: Of the bootstrap.
    """
    is_disease = np.array([lesion.is_disease for lesion in lesions])
    is_kept = p >= np.array([refinement_of(n).keep_probability for n in range(len(lesions))])
    values, lows, highs = _by_patient(lesions, lambda index: _rates(is_disease[index], p[index], is_kept[index]), seed)
    patients = len({lesion.case for lesion in lesions})
    intervals = [
        Interval(value=_number(value), low=_number(low), high=_number(high), count=patients)
        for value, low, high in zip(values, lows, highs, strict=True)
    ]
    return Scores(
        sensitivity=intervals[0],
        specificity=intervals[1],
        roc_auc=intervals[2],
        brier=intervals[3],
        mean_p=float(p.mean()),
        calibration_in_the_large=intervals[4],
        calibration_slope=intervals[5],
        dropped_by_p=dropped(lesions, refinement_of=lambda n: without_rules(refinement_of(n))),
        dropped_with_rules=dropped(lesions, refinement_of=refinement_of),
    )


def dropped(lesions: Sequence[JudgedLesion], *, refinement_of: Callable[[int], Refinement]) -> Dropped:
    """What is dropped by the product's own decision, each lesion by its own refinement (by its number from 0)."""
    is_gone = [not _is_kept(judged, refinement=refinement_of(n)) for n, judged in enumerate(lesions)]
    gone = [judged for judged, goes in zip(lesions, is_gone, strict=True) if goes]
    true_ml = sum(judged.overlap_ml for judged in gone)
    return Dropped(
        lesions=len(gone),
        disease_lesions=sum(judged.is_disease for judged in gone),
        true_ml=true_ml,
        true_share=_share_of_truth(lesions, is_gone=is_gone),
        false_ml=sum(judged.lesion.volume_ml for judged in gone) - true_ml,
    )


def _share_of_truth(lesions: Sequence[JudgedLesion], *, is_gone: Sequence[bool]) -> Interval:
    """The share of the true volume that goes, patients resampled."""
    gone: dict[str, int] = {}
    there: dict[str, int] = {}
    for judged, goes in zip(lesions, is_gone, strict=True):
        volume = round(_WHOLE_PER_ML * judged.overlap_ml)
        there[judged.case] = there.get(judged.case, 0) + volume
        gone[judged.case] = gone.get(judged.case, 0) + volume * goes
    return share_with_interval(list(gone.values()), list(there.values()))


def without_rules(refinement: Refinement) -> Refinement:
    """The refinement with p alone to decide."""
    return replace(refinement, keep_above_ml=float("inf"), keep_unlabelled=False)


def _is_kept(judged: JudgedLesion, *, refinement: Refinement) -> bool:
    # `decide` asks whether PSMA has disease in one of the lesion's labels: here that is known already.
    diseased = judged.lesion.labels if judged.psma_present else frozenset[int]()
    return decide(judged.lesion, psma_diseased=diseased, refinement=refinement).kept


def _rates(is_disease: Mask, p: Float, is_kept: Mask) -> Float:
    """Sensitivity, specificity, ROC AUC, Brier score, calibration in the large and slope.

    nan where there are lesions of one kind only, and where there is no slope.
    """
    if is_disease.all() or not is_disease.any():
        return np.full(6, np.nan)
    sensitivity, specificity = is_kept[is_disease].mean(), 1.0 - is_kept[~is_disease].mean()
    brier = np.mean((p - is_disease) ** 2)
    calibration = in_the_large(p, is_disease=is_disease), slope(p, is_disease=is_disease)
    return np.array([sensitivity, specificity, roc_auc_score(is_disease, p), brier, *calibration])


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _by_patient(
    lesions: Sequence[JudgedLesion], statistic: Callable[[npt.NDArray[np.int64]], Float], seed: int
) -> tuple[Float, Float, Float]:
    """Statistics of all lesions and the ends of their percentile intervals, patients drawn again with their lesions.

    A draw with lesions of one kind only has no statistics and does not count, and nor does one without a slope for it.
    """
    patients = np.array([lesion.case for lesion in lesions])
    of_patient = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    random = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        drawn = random.integers(len(of_patient), size=len(of_patient))
        draws.append(statistic(np.concatenate([of_patient[n] for n in drawn])))
    tail = (1.0 - CONFIDENCE) / 2.0
    value = statistic(np.arange(len(lesions)))
    ends = np.full((2, len(value)), np.nan)
    has_draws = ~np.isnan(draws).all(axis=0) & ~np.isnan(value)
    ends[:, has_draws] = np.nanquantile(np.array(draws)[:, has_draws], [tail, 1.0 - tail], axis=0)
    return value, ends[0], ends[1]
