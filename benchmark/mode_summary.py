"""What rows of modes say together: distance from `exact` with intervals, paired differences, ratios of seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmark.mode_distance import ModeRow, ScanDistance
from evaluation.metrics import METRICS
from evaluation.statistics import Interval, mean_with_interval, median_with_interval
from petct.case import Tracer
from petct.manifest import Mode
from training.studies.ablation.effects import Effect, Findings, Verdict
from training.studies.ablation.page import HEADINGS
from training.studies.ablation.rows import Row
from training.studies.ablation.text import number, range_text
from training.studies.ablation.variants import Comparison

NETWORK_STAGE = "network"
_MARKS = {Verdict.BETTER: " **better**", Verdict.WORSE: " **worse**"}


@dataclass(frozen=True)
class Distance:
    """A mode's masks of one tracer against those of `exact`.

    Attributes:
        dice: Mean over patients with its interval; patients without disease in both masks are left out.
        least_dice: The least of them; None when there are none.
        differing_fraction: Mean share of voxels that differ, with its interval.
        most_differing_fraction: The largest share.
        same: Patients whose masks do not differ at all.
        patients: All of them.
    """

    dice: Interval
    least_dice: float | None
    differing_fraction: Interval
    most_differing_fraction: float
    same: int
    patients: int


def distances(rows: Sequence[ModeRow], *, mode: Mode, tracer: Tracer) -> Distance:
    """A mode's distance from `exact` over the rows of its own; at least one must be there."""
    scans = _scans(rows, mode=mode, tracer=tracer)
    fractions = [scan.differing_fraction for scan in scans]
    return Distance(
        dice=mean_with_interval([scan.dice for scan in scans]),
        least_dice=min((scan.dice for scan in scans if scan.dice is not None), default=None),
        differing_fraction=mean_with_interval(fractions),
        most_differing_fraction=max(fractions),
        same=sum(scan.differing_voxels == 0 for scan in scans),
        patients=len(scans),
    )


def seconds_ratio(rows: Sequence[ModeRow], *, mode: Mode, stage: str | None) -> Interval:
    """Seconds of `exact` over those of a mode, the median over patients with its interval.

    Args:
        rows: Of both.
        mode: The mode.
        stage: A stage of the run; None for all of it. A patient of whom it was not taken is left out.
    """
    exact, own = (
        {row.case: row.total_s if stage is None else row.stages_s.get(stage) for row in rows if row.mode is one}
        for one in (Mode.EXACT, mode)
    )
    pairs = [(exact[case], own_s) for case, own_s in own.items()]
    return median_with_interval([exact_s / own_s for exact_s, own_s in pairs if exact_s and own_s])


def effects(rows: Sequence[ModeRow], *, mode: Mode, tracer: Tracer) -> tuple[Effect, ...]:
    """A mode's metrics minus those of `exact`, paired by patient; none without truth."""
    findings = _findings(rows)
    comparison = Comparison(tracer, mode.value, Mode.EXACT.value)
    return findings.effects(comparison) if findings.scores(tracer, mode.value, METRICS[1]) else ()


def summary_json(rows: Sequence[ModeRow]) -> dict[str, Any]:
    """Everything below as JSON values, by mode and tracer."""
    return {
        mode.value: {
            "network_ratio": asdict(seconds_ratio(rows, mode=mode, stage=NETWORK_STAGE)),
            "total_ratio": asdict(seconds_ratio(rows, mode=mode, stage=None)),
            **{
                tracer.value: {
                    **asdict(distances(rows, mode=mode, tracer=tracer)),
                    "metrics_minus_exact": {
                        effect.category.metric: {**asdict(effect.difference), "verdict": effect.verdict.value}
                        for effect in effects(rows, mode=mode, tracer=tracer)
                    },
                }
                for tracer in Tracer
            },
        }
        for mode in _modes(rows)
    }


def tables(rows: Sequence[ModeRow]) -> str:
    """The summary as Markdown."""
    lines = [
        "| tracer | mode | Dice against exact, mean [95 %] | least | differing voxels, mean | most | same masks |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for tracer in Tracer:
        for mode in _modes(rows):
            one = distances(rows, mode=mode, tracer=tracer)
            lines.append(
                f"| {tracer.name} | {mode} | {_dice(one.dice)} | {_dice_value(one.least_dice)} "
                f"| {one.differing_fraction.value:.1e} | {one.most_differing_fraction:.1e} "
                f"| {one.same} of {one.patients} |"
            )
    lines += ["", "| mode | network, exact / mode | whole method, exact / mode |", "|---|---|---|"]
    lines += [
        f"| {mode} | {_ratio(seconds_ratio(rows, mode=mode, stage=NETWORK_STAGE))} "
        f"| {_ratio(seconds_ratio(rows, mode=mode, stage=None))} |"
        for mode in _modes(rows)
    ]
    for tracer in Tracer:
        lines += _metric_lines(rows, tracer=tracer)
    return "\n".join(lines)


def _metric_lines(rows: Sequence[ModeRow], *, tracer: Tracer) -> list[str]:
    findings = _findings(rows)
    if not findings.scores(tracer, Mode.EXACT.value, METRICS[1]):
        return []
    lines = ["", f"| {tracer.name} | {' | '.join(HEADINGS[metric] for metric in METRICS)} |", "|---|" + "---|" * 6]
    for mode in (Mode.EXACT, *_modes(rows)):
        cells = []
        for metric in METRICS:
            mean = findings.mean(tracer, mode.value, metric)
            text = "-" if mean.value is None else number(mean.value, metric=metric)
            cells.append(f"{text} {range_text(mean, metric=metric)}".strip())
        lines.append(f"| {mode} | {' | '.join(cells)} |")
        if mode is not Mode.EXACT:
            differences = [_difference(effect) for effect in effects(rows, mode=mode, tracer=tracer)]
            lines.append(f"| {mode} - exact | {' | '.join(differences)} |")
    return lines


def _difference(effect: Effect) -> str:
    if effect.difference.value is None:
        return "-"
    metric = effect.category.metric
    value = number(effect.difference.value, metric=metric, sign="+")
    ends = range_text(effect.difference, metric=metric, sign="+")
    return f"{value} {ends}".strip() + _MARKS.get(effect.verdict, "")


def _findings(rows: Sequence[ModeRow]) -> Findings:
    return Findings(
        [
            Row(row.case, tracer, row.mode.value, "", row.key, scan.metrics)
            for row in rows
            for tracer, scan in row.scans.items()
            if scan.metrics is not None
        ]
    )


def _scans(rows: Sequence[ModeRow], *, mode: Mode, tracer: Tracer) -> list[ScanDistance]:
    return [row.scans[tracer] for row in rows if row.mode is mode]


def _modes(rows: Sequence[ModeRow]) -> list[Mode]:
    """The modes besides `exact`, in the order of the enumeration."""
    held = {row.mode for row in rows}
    return [mode for mode in Mode if mode in held and mode is not Mode.EXACT]


def _dice(interval: Interval) -> str:
    ends = "" if interval.low is None else f" [{_dice_value(interval.low)}, {_dice_value(interval.high)}]"
    return _dice_value(interval.value) + ends


def _dice_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _ratio(interval: Interval) -> str:
    if interval.value is None:
        return "-"
    ends = "" if interval.low is None or interval.high is None else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.value:.2f}{ends}"
