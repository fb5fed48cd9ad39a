from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mmcore.analysis.intervals import (
    Interval,
    best_so_far,
    choose_clusters,
    cluster_sums,
    mean_curve,
    mean_interval,
    mean_steps,
    paired_bootstrap,
    seed_share,
    small_sample_factor,
)


def _answers(
    rng: np.random.Generator, num_seeds: int, clusters: np.ndarray, gain: float, seed_sd: float, cluster_sd: float
) -> tuple[np.ndarray, np.ndarray]:
    """Right answers of A and B, whose accuracy differs by `gain` in the long run; samples share their difficulty."""
    effects = rng.normal(0, cluster_sd, (2, clusters.max() + 1))[:, clusters]
    difficulty = rng.uniform(size=len(clusters))
    answers = []
    for base, effect in zip((0.7 + gain, 0.7), effects, strict=True):
        level = base + rng.normal(0, seed_sd, (num_seeds, 1)) + effect
        own = rng.uniform(size=(num_seeds, len(clusters)))
        shared = rng.uniform(size=own.shape) < 0.6
        answers.append(np.where(shared, difficulty, own) < level)
    return answers[0], answers[1]


def test_mean_interval_is_students() -> None:
    values = [0.71, 0.74, 0.69, 0.75]
    mean, half_width = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_mean_interval_needs_three_values() -> None:
    assert mean_interval([0.5]) == (0.5, None)
    assert mean_interval([0.5, 0.7]) == (pytest.approx(0.6), None)
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_cluster_sums_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    clusters = np.array(["b", "a", "c", "a", "c", "c", "b"])
    a, b = rng.uniform(size=(3, 7)) < 0.6, rng.uniform(size=(3, 7)) < 0.6
    sums, sizes = cluster_sums(list(a), list(b), clusters)
    for column, name in enumerate("abc"):
        chosen = [index for index in range(7) if clusters[index] == name]
        assert sizes[column] == len(chosen)
        for seed in range(3):
            assert sums[seed, column] == sum(int(a[seed, i]) - int(b[seed, i]) for i in chosen)


def _naive_bootstrap(a: np.ndarray, b: np.ndarray, clusters: np.ndarray, num_resamples: int) -> Interval:
    """Every resample drawn sample by sample and seed by seed, as the docstring of `paired_bootstrap` says."""
    rng = np.random.default_rng(99)
    difference = a.astype(float) - b
    num_seeds, members = len(a), [np.flatnonzero(clusters == name) for name in np.unique(clusters)]
    mean, by_seed = difference.mean(), difference.mean(axis=1)
    share = seed_share(*cluster_sums(a, b, clusters))
    resamples = []
    for _ in range(num_resamples):
        rows = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        seeds = rng.integers(0, num_seeds, num_seeds)
        from_clusters = small_sample_factor(len(members)) * (difference[:, rows].mean() - mean)
        from_seeds = small_sample_factor(num_seeds) * share * (by_seed[seeds].mean() - mean)
        resamples.append(mean + from_clusters + from_seeds)
    low, high = np.quantile(resamples, [0.025, 0.975])
    return Interval(mean, low, high)


def test_bootstrap_equals_a_naive_loop() -> None:
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(25), rng.integers(1, 30, 25))
    a, b = _answers(rng, 4, clusters, 0.05, 0.03, 0.05)
    got = paired_bootstrap(list(a), list(b), clusters, num_resamples=20_000)
    expected = _naive_bootstrap(a, b, clusters, 4_000)
    assert got is not None
    assert got.mean == pytest.approx(expected.mean)
    width = expected.high - expected.low
    assert got.low == pytest.approx(expected.low, abs=0.04 * width)  # both draw at random
    assert got.high == pytest.approx(expected.high, abs=0.04 * width)


def test_pooling_equal_clusters_is_the_same_resampling() -> None:
    """Where every sample is a cluster there are few kinds of them; the naive loop draws each by itself."""
    rng = np.random.default_rng(4)
    clusters = np.arange(500)
    a, b = _answers(rng, 3, clusters, 0.05, 0.03, 0.0)
    got, expected = paired_bootstrap(a, b, clusters, 20_000), _naive_bootstrap(a, b, clusters, 4_000)
    assert got is not None
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=0.04 * (got.high - got.low))


