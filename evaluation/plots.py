"""The plots of a judgement: box plots, agreement of volume and SUVmean, and lesions found over false ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evaluation.froc import froc_curve
from evaluation.judgement import Judgement
from evaluation.metrics import METRICS, Metrics
from petct.case import Tracer
from petct.errors import CaseError
from petct.written_whole import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito: told apart by everyone
_TITLES = {
    "dice": "Dice",
    "fp_volume_ml": "False-positive volume (mL)",
    "fn_volume_ml": "False-negative volume (mL)",
    "surface_dice": "Surface Dice",
    "suv_mean_ratio": "SUVmean, predicted / true",
    "volume_ratio": "Volume, predicted / true",
}
_LINEAR_UP_TO_ML = 20.0  # an axis of volumes that reaches further is logarithmic ...
_LINEAR_BELOW_ML = 1.0  # ... from here on: 0 is the best there is
_LINEAR_UP_TO_RATIO = 3.0
_DOTS_PER_INCH = 130


def draw_plots(judgements: Sequence[Judgement], *, runs: Sequence[str], folder: Path) -> list[Path]:
    """Draw all plots as PNGs; each appears whole or not at all.

    Args:
        judgements: At least one.
        runs: Names of the runs, in the order of the legend.
        folder: Where they go; it is made.

    Returns:
        The files.

    Raises:
        CaseError: The folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in _PLOTS.items():
            _save(draw(judgements, runs), folder / name)
    except OSError as error:
        raise CaseError(str(folder), "plots must be writable", error.strerror) from error
    return [folder / name for name in _PLOTS]


def _save(figure: Figure, path: Path) -> None:
    with written_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=_DOTS_PER_INCH)


def _box_plots(judgements: Sequence[Judgement], runs: Sequence[str]) -> Figure:
    """Six panels; in each a box per tracer and run, with every patient as a dot."""
    figure = _new_figure(width_inch=9.5 + 0.5 * len(runs), height_inch=6.6)
    panels = figure.subplots(2, 3).ravel()
    jitter = np.random.default_rng(0)
    width = 0.8 / len(runs)
    for panel, metric in zip(panels, METRICS, strict=True):
        ticks = []
        for place, tracer in enumerate(Tracer):
            counts = []
            for number, run in enumerate(runs):
                values = _values(_of(judgements, run, tracer), metric)
                counts.append(len(values))
                x = place + (number - (len(runs) - 1) / 2) * width
                _draw_box(panel, values, x=x, width=width, colour=_colour(number), jitter=jitter)
            ticks.append(f"{tracer.name}\nn = {', '.join(map(str, dict.fromkeys(counts)))}")
        panel.set_xticks(range(len(Tracer)), ticks)
        panel.set_xlim(-0.55, len(Tracer) - 0.45)
        panel.set_title(_TITLES[metric], fontsize=10)
        panel.grid(axis="y", alpha=0.3)
        _scale_axis(panel, metric)
    _add_legend(figure, runs)
    return figure


def _draw_box(
    panel: Axes, values: Sequence[float], *, x: float, width: float, colour: str, jitter: np.random.Generator
) -> None:
    if not values:
        return
    panel.boxplot(
        [values], positions=[x], widths=0.75 * width, showfliers=False, patch_artist=True, manage_ticks=False,
        boxprops={"facecolor": colour, "alpha": 0.35}, medianprops={"color": "black", "linewidth": 1.4},
    )  # fmt: skip
    spread = x + jitter.uniform(-0.22, 0.22, len(values)) * width
    panel.plot(spread, values, ".", color=colour, markersize=4, alpha=0.7)


def _scale_axis(panel: Axes, metric: str) -> None:
    if metric.endswith("_ml"):
        if panel.get_ylim()[1] > _LINEAR_UP_TO_ML:
            panel.set_yscale("symlog", linthresh=_LINEAR_BELOW_ML)
            panel.yaxis.set_major_formatter("{x:g}")
        panel.set_ylim(bottom=-0.02 * min(panel.get_ylim()[1], _LINEAR_UP_TO_ML))
    elif metric.endswith("ratio"):
        panel.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
        if panel.get_ylim()[1] > _LINEAR_UP_TO_RATIO:
            panel.set_yscale("symlog", linthresh=1.0, base=2)  # an empty prediction has a ratio of 0
            panel.yaxis.set_major_formatter("{x:g}")
    else:
        panel.set_ylim(-0.03, 1.03)


def _agreement_of_volume(judgements: Sequence[Judgement], runs: Sequence[str]) -> Figure:
    return _bland_altman(judgements, runs, true="truth_ml", predicted="predicted_ml", what="volume", unit="mL")


def _agreement_of_suv(judgements: Sequence[Judgement], runs: Sequence[str]) -> Figure:
    names = ("truth_suv_mean", "predicted_suv_mean")
    return _bland_altman(judgements, runs, true=names[0], predicted=names[1], what="SUVmean", unit="SUV")


