from itertools import product

import numpy as np
import pytest

from evaluation.statistics import mean_with_interval, median_with_interval, share_with_interval


def test_mean_and_median_leave_out_what_is_undefined_and_say_how_many_count():
    mean = mean_with_interval([0.2, None, 0.4, 0.9])
    assert (mean.value, mean.count) == (pytest.approx(0.5), 3)
    median = median_with_interval([0.2, None, 0.4, 0.9])
    assert (median.value, median.count) == (0.4, 3)


def test_the_interval_is_that_of_all_resamples():
    values = [1.0, 2.0, 4.0, 8.0]
    means = [np.mean(drawn) for drawn in product(values, repeat=4)]  # all 256 are equally likely
    found = mean_with_interval(values)
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.26)  # the means lie 0.25 apart
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.51)
    assert 1.0 < found.low < found.value < found.high < 8.0


def test_the_interval_is_the_same_every_time_and_another_with_another_seed():
    values = np.random.default_rng(1).random(15).tolist()
    assert mean_with_interval(values) == mean_with_interval(values)
    assert mean_with_interval(values, seed=1) != mean_with_interval(values, seed=2)


def test_it_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(7)
    held = sum(
        found.low <= 5.0 <= found.high
        for found in (mean_with_interval(random.normal(5.0, 2.0, 40).tolist(), seed=n) for n in range(60))
    )
    assert 51 <= held <= 60  # 57 expected


def test_one_patient_and_none_have_no_interval():
    one = mean_with_interval([0.7, None])
    assert (one.value, one.low, one.high, one.count) == (0.7, None, None, 1)
    for nothing in (mean_with_interval([None]), median_with_interval([]), share_with_interval([0], [0])):
        assert (nothing.value, nothing.low, nothing.high, nothing.count) == (None, None, None, 0)


def test_patients_that_are_all_the_same_have_an_interval_of_no_width():
    found = median_with_interval([0.3, 0.3, 0.3])
    assert (found.value, found.low, found.high) == (0.3, 0.3, 0.3)


def test_a_share_is_of_all_lesions_and_its_interval_of_patients():
    found = share_with_interval([1, 9, 0], [2, 10, 0])
    assert (found.value, found.count) == (pytest.approx(10 / 12), 2)
    # Two patients: drawn again, they are both the one, both the other, or one of each.
    assert (found.low, found.high) == (pytest.approx(1 / 2), pytest.approx(9 / 10))


def test_a_number_that_is_none_is_refused():
    with pytest.raises(ValueError, match="values: must be finite or None"):
        mean_with_interval([0.1, float("nan")])
