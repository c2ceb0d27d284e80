import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fold_cases import scan_traits
from petct.errors import CaseError
from training.folds.balance import balanced_folds, measure_balance
from training.folds.patient_traits import PatientTraits
from training.folds.report import balance_table, fold_table
from training.folds.splits import (
    Splits,
    patients_of,
    splits_of,
)
from training.folds.traits import Trait, standardised, traits_of


def random_traits(patients: int, *, count: int, seed: int = 0) -> list[Trait]:
    values = np.random.default_rng(seed).normal(size=(count, patients))
    return [Trait(f"trait {n}", tuple(column)) for n, column in enumerate(values.tolist())]


def names_of(patients: int) -> list[str]:
    return [f"train_{n:04d}" for n in range(patients)]


def vals(splits: Splits) -> set[frozenset[str]]:
    return {frozenset(fold.val) for fold in splits}


def test_the_best_folds_are_found_where_they_are_known() -> None:
    # Only these pairs have the mean of all, which is 10.
    names = ["a", "b", "c", "d", "e", "f", "g", "h"]
    trait = Trait("t", (3.0, 17.0, 6.0, 14.0, 8.5, 11.5, 9.0, 11.0))
    splits = balanced_folds(names, traits=[trait], folds=4, seed=1)
    assert vals(splits) == {frozenset("ab"), frozenset("cd"), frozenset("ef"), frozenset("gh")}


