"""Limits on P(ttb) and P(normal) judged over patients: the manifest's, the best ones, and what choosing is worth.

The best pair of a grid, scored on the patients that it was chosen on, is optimistic. What it would do on others is
estimated by leaving out a fold at a time: the pair is chosen on the other folds' patients and scored on that fold's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.statistics import Interval, mean_with_interval
from petct.errors import CaseError
from training.studies.sweep.patients import TracerSweep, mean_over_patients

MANIFEST = "manifest"
BEST = "best, on the patients that it was chosen on"
HONEST = "chosen on the other folds"

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """A way of choosing limits, and what comes of it.

    Attributes:
        name: `MANIFEST`, `BEST` or `HONEST`.
        points: Places in the grid, by fold for `HONEST`, else one.
        dice: Mean Dice over patients.
        dice_gain: Mean over patients of their Dice minus their Dice with the manifest's limits; of those who have both.
        fp_volume_ml: Mean false-positive volume in mL.
        fn_volume_ml: Mean false-negative volume in mL.
    """

    name: str
    points: tuple[tuple[int, int], ...]
    dice: Interval
    dice_gain: Interval
    fp_volume_ml: Interval
    fn_volume_ml: Interval


def best_point(sweep: TracerSweep, *, among: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The place of the highest mean Dice of some patients; of equal ones that nearest to the manifest's.

    Raises:
        CaseError: None of the patients has a Dice.
    """
    mean = mean_over_patients(sweep.dice[among])
    if np.isnan(mean).all():
        raise CaseError(f"{sweep.tracer.name} sweep", "patients must have disease, in truth or prediction", "none")
    ttb, normal = np.nonzero(np.isclose(mean, np.nanmax(mean), rtol=0.0, atol=1e-12))
    steps = np.abs(ttb - sweep.manifest_point[0]) + np.abs(normal - sweep.manifest_point[1])
    nearest = int(np.argmin(steps))
    return int(ttb[nearest]), int(normal[nearest])


def choices(sweep: TracerSweep) -> tuple[Choice, ...]:
    """The manifest's limits, the best ones, and the honest estimate of the best ones.

    The honest estimate is left out when all patients are of one fold.
    """
    everybody = np.ones(len(sweep.cases), dtype=bool)
    best = best_point(sweep, among=everybody)
    found = [
        _choice(MANIFEST, sweep, by_fold=dict.fromkeys(sweep.folds, sweep.manifest_point)),
        _choice(BEST, sweep, by_fold=dict.fromkeys(sweep.folds, best)),
    ]
    folds = np.array(sweep.folds)
    if len(set(sweep.folds)) > 1:
        by_fold = {fold: best_point(sweep, among=folds != fold) for fold in sorted(set(sweep.folds))}
        found.append(_choice(HONEST, sweep, by_fold=by_fold))
    return tuple(found)


def _choice(name: str, sweep: TracerSweep, *, by_fold: dict[int, tuple[int, int]]) -> Choice:
    def of_patients(values: Float) -> list[float]:
        return [float(values[(n, *by_fold[fold])]) for n, fold in enumerate(sweep.folds)]

    def mean(scores: Sequence[float]) -> Interval:
        return mean_with_interval([None if math.isnan(score) else score for score in scores])

    by_manifest = sweep.dice[(slice(None), *sweep.manifest_point)]
    dice = of_patients(sweep.dice)

    return Choice(
        name=name,
        points=tuple(by_fold.values()) if name == HONEST else (next(iter(by_fold.values())),),
        dice=mean(dice),
        dice_gain=mean([float(one - other) for one, other in zip(dice, by_manifest, strict=True)]),
        fp_volume_ml=mean(of_patients(sweep.fp_volume_ml)),
        fn_volume_ml=mean(of_patients(sweep.fn_volume_ml)),
    )


def choices_table(sweep: TracerSweep) -> str:
    """The choices as a Markdown table."""
    lines = [
        f"| {sweep.tracer.name}, {len(sweep.cases)} patients | ttb / normal | Dice "
        "| Dice minus the manifest's, paired | FP mL | FN mL |",
        "|---|---|---|---|---|---|",
    ]
    for choice in choices(sweep):
        points = [f"{sweep.ttb_limits[i]:g} / {sweep.normal_limits[j]:g}" for i, j in choice.points]
        gain = "" if choice.name == MANIFEST else _text(choice.dice_gain, "+.3f", between=" to ")
        volumes = f"{_text(choice.fp_volume_ml, '.1f')} | {_text(choice.fn_volume_ml, '.1f')}"
        lines.append(f"| {choice.name} | {', '.join(points)} | {_text(choice.dice, '.3f')} | {gain} | {volumes} |")
    if len(set(sweep.folds)) == 1:
        lines.append(f"| {HONEST} | all patients are of one fold: no estimate | | | | |")
    return "\n".join(lines)


def _text(interval: Interval, form: str, *, between: str = "-") -> str:
    if interval.value is None:
        return "no value"
    if interval.low is None or interval.high is None:
        return f"{interval.value:{form}}"
    return f"{interval.value:{form}} ({interval.low:{form}}{between}{interval.high:{form}})"
