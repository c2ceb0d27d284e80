"""The table of what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from training.networks.estimate import Speed, hours_left, total_h
from training.networks.jobs import Progress, State


def progress_table(
    progress: Sequence[Progress], *, speeds: Mapping[str, Speed | None] | None, at_once: int
) -> list[str]:
    """Lines that say how far each job is, and how long what is left will take.

    Args:
        progress: The jobs.
        speeds: Speed by job's name; None when nothing was measured.
        at_once: Jobs that will run at the same time.
    """
    rows = [["job", "state"] if speeds is None else ["job", "s/iteration", "takes", "state"]]
    for one in progress:
        times = [] if speeds is None else _times(one, speeds)
        rows.append([one.job.name, *times, one.text])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *middle, state in rows:
        numbers = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *numbers, state]))
    return [*lines, _summary(progress, speeds=speeds, at_once=at_once)]


def duration(hours: float) -> str:
    """A duration with the unit that it is read in: `40 s`, `35 min`, `18.6 h`."""
    seconds = 3600.0 * hours
    if seconds < 60.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if hours < 2.0 else f"{hours:.1f} h"


def _times(progress: Progress, speeds: Mapping[str, Speed | None]) -> list[str]:
    if not progress.is_left or progress.state is State.TO_VALIDATE:
        return ["", ""]
    speed, hours = speeds.get(progress.job.name), hours_left(progress, speeds)
    return ["?", "?"] if speed is None or hours is None else [f"{speed.iteration_s:.3g}", duration(hours)]


def _summary(progress: Sequence[Progress], *, speeds: Mapping[str, Speed | None] | None, at_once: int) -> str:
    counts = Counter(one.state for one in progress)
    states = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    text = f"{sum(one.is_left for one in progress)} of {len(progress)} are left: {states}."
    if not speeds:
        return text
    one_by_one_h, together_h = total_h(progress, speeds, at_once=at_once)
    together = f", {duration(together_h)} with {at_once} at once" if at_once > 1 else ""
    unknown = sum(speed is None for speed in speeds.values())
    failed = f" {unknown} could not be measured and are not in it." if unknown else ""
    return f"{text} About {duration(one_by_one_h)} of training{together}, validation not counted.{failed}"