def test_two_traits_are_balanced_at_once() -> None:
    # Volume alone would be balanced by {a, d} against {b, c} too, and the class alone by many.
    names = ["a", "b", "c", "d", "e", "f", "g", "h"]
    volume = Trait("volume", (1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0))
    scanner = Trait("scanner", (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    splits = balanced_folds(names, traits=[volume, scanner], folds=2, seed=3)
    for fold in splits:
        assert len(set(fold.val) & set("abcd")) == 2
        assert sum(volume.values[names.index(name)] for name in fold.val) == 10.0
    (balance, other) = measure_balance(splits, names=names, traits=[volume, scanner], seed=3)
    assert (balance.worst, other.worst) == (0.0, 0.0)


@pytest.mark.parametrize(("weight", "drawn"), list(itertools.product([1.0, 0.1, 4.0], range(3))))
def test_no_assignment_at_all_is_better(weight: float, drawn: int) -> None:
    names = names_of(9)
    traits = [
        replace(trait, weight=weight if n == 1 else 1.0)
        for n, trait in enumerate(random_traits(9, count=3, seed=drawn))
    ]
    columns = [(column, trait.weight) for trait in traits if (column := standardised(trait)) is not None]

    def sum_of(groups: Sequence[Sequence[int]]) -> float:
        return sum(weight * column[list(group)].mean() ** 2 for column, weight in columns for group in groups)

    every = []
    for first in itertools.combinations(range(9), 3):
        rest = [n for n in range(9) if n not in first]
        for second in itertools.combinations(rest, 3):
            every.append((first, second, [n for n in rest if n not in second]))
    assert len(every) == 84 * 20
    splits = balanced_folds(names, traits=traits, folds=3, seed=5)
    ours = [[names.index(name) for name in fold.val] for fold in splits]
    assert sum_of(ours) == pytest.approx(min(map(sum_of, every)))


@pytest.mark.parametrize(("patients", "folds"), [(7, 3), (11, 5), (5, 5), (23, 4), (2, 2)])
def test_sizes_differ_by_at_most_one_and_everybody_is_in_one_fold(patients: int, folds: int) -> None:
    splits = balanced_folds(names_of(patients), traits=random_traits(patients, count=4), folds=folds, seed=1)
    sizes = [len(fold.val) for fold in splits]
    assert max(sizes) - min(sizes) <= 1
    assert list(patients_of(splits)) == names_of(patients)
    for fold in splits:
        assert sorted(fold.train + fold.val) == names_of(patients)


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_patients() -> None:
    names, traits = names_of(17), random_traits(17, count=5)
    found = balanced_folds(names, traits=traits, folds=4, seed=2)
    assert balanced_folds(names, traits=traits, folds=4, seed=2) == found
    assert balanced_folds(names, traits=traits, folds=4, seed=3) != found
    order = np.random.default_rng(8).permutation(17)
    shuffled = [replace(trait, values=tuple(trait.values[n] for n in order)) for trait in traits]
    assert balanced_folds([names[n] for n in order], traits=shuffled, folds=4, seed=2) == found


def test_patients_without_any_difference_are_shared_out_at_random() -> None:
    flat = [Trait("flat", (1.0,) * 6), Trait("unknown", (np.nan,) * 6)]
    first, second = (balanced_folds(names_of(6), traits=flat, folds=3, seed=seed) for seed in (1, 2))
    assert first != second
    assert [balance.worst for balance in measure_balance(first, names=names_of(6), traits=flat, seed=1)] == [None, None]


def test_folds_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(CaseError, match="^folds: a patient must be named once, got b again$"):
        balanced_folds(["a", "b", "c", "b"], traits=[], folds=2, seed=1)
    for folds in (1, 4):
        error = f"^folds: number of folds must be within 2 and the number of patients, 3, got {folds}$"
        with pytest.raises(CaseError, match=error):
            balanced_folds(["a", "b", "c"], traits=[], folds=folds, seed=1)


def test_the_spread_keeps_middling_patients_from_sharing_a_fold() -> None:
    # Only all extremes against all middling ones have the same mean of logarithms; every other way misses it a little.
    logarithms = [4.0 - 3.0, 4.0 - 3.2, 4.0 + 2.9, 4.0 + 3.3, 4.0 - 1.0, 4.0 - 1.02, 4.0 + 0.95, 4.0 + 1.07]
    patients = [
        PatientTraits(f"p{n}", psma=scan_traits(ttb_ml=float(np.expm1(logarithm))), fdg=scan_traits())
        for n, logarithm in enumerate(logarithms)
    ]
    names = [patient.name for patient in patients]
    traits = traits_of(patients, folds=2)
    mean_only = [trait for trait in traits if trait.name == "PSMA TTB, mL"]
    assert vals(balanced_folds(names, traits=mean_only, folds=2, seed=1)) == {
        frozenset(names[:4]),
        frozenset(names[4:]),
    }
    for fold in balanced_folds(names, traits=traits, folds=2, seed=1):
        assert len({"p0", "p1", "p2", "p3"} & set(fold.val)) == 2


def test_balance_is_the_largest_distance_in_standard_deviations() -> None:
    names, trait = ["a", "b", "c", "d"], Trait("t", (1.0, 3.0, 5.0, 7.0))  # mean 4, variance (9 + 1 + 1 + 9) / 4
    (balance,) = measure_balance(splits_of([["a", "b"], ["c", "d"]]), names=names, traits=[trait], seed=1)
    assert balance.worst == pytest.approx((4.0 - 2.0) / np.sqrt(5.0))
    # Of the three ways to pair four, one is even, one has 1 and one has 2 between the means and 4.
    assert balance.random_median == pytest.approx(1.0 / np.sqrt(5.0))
    assert balance.random_best == pytest.approx(0.0)


def test_balanced_folds_are_better_than_random_ones() -> None:
    names, traits = names_of(60), random_traits(60, count=12)
    splits = balanced_folds(names, traits=traits, folds=5, seed=1)
    balances = measure_balance(splits, names=names, traits=traits, seed=1)
    for balance in balances:
        assert balance.worst is not None
        assert balance.random_median is not None
        assert balance.worst < balance.random_median
    ours, best = (np.mean([getattr(balance, of) for balance in balances]) for of in ("worst", "random_best"))
    assert ours < 0.6 * best
    # And the table says no where they are not.
    volume = traits[0].values
    ranked = sorted(names, key=lambda name: volume[names.index(name)])
    (bad, *_) = measure_balance(
        splits_of([ranked[n : n + 12] for n in range(0, 60, 12)]), names=names, traits=traits, seed=1
    )
    flat = measure_balance(splits, names=names, traits=[Trait("flat", (3.0,) * 60)], seed=1)
    table = balance_table([bad, *balances[1:], *flat])
    lines = {line[:10].strip(): line for line in table.splitlines()}
    assert lines["trait 0"].endswith(" *")
    assert not lines["trait 1"].endswith(" *")
    assert lines["flat"].endswith("the same in all (3)")


def test_the_table_of_folds_shows_means_in_the_traits_own_unit() -> None:
    names = ["a", "b", "c"]
    traits = [
        Trait("mL", (np.log1p(3.0), np.log1p(15.0), np.log1p(8.0)), is_log=True),
        Trait("share", (0.25, np.nan, np.nan)),
    ]
    table = fold_table(splits_of([["a", "b"], ["c"]]), names=names, traits=traits).splitlines()
    assert table[2].split() == ["patients", "2", "1", "3"]
    # The geometric mean of 4 and 16 is 8; of 4, 16 and 9 it is the cube root of 576.
    assert table[3].split() == ["mL", "7.00", "8.00", f"{576 ** (1 / 3) - 1:.2f}"]
    assert table[4].split() == ["share", "0.25", "-", "0.25"]
