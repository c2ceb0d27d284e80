"""A fitted classifier for people and for the container: a table, the manifest with it, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluation.statistics import Interval
from petct.errors import CaseError
from petct.manifest import Manifest, Refinement
from petct.written_whole import written_whole
from training.studies.refinement.fit import FOLDS, INNER_FOLDS, STRENGTHS
from training.studies.refinement.scores import Dropped
from training.studies.refinement.study import PAPER_SENSITIVITY, PAPER_SPECIFICITY, SEED, Study, counts
from training.weights.code_version import code_version
from training.weights.manifest_text import manifest_toml

COEFFICIENTS = ("psma_present", "log_volume", "suv_max", "intercept")


def study_table(study: Study) -> str:
    """What the classifier is worth, beside the published coefficients and the paper's claim, as Markdown."""
    held = counts(study.lesions)
    limit = study.final.refinement.keep_probability
    lines = [
        f"{held['lesions']} FDG lesions in {held['patients']} patients, {held['disease_lesions']} of them disease: "
        f"{held['true_ml']:.1f} mL true, {held['false_ml']:.1f} mL false",
        "",
        "| 95 % confidence intervals by patient | fitted, on patients held out | published coefficients "
        "| paper, on what it was fitted on |",
        "|---|---|---|---|",
        f"| sensitivity at p >= {limit:g} | {_percent(study.scores.sensitivity)} "
        f"| {_percent(study.published.sensitivity)} | {PAPER_SENSITIVITY:.0%} |",
        f"| specificity | {_percent(study.scores.specificity)} | {_percent(study.published.specificity)} "
        f"| {PAPER_SPECIFICITY:.0%} |",
        f"| ROC AUC | {_number(study.scores.roc_auc)} | {_number(study.published.roc_auc)} | |",
        f"| Brier score | {_number(study.scores.brier)} | {_number(study.published.brier)} | |",
        f"| mean p ({held['disease_lesions'] / held['lesions']:.3f} are disease) | {study.scores.mean_p:.3f} "
        f"| {study.published.mean_p:.3f} | |",
        f"| calibration in the large: mean p minus that share (0 is perfect) "
        f"| {_signed(study.scores.calibration_in_the_large)} | {_signed(study.published.calibration_in_the_large)} | |",
        f"| calibration slope (1 is perfect, below it p is too sure) | {_number(study.scores.calibration_slope)} "
        f"| {_number(study.published.calibration_slope)} | |",
        f"| dropped by p alone | {_dropped(study.scores.dropped_by_p)} | {_dropped(study.published.dropped_by_p)} | |",
        f"| dropped with the manifest's rules | {_dropped(study.scores.dropped_with_rules)} "
        f"| {_dropped(study.published.dropped_with_rules)} | |",
    ]
    return "\n".join(lines)


def write_refined_manifest(study: Study, *, manifest: Manifest, file: Path) -> Path:
    """Write a manifest with the fitted refinement, and `<name>.refinement.json` beside it; each whole or not at all.

    Args:
        study: The fitted classifier.
        manifest: The manifest to take everything else from.
        file: The new manifest, in the folder of the old one.

    Returns:
        The file that says where the refinement comes from.

    Raises:
        CaseError: See `check_place`.
    """
    check_place(file, manifest=manifest)
    record = record_file(file)
    held = counts(study.lesions)
    comment = "\n".join(
        [
            f"Written by `python -m training fit-refinement` from {manifest.path.name}, changing [fdg.refinement].",
            f"The refinement is fitted on {held['lesions']} out-of-fold FDG lesions of {held['patients']} patients.",
            f"On patients held out: sensitivity {_percent(study.scores.sensitivity)}, "
            f"specificity {_percent(study.scores.specificity)}, ROC AUC {_number(study.scores.roc_auc)}.",
            f"Lesions: sha256 {study.sha256}. Code: {code_version()}. Everything else: {record.name}.",
        ]
    )
    refined = replace(
        manifest,
        path=file.resolve(),
        name=file.stem,
        fdg=replace(manifest.fdg, refinement=study.final.refinement),
    )
    _write(record, json.dumps(_provenance(study), indent=1) + "\n")
    _write(file, manifest_toml(refined, comment=comment))
    return record


def record_file(manifest: Path) -> Path:
    """The file that says where a manifest's refinement comes from."""
    return manifest.with_suffix(".refinement.json")


def check_place(file: Path, *, manifest: Manifest) -> None:
    """Refuse a new manifest that could not find the old one's weights.

    Raises:
        CaseError: It is not called `<name>.toml` or not in the old one's folder.
    """
    if file.suffix != ".toml":
        raise CaseError("--output", "must be called <name>.toml", file.name)
    if file.resolve().parent != manifest.path.resolve().parent:
        rule = f"must lie beside {manifest.path.resolve()}, because the folders of its weights are relative to it"
        raise CaseError("--output", rule, str(file.resolve()))


def _provenance(study: Study) -> dict[str, Any]:
    """Where the refinement comes from; the same for the same lesions and code, so without a date."""
    return {
        "code": code_version(),
        "scikit_learn": version("scikit-learn"),
        "lesions_sha256": study.sha256,
        "counts": dict(counts(study.lesions)),
        "method": {
            "model": "logistic regression, L2, features scaled while fitting",
            "outer_folds_by_patient": FOLDS,
            "inner_folds_by_patient": INNER_FOLDS,
            "strengths": list(STRENGTHS),
            "seed": SEED,
        },
        "refinement": asdict(study.final.refinement),
        "strength": study.final.strength,
        "held_out_fits": [{**_coefficients(fit.refinement), "strength": fit.strength} for fit in study.crossed.fits],
        "held_out_scores": asdict(study.scores),
        "published_scores": asdict(study.published),
        "paper_claim": {"sensitivity": PAPER_SENSITIVITY, "specificity": PAPER_SPECIFICITY},
    }


def _coefficients(refinement: Refinement) -> Mapping[str, float]:
    return {name: getattr(refinement, name) for name in COEFFICIENTS}


def _write(path: Path, text: str) -> None:
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _percent(interval: Interval) -> str:
    return _text(interval, ".1%")


def _number(interval: Interval) -> str:
    return _text(interval, ".3f")


def _signed(interval: Interval) -> str:
    return _text(interval, "+.3f", between=" to ")


def _text(interval: Interval, form: str, *, between: str = "-") -> str:
    if interval.value is None:
        return "none"
    if interval.low is None or interval.high is None:
        return f"{interval.value:{form}}"
    return f"{interval.value:{form}} ({interval.low:{form}}{between}{interval.high:{form}})"


def _dropped(dropped: Dropped) -> str:
    return (
        f"{dropped.lesions} lesions, {dropped.disease_lesions} of them disease: "
        f"{dropped.true_ml:.1f} mL true, {_percent(dropped.true_share)} of all that is true; "
        f"{dropped.false_ml:.1f} mL false"
    )
