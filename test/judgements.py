"""Judgements made up for tests of what is done with them."""

from __future__ import annotations

from dataclasses import replace

from evaluation.judgement import Judgement
from evaluation.lesionwise import LesionScores
from evaluation.metrics import Metrics
from petct.case import Tracer

GOOD = Metrics(
    dice=0.9,
    fp_volume_ml=0.5,
    fn_volume_ml=0.25,
    surface_dice=0.8,
    suv_mean_ratio=1.0,
    volume_ratio=1.0,
    truth_ml=40.0,
    predicted_ml=40.0,
    truth_suv_mean=8.0,
    predicted_suv_mean=8.0,
    true_lesions=4,
    found_lesions=3,
    predicted_lesions=5,
    false_lesions=2,
    notes=(),
)
EMPTY_PREDICTION = replace(
    GOOD, dice=0.0, fp_volume_ml=0.0, surface_dice=0.0, suv_mean_ratio=None, volume_ratio=0.0, predicted_ml=0.0,
    predicted_suv_mean=None, found_lesions=0, predicted_lesions=0, false_lesions=0, notes=("prediction empty",),
)  # fmt: skip
NO_SCORES = LesionScores(true=(), false=())


def judgement(
    run="a", case="train_0000", tracer=Tracer.PSMA, *, scores=NO_SCORES, probability=None, regions=None, base=GOOD,
    **metrics
):  # fmt: skip
    """A judgement like GOOD but for the metrics named."""
    return Judgement(
        run=run,
        case=case,
        tracer=tracer,
        metrics=replace(base, **metrics),
        regions=regions,
        suv_scores=scores,
        probability_scores=probability,
    )


def series(run, values, *, metric="dice", tracer=Tracer.PSMA):
    """A judgement per value, of patients train_0000, train_0001, ..."""
    return [judgement(run, f"train_{n:04d}", tracer, **{metric: value}) for n, value in enumerate(values)]
