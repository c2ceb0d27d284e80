"""Heat maps of a sweep: Dice, false-positive and false-negative volume over both limits."""

from __future__ import annotations

from pathlib import Path

from petct.written_whole import written_whole
from training.studies.sweep.choice import BEST, HONEST, MANIFEST, choices
from training.studies.sweep.patients import TracerSweep, mean_over_patients

_TICKS = 10  # labelled limits along an axis, at most about


def draw_sweep(sweep: TracerSweep, path: Path) -> Path:
    """Draw a tracer's sweep as a PNG; it appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = {choice.name: choice for choice in choices(sweep)}
    figure = Figure(figsize=(15.0, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for panel, values, title, colours in (
        (panels[0], sweep.dice, "mean Dice", "viridis"),
        (panels[1], sweep.fp_volume_ml, "mean false-positive volume (mL)", "magma_r"),
        (panels[2], sweep.fn_volume_ml, "mean false-negative volume (mL)", "magma_r"),
    ):
        drawn = panel.imshow(mean_over_patients(values), origin="lower", cmap=colours, aspect="auto")
        figure.colorbar(drawn, ax=panel)
        for name, marker, colour in ((MANIFEST, "o", "white"), (BEST, "*", "red")):
            ((i, j),) = found[name].points
            label = f"{name.split(',')[0]}: {sweep.ttb_limits[i]:g} / {sweep.normal_limits[j]:g}"
            panel.plot(
                j, i, marker, color=colour, markersize=14, markeredgecolor="black", linestyle="none", label=label
            )  # fmt: skip
        panel.set(title=title, xlabel="normal where P(normal) is above", ylabel="ttb where P(ttb) is above")
        for axis, limits in ((panel.xaxis, sweep.normal_limits), (panel.yaxis, sweep.ttb_limits)):
            places = range(0, len(limits), max(1, -(-len(limits) // _TICKS)))
            axis.set_ticks(list(places), [f"{limits[place]:g}" for place in places])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    dice = {name: choice.dice.value for name, choice in found.items()}
    honest = f"{dice[HONEST]:.3f} when chosen on the other folds" if HONEST in dice else "no estimate with one fold"
    figure.suptitle(
        f"{sweep.tracer.name}, {len(sweep.cases)} patients out of fold, before refinement. "
        f"Dice: manifest {dice[MANIFEST]:.3f}, best {dice[BEST]:.3f}\n"
        f"Choosing the best pair on the patients that it is scored on is optimistic: {honest}",
        fontsize=10,
    )
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=100, format="png", metadata={"Software": None})
    return path
