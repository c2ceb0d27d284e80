"""The page of an ablation: a table per question and tracer, and sentences that follow from its numbers by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evaluation.metrics import METRICS
from evaluation.statistics import CONFIDENCE, RESAMPLES, Interval
from petct.case import Tracer
from training.studies.ablation.effects import (
    FEWEST_CHANGED,
    FEWEST_PATIENTS,
    FLIPS,
    Effect,
    Findings,
    Verdict,
    count_chance,
)
from training.studies.ablation.study import Measured
from training.studies.ablation.text import LIMITS, claim_lines, finding_line, lesion_lines, number, range_text
from training.studies.ablation.variants import Comparison, Question, Study

HEADINGS: Final = {
    "dice": "Dice",
    "fp_volume_ml": "FP volume, mL",
    "fn_volume_ml": "FN volume, mL",
    "surface_dice": "surface Dice",
    "suv_mean_ratio": "SUVmean ratio, off 1 by",
    "volume_ratio": "volume ratio, off 1 by",
}
_MARKS = {Verdict.BETTER: " **better**", Verdict.WORSE: " **worse**"}


def page_text(
    measured: Measured,
    *,
    study: Study,
    findings: Findings,
    effects: Mapping[Comparison, Sequence[Effect]],
    setup: str,
    command: str,
    figures: Sequence[str],
) -> str:
    """The page as Markdown.

    Args:
        measured: Who was measured.
        study: What was measured.
        findings: The measurements.
        effects: Effects of every comparison of the study.
        setup: Manifests and organ maps, in a sentence or two.
        command: The command line.
        figures: Files beside the page.
    """
    lines = ["# What each part of the method does, on phantoms", "", *_head(measured, setup=setup, command=command), ""]
    lines += [*_how_to_read(effects), "", "## In short, by Dice", "", *_summary(study, effects=effects), ""]
    for figure in figures:
        lines += [f"![Paired differences to the reference]({figure})", ""]
    for question in study.questions:
        lines += [*_section(question, findings=findings, effects=effects), ""]
    return "\n".join([*lines, "## What this does not tell", "", LIMITS]) + "\n"


def _head(measured: Measured, *, setup: str, command: str) -> list[str]:
    count = len(measured.cases)
    patients = measured.cases[0] if count == 1 else f"{measured.cases[0]} to {measured.cases[-1]}"
    lines = ["Generated, numbers and findings alike, by", "", "```", command, "```", ""]
    lines.append(
        f"**{count} patient{'s' * (count != 1)}** ({patients}). None may have been trained on, which this command "
        f"cannot check. {setup}"
    )
    if measured.waiting:
        lines += ["", f"Not measured yet: {len(measured.waiting)} ({', '.join(measured.waiting)})."]
    if measured.refused:
        lines += ["", f"Left out: {len(measured.refused)}.", "", *(f"- {line}" for line in measured.refused)]
    return lines


def _how_to_read(effects: Mapping[Comparison, Sequence[Effect]]) -> list[str]:
    chance = count_chance(effects)
    percent = f"{100 * CONFIDENCE:.0f} %"
    lines = [
        f"Each cell has the mean over patients [{percent} confidence interval] and below it the mean paired difference "
        f"to the reference [its interval]; patients were resampled {RESAMPLES} times. FP and FN volume are those of "
        "lesions (18-connected) without any voxel of truth or prediction. Of the two ratios the table has how far they "
        "are from 1, so less is better. *Better* and *worse* mark differences that are not 0 in "
        f"{FEWEST_CHANGED} patients or more, whose interval leaves 0 out, and whose paired permutation test (the mean, "
        f"with {FLIPS} random flips of the patients' signs) has p < {1 - CONFIDENCE:.2f}; with fewer than "
        f"{FEWEST_PATIENTS} patients nothing is marked."
    ]
    if chance.possible:
        lines += [
            "",
            f"{chance.possible} differences could be marked (those that are not 0 in {FEWEST_CHANGED} patients or "
            f"more) and {chance.marked} are. If no setting made any difference, up to {100 * (1 - CONFIDENCE):.0f} % "
            f"of those that could be, about {chance.expected:.0f}, would be marked by chance; nothing is corrected "
            "for that, so a single mark without others like it is a hint and not a result. A mark says that there is "
            "a difference, not that it is large.",
        ]
    return lines


def _summary(study: Study, *, effects: Mapping[Comparison, Sequence[Effect]]) -> list[str]:
    lines = []
    for question in study.questions:
        lines.append(f"- **{question.title}**")
        lines += [
            f"  - {finding_line(tracer, question=question, effects=effects, metrics=('dice',))}"
            for tracer in _tracers(question)
        ]
    return lines


def _section(question: Question, *, findings: Findings, effects: Mapping[Comparison, Sequence[Effect]]) -> list[str]:
    lines = [f"## {question.title}", "", question.text, ""]
    for tracer in _tracers(question):
        lines += [*_table(question, tracer, findings=findings, effects=effects), ""]
        lines += [finding_line(tracer, question=question, effects=effects, metrics=METRICS), ""]
        lines += _repeat_table(question, tracer, findings=findings)
    lines += claim_lines(question, effects=effects)
    if question.judges_lesions:
        lines += lesion_lines(question, findings=findings)
    return lines[:-1] if lines[-1] == "" else lines


def _table(
    question: Question,
    tracer: Tracer,
    *,
    findings: Findings,
    effects: Mapping[Comparison, Sequence[Effect]],
) -> list[str]:
    """A tracer's settings by metrics, references first; a setting's second comparison has a row of its own."""
    comparisons = [one for one in question.comparisons if one.tracer is tracer]
    shown = {one.name for one in comparisons}
    lines = [f"| {tracer.name} | {' | '.join(HEADINGS[metric] for metric in METRICS)} |", "|---|" + "---|" * 6]
    for name in dict.fromkeys(one.reference for one in comparisons):
        if name not in shown:
            lines.append(f"| {name} | {' | '.join(_mean(findings, tracer, name, metric) for metric in METRICS)} |")
    seen = set()
    for one in comparisons:
        differences = [_difference(effect) for effect in effects[one]]
        if one.name in seen:
            lines.append(f"| {one.name} minus {one.reference} | {' | '.join(differences)} |")
            continue
        seen.add(one.name)
        means = [_mean(findings, tracer, one.name, metric) for metric in METRICS]
        cells = [f"{mean}<br>{difference}" for mean, difference in zip(means, differences, strict=True)]
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    return lines


def _repeat_table(question: Question, tracer: Tracer, *, findings: Findings) -> list[str]:
    """Each fold's means, where a setting is measured several times."""
    names = dict.fromkeys(variant.name for variant in question.variants if variant.tracer is tracer)
    rows = [(name, repeat) for name in names for repeat in findings.repeats(tracer, name) if repeat]
    if not rows:
        return []
    lines = [
        "Each training by itself; how far folds of one setting are apart is what a training's chance makes of it:",
        "",
        f"| {tracer.name} | {' | '.join(HEADINGS[metric] for metric in METRICS)} |",
        "|---|" + "---|" * 6,
    ]
    for name, repeat in rows:
        means = []
        for metric in METRICS:
            scores = list(findings.scores(tracer, name, metric, repeat=repeat).values())
            means.append(number(sum(scores) / len(scores), metric=metric) if scores else "-")
        lines.append(f"| {name}, {repeat} | {' | '.join(means)} |")
    return [*lines, ""]


def _mean(findings: Findings, tracer: Tracer, name: str, metric: str) -> str:
    return _interval(findings.mean(tracer, name, metric), metric=metric)


def _difference(effect: Effect) -> str:
    if effect.verdict is Verdict.SAME:
        return "0 in every patient"
    return _interval(effect.difference, metric=effect.category.metric, sign="+") + _MARKS.get(effect.verdict, "")


def _interval(interval: Interval, *, metric: str, sign: str = "") -> str:
    if interval.value is None:
        return "-"
    value = number(interval.value, metric=metric, sign=sign)
    return f"{value} {range_text(interval, metric=metric, sign=sign)}".strip()


def _tracers(question: Question) -> list[Tracer]:
    held = {one.tracer for one in question.comparisons}
    return [tracer for tracer in Tracer if tracer in held]
