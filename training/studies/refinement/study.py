"""The classifier fitted on out-of-fold lesions, judged on patients whom the fit has not seen, beside the published."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Manifest, Refinement, read_manifest
from petct.written_whole import written_whole
from training.studies.out_of_fold.alike import read_alike_records
from training.studies.out_of_fold.lesions import COLUMNS, JudgedLesion, lesion_row, read_lesions
from training.studies.out_of_fold.predict import LESIONS
from training.studies.out_of_fold.record import rules_of
from training.studies.refinement.fit import (
    CrossFit,
    Fit,
    check_enough,
    cross_fit,
    fit,
    held_out_probabilities,
    probabilities,
)
from training.studies.refinement.scores import Scores, score

PUBLISHED = Path(__file__).resolve().parents[3] / "resources" / "paper.toml"
PAPER_SENSITIVITY, PAPER_SPECIFICITY = 0.96, 0.99  # the paper's claim, on the lesions that it was fitted on
SEED = 20260


@dataclass(frozen=True)
class Study:
    """A fitted classifier, and how it and the published one do on the same lesions.

    Attributes:
        lesions: The lesions.
        final: The classifier, fitted on all of them.
        crossed: The fits that each left patients out; what is judged.
        p: Per lesion the p of the fit that has not seen its patient.
        published_p: Per lesion the p of the published coefficients.
        scores: What `p` is worth.
        published: What `published_p` is worth.
        sha256: Digest of the lesions and of what found them.
    """

    lesions: tuple[JudgedLesion, ...]
    final: Fit
    crossed: CrossFit
    p: npt.NDArray[np.float64]
    published_p: npt.NDArray[np.float64]
    scores: Scores
    published: Scores
    sha256: str


def collect_lesions(oof: Path, *, manifest: Manifest) -> tuple[tuple[JudgedLesion, ...], str]:
    """The lesions of all patients that were predicted out of fold, and a digest of them and of what found them.

    Args:
        oof: Folder of out-of-fold predictions.
        manifest: What the classifier is for.

    Raises:
        CaseError: There are none, a file is malformed, patients were not predicted alike, or lesions were found with
            other limits or regrowing than the manifest's, which make other lesions.
    """
    digest = hashlib.sha256()
    lesions: list[JudgedLesion] = []
    for name, record in read_alike_records(oof).items():
        for tracer in Tracer:
            if record.rules[tracer.value] != (rules := rules_of(manifest.tracer(tracer))):
                rule = f"{tracer.name} must be predicted with the limits and regrowing of {manifest.path.name}, {rules}"
                raise CaseError(name, rule, str(record.rules[tracer.value]))
        path = oof / name / LESIONS
        lesions += read_lesions(path, where=f"{name}/{LESIONS}")
        digest.update(f"{record.made_with}\n".encode())
        digest.update(path.read_bytes())
    return tuple(lesions), digest.hexdigest()


def study_refinement(oof: Path, *, manifest: Manifest, seed: int = SEED) -> Study:
    """Fit the classifier, and judge it and the published one.

    Args:
        oof: Folder of out-of-fold predictions.
        manifest: The limit of p and the rules around it, which are kept.
        seed: Of the assignment of patients to folds and of the bootstrap.

    Raises:
        CaseError: The manifest has no refinement, or there are too few lesions, or they are not of its rules.
    """
    rules = manifest.fdg.refinement
    if rules is None:
        raise CaseError(f"{manifest.path.name} [fdg]", "must have a refinement, whose limit of p and rules are kept")
    lesions, sha256 = collect_lesions(oof, manifest=manifest)
    check_enough(lesions)
    crossed = cross_fit(lesions, rules=rules, seed=seed)
    published = published_of(rules)
    p = held_out_probabilities(lesions, crossed=crossed)
    published_p = probabilities(lesions, refinement=published)
    return Study(
        lesions=lesions,
        final=fit(lesions, rules=rules, seed=seed),
        crossed=crossed,
        p=p,
        published_p=published_p,
        scores=score(lesions, p=p, refinement_of=crossed.refinement, seed=seed),
        published=score(lesions, p=published_p, refinement_of=lambda _: published, seed=seed),
        sha256=sha256,
    )


def published_of(rules: Refinement) -> Refinement:
    """The published coefficients with a manifest's limit and rules."""
    paper = read_manifest(PUBLISHED).fdg.refinement
    if paper is None:
        raise CaseError(PUBLISHED.name, "must have the published refinement")
    return Refinement(
        psma_present=paper.psma_present,
        log_volume=paper.log_volume,
        suv_max=paper.suv_max,
        intercept=paper.intercept,
        keep_probability=rules.keep_probability,
        keep_above_ml=rules.keep_above_ml,
        keep_unlabelled=rules.keep_unlabelled,
    )


def counts(lesions: Sequence[JudgedLesion]) -> Mapping[str, Any]:
    """How many patients and lesions there are, and how many mL."""
    disease = [lesion for lesion in lesions if lesion.is_disease]
    true_ml = sum(lesion.overlap_ml for lesion in lesions)
    return {
        "patients": len({lesion.case for lesion in lesions}),
        "lesions": len(lesions),
        "disease_lesions": len(disease),
        "true_ml": true_ml,
        "false_ml": sum(lesion.lesion.volume_ml for lesion in lesions) - true_ml,
    }


def write_study_csv(study: Study, path: Path) -> None:
    """Every lesion with its p, and the outer fold that its patient was held out of; whole or not at all."""
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*COLUMNS, "held_out_fold", "p", "published_p"])
        for lesion, fold, p, published_p in zip(
            study.lesions, study.crossed.fold, study.p, study.published_p, strict=True
        ):
            writer.writerow([*lesion_row(lesion), fold, f"{p:.6f}", f"{published_p:.6f}"])