@pytest.mark.parametrize(
    ("num_seeds", "num_clusters", "per_cluster", "seed_sd", "cluster_sd"),
    [(3, 300, 1, 0.0, 0.0), (3, 1000, 1, 0.02, 0.0), (5, 6, 50, 0.0, 0.05), (3, 30, 10, 0.02, 0.05)],
)
def test_coverage(num_seeds: int, num_clusters: int, per_cluster: int, seed_sd: float, cluster_sd: float) -> None:
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(num_clusters), per_cluster)
    hits = 0
    for _ in range(300):
        a, b = _answers(rng, num_seeds, clusters, 0.03, seed_sd, cluster_sd)
        interval = paired_bootstrap(a, b, clusters, num_resamples=600)
        assert interval is not None
        hits += interval.low <= 0.03 <= interval.high
    assert 0.90 <= hits / 300 <= 0.99


def test_bootstrap_is_reproducible_and_antisymmetric() -> None:
    clusters = np.repeat(np.arange(20), 5)
    a, b = _answers(np.random.default_rng(1), 3, clusters, 0.05, 0.02, 0.02)
    one, again, swapped = (paired_bootstrap(*pair, clusters) for pair in ((a, b), (a, b), (b, a)))
    assert one == again
    assert one is not None
    assert swapped is not None
    assert swapped.mean == pytest.approx(-one.mean)


def test_same_answers_differ_by_nothing() -> None:
    a = np.random.default_rng(1).uniform(size=(3, 40)) < 0.7
    assert paired_bootstrap(a, a, np.arange(40)) == Interval(0, 0, 0)


def test_no_interval_for_two_seeds_or_one_cluster() -> None:
    a = np.ones((3, 10), dtype=bool)
    assert paired_bootstrap(a[:2], ~a[:2], np.arange(10)) is None
    assert paired_bootstrap(a, ~a, np.zeros(10)) is None


@pytest.mark.parametrize(
    ("shape_a", "shape_b", "num_clusters"),
    [((3, 4), (3, 5), 4), ((3, 4), (2, 4), 4), ((3, 4), (3, 4), 5), ((3, 0), (3, 0), 0)],
)
def test_answers_that_do_not_pair(shape_a: tuple[int, ...], shape_b: tuple[int, ...], num_clusters: int) -> None:
    with pytest.raises(ValueError, match="paired answers must be"):
        paired_bootstrap(np.ones(shape_a), np.ones(shape_b), np.arange(num_clusters))


def test_clusters_are_groups_where_there_are_five() -> None:
    groups, sources = ["a", "b", "c", "d", "e", "a"], ["1", "2", "3", "4", "5", "6"]
    clusters, note = choose_clusters(groups, sources)
    assert clusters.tolist() == [0, 1, 2, 3, 4, 0]
    assert note == ""


def test_clusters_are_sources_within_few_groups() -> None:
    clusters, note = choose_clusters(["a", "b", "c", "d"], ["y", "x", "x", "y"], noun="speakers")
    assert clusters.tolist() == [1, 0, 0, 1]
    assert note == "within these speakers"


def test_the_best_so_far_never_falls_and_skips_what_was_not_measured() -> None:
    assert best_so_far([math.nan, 0.3, 0.2, math.nan, 0.5, 0.4]).tolist()[1:] == [0.3, 0.3, 0.3, 0.5, 0.5]
    assert math.isnan(best_so_far([math.nan, 0.3])[0])


def test_a_curve_that_ended_keeps_its_last_value_in_the_mean() -> None:
    assert mean_curve([[0.2, 0.4], [0.4, 0.6, 0.8, 1.0]]).tolist() == pytest.approx([0.3, 0.5, 0.6, 0.7])
    assert math.isnan(mean_curve([[math.nan, 0.4], [0.4, 0.6]])[0])
    with pytest.raises(ValueError, match="at least one curve"):
        mean_curve([])
    with pytest.raises(ValueError, match="each a value"):
        mean_curve([[0.1], []])


def test_steps_hold_their_value_until_the_next_and_begin_where_all_have_one() -> None:
    found = mean_steps([([1, 4], [10, 20]), ([2, 3, 9], [0, 8, 10])])
    assert found.costs.tolist() == [2, 3, 4, 9]
    assert found.mean.tolist() == [5, 9, 14, 15]
    assert found.low.tolist() == [0, 8, 8, 10]
    assert found.high.tolist() == [10, 10, 20, 20]
    assert [found.at(cost) for cost in (1.9, 2, 3.5, 100)] == [None, 5, 9, 15]


@pytest.mark.parametrize(
    "curves", [[], [([], [])], [([1, 2], [3])], [([2, 1], [3, 4])], [([1], [math.nan])]], ids=str
)  # fmt: skip
def test_steps_are_refused_where_they_are_none(curves: list[tuple[list[float], list[float]]]) -> None:
    with pytest.raises(ValueError, match=r"mean_steps needs curves|must be finite numbers"):
        mean_steps(curves)
