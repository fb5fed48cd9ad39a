from __future__ import annotations

import itertools

import numpy as np
import pytest

from mmcore.analysis.sign_flips import SMALLEST_P, compare_split, sign_flip_p


def _enumerated(values: list[int]) -> float:
    observed, far, total = abs(sum(values)), 0, 0
    for signs in itertools.product([1, -1], repeat=len(values)):
        total += 1
        far += abs(sum(sign * value for sign, value in zip(signs, values, strict=True))) >= observed
    return far / total


@pytest.mark.parametrize("seed", range(12))
def test_p_equals_the_enumeration_of_all_flips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-6, 9, size=rng.integers(1, 11)).tolist()
    assert sign_flip_p(values) == pytest.approx(_enumerated(values), rel=1e-9)


def test_the_unit_of_the_values_does_not_matter() -> None:
    values = [3, -1, 2, 2, -4, 7]
    assert sign_flip_p([6 * value for value in values]) == sign_flip_p(values) == pytest.approx(_enumerated(values))


def test_p_of_many_clusters_equals_drawn_flips() -> None:
    values = np.random.default_rng(0).integers(-4, 6, size=60)
    signs = np.random.default_rng(1).choice([-1, 1], size=(200_000, 60))
    drawn = (np.abs(signs @ values) >= abs(values.sum())).mean()
    assert sign_flip_p(values) == pytest.approx(drawn, abs=0.004)


def test_p_of_ten_thousand_samples_is_the_sign_tests() -> None:
    from scipy import stats

    values = np.repeat([1, -1, 0], [1_100, 1_000, 7_900])
    assert sign_flip_p(values) == pytest.approx(stats.binomtest(1_100, 2_100).pvalue, rel=1e-6)


def test_the_smallest_p_is_two_flips_of_all() -> None:
    assert sign_flip_p([3, 1, 4, 1, 5]) == pytest.approx(2.0**-4)
    assert sign_flip_p([7]) == 1
    assert sign_flip_p([0, 0, 0]) == 1
    assert sign_flip_p(np.full(500, 3)) == SMALLEST_P


@pytest.mark.parametrize("num_clusters", range(6, 40))
def test_rounding_never_leads_under_the_smallest_p(num_clusters: int) -> None:
    smallest = 2.0 ** (1 - num_clusters)
    assert smallest <= sign_flip_p(np.arange(1, num_clusters + 1)) <= smallest * 1.01


def test_a_split_is_compared_by_clusters() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.uniform(size=(3, 90)) < 0.8, rng.uniform(size=(3, 90)) < 0.6
    clusters = np.repeat(np.arange(9), 10)
    sums = [int(a[:, clusters == c].sum()) - int(b[:, clusters == c].sum()) for c in range(9)]
    found = compare_split(list(a), list(b), clusters)
    assert found.num_clusters == 9
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.p == pytest.approx(_enumerated(sums))


@pytest.mark.parametrize("values", [[], [0.5, 1.0], [[1, 2]], [1.0, float("nan")]])
def test_what_is_no_list_of_integers_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="integers"):
        sign_flip_p(values)
