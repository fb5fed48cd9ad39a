from __future__ import annotations

import itertools

import numpy as np
import pytest

from mmcore.analysis import selection_noise
from mmcore.analysis.selection_noise import best_of, expected_best, expected_maximum, shrinkage


def test_the_expected_maximum_is_the_tables() -> None:
    rounded = [round(expected_maximum(count), 2) for count in (1, 8, 16, 100)]
    assert rounded == [0.0, 1.42, 1.77, 2.51]
    assert expected_maximum(2) == pytest.approx(1 / np.sqrt(np.pi))
    assert expected_maximum(3) == pytest.approx(1.5 / np.sqrt(np.pi))


def test_the_expected_maximum_of_many_is_that_drawn() -> None:
    drawn = np.random.default_rng(0).normal(size=(2000, 1000)).max(axis=1).mean()
    assert expected_maximum(1000) == pytest.approx(drawn, abs=0.03)
    with pytest.raises(ValueError, match="1 or more"):
        expected_maximum(0)


def test_the_expected_best_is_that_of_all_choices() -> None:
    values = np.random.default_rng(0).normal(size=8)
    looped = [np.mean([max(chosen) for chosen in itertools.combinations(values, n)]) for n in range(1, 9)]
    np.testing.assert_allclose(expected_best(values), looped)
    many = expected_best(np.random.default_rng(0).normal(size=500))
    assert np.all(np.diff(many) >= 0)
    with pytest.raises(ValueError, match="finite"):
        expected_best([1.0, float("nan")])


def test_shrinkage_is_beside_what_noise_gives() -> None:
    found = shrinkage(82.0, [79.0, 80.0, 81.0], num_trials=8)
    assert found.fall == pytest.approx(2.0)
    assert found.by_noise == pytest.approx(1.0 * expected_maximum(8))
    assert found.fits_validation
    assert not shrinkage(81.0, [79.0, 80.0, 81.0], num_trials=8).fits_validation
    assert shrinkage(82.0, [80.0], num_trials=8).fits_validation is None
    with pytest.raises(ValueError, match="final scores"):
        shrinkage(82.0, [float("nan")], num_trials=8)


def _looped(scores: np.ndarray, sizes: np.ndarray, num_draws: int, seed: int) -> tuple[float, np.ndarray]:
    num_methods, num_units = scores.shape
    rng = np.random.default_rng(seed)
    kept, chosen, count = 0.0, np.zeros(num_methods), 0
    for draw in rng.multinomial(num_units, [1 / num_units] * num_units, size=num_draws):
        left = [unit for unit in range(num_units) if draw[unit] == 0]
        if not left:
            continue
        drawn = [unit for unit in range(num_units) for _ in range(draw[unit])]
        inside = [
            sum(scores[m, u] * sizes[u] for u in drawn) / sum(sizes[u] for u in drawn) for m in range(num_methods)
        ]
        outside = [sum(scores[m, u] * sizes[u] for u in left) / sum(sizes[u] for u in left) for m in range(num_methods)]
        best = [m for m in range(num_methods) if inside[m] >= max(inside) - 1e-9]
        kept += sum(outside[m] for m in best) / len(best)
        chosen[best] += 1 / len(best)
        count += 1
    return kept / count, chosen / count


def test_best_of_equals_a_loop_over_its_draws() -> None:
    rng = np.random.default_rng(1)
    scores, sizes = rng.uniform(0.6, 0.8, size=(4, 5)).round(2), np.array([10, 20, 15, 30, 5])
    scores[3] = scores[2]  # two alike: they share what they win
    found = best_of(scores, sizes, num_draws=300, seed=3)
    corrected, chosen = _looped(scores, sizes, 300, 3)
    assert found is not None
    assert found.corrected == pytest.approx(corrected)
    np.testing.assert_allclose(found.chosen, chosen)
    assert found.chosen[2] == found.chosen[3]
    assert found.observed == pytest.approx(max(np.average(row, weights=sizes) for row in scores))


def test_methods_that_differ_by_rounding_share_the_draws() -> None:
    found = best_of(np.array([[0.3] * 6, [0.1 + 0.2] * 6, [0.2] * 6]), np.ones(6))
    assert found is not None
    assert found.chosen == (0.5, 0.5, 0.0)


def test_draws_made_in_parts_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, sizes = np.random.default_rng(1).uniform(0.6, 0.8, size=(4, 5)), np.ones(5)
    whole = best_of(scores, sizes, num_draws=50)
    monkeypatch.setattr(selection_noise, "MOST_NUMBERS", 35)
    assert best_of(scores, sizes, num_draws=50) == whole


def test_best_of_takes_back_what_the_choice_added() -> None:
    rng = np.random.default_rng(2)
    observed, corrected = [], []
    for _ in range(200):  # ten methods of one true score, .7
        found = best_of(rng.binomial(20, 0.7, size=(10, 30)) / 20, np.full(30, 20), num_draws=200)
        assert found is not None
        observed.append(found.observed)
        corrected.append(found.corrected)
    assert np.mean(observed) > 0.72
    assert np.mean(corrected) == pytest.approx(0.7, abs=0.003)


def test_a_clearly_best_method_is_chosen_in_every_draw() -> None:
    found = best_of(np.array([[0.9] * 6, [0.5] * 6, [0.4] * 6]), np.ones(6))
    assert found is not None
    assert found.chosen == (1.0, 0.0, 0.0)
    assert found.corrected == pytest.approx(0.9)


def test_best_of_needs_two_units_and_numbers() -> None:
    assert best_of(np.array([[0.9], [0.5]]), np.ones(1)) is None
    with pytest.raises(ValueError, match="finite"):
        best_of(np.array([[0.9, float("nan")]]), np.ones(2))
    with pytest.raises(ValueError, match="sizes"):
        best_of(np.array([[0.9, 0.8]]), np.zeros(2))
