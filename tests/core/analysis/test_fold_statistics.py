from __future__ import annotations

import math

import baycomp
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from mmcore.analysis.fold_statistics import (
    Components,
    Disagreement,
    compare_folds,
    fold_disagreement,
    mean_rho,
    outlook,
    variance_components,
)

DIFFERENCES = [0.9, 2.1, -0.4, 1.6, 1.2, 0.3]


def _parts(differences: list[float], rho: float) -> tuple[float, float, int]:
    mean = sum(differences) / len(differences)
    variance = sum((value - mean) ** 2 for value in differences) / (len(differences) - 1)
    return mean, math.sqrt(variance * (1 / len(differences) + rho)), len(differences) - 1


def _tests(differences: list[float], rho: float = 0.25, margin: float = 1.0, **options: object):
    tests = compare_folds(differences, rho, margin, **options).tests
    assert tests is not None
    return tests


def test_intervals_and_p_values_are_those_written_out_by_hand() -> None:
    mean, error, degrees = _parts(DIFFERENCES, rho=0.25)
    plain_error = _parts(DIFFERENCES, rho=0)[1]
    found = compare_folds(DIFFERENCES, 0.25, margin=1.0)
    tests = _tests(DIFFERENCES)
    assert found.difference == pytest.approx(mean)
    assert found.deviation == pytest.approx(np.std(DIFFERENCES, ddof=1))
    assert (tests.plain.low, tests.plain.high) == pytest.approx(stats.t.interval(0.95, degrees, mean, plain_error))
    assert (tests.corrected.low, tests.corrected.high) == pytest.approx(stats.t.interval(0.95, degrees, mean, error))
    assert tests.p == pytest.approx(2 * (1 - stats.t.cdf(abs(mean) / error, degrees)))
    assert tests.p_not_worse == pytest.approx(1 - stats.t.cdf((mean + 1) / error, degrees))
    upper = stats.t.cdf((mean - 1) / error, degrees)
    assert tests.p_equivalent == pytest.approx(max(1 - stats.t.cdf((mean + 1) / error, degrees), upper))


def test_without_correction_it_is_the_paired_t_test_and_statsmodels_two_one_sided_tests() -> None:
    a, b = np.array(DIFFERENCES) + 70, np.full(6, 70.0)
    tests = _tests(DIFFERENCES, rho=0.0, margin=2.0)
    assert tests.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    p, (_, p_low, _), _ = ttost_paired(a, b, -2.0, 2.0)
    assert tests.p_equivalent == pytest.approx(p)
    assert tests.p_not_worse == pytest.approx(p_low)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_posterior_is_baycomps_with_its_correction(sign: int) -> None:
    a, b = sign * np.array(DIFFERENCES), np.zeros(6)
    # baycomp's probabilities are of the second method being better, and its rho is that of 6 folds: 1/5.
    left, within, right = baycomp.two_on_single(b, a, rope=1.0)
    posterior = _tests(list(a), rho=1 / 5).posterior
    assert posterior is not None
    assert (posterior.worse, posterior.within, posterior.better) == pytest.approx((left, within, right), abs=1e-9)


def test_exchanging_the_methods_turns_everything_round() -> None:
    ours, turned = _tests(DIFFERENCES), _tests([-value for value in DIFFERENCES])
    assert turned.p == pytest.approx(ours.p)
    assert turned.p_equivalent == pytest.approx(ours.p_equivalent)
    assert turned.posterior is not None
    assert ours.posterior is not None
    assert turned.posterior.worse == pytest.approx(ours.posterior.better)
    share = compare_folds([-value for value in DIFFERENCES], 0.25, 1.0).share_won
    assert share == pytest.approx(1 - 5 / 6)


def test_the_unit_does_not_matter() -> None:
    folds = [Disagreement(1, 0, 300, 1, 1e-5)] * 6
    points = _tests(DIFFERENCES, disagreements=folds, scale=100.0)
    fractions = _tests([value / 100 for value in DIFFERENCES], margin=0.01, disagreements=folds)
    assert points.p == pytest.approx(fractions.p)
    assert points.p_equivalent == pytest.approx(fractions.p_equivalent)


