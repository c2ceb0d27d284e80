"""The classifier in a picture: ROC curve, calibration, p by kind of lesion, and coefficients from fit to fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from petct.manifest import Refinement
from petct.written_whole import written_whole
from training.studies.refinement.report import COEFFICIENTS
from training.studies.refinement.study import PAPER_SENSITIVITY, PAPER_SPECIFICITY, PUBLISHED, Study, published_of

_FITTED, _PUBLISHED = "tab:blue", "tab:orange"
_BINS = 10


def draw_study(study: Study, path: Path) -> Path:
    """Draw a study as a PNG; it appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 10.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    _draw_roc(panels[0, 0], study)
    _draw_calibration(panels[0, 1], study)
    _draw_histogram(panels[1, 0], study)
    _draw_coefficients(panels[1, 1], study)
    patients = len({lesion.case for lesion in study.lesions})
    figure.suptitle(f"FDG lesions of {patients} patients; fitted: each lesion judged without its patient", fontsize=11)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=100, format="png", metadata={"Software": None})
    return path


def _draw_roc(panel: Any, study: Study) -> None:
    is_disease = [lesion.is_disease for lesion in study.lesions]
    for name, p, scores, colour in (
        ("fitted", study.p, study.scores, _FITTED),
        ("published", study.published_p, study.published, _PUBLISHED),
    ):
        false_rate, true_rate, _ = roc_curve(is_disease, p)
        panel.plot(false_rate, true_rate, color=colour, label=f"{name}, AUC {scores.roc_auc.value:.3f}")
        at_limit = (1.0 - (scores.specificity.value or 0.0), scores.sensitivity.value)
        panel.plot(*at_limit, "o", color=colour, label=f"{name} at its limit")
    panel.plot(1.0 - PAPER_SPECIFICITY, PAPER_SENSITIVITY, "k*", markersize=12, label="paper's claim")
    panel.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC", xlim=(-0.02, 1.0), ylim=(0.0, 1.02))
    panel.legend(loc="lower right")


def _draw_calibration(panel: Any, study: Study) -> None:
    is_disease = [lesion.is_disease for lesion in study.lesions]
    panel.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    for name, p, scores, colour in (
        ("fitted", study.p, study.scores, _FITTED),
        ("published", study.published_p, study.published, _PUBLISHED),
    ):
        steepness = scores.calibration_slope.value
        slope = "no slope" if steepness is None else f"slope {steepness:.2f}"
        true_share, mean_p = calibration_curve(is_disease, p, n_bins=_BINS, strategy="quantile")
        panel.plot(mean_p, true_share, "o-", color=colour, label=f"{name}, Brier {scores.brier.value:.3f}, {slope}")
    panel.set(xlabel="mean p of a tenth of the lesions", ylabel="share that is disease", title="calibration")
    panel.legend(loc="upper left")


def _draw_histogram(panel: Any, study: Study) -> None:
    is_disease = np.array([lesion.is_disease for lesion in study.lesions])
    kinds = [study.p[~is_disease], study.p[is_disease]]
    panel.hist(
        kinds, bins=np.linspace(0.0, 1.0, 21), stacked=True, color=["tab:grey", "tab:red"],
        label=["no disease", "disease"],
    )  # fmt: skip
    panel.axvline(study.final.refinement.keep_probability, color="black", linestyle="--", label="limit")
    panel.set(xlabel="p, fitted without the lesion's patient", ylabel="lesions", title="p by kind of lesion")
    panel.legend(loc="upper center")


def _draw_coefficients(panel: Any, study: Study) -> None:
    def values(refinement: Refinement) -> list[float]:
        return [float(getattr(refinement, name)) for name in COEFFICIENTS]

    places = np.arange(len(COEFFICIENTS))
    for number, fit in enumerate(study.crossed.fits):
        label = "each without a fifth of the patients" if number == 0 else None
        panel.plot(places, values(fit.refinement), "_", color=_FITTED, markersize=24, label=label)
    panel.plot(places, values(study.final.refinement), "o", color=_FITTED, label="fitted on all")
    panel.plot(places, values(published_of(study.final.refinement)), "D", color=_PUBLISHED, label="published")
    panel.axhline(0.0, color="grey", linestyle=":")
    panel.set_xticks(places, COEFFICIENTS)
    panel.set(title=f"coefficients (published: {PUBLISHED.name})")
    panel.legend()
