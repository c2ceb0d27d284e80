"""Sharing patients out to folds that are alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from petct.errors import CaseError
from training.folds.splits import FEWEST_FOLDS, Splits, splits_of
from training.folds.traits import Trait, standardised

STARTS = 40  # of the descent; more than that improves the sum for 100 patients by less than a tenth
RANDOM_ASSIGNMENTS = 200
BEST_PERCENTILE = 5.0  # of random assignments: what choosing the best of twenty would give
_LEAST_GAIN = 1e-9  # below this it is rounding, which must not decide

Assignment = npt.NDArray[np.intp]


@dataclass(frozen=True)
class TraitBalance:
    """How alike folds are in one trait.

    Attributes:
        trait: The trait.
        worst: Largest distance of a fold's mean from the mean of all, in standard deviations of the patients; None
            when all patients are the same or nothing is known.
        random_median: The median of that over random folds.
        random_best: The 5th percentile of it over random folds.
    """

    trait: Trait
    worst: float | None
    random_median: float | None
    random_best: float | None


def balanced_folds(names: Sequence[str], *, traits: Sequence[Trait], folds: int, seed: int) -> Splits:
    """Share patients out so that the folds' means are as equal as can be found, in all traits at once.

    Small is made: the sum over traits and folds of the squared distance of the fold's mean from the mean of all, in
    standard deviations, times the trait's weight. From random assignments of equal sizes, patients of two folds are
    swapped, always the best swap of each patient in turn, until no swap makes the sum smaller; the best of 40 ends
    counts. This is anticlustering by exchange (Papenberg & Klau 2021, doi 10.1037/met0000301), published as a package
    for R only. scikit-learn's StratifiedKFold balances one class, and iterative stratification a set of yes/no labels:
    both would see volumes only after they were cut into bins, do not keep the sizes equal, and stop at the first
    assignment that they come to. For 100 patients all of it takes seconds.

    Args:
        names: Patients, each once, in any order: the result does not depend on it.
        traits: What to balance, with values in the order of the names.
        folds: Number of folds, from 2 to the number of patients.
        seed: Of the random starts; the same seed gives the same folds.

    Returns:
        Folds whose sizes differ by at most one.

    Raises:
        CaseError: A patient is named twice, or there are too few for so many folds.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise CaseError("folds", "a patient must be named once", f"{', '.join(sorted(twice))} again")
    if not FEWEST_FOLDS <= folds <= len(names):
        rule = f"number of folds must be within {FEWEST_FOLDS} and the number of patients, {len(names)}"
        raise CaseError("folds", rule, str(folds))
    order = np.argsort(np.array(names))
    scaled = _matrix(traits, patients=len(names))[order]
    rng = np.random.default_rng(seed)
    best, best_sum = None, np.inf
    for _ in range(STARTS):
        assignment = random_assignment(len(names), folds=folds, rng=rng)
        reached = _descend(assignment, scaled=scaled, folds=folds)
        if best is None or reached < best_sum - _LEAST_GAIN:
            best, best_sum = assignment, reached
    return splits_of([[names[order[i]] for i in np.flatnonzero(best == fold)] for fold in range(folds)])


def random_assignment(patients: int, *, folds: int, rng: np.random.Generator) -> Assignment:
    """The fold of each patient, drawn; sizes differ by at most one."""
    return rng.permutation(np.arange(patients) % folds)


def assignment_of(splits: Splits, *, names: Sequence[str]) -> Assignment:
    """The fold in whose val each of these patients is."""
    home = {name: index for index, fold in enumerate(splits) for name in fold.val}
    return np.array([home[name] for name in names])


def measure_balance(
    splits: Splits, *, names: Sequence[str], traits: Sequence[Trait], seed: int
) -> tuple[TraitBalance, ...]:
    """How alike the folds are, trait by trait, beside 200 random assignments of the same patients.

    Args:
        splits: The folds.
        names: Their patients.
        traits: The traits, with values in the order of the names.
        seed: Of the random assignments.
    """
    folds = len(splits)
    rng = np.random.default_rng([seed, RANDOM_ASSIGNMENTS])  # not the draws that the folds started from
    ours = assignment_of(splits, names=names)
    draws = [random_assignment(len(names), folds=folds, rng=rng) for _ in range(RANDOM_ASSIGNMENTS)]
    balances = []
    for trait in traits:
        column = standardised(trait)
        if column is None:
            balances.append(TraitBalance(trait, worst=None, random_median=None, random_best=None))
            continue
        drawn = [_worst(column, assignment=draw, folds=folds) for draw in draws]
        balances.append(
            TraitBalance(
                trait,
                worst=_worst(column, assignment=ours, folds=folds),
                random_median=float(np.median(drawn)),
                random_best=float(np.percentile(drawn, BEST_PERCENTILE)),
            )
        )
    return tuple(balances)


def _matrix(traits: Sequence[Trait], *, patients: int) -> npt.NDArray[np.float64]:
    """Standardised columns times the roots of their weights, shape (patients, traits that differ at all)."""
    columns = [(standardised(trait), trait.weight) for trait in traits]
    scaled = [column * np.sqrt(weight) for column, weight in columns if column is not None]
    return np.stack(scaled, axis=1) if scaled else np.zeros((patients, 0))


def _descend(assignment: Assignment, *, scaled: npt.NDArray[np.float64], folds: int) -> float:
    """Swap patients, in place, until no swap of two makes the sum smaller; returns the sum.

    The columns have mean 0, so the sum is that of the squared means of the folds.
    """
    sizes = np.bincount(assignment, minlength=folds).astype(float)
    sums = np.stack([scaled[assignment == fold].sum(axis=0) for fold in range(folds)])
    is_moving = True
    while is_moving:
        is_moving = False
        for one in range(len(assignment)):
            mine = assignment[one]
            step = scaled - scaled[one]  # what each swap adds to my fold, and takes from the other's
            # |(s + d) / n|^2 - |s / n|^2 = d (2 s + d) / n^2, for my fold and, with -d, for the other one.
            change = np.einsum("pt,pt->p", step, 2.0 * sums[mine] + step) / sizes[mine] ** 2
            change += np.einsum("pt,pt->p", step, step - 2.0 * sums[assignment]) / sizes[assignment] ** 2
            change[assignment == mine] = 0.0
            other = int(np.argmin(change))
            if change[other] < -_LEAST_GAIN:
                theirs = assignment[other]
                sums[mine] += step[other]
                sums[theirs] -= step[other]
                assignment[one], assignment[other] = theirs, mine
                is_moving = True
    return float(((sums / sizes[:, None]) ** 2).sum())


def _worst(column: npt.NDArray[np.float64], *, assignment: Assignment, folds: int) -> float:
    sizes = np.bincount(assignment, minlength=folds)
    return float(np.abs(np.bincount(assignment, weights=column, minlength=folds) / sizes).max())