def _bland_altman(
    judgements: Sequence[Judgement], runs: Sequence[str], *, true: str, predicted: str, what: str, unit: str
) -> Figure:
    """A panel per tracer and run: difference over mean, bias, limits of agreement (1.96 deviations)."""
    figure = _new_figure(width_inch=9.5, height_inch=0.6 + 3.6 * len(runs))
    rows = figure.subplots(len(runs), len(Tracer), squeeze=False, sharex="col", sharey="col")
    for number, run in enumerate(runs):
        for panel, tracer in zip(rows[number], Tracer, strict=True):
            pairs = _pairs(_of(judgements, run, tracer), true, predicted)
            means, differences = pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0]
            panel.plot(means, differences, "o", color=_colour(number), markersize=5, alpha=0.7)
            panel.axhline(0.0, color="black", linewidth=0.8)
            limits = _draw_limits(panel, differences, unit=unit) if len(pairs) > 1 else "too few for limits"
            panel.set_title(f"{run}, {tracer.name}, n = {len(pairs)}\n{limits}", fontsize=9)
            panel.set_ylabel(f"{what}: predicted - true ({unit})")
            panel.grid(alpha=0.3)
            if len(pairs) and means.min() > 0 and means.max() > 20 * means.min():
                _make_logarithmic(panel)
    for panel in rows[-1]:
        panel.set_xlabel(f"{what}: mean of predicted and true ({unit})")
    return figure


def _draw_limits(panel: Axes, differences: npt.NDArray[np.float64], *, unit: str) -> str:
    """Draw bias and limits of agreement, and say them."""
    bias, spread = float(differences.mean()), 1.96 * float(differences.std(ddof=1))
    panel.axhline(bias, color="dimgray", linewidth=1.2)
    for limit in (bias - spread, bias + spread):
        panel.axhline(limit, color="dimgray", linestyle="--", linewidth=1.0)
    return f"bias {bias:+.3g} {unit}, limits of agreement {bias - spread:+.3g} to {bias + spread:+.3g} {unit}"


def _make_logarithmic(panel: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())


def _froc(judgements: Sequence[Judgement], runs: Sequence[str]) -> Figure:
    """A panel per tracer: sensitivity over false lesions per patient, one curve per run, up to all that it predicts."""
    figure = _new_figure(width_inch=9.5, height_inch=4.9 + 0.1 * len(runs))
    for panel, tracer in zip(figure.subplots(1, len(Tracer)), Tracer, strict=True):
        for number, run in enumerate(runs):
            curve = froc_curve(judgements, run=run, tracer=tracer)
            if curve is None:
                continue
            by = "probability" if curve.is_by_probability else "SUVmax"
            label = f"{run} (by {by})"
            x, y = curve.false_per_patient, curve.sensitivity
            panel.plot(x, y, drawstyle="steps-post", color=_colour(number), linewidth=1.6, label=label)
            panel.plot(x[-1:], y[-1:], "o", color=_colour(number), markersize=6)
        panel.set_xlim(left=0)
        panel.set_ylim(0, 1.03)
        panel.set_title(f"{tracer.name}; dot: the whole prediction", fontsize=10)
        panel.set_xlabel("false lesions per patient")
        panel.set_ylabel("lesions found / true lesions")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(
                fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False,
                title="predicted lesions taken in falling order of their highest", title_fontsize=8,
            )  # fmt: skip
    return figure


def _new_figure(*, width_inch: float, height_inch: float) -> Figure:
    """A figure that knows nothing of screens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inch, height_inch), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _add_legend(figure: Figure, runs: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=_colour(number), alpha=0.6, label=run) for number, run in enumerate(runs)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(runs), 6), fontsize=9, frameon=False)


def _colour(run: int) -> str:
    return _COLOURS[run % len(_COLOURS)]


def _of(judgements: Sequence[Judgement], run: str, tracer: Tracer) -> list[Metrics]:
    return [one.metrics for one in judgements if one.run == run and one.tracer is tracer]


def _values(metrics: Sequence[Metrics], name: str) -> list[float]:
    return [value for one in metrics if (value := getattr(one, name)) is not None]


def _pairs(metrics: Sequence[Metrics], true: str, predicted: str) -> npt.NDArray[np.float64]:
    """True and predicted values where there are both; shape (patients, 2)."""
    rows = [(getattr(one, true), getattr(one, predicted)) for one in metrics]
    return np.array([row for row in rows if None not in row], dtype=float).reshape(-1, 2)


_PLOTS: dict[str, Callable[[Sequence[Judgement], Sequence[str]], Figure]] = {
    "box_plots.png": _box_plots,
    "bland_altman_volume.png": _agreement_of_volume,
    "bland_altman_suv_mean.png": _agreement_of_suv,
    "froc.png": _froc,
}
PLOT_NAMES = tuple(_PLOTS)
