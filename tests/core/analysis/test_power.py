from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from mmcore.analysis.intervals import mean_interval
from mmcore.analysis.power import (
    cv_rho,
    deviation_behind,
    pooled_deviation,
    power_over_folds,
    smallest_difference,
)


@pytest.mark.parametrize("num_folds", [3, 6, 20])
@pytest.mark.parametrize("difference", [0.0, 0.5, 1.5, -1.5])
def test_without_correction_power_is_that_of_statsmodels(num_folds: int, difference: float) -> None:
    theirs = TTestPower().power(effect_size=abs(difference) / 2.0, nobs=num_folds, alpha=0.05 / 3, df=num_folds - 1)
    assert power_over_folds(difference, 2.0, num_folds, 0.0, family_size=3) == pytest.approx(theirs, abs=1e-6)


def test_the_smallest_difference_is_shown_in_four_of_five_studies() -> None:
    rng = np.random.default_rng(0)
    found = smallest_difference(deviation=2.0, num_folds=6, rho=0.0)
    folds = rng.normal(found, 2.0, (40_000, 6))
    assert (stats.ttest_1samp(folds, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_the_sum_of_two_quantiles_would_promise_too_much() -> None:
    spread = 2.0 * math.sqrt(1 / 6 + 1 / 4)
    for family_size, real in [(1, 0.79), (20, 0.73)]:
        simple = (stats.t.ppf(1 - 0.05 / (2 * family_size), 5) + stats.t.ppf(0.8, 5)) * spread
        assert power_over_folds(simple, 2.0, 6, 1 / 4, family_size=family_size) == pytest.approx(real, abs=0.006)
        assert smallest_difference(2.0, 6, 1 / 4, family_size=family_size) > simple


def test_the_ladders_plans() -> None:
    assert smallest_difference(0.47, 6, 0.0) == pytest.approx(0.67, abs=0.01)
    assert smallest_difference(0.47, 6, 1 / 4) == pytest.approx(1.07, abs=0.01)
    assert smallest_difference(4.0, 6, 1 / 4) == pytest.approx(9.07, abs=0.01)


@pytest.mark.parametrize("num_folds", [2, 3, 6, 40])
@pytest.mark.parametrize("family_size", [1, 30])
def test_power_is_never_lost_for_a_number(num_folds: int, family_size: int) -> None:
    curve = [power_over_folds(x, 1.0, num_folds, 0.2, family_size=family_size) for x in np.linspace(0, 1000, 400)]
    assert np.all(np.diff(curve) > -2e-6)
    assert curve[0] == pytest.approx(0.05 / family_size)
    assert curve[-1] > 0.99
    found = smallest_difference(1.0, num_folds, 0.2, family_size=family_size)
    assert power_over_folds(found, 1.0, num_folds, 0.2, family_size=family_size) == pytest.approx(0.8, abs=1e-6)


def test_what_is_out_of_range_is_named_all_at_once() -> None:
    with pytest.raises(ValueError, match=r"deviation must be above 0 and finite, got nan; num_folds must be 2 or more"):
        smallest_difference(float("nan"), 1, 0.2)
    with pytest.raises(ValueError, match="power must be in"):
        smallest_difference(1.0, 6, 0.2, power=0.01)
    with pytest.raises(ValueError, match="difference must be finite"):
        power_over_folds(float("inf"), 1.0, 6, 0.2)


def test_deviations_are_pooled_by_their_squares() -> None:
    assert pooled_deviation([1.0, 7.0]) == pytest.approx(5.0)
    assert pooled_deviation([2.0]) == 2.0
    with pytest.raises(ValueError, match="at least one"):
        pooled_deviation([])


def test_the_deviation_behind_an_interval_is_that_of_the_folds() -> None:
    values = [1.0, 4.0, 2.0, 7.0, 3.0]
    _, half_width = mean_interval(values)
    assert half_width is not None
    assert deviation_behind(half_width, 5) == pytest.approx(np.std(values, ddof=1))
    with pytest.raises(ValueError, match="needs 2 folds"):
        deviation_behind(1.0, 1)


def test_one_fold_tests_one_validates_and_the_others_train() -> None:
    assert [cv_rho(folds) for folds in (3, 6)] == [1.0, 0.25]
    with pytest.raises(ValueError, match="3 folds or more"):
        cv_rho(2)
