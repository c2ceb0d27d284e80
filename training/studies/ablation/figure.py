"""The figure of an ablation: every comparison's paired difference with its interval, in Dice, FP and FN volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from evaluation.metrics import METRICS
from petct.case import Tracer
from petct.errors import CaseError
from petct.written_whole import written_whole
from training.studies.ablation.effects import Effect, Verdict
from training.studies.ablation.variants import REFERENCE, Comparison, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS: Final = {"dice": "Dice", "fp_volume_ml": "FP volume, mL", "fn_volume_ml": "FN volume, mL"}
# Okabe and Ito's colours, told apart by everyone; and a marker each, for a print without colour.
_COLOURS = {Verdict.BETTER: "#009E73", Verdict.WORSE: "#D55E00"}
_MARKERS = {Verdict.BETTER: "^", Verdict.WORSE: "v"}
_GREY = "#777777"
_DOTS_PER_INCH = 110


def draw_effects(effects: Mapping[Comparison, Sequence[Effect]], *, study: Study, tracer: Tracer, file: Path) -> Path:
    """Draw a tracer's comparisons, a row each, as a PNG that appears whole or not at all.

    Args:
        effects: Effects of every comparison of the study.
        study: The study.
        tracer: The tracer.
        file: The PNG; its folder is made.

    Raises:
        CaseError: It cannot be written.
    """
    figure = _figure(effects, study=study, tracer=tracer)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as partial:
            figure.savefig(partial, format="png", dpi=_DOTS_PER_INCH)
    except OSError as error:
        raise CaseError(str(file), "figure must be writable", error.strerror) from error
    return file


def _figure(effects: Mapping[Comparison, Sequence[Effect]], *, study: Study, tracer: Tracer) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [
        (question.title, [one for one in question.comparisons if one.tracer is tracer]) for question in study.questions
    ]
    rows: list[Comparison | str] = []
    for title, comparisons in groups:
        if comparisons:
            rows += [title, *comparisons]
    figure = Figure(figsize=(12.0, 1.2 + 0.25 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, metric in zip(figure.subplots(1, len(_PANELS), sharey=True), _PANELS, strict=True):
        _panel(axes, rows, effects=effects, metric=metric)
    first = figure.axes[0]
    first.set_yticks(range(len(rows)), [_label(row) for row in rows])
    for text, row in zip(first.get_yticklabels(), rows, strict=True):
        text.set_fontsize(8.5)
        if isinstance(row, str):
            text.set_fontweight("bold")
    first.set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(
        f"{tracer.name}: paired difference to the reference, mean and 95 % interval "
        "(green, up: better; red, down: worse; grey: not marked)",
        fontsize=10,
    )
    return figure


def _panel(
    axes: Axes, rows: Sequence[Comparison | str], *, effects: Mapping[Comparison, Sequence[Effect]], metric: str
) -> None:
    axes.axvline(0.0, color="black", linewidth=0.8)
    for place, row in enumerate(rows):
        if isinstance(row, str):
            axes.axhline(place, color="#eeeeee", linewidth=8, zorder=0)
            continue
        effect = effects[row][METRICS.index(metric)]
        value, low, high = effect.difference.value, effect.difference.low, effect.difference.high
        if value is None:
            continue
        colour = _COLOURS.get(effect.verdict, _GREY)
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
        axes.plot([value], [place], marker=_MARKERS.get(effect.verdict, "o"), color=colour, markersize=5)
    axes.set_title(_PANELS[metric], fontsize=10)
    axes.tick_params(labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _label(row: Comparison | str) -> str:
    if isinstance(row, str):
        return row
    return row.name if row.reference == REFERENCE else f"{row.name} minus {row.reference}"
