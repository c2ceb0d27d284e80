"""Sentences about an ablation, made from its numbers by rule: what is found is not known when this is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from evaluation.metrics import METRICS
from evaluation.statistics import Interval
from petct.case import Tracer
from training.studies.ablation.effects import Effect, Findings, Verdict
from training.studies.ablation.questions import REFINEMENT_OFF
from training.studies.ablation.variants import REFERENCE, Claim, Comparison, Question

LIMITS: Final = """\
- Phantoms are made by a program with rules of its own: the organs' shapes and uptake, the lesions' sites and the noise
  are simpler and more alike than patients'. An effect here says that a part works as it should; its size says nothing
  about patients, and an effect that is missing here may well be there in patients.
- A phantom's truth is known and follows the threshold exactly. A physician's does not, so whatever follows the
  threshold (regrowing) looks better here.
- The networks are narrow and were trained for minutes on phantoms of the same program.
- The intervals are over patients. They do not hold what another training of the same network would change, unless
  folds are shown; nor what another set of settings would have found."""

_WORDS = {
    "dice": "Dice",
    "fp_volume_ml": "FP volume",
    "fn_volume_ml": "FN volume",
    "surface_dice": "surface Dice",
    "suv_mean_ratio": "SUVmean ratio",
    "volume_ratio": "volume ratio",
}
_CLAIMED_SENSITIVITY, _CLAIMED_SPECIFICITY = 0.96, 0.99  # the paper's, on its training set


def number(value: float, *, metric: str, sign: str = "") -> str:
    """A mean to 0.001 or 0.01 mL; a difference, which has its sign shown, to a digit more."""
    digits = (2 if metric.endswith("_ml") else 3) + (sign != "")
    text = f"{value:{sign}.{digits}f}"
    return text if float(text) else text.lstrip("+-")  # no -0.000


def range_text(interval: Interval, *, metric: str, sign: str = "") -> str:
    """An interval's ends, or nothing when it has none."""
    if interval.low is None or interval.high is None:
        return ""
    return f"[{number(interval.low, metric=metric, sign=sign)}, {number(interval.high, metric=metric, sign=sign)}]"


def finding_line(
    tracer: Tracer,
    *,
    question: Question,
    effects: Mapping[Comparison, Sequence[Effect]],
    metrics: Sequence[str],
) -> str:
    """What a question's comparisons show for a tracer in some metrics, in one line."""
    comparisons = [one for one in question.comparisons if one.tracer is tracer]
    sentences, quiet, few = [], [], []
    for one in comparisons:
        found = [effect for effect in effects[one] if effect.category.metric in metrics]
        parts = [
            f"{verdict.value} in {_listed(marked)}"
            for verdict in (Verdict.BETTER, Verdict.WORSE)
            if (marked := [_quoted(effect) for effect in found if effect.verdict is verdict])
        ]
        if parts:
            sentences.append(f"*{one.name}* is {' and '.join(parts)} than {_reference(one)}.")
        elif all(effect.verdict is Verdict.FEW for effect in found):
            few.append(one)
        else:
            quiet.append(one)
    where = "Dice" if tuple(metrics) == ("dice",) else "any metric"
    if few:
        most = max(effect.difference.count for one in few for effect in effects[one])
        sentences.append(f"Too few patients ({most}) to call a difference: {_names(few)}.")
    if quiet:
        sentences.append(f"No difference shown in {where}: {_names(quiet)}.")
    return f"{tracer.name}: {' '.join(sentences)}"


def claim_lines(question: Question, *, effects: Mapping[Comparison, Sequence[Effect]]) -> list[str]:
    """What others claim, and what was found."""
    lines = []
    for claim in question.claims:
        if claim.comparisons:
            found = "; ".join(_against(claim, one, effects[one]) for one in claim.comparisons)
            lines += [f"> {claim.text} Here: {found}.", ""]
    return lines


def lesion_lines(question: Question, *, findings: Findings) -> list[str]:
    """How many diseased and other lesions each refinement keeps and drops; the paper's claim last."""
    comparisons = [one for one in question.comparisons if one.name != REFINEMENT_OFF]
    if not comparisons or not any(one.name == REFINEMENT_OFF for one in question.comparisons):
        return []
    tracer, reference = comparisons[0].tracer, comparisons[0].reference
    own = findings.kept(Comparison(tracer, reference, reference), without=REFINEMENT_OFF)
    lines = [
        f"Of the {own.diseased} FDG lesions that touch the truth and {own.other} that do not, before refinement:",
        "",
        "| FDG | diseased lesions kept | other lesions dropped |",
        "|---|---|---|",
    ]
    for name in (reference, *(one.name for one in comparisons)):
        kept = findings.kept(Comparison(tracer, name, reference), without=REFINEMENT_OFF)
        lines.append(f"| {name} | {_percent(kept.sensitivity)} | {_percent(kept.specificity)} |")
    lines += [
        "",
        f"> The paper, of the classifier on its training set: {100 * _CLAIMED_SENSITIVITY:.0f} % of diseased lesions "
        f"kept, {100 * _CLAIMED_SPECIFICITY:.0f} % of others dropped. Here, the reference with its rules keeps "
        f"{_percent(own.sensitivity)} ({_beside(own.sensitivity, _CLAIMED_SENSITIVITY)}) and drops "
        f"{_percent(own.specificity)} ({_beside(own.specificity, _CLAIMED_SPECIFICITY)}).",
        "",
    ]
    return lines


def _against(claim: Claim, comparison: Comparison, effects: Sequence[Effect]) -> str:
    effect = effects[METRICS.index("dice")]
    expected, opposite = Verdict.BETTER, Verdict.WORSE
    if not claim.is_better:
        expected, opposite = opposite, expected
    says = {expected: "as claimed", opposite: "**the opposite of the claim**"}.get(effect.verdict, effect.verdict.value)
    return f"{comparison.tracer.name} {comparison.name} minus {comparison.reference} {_quoted(effect)}, {says}"


def _quoted(effect: Effect) -> str:
    metric = effect.category.metric
    value = effect.difference.value
    if value is None:
        return f"{_WORDS[metric]} (undefined)"
    unit = " mL" if metric.endswith("_ml") else ""
    ends = range_text(effect.difference, metric=metric, sign="+")
    return f"{_WORDS[metric]} ({number(value, metric=metric, sign='+')}{unit} {ends})".replace(" )", ")")


def _names(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(
        f"*{one.name}*" if one.reference == REFERENCE else f"*{one.name}* against *{one.reference}*"
        for one in comparisons
    )


def _reference(comparison: Comparison) -> str:
    return "the reference" if comparison.reference == REFERENCE else f"*{comparison.reference}*"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _percent(share: Interval) -> str:
    if share.value is None:
        return "none, as there are none"
    ends = "" if share.low is None or share.high is None else f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    return f"{100 * share.value:.0f} %{ends}"


def _beside(share: Interval, claimed: float) -> str:
    if share.low is None or share.high is None:
        return "nothing to compare"
    if claimed > share.high:
        return "less than claimed"
    return "more than claimed" if claimed < share.low else "as claimed, within the interval"
