"""Fitting the classifier of FDG lesions, and predicting every lesion by a fit that has not seen its patient.

A patient's lesions are alike and share their PSMA scan, so patients are what is held out, in the outer cross-validation
that judges and in the inner one that chooses how strongly to regularise. The limit of p is not fitted: it is the
manifest's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from petct.errors import CaseError
from petct.manifest import Refinement
from postprocessing.refine import Features, probability_of
from training.studies.out_of_fold.lesions import JudgedLesion

FEATURES = tuple(field.name for field in fields(Features))
FOLDS = 5
INNER_FOLDS = 4
STRENGTHS = tuple(float(c) for c in np.logspace(-2.0, 3.0, 11))  # scikit-learn's C, of features scaled to one spread
LESIONS_PER_COEFFICIENT = 10  # of the rarer kind (Peduzzi et al. 1996); fewer is said, and not refused

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """A fitted classifier.

    Attributes:
        refinement: Its coefficients, of features as they are, with the manifest's limit and rules.
        strength: scikit-learn's C, chosen by cross-validation among its own patients.
    """

    refinement: Refinement
    strength: float


@dataclass(frozen=True)
class CrossFit:
    """Fits that have each not seen some patients.

    Attributes:
        fits: One per outer fold.
        fold: Per lesion the outer fold that its patient was held out of.
    """

    fits: tuple[Fit, ...]
    fold: tuple[int, ...]

    def refinement(self, lesion: int) -> Refinement:
        """The refinement that was fitted without a lesion's patient; lesions are numbered from 0."""
        return self.fits[self.fold[lesion]].refinement


def check_enough(lesions: Sequence[JudgedLesion]) -> None:
    """Refuse lesions that a cross-validation by patient cannot be made of; say it when they are few.

    Raises:
        CaseError: There are lesions of one kind only, or too few patients who have one of a kind.
    """
    kinds = {
        kind: [lesion for lesion in lesions if lesion.is_disease is is_disease]
        for kind, is_disease in (("disease", True), ("no disease", False))
    }
    counts = ", ".join(
        f"{len(found)} lesions that are {kind} in {len({lesion.case for lesion in found})} patients"
        for kind, found in kinds.items()
    )
    if min(len({lesion.case for lesion in found}) for found in kinds.values()) < FOLDS:
        rule = f"there must be FDG lesions that are disease and such that are not, each in at least {FOLDS} patients"
        raise CaseError("out-of-fold lesions", rule, counts)
    rarer = min(len(found) for found in kinds.values())
    if rarer < LESIONS_PER_COEFFICIENT * len(FEATURES):
        wanted = LESIONS_PER_COEFFICIENT * len(FEATURES)
        log.warning("few lesions to fit on: %s; %d of each kind are the rule of thumb", counts, wanted)


def fit(lesions: Sequence[JudgedLesion], *, rules: Refinement, seed: int) -> Fit:
    """Fit the classifier, its regularisation chosen by cross-validation among these patients.

    Args:
        lesions: Lesions of both kinds.
        rules: The limit of p and the rules around it, which are kept.
        seed: Of the assignment of patients to folds.

    Raises:
        CaseError: There are too few lesions.
    """
    features, is_disease, patients = _arrays(lesions)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(
        model,
        {"logisticregression__C": STRENGTHS},
        scoring=make_scorer(log_loss, greater_is_better=False, response_method="predict_proba", labels=[False, True]),
        cv=_folds(lesions, folds=INNER_FOLDS, seed=seed),
    )
    search.fit(features, is_disease, groups=patients)
    scaler, classifier = (step for _, step in search.best_estimator_.steps)
    # Of features as they are: (x - mean) / spread, times the coefficient.
    coefficients = classifier.coef_[0] / scaler.scale_
    of_feature = dict(zip(FEATURES, map(float, coefficients), strict=True))
    refinement = replace(
        rules,
        psma_present=of_feature["psma_present"],
        log_volume=of_feature["log_volume"],
        suv_max=of_feature["suv_max"],
        intercept=float(classifier.intercept_[0] - coefficients @ scaler.mean_),
    )
    return Fit(refinement=refinement, strength=float(search.best_params_["logisticregression__C"]))


def cross_fit(lesions: Sequence[JudgedLesion], *, rules: Refinement, seed: int) -> CrossFit:
    """Fit without each of five groups of patients in turn; arguments and errors as in `fit`."""
    fold = np.full(len(lesions), -1)
    fits = []
    for number, (train, test) in enumerate(_folds(lesions, folds=FOLDS, seed=seed)):
        fits.append(fit([lesions[n] for n in train], rules=rules, seed=seed))
        fold[test] = number
        log.info("fitted without %d patients (%d of %d)", len({lesions[n].case for n in test}), number + 1, FOLDS)
    return CrossFit(fits=tuple(fits), fold=tuple(fold.tolist()))


def probabilities(lesions: Sequence[JudgedLesion], *, refinement: Refinement) -> npt.NDArray[np.float64]:
    """The p of each lesion by one classifier, as the product computes it."""
    return np.array([probability_of(lesion.features, refinement=refinement) for lesion in lesions])


def held_out_probabilities(lesions: Sequence[JudgedLesion], *, crossed: CrossFit) -> npt.NDArray[np.float64]:
    """The p of each lesion by the classifier that was fitted without its patient."""
    refinements = [crossed.refinement(n) for n in range(len(lesions))]
    return np.array(
        [probability_of(lesion.features, refinement=r) for lesion, r in zip(lesions, refinements, strict=True)]
    )


def _folds(
    lesions: Sequence[JudgedLesion], *, folds: int, seed: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Lesions to fit on and lesions held out, no patient in both; both kinds are spread over the folds.

    Raises:
        CaseError: A fold would be fitted on lesions of one kind.
    """
    features, is_disease, patients = _arrays(lesions)
    found = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(features, is_disease, patients))
    for train, _ in found:
        if len(set(is_disease[train])) < 2:
            got = f"{len(set(patients))} patients, {sum(is_disease)} lesions of {len(lesions)} disease"
            raise CaseError("out-of-fold lesions", "both kinds must be in more patients to cross-validate", got)
    return found


def _arrays(
    lesions: Sequence[JudgedLesion],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.str_]]:
    """Features (lesion, feature), whether each is disease, and its patient."""
    features = np.array([[getattr(lesion.features, name) for name in FEATURES] for lesion in lesions], dtype=float)
    is_disease = np.array([lesion.is_disease for lesion in lesions], dtype=bool)
    return features, is_disease, np.array([lesion.case for lesion in lesions])
