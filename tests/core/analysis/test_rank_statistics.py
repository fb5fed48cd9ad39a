from __future__ import annotations

import itertools
import math
import string

import baycomp
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from scipy import stats

from mmcore.analysis.rank_statistics import (
    alike_runs,
    datasets_needed,
    doubled_ranks,
    friedman,
    mean_ranks,
    pairwise_wilcoxon,
    signed_rank_probabilities,
    wilcoxon,
)

# Areas under the curve of four kinds of one tree on 14 data sets; tables 2 and 6 of Demšar 2006. (The third and fourth
# of `voting` are ranked 2 and 3 there, by digits that are not printed.)
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def _enumerated(differences: list[float]) -> float:
    """Wilcoxon with Pratt's zeros, all signs written out."""
    ranks = stats.rankdata(np.abs(differences))
    moving = [rank for rank, value in zip(ranks, differences, strict=True) if value != 0]
    signed = abs(sum(rank * np.sign(value) for rank, value in zip(ranks, differences, strict=True)))
    sums = [
        abs(sum(s * r for s, r in zip(signs, moving, strict=True)))
        for signs in itertools.product([1, -1], repeat=len(moving))
    ]
    return float(np.mean([value >= signed - 1e-9 for value in sums]))


@pytest.mark.parametrize("seed", range(12))
def test_wilcoxon_equals_the_enumeration_with_zeros_and_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.integers(-3, 5, size=rng.integers(5, 12)).tolist()
    assert wilcoxon(differences) == pytest.approx(_enumerated(differences), rel=1e-9)


def test_wilcoxon_without_zeros_is_scipys() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, size=13)
    assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
    assert wilcoxon([0.0] * 10) == 1  # where scipy's exact method with Pratt's zeros gives .002


def test_wilcoxon_on_demsars_first_table() -> None:
    differences = DEMSAR[:, 1] - DEMSAR[:, 0]
    ranks = doubled_ranks(np.abs(differences.round(9))) / 2
    lost = ranks[differences < 0].sum() + ranks[differences == 0].sum() / 2
    assert lost == pytest.approx(12)  # the sum his page 9 gives, zeros split
    assert wilcoxon(differences) == pytest.approx(_enumerated(differences.round(9).tolist()))
    assert wilcoxon(differences) < 0.05


