from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mmcore.analysis.profiles import common_scale, profile


def _runs(rng: np.random.Generator, num_sets: int = 3, num_folds: int = 4, num_seeds: int = 2) -> list[np.ndarray]:
    return [rng.normal(1, 0.3, (num_folds, num_seeds)) for _ in range(num_sets)]


def test_the_common_scale_has_chance_at_0_and_the_reference_at_1() -> None:
    np.testing.assert_allclose(common_scale([[25.0, 50.0], [75.0, 100.0]], 25, 75), [[0, 0.5], [1, 1.5]])
    with pytest.raises(ValueError, match="above chance"):
        common_scale([50.0], chance=50, reference=50)
    with pytest.raises(ValueError, match="finite"):
        common_scale([float("nan")], chance=50, reference=60)


def test_the_middle_is_the_trimmed_mean_and_the_profile_a_share() -> None:
    runs = _runs(np.random.default_rng(0))
    found = profile(runs, [0.5, 1.0])
    everything = np.concatenate(runs).ravel()
    assert found.middle.mean == pytest.approx(stats.trim_mean(everything, 0.25))
    assert [one.mean for one in found.above] == pytest.approx([(everything > 0.5).mean(), (everything > 1).mean()])
    assert found.levels == (0.5, 1.0)
    assert found.middle.low < found.middle.mean < found.middle.high
    assert found == profile(runs, [0.5, 1.0])


def test_sets_and_folds_count_alike_however_many_runs_they_have() -> None:
    few, many = [[0.0]], [[1.0, 1.0, 1.0], [3.0]]
    # Weights: ½ at 0, ¼ at 1, ¼ at 3; between the quarters lie ¼ at 0 and ¼ at 1.
    found = profile([few, many], [0.5, 2.0])
    assert found.middle.mean == pytest.approx(0.5)
    assert [one.mean for one in found.above] == pytest.approx([0.5, 0.25])


def test_folds_are_drawn_inside_their_set() -> None:
    """Against a loop that draws the same folds and sorts their runs."""
    runs = _runs(np.random.default_rng(1), num_sets=2)
    rng, middles = np.random.default_rng(5), []
    drawn = [rng.multinomial(4, [0.25] * 4, size=300) for _ in runs]
    for resample in range(300):
        scores = [
            score
            for of_set, counts in zip(runs, drawn, strict=True)
            for fold, count in zip(of_set, counts[resample], strict=True)
            for _ in range(count)
            for score in fold
        ]
        middles.append(stats.trim_mean(scores, 0.25))
    low, high = np.quantile(middles, [0.025, 0.975])
    found = profile(runs, [1.0], num_resamples=300, seed=5)
    assert (found.middle.low, found.middle.high) == pytest.approx((low, high))


@pytest.mark.parametrize("runs", [[], [[]], [[[]]], [[[float("nan")]]]])
def test_what_is_empty_or_no_number_is_refused(runs: list[list[list[float]]]) -> None:
    with pytest.raises(ValueError, match=r"at least one"):
        profile(runs, [0.5])
