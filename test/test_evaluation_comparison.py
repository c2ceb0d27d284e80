import pytest

from evaluation.categories import CATEGORIES, Category, score, shared_scores
from evaluation.comparison import compare_runs, holm
from evaluation.metrics import METRICS
from evaluation.ranking import rank_runs
from evaluation.tables import comparison_table
from judgements import EMPTY_PREDICTION, judgement, series
from petct.case import Tracer

DICE = Category(Tracer.PSMA, "dice")


def test_there_are_twelve_categories():
    assert len(set(CATEGORIES)) == 12
    assert METRICS == ("dice", "fp_volume_ml", "fn_volume_ml", "surface_dice", "suv_mean_ratio", "volume_ratio")


def test_a_ratio_scores_its_distance_from_one():
    metrics = judgement(suv_mean_ratio=0.8, volume_ratio=1.3).metrics
    assert score(metrics, metric="suv_mean_ratio") == pytest.approx(0.2)
    assert score(metrics, metric="volume_ratio") == pytest.approx(0.3)
    assert score(metrics, metric="fp_volume_ml") == 0.5


def test_finding_nothing_scores_as_all_of_it_missed():
    assert score(EMPTY_PREDICTION, metric="suv_mean_ratio") == 1.0
    assert score(EMPTY_PREDICTION, metric="volume_ratio") == 1.0
    no_disease = judgement(truth_ml=0.0, predicted_ml=0.0, suv_mean_ratio=None, volume_ratio=None, dice=None).metrics
    assert all(score(no_disease, metric=name) is None for name in ("suv_mean_ratio", "volume_ratio", "dice"))


def test_only_patients_that_every_run_has_are_compared():
    found = [*series("a", [0.1, 0.2, 0.3, None]), *series("b", [0.5, None, 0.7, 0.8, 0.9])]
    assert shared_scores(found[::-1], runs=["a", "b"], category=DICE) == [[0.1, 0.3], [0.5, 0.7]]
    assert shared_scores(found, runs=["b", "c"], category=DICE) == [[], []]


def test_holm_by_hand():
    # Sorted: 0.01 x 4, 0.02 x 3, then 0.03 x 2 and 0.04 x 1, neither of which may fall below 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def one(tests, name):
    return next(test for test in tests if test.category.name == name)


def test_the_paired_test_by_hand():
    first = [0.10, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70]
    second = [0.11, 0.22, 0.33, 0.44, 0.55, 0.54, 0.70]
    tests = compare_runs([*series("a", first), *series("b", second)], first="a", second="b")
    found = one(tests, "PSMA dice")
    assert found.difference.count == 7
    assert found.zeros == 1
    assert found.difference.value == pytest.approx((0.01 + 0.02 + 0.03 + 0.04 + 0.05 - 0.06) / 7)
    assert found.rank_sum == 1 + 2 + 3 + 4 + 5 - 6
    # Of the 2^6 signs of six ranks, those with a sum of negative ranks of at most 6: 14 subsets of {1..6}; two-sided.
    assert found.p_value == pytest.approx(2 * 14 / 2**6)


def test_all_equal_is_no_difference_and_no_patient_is_no_test():
    both = [*series("a", [0.1, 0.2]), *series("b", [0.1, 0.2])]
    tests = compare_runs(both, first="a", second="b")
    psma = one(tests, "PSMA dice")
    assert (psma.p_value, psma.p_holm, psma.zeros, psma.rank_sum) == (1.0, 1.0, 2, 0.0)
    fdg = one(tests, "FDG dice")
    assert (fdg.p_value, fdg.p_holm, fdg.difference.value, fdg.difference.count) == (None, None, None, 0)


def test_holm_counts_the_categories_that_are_tested():
    values = [0.1 + 0.02 * n for n in range(8)]
    both = [*series("a", values), *series("b", [value + 0.05 + value / 10 for value in values])]
    tests = compare_runs(both, first="a", second="b")
    found = one(tests, "PSMA dice")
    assert found.p_value == pytest.approx(2 / 2**8)
    assert found.p_holm == pytest.approx(6 * 2 / 2**8)  # six of PSMA, none of FDG


def test_the_table_names_the_better_run_only_where_it_is_one():
    low = [0.1 + 0.02 * n for n in range(12)]
    high = [value + 0.05 + value / 10 for value in low]
    for metric, better in (("dice", "b"), ("fn_volume_ml", "a")):
        both = [*series("a", low, metric=metric), *series("b", high, metric=metric)]
        table = comparison_table(compare_runs(both, first="a", second="b"), first="a", second="b")
        marked = [line.split() for line in table.splitlines() if "  * " in line and not line.startswith("  for")]
        assert [(line[:2], line[-1]) for line in marked] == [(["PSMA", metric], better)]
    assert "-" in next(line for line in table.splitlines() if "FDG dice" in line).split()


# --- the challenge's rank


def run(name, *, psma, fdg):
    return [judgement(name, tracer=tracer, **metrics) for tracer, metrics in ((Tracer.PSMA, psma), (Tracer.FDG, fdg))]


def test_the_rank_by_hand():
    found = [
        *run("a", psma={"dice": 0.7, "volume_ratio": 0.9}, fdg={"dice": 0.7}),
        *run("b", psma={"dice": 0.8, "volume_ratio": 1.2}, fdg={"dice": 0.7}),
        *run("c", psma={"dice": 0.6, "volume_ratio": 1.0}, fdg={"dice": 0.8, "fp_volume_ml": 9.0}),
    ]
    ranking = rank_runs(found, runs=["a", "b", "c"])
    ranks = {ranked.category.name: ranked.ranks for ranked in ranking.categories}
    assert len(ranks) == 12
    assert ranks["PSMA dice"] == (2, 1, 3)
    assert ranks["PSMA volume_ratio"] == (2, 3, 1)
    assert ranks["FDG dice"] == (2.5, 2.5, 1)
    assert ranks["FDG fp_volume_ml"] == (1.5, 1.5, 3)
    assert ranks["PSMA fn_volume_ml"] == (2, 2, 2)
    assert ranking.mean_ranks == pytest.approx(
        ((2 + 2 + 2.5 + 1.5 + 8 * 2) / 12, (1 + 3 + 2.5 + 1.5 + 8 * 2) / 12, (3 + 1 + 1 + 3 + 8 * 2) / 12)
    )
    # All three have 24 / 12: the mean of the tracers' Dice decides, 0.70, 0.75, 0.70; two share the second place.
    assert ranking.places == (2, 1, 2)


def test_the_rank_is_of_means_over_patients():
    found = [*series("a", [0.9, 0.1, 0.5]), *series("b", [0.6, 0.5, 0.6])]
    ranking = rank_runs(found, runs=["a", "b"])
    dice = ranking.categories[0]
    assert dice.means == pytest.approx((0.5, 1.7 / 3))
    assert dice.ranks == (2, 1)
    assert dice.patients == 3
    assert ranking.places == (2, 1)


def test_a_run_that_finds_nothing_does_not_win_by_it():
    bad = judgement("a", suv_mean_ratio=0.6, volume_ratio=0.5)
    ranking = rank_runs([bad, judgement("b", base=EMPTY_PREDICTION)], runs=["a", "b"])
    ranks = {ranked.category.name: ranked.ranks for ranked in ranking.categories}
    assert ranks["PSMA suv_mean_ratio"] == (1, 2)
    assert ranks["PSMA fp_volume_ml"] == (2, 1)


def test_runs_without_a_patient_in_common_have_no_rank():
    assert rank_runs([judgement("a", "train_0001"), judgement("b", "train_0002")], runs=["a", "b"]) is None