def test_fewer_than_three_folds_give_differences_alone() -> None:
    assert compare_folds([1.0, 2.0], 0.25, 1.0).tests is None
    assert compare_folds([1.0], 0.25, 1.0).difference == 1.0
    assert compare_folds([1.0, 2.0, 4.0], 0.25, 1.0).tests is not None


def test_the_share_of_folds_won_counts_ties_half_and_needs_five_folds() -> None:
    rounding = 0.1 + 0.2 - 0.3
    assert compare_folds([1, -1, rounding, 2, 3], 0.25, 1.0).share_won == pytest.approx((3 + 0.5) / 5)
    assert compare_folds([1, -1, 0, 2], 0.25, 1.0).share_won is None
    assert compare_folds([1, 1, 1, -1, 1, 1, 1, -1], 0.25, 1.0).often_better  # 6 of 8
    assert not compare_folds([1, 1, 1, -1, 0, 1, 1, -1], 0.25, 1.0).often_better
    assert not compare_folds([1, 1, 1, 1], 0.25, 1.0).often_better


def test_disagreement_is_mcnemars() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(1, 40)) < 0.7, rng.uniform(size=(1, 40)) < 0.6
    only_a = sum(bool(x and not y) for x, y in zip(a[0], b[0], strict=True))
    only_b = sum(bool(y and not x) for x, y in zip(a[0], b[0], strict=True))
    found = fold_disagreement(a, b)
    assert (found.only_a, found.only_b, found.num_samples, found.num_seeds) == (only_a, only_b, 40, 1)
    assert found.variance == pytest.approx((only_a + only_b - (only_a - only_b) ** 2 / 40) / 40**2)


def test_disagreement_of_several_seeds_is_that_of_their_mean_answers() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.uniform(size=(3, 25)) < 0.7, rng.uniform(size=(3, 25)) < 0.6
    means = [sum(int(a[s, n]) - int(b[s, n]) for s in range(3)) / 3 for n in range(25)]
    found = fold_disagreement(a, b)
    assert found.variance == pytest.approx(np.var(means) / 25)
    assert found.only_a == int((a & ~b).sum())


def test_equal_differences_take_the_test_samples_variance() -> None:
    folds = [Disagreement(only_a=6, only_b=3, num_samples=300, num_seeds=1, variance=(9 - 9 / 300) / 300**2)] * 5
    tests = _tests([1.0] * 5, disagreements=folds, scale=100.0)
    error = 100 * math.sqrt((9 - 9 / 300) / 300**2 * (1 / 5 + 0.25))
    assert tests.floored
    assert tests.p == pytest.approx(2 * stats.t.sf(1 / error, 4))
    assert tests.p > 0.05
    assert tests.plain.high - tests.plain.low > 0


def test_a_spread_the_test_sets_can_resolve_is_left_as_it_is() -> None:
    folds = [Disagreement(only_a=60, only_b=60, num_samples=300, num_seeds=1, variance=0.01)] * 6
    assert not _tests(DIFFERENCES, disagreements=folds, scale=100.0).floored
    close = [1.0, 1.1, 1.0, 1.1, 1.0, 1.1]  # one answer of 300 is .33 points
    assert _tests(close, disagreements=folds, scale=100.0).floored


def test_no_spread_and_no_counts_decide_nothing() -> None:
    tests = _tests([2.0] * 6)
    assert (tests.p, tests.p_equivalent, tests.p_not_worse, tests.posterior) == (1, 1, 1, None)


def test_a_spread_of_rounding_is_none() -> None:
    tests = _tests([0.1 + 0.2, 0.3, 0.4 - 0.1, 0.3, 0.3])
    assert tests.p == 1
    assert compare_folds([0.1 + 0.2, 0.3, 0.4 - 0.1], 0.25, 1.0).deviation == 0


