"""A judgement as text: the table of scans for programs, and tables for people."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from evaluation.comparison import PairedTest
from evaluation.judgement import Judgement, LeftOut
from evaluation.metrics import METRICS
from evaluation.ranking import Ranking
from evaluation.statistics import Interval
from evaluation.summary import Summary
from petct.errors import CaseError
from petct.written_whole import written_whole

_MORE_COLUMNS = (
    "truth_ml", "predicted_ml", "truth_suv_mean", "predicted_suv_mean", "true_lesions", "found_lesions",
    "predicted_lesions", "false_lesions",
)  # fmt: skip
SIGNIFICANT_BELOW = 0.05  # after Holm's correction
COLUMNS = ("case", "tracer", *METRICS, *_MORE_COLUMNS, "run", "note")


def write_scans(judgements: Sequence[Judgement], *, file: Path) -> None:
    """Write one line of CSV per run, patient and tracer; the file appears whole or not at all.

    An undefined metric is an empty cell, and the note says why. Numbers have all their digits.

    Raises:
        CaseError: It cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for one in judgements:
                # csv writes None as an empty cell.
                numbers = [getattr(one.metrics, name) for name in (*METRICS, *_MORE_COLUMNS)]
                writer.writerow([one.case, one.tracer.value, *numbers, one.run, "; ".join(one.metrics.notes)])
    except OSError as error:
        raise CaseError(str(file), "table must be writable", error.strerror) from error


def summary_table(summary: Summary) -> str:
    """One run and tracer: metrics, lesions, and what is undefined where."""
    lines = [
        f"{summary.run}, {summary.tracer.name}: {summary.patients} patients",
        f"  {'':16}{'n':>4}  {'mean':>9} {'95 % CI':20}{'median':>9} 95 % CI",
    ]
    for name in METRICS:
        mean, median = summary.means[name], summary.medians[name]
        lines.append(
            f"  {name:16}{mean.count:4d}  {_number(mean.value):>9} {_ends(mean):20}{_number(median.value):>9} "
            f"{_ends(median)}".rstrip()
        )
    lines.append(
        f"  lesions found: {_number(summary.sensitivity.value)} {_ends(summary.sensitivity)}"
        f" ({summary.found_lesions} of {summary.true_lesions})"
    )
    lines.append(f"  false lesions per patient: {_number(summary.false_lesions.value)} {_ends(summary.false_lesions)}")
    lines.extend(f"  {count} x {note}" for note, count in sorted(summary.notes.items()))
    return "\n".join(lines)


def region_table(summary: Summary) -> str:
    """One run's and tracer's volumes by region of the body; regions without anything are not shown."""
    title = f"{summary.run}, {summary.tracer.name}, mL by region"
    if summary.regions is None:
        return f"{title}: no patient has a totseg_24 beside the truth that can be used"
    lines = [
        f"{title}, {summary.region_patients} of {summary.patients} patients with totseg_24",
        f"  {'':18}{'truth':>10}{'predicted':>11}{'false pos.':>12}{'false neg.':>12}",
    ]
    for name, volumes in summary.regions.items():
        if volumes.truth_ml or volumes.predicted_ml:
            lines.append(
                f"  {name:18}{volumes.truth_ml:10.2f}{volumes.predicted_ml:11.2f}{volumes.fp_ml:12.2f}"
                f"{volumes.fn_ml:12.2f}"
            )
    return "\n".join(lines if len(lines) > 2 else [*lines, "  no disease in truth or prediction"])


def comparison_table(tests: Sequence[PairedTest], *, first: str, second: str) -> str:
    """Paired tests of two runs."""
    lines = [
        f"{second} minus {first}, Wilcoxon signed-rank without equal patients, Holm over the categories",
        f"  for a ratio the score is |1 - ratio|; * names the better run where p Holm < {SIGNIFICANT_BELOW}",
        f"  {'':22}{'n':>4}{'equal':>7}  {'mean diff.':>10} {'95 % CI':22}{'p':>8}{'p Holm':>9}",
    ]
    for test in tests:
        lines.append(
            f"  {test.category.name:22}{test.difference.count:4d}{test.zeros:7d}  "
            f"{_number(test.difference.value, sign='+'):>10} {_ends(test.difference, sign='+'):22}"
            f"{_p_value(test.p_value):>8}{_p_value(test.p_holm):>9}{_winner(test, first=first, second=second)}"
        )
    return "\n".join(lines)


def ranking_table(ranking: Ranking) -> str:
    """Places, mean ranks, and the rank in every category."""
    width = max(12, *(len(run) + 2 for run in ranking.runs))
    lines = [
        f"rank over {len(ranking.categories)} of the 12 categories, on the patients that all runs have",
        "  mean score (rank); for a ratio the score is |1 - ratio|; equal mean ranks are decided by Dice",
        f"  {'':22}{'n':>4}" + "".join(f"{run:>{width + 6}}" for run in ranking.runs),
    ]
    for found in ranking.categories:
        cells = [f"{_number(mean)} ({rank:g})" for mean, rank in zip(found.means, found.ranks, strict=True)]
        lines.append(f"  {found.category.name:22}{found.patients:4d}" + "".join(f"{c:>{width + 6}}" for c in cells))
    lines.append(f"  {'mean rank':26}" + "".join(f"{rank:>{width + 6}.3f}" for rank in ranking.mean_ranks))
    lines.append(f"  {'place':26}" + "".join(f"{place:>{width + 6}d}" for place in ranking.places))
    return "\n".join(lines)


def left_out_table(left_out: Sequence[LeftOut], *, runs: Sequence[str], scans: int) -> str:
    """How many scans each run is not judged on, and why."""
    lines = []
    for run in runs:
        mine = [one for one in left_out if one.run in (None, run)]
        missing = sum(one.is_missing for one in mine)
        lines.append(
            f"{run}: {scans - len(mine)} of {scans} scans judged, {len(mine)} left out "
            f"({missing} without a prediction, {len(mine) - missing} refused)"
        )
    return "\n".join(lines)


def _number(value: float | None, *, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def _ends(interval: Interval, *, sign: str = "") -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"[{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def _p_value(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _winner(test: PairedTest, *, first: str, second: str) -> str:
    if test.p_holm is None or test.p_holm >= SIGNIFICANT_BELOW:
        return ""
    return f"  * {second if (test.rank_sum > 0.0) == test.category.is_higher_better else first}"