def test_ties_hidden_by_rounding_are_ties() -> None:
    assert doubled_ranks([0.1 + 0.2, 0.3, 0.5]).tolist() == [3, 3, 6]
    assert wilcoxon([0.1 + 0.2 - 0.3, 1, 2, 3, 4, 5]) == wilcoxon([0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize(("family_size", "needed"), [(1, 6), (5, 8), (17, 10)])
def test_datasets_needed(family_size: int, needed: int) -> None:
    assert datasets_needed(family_size) == needed
    assert family_size * 2.0 ** (1 - needed) < 0.05 <= family_size * 2.0 ** (2 - needed)


@pytest.mark.parametrize("mean", [-1.5, 0.0, 0.8, 2.0])
def test_the_probabilities_over_data_sets_are_baycomps(mean: float) -> None:
    differences = np.random.default_rng(5).normal(mean, 1.0, size=9)
    theirs = baycomp.two_on_multiple(np.zeros(9), differences, rope=1.0, nsamples=20_000, random_state=1)
    ours = signed_rank_probabilities(differences, margin=1.0, num_draws=20_000)
    assert ours is not None
    assert (ours.worse, ours.within, ours.better) == pytest.approx(theirs, abs=0.015)
    assert ours == signed_rank_probabilities(differences, margin=1.0, num_draws=20_000)


def test_probabilities_need_five_data_sets() -> None:
    assert signed_rank_probabilities([1.0, 2.0, 3.0, 4.0], margin=1.0) is None
    with pytest.raises(ValueError, match="margin"):
        signed_rank_probabilities([1.0] * 6, margin=0.0)
    with pytest.raises(ValueError, match="finite"):
        signed_rank_probabilities([1.0, float("nan"), 1, 1, 1], margin=1.0)


def test_friedman_on_demsars_second_table() -> None:
    found = friedman(DEMSAR)
    assert found.mean_ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    # He does not correct for ties: three pairs and one of four in 14 rows.
    uncorrected = found.chi2 * (1 - (3 * (2**3 - 2) + (4**3 - 4)) / (14 * 4 * (4**2 - 1)))
    assert uncorrected == pytest.approx(9.28, abs=0.01)
    assert 13 * uncorrected / (14 * 3 - uncorrected) == pytest.approx(3.69, abs=0.01)


def test_friedman_is_scipys_with_ties_and_demsars_f() -> None:
    scores = np.random.default_rng(1).integers(0, 6, size=(9, 5)).astype(float)
    found = friedman(scores)
    theirs = stats.friedmanchisquare(*scores.T)
    assert (found.chi2, found.p_chi2) == pytest.approx((theirs.statistic, theirs.pvalue))
    f = 8 * found.chi2 / (9 * 4 - found.chi2)
    assert (found.f, found.p) == pytest.approx((f, stats.f.sf(f, 4, 32)))


def test_friedman_at_its_ends() -> None:
    alike, agreed = friedman(np.ones((6, 3))), friedman(np.tile([3.0, 2.0, 1.0], (6, 1)))
    assert (alike.chi2, alike.p, alike.mean_ranks) == (0, 1, (2, 2, 2))
    assert agreed.f == math.inf
    assert agreed.p == pytest.approx(6.0**-5)
    assert agreed.mean_ranks == (1, 2, 3)


def test_pairs_are_corrected_over_all_of_them() -> None:
    scores = np.random.default_rng(2).normal(size=(10, 4)) + np.array([0, 1, 2, 2])
    found = pairwise_wilcoxon(scores)
    frame = pd.DataFrame(scores, columns=list("abcd")).melt()
    theirs = scikit_posthocs.posthoc_wilcoxon(
        frame, val_col="value", group_col="variable", method="exact", p_adjust="holm"
    )
    np.testing.assert_allclose(found, theirs.to_numpy())


def _their_bars(scores: np.ndarray) -> list[list[float]]:
    """The mean ranks of the methods under each bar of scikit-posthocs' diagram."""
    mpl.use("agg")
    names = list(string.ascii_lowercase[: scores.shape[1]])
    frame = pd.DataFrame(pairwise_wilcoxon(scores), index=names, columns=names)
    ranks = dict(zip(names, mean_ranks(scores), strict=True))
    drawn = scikit_posthocs.critical_difference_diagram(ranks, frame)["crossbars"]
    return sorted(sorted(bar[0].get_xdata().tolist()) for bar in drawn)


@pytest.mark.parametrize("seed", range(4))
def test_bars_are_those_of_scikit_posthocs_where_alike_methods_are_neighbours(seed: int) -> None:
    levels = np.repeat([0.0, 2.0, 4.0], [2, 1 + seed, 2])
    scores = np.random.default_rng(seed).normal(size=(14, len(levels)), scale=0.4) + levels
    runs, ranks = alike_runs(scores), mean_ranks(scores)
    assert runs is not None
    assert len(runs) == (3 if seed else 2)
    assert [ranks[list(run)].tolist() for run in runs] == _their_bars(scores)


def test_a_bar_never_spans_a_method_that_differs() -> None:
    """Steadily a little better twice, but for two lost by far each time: both ends cannot be told apart any more."""
    steps = np.arange(1, 21) / 100
    first, second = steps.copy(), steps.copy()
    first[:2], second[2:4] = -10, -11
    scores = np.stack([first + second, second, np.zeros(20)], axis=1)
    p = pairwise_wilcoxon(scores)
    assert mean_ranks(scores).tolist() == [1.3, 2.0, 2.7]
    assert p[0, 2] >= 0.05 > max(p[0, 1], p[1, 2])
    assert alike_runs(scores) == []
    assert len(_their_bars(scores)) == 1  # theirs lies over all three


def test_runs_against_a_plain_search() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = rng.normal(size=(13, 6)) * rng.uniform(0.2, 2, 6) + rng.normal(0, 0.7, 6)
        order = np.argsort(mean_ranks(scores), kind="stable")
        p = pairwise_wilcoxon(scores)
        spans = [
            tuple(order[i:j].tolist())
            for i in range(6)
            for j in range(i + 2, 7)
            if all(p[a, b] >= 0.05 for a, b in itertools.combinations(order[i:j], 2))
        ]
        maximal = [span for span in spans if not any(set(span) < set(other) for other in spans)]
        assert alike_runs(scores) == maximal


def test_no_bars_where_nothing_could_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    assert alike_runs(rng.normal(size=(20, 2))) is None
    assert alike_runs(rng.normal(size=(6, 3))) is None  # 3 pairs: 7 data sets at least
    assert alike_runs(rng.normal(size=(7, 3))) is not None


def test_what_is_no_table_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        friedman([[1.0, float("nan")], [1.0, 2.0]])
    with pytest.raises(ValueError, match="data sets by methods"):
        mean_ranks([1.0, 2.0])
    with pytest.raises(ValueError, match="2 data sets"):
        friedman([[1.0, 2.0]])
    with pytest.raises(ValueError, match="finite"):
        wilcoxon([1.0, float("nan")])
