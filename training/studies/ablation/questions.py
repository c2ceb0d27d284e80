"""The questions of the ablation: which parts of the method are changed, and what others say comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from petct.case import Tracer
from petct.manifest import Manifest, Refinement
from training.studies.ablation.organs import encoding_question, organ_question
from training.studies.ablation.variants import (
    REFERENCE,
    Claim,
    Question,
    Study,
    Variant,
    against_reference,
    ensemble_of,
)

RADII_MM = (0.0, 5.0, 7.0, 10.0)
REFINEMENT_OFF = "refinement off"
CLAIMED_RADIUS_MM = 7.0  # the challenge organisers' and the paper's
# P(ttb) and P(normal) limits: the paper's of both tracers, looser, stricter, and each limit moved alone.
LIMITS = ((0.1, 0.9), (0.25, 0.5), (0.25, 0.75), (0.5, 0.5), (0.5, 0.75), (0.75, 0.25))


def plan_study(
    manifest: Manifest,
    *,
    encodings: Manifest | None,
    published: Refinement,
    fitted: Refinement | None,
    has_true_organs: bool,
) -> Study:
    """The questions to a manifest.

    Args:
        manifest: The reference: every variant is this with one thing changed.
        encodings: Networks that differ in their organ encoding only, one per encoding and tracer; None leaves the
            question out.
        published: The paper's refinement.
        fitted: Another refinement to try, or None.
        has_true_organs: Whether the patients' true organ maps are compared with the study's.

    Raises:
        CaseError: The encodings' members are not one per encoding and tracer, with none among them.
    """
    references = tuple(
        Variant(REFERENCE, tracer, parts=ensemble_of(manifest.tracer(tracer).members), settings=manifest.tracer(tracer))
        for tracer in Tracer
    )
    base = {variant.tracer: variant for variant in references}
    questions = []
    if encodings is not None:
        questions.append(encoding_question(encodings, base=base))
    questions += [
        _ensemble_question(manifest, base=base),
        _regrow_question(base),
        _threshold_question(base),
        _refinement_question(base[Tracer.FDG], published=published, fitted=fitted),
    ]
    if has_true_organs:
        questions.append(organ_question(manifest, encodings=encodings, base=base))
    return Study(manifest=manifest, references=references, questions=tuple(questions))


def _ensemble_question(manifest: Manifest, *, base: Mapping[Tracer, Variant]) -> Question:
    variants = []
    for tracer in Tracer:
        members = manifest.tracer(tracer).members
        if len(members) < 2:
            continue
        variants += [replace(base[tracer], name=f"only {one.name}", parts=ensemble_of([one])) for one in members]
        if len(members) > 2:
            variants += [
                replace(
                    base[tracer],
                    name=f"without {left_out.name}",
                    parts=ensemble_of([member for member in members if member is not left_out]),
                )
                for left_out in members
            ]
    comparisons = against_reference(variants)
    return Question(
        title="What does the ensemble gain over its members?",
        text="Each member alone, and the ensemble without each of them, against the whole ensemble.",
        variants=tuple(variants),
        comparisons=comparisons,
    )


def _regrow_question(base: Mapping[Tracer, Variant]) -> Question:
    variants = []
    for reference in base.values():
        settings = reference.settings
        for radius_mm in RADII_MM:
            if radius_mm != settings.regrow_radius_mm:
                changed = replace(settings, regrow_radius_mm=radius_mm)
                variants.append(replace(reference, name=f"regrow {radius_mm:g} mm", settings=changed))
        if settings.protected_organs:
            changed = replace(settings, protected_organs=frozenset())
            variants.append(
                replace(reference, name=f"regrow {settings.regrow_radius_mm:g} mm, into every organ", settings=changed)
            )
    comparisons = against_reference(variants)
    claimed = tuple(
        one
        for one in comparisons
        if one.tracer is Tracer.PSMA
        and one.name == "regrow 0 mm"
        and base[Tracer.PSMA].settings.regrow_radius_mm == CLAIMED_RADIUS_MM
    )
    radii = ", ".join(f"{tracer.name} {one.settings.regrow_radius_mm:g} mm" for tracer, one in base.items())
    return Question(
        title="What does regrowing do?",
        text=f"The reference regrows by {radii}, not into the protected organs. With 0 mm nothing is added, but "
        "normal uptake and what is below the SUV threshold are removed all the same. A radius below a scan's voxel "
        "size is as good as 0.",
        variants=tuple(variants),
        comparisons=comparisons,
        claims=(
            Claim(
                "The challenge's organisers: growing by 7 mm and thresholding again raises their PSMA baseline's Dice "
                "from 0.867 to 0.933, so Dice should be lower with 0 mm.",
                claimed,
                is_better=False,
            ),
        )
        if claimed
        else (),
    )


def _threshold_question(base: Mapping[Tracer, Variant]) -> Question:
    variants = []
    for reference in base.values():
        settings = reference.settings
        for ttb, normal in LIMITS:
            if (ttb, normal) != (settings.ttb_probability, settings.normal_probability):
                changed = replace(settings, ttb_probability=ttb, normal_probability=normal)
                variants.append(replace(reference, name=f"ttb {ttb:g}, normal {normal:g}", settings=changed))
    comparisons = against_reference(variants)
    limits = ", ".join(
        f"{tracer.name} {one.settings.ttb_probability:g} and {one.settings.normal_probability:g}"
        for tracer, one in base.items()
    )
    of_fdg = base[Tracer.FDG].settings
    claimed = tuple(one for one in comparisons if one.tracer is Tracer.FDG and one.name == "ttb 0.5, normal 0.5")
    has_paper_limits = (of_fdg.ttb_probability, of_fdg.normal_probability) == (0.25, 0.75)
    return Question(
        title="What do the probability limits do?",
        text=f"Disease is where P(ttb), normal uptake where P(normal) is above its limit; the reference has {limits}.",
        variants=tuple(variants),
        comparisons=comparisons,
        claims=(
            Claim("The paper chose 0.25 and 0.75 for FDG, so 0.5 and 0.5 should be worse.", claimed, is_better=False),
        )
        if claimed and has_paper_limits
        else (),
    )


def _refinement_question(base: Variant, *, published: Refinement, fitted: Refinement | None) -> Question:
    own = base.settings.refinement
    rules = own or published
    changed: dict[str, Refinement | None] = {REFINEMENT_OFF: None}
    if own != published:
        changed["published refinement"] = published
    if fitted is not None:
        changed["fitted refinement"] = fitted
    never = replace(rules, keep_above_ml=math.inf)
    changed |= {
        "no rule for large lesions": never,
        "no rule for lesions outside anatomy": replace(rules, keep_unlabelled=False),
        "neither rule": replace(never, keep_unlabelled=False),
        "PSMA never shows disease": replace(rules, psma_present=0.0),
        "PSMA always shows disease": replace(rules, psma_present=0.0, intercept=rules.intercept + rules.psma_present),
        "volume not counted": replace(rules, log_volume=0.0),
        "SUVmax not counted": replace(rules, suv_max=0.0),
    }
    variants = tuple(
        replace(base, name=name, settings=replace(base.settings, refinement=refinement))
        for name, refinement in changed.items()
        if refinement != own
    )
    return Question(
        title="What does refining FDG by PSMA do?",
        text="FDG only; PSMA's mask is the reference's throughout. The reference "
        + ("has no refinement; what is changed below is changed in the published one. " if own is None else "")
        + ("has the published coefficients and both rules. " if own == published else "")
        + ("has coefficients of its own. " if own not in (None, published) else "")
        + "Where a feature is not counted, its coefficient is 0 and the others stay as they are, so fewer lesions "
        "are kept; this tells what the classifier leans on, not how well it could do without.",
        variants=variants,
        comparisons=against_reference(variants),
        judges_lesions=True,
    )