@pytest.mark.parametrize(("num_samples", "equivalent"), [(40, False), (60, True)])
def test_identical_predictions_are_equivalent_only_as_far_as_their_number_shows(
    num_samples: int, equivalent: bool
) -> None:
    answers = np.ones((3, num_samples), dtype=bool)
    folds = [fold_disagreement(answers, answers)] * 6
    found = compare_folds([0.0] * 6, 0.25, margin=1.0, disagreements=folds, scale=100.0)
    assert found.identical
    assert found.tests is not None
    assert found.tests.p == 1
    assert found.tests.p_equivalent == pytest.approx(0.99 ** (6 * num_samples))
    assert (found.tests.p_equivalent < 0.05) == equivalent


def test_rho_is_the_folds_mean() -> None:
    assert mean_rho([100, 50], [400, 500]) == pytest.approx((0.25 + 0.1) / 2)
    with pytest.raises(ValueError, match="counts from 1"):
        mean_rho([10], [0])


@pytest.mark.parametrize(
    ("differences", "rho", "margin", "message"),
    [
        ([1.0, float("nan"), 2.0], 0.25, 1.0, "finite"),
        ([], 0.25, 1.0, "at least one"),
        ([1.0, 2.0, 3.0], -0.1, 1.0, "rho"),
        ([1.0, 2.0, 3.0], 0.25, 0.0, "margin"),
        ([1.0, 2.0, 3.0], 0.25, float("nan"), "margin"),
    ],
)
def test_bad_numbers_are_refused(differences: list[float], rho: float, margin: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_folds(differences, rho, margin)


def test_components_equal_the_balanced_analysis_of_variance() -> None:
    rng = np.random.default_rng(2)
    table = rng.normal(0, 2, (6, 1)) + rng.normal(0, 1, (6, 3))
    within = np.mean([np.var(row, ddof=1) for row in table])
    between = 3 * np.var([np.mean(row) for row in table], ddof=1)
    found = variance_components(list(table))
    assert found is not None
    assert (found.seed, found.fold) == pytest.approx((within, (between - within) / 3))
    assert between / within == pytest.approx(stats.f_oneway(*table).statistic)


def test_components_are_unbiased_with_lost_seeds() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(3000):
        folds = rng.normal(0, 2, (6, 1)) + rng.normal(0, 1, (6, 6))
        found.append(variance_components([*folds[:3, :1], *folds[3:]]))
    assert np.mean([one.fold for one in found if one]) == pytest.approx(4, rel=0.05)
    assert np.mean([one.seed for one in found if one]) == pytest.approx(1, rel=0.05)


def test_components_need_two_folds_and_a_second_seed() -> None:
    assert variance_components([[1.0], [2.0]]) is None
    assert variance_components([[1.0, 2.0]]) is None
    alike = variance_components([[1.0, 2.0], [1.0, 2.0]])
    assert alike is not None
    assert alike.fold == 0  # less between folds than chance gives: no negative variance


def test_what_narrows_more_follows_from_what_varies() -> None:
    of_folds, of_seeds = outlook(Components(4.0, 0.1), 6, 2), outlook(Components(0.01, 4.0), 6, 1)
    assert of_folds.narrows_more == "fold"
    assert of_seeds.narrows_more == "seed"
    assert of_folds.now == pytest.approx(stats.t.ppf(0.975, 5) * math.sqrt((4 + 0.1 / 2) / 6))
    assert of_folds.one_more_fold == pytest.approx(stats.t.ppf(0.975, 6) * math.sqrt((4 + 0.1 / 2) / 7))
    assert outlook(Components(0.0, 0.0), 6, 2).narrows_more == "neither"
    corrected = outlook(Components(4.0, 0.1), 6, 2, rho=1 / 4, rho_with_one_more=1 / 5)
    assert corrected.one_more_fold == pytest.approx(stats.t.ppf(0.975, 6) * math.sqrt((4 + 0.05) * (1 / 7 + 1 / 5)))
