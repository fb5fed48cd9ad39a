"""The weights of networks trained apart: by the equation in a plain loop, and what few or no samples leave of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import check_grad

from mmcore.analysis.logit_weights import _objective, fit_logit_weights, weighted_sum


def drawn(samples: int, good: float, poor: float, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits of two modalities whose right class stands out by so much."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=samples)
    right = np.eye(4)[labels]
    return {
        "image": good * right + generator.normal(size=(samples, 4)),
        "audio": poor * right + generator.normal(size=(samples, 4)),
    }, labels


def naive(scale: float, shares: list[float], logits: dict[str, np.ndarray], labels: np.ndarray) -> float:
    total = 0.5 * scale**2 + 2 * sum(share**2 for share in shares)
    for sample, label in enumerate(labels):
        z = [
            sum(
                math.exp(scale + share) * values[sample][k]
                for share, values in zip(shares, logits.values(), strict=True)
            )
            for k in range(4)
        ]
        total += math.log(sum(math.exp(value) for value in z)) - z[label]
    return total


def test_the_objective_is_the_equation() -> None:
    logits, labels = drawn(20, 2.0, 0.5)
    stacked = np.stack(list(logits.values()))
    for scale, share in ((0.0, 0.0), (0.3, -0.2), (-1.0, 0.7)):
        value, _ = _objective(np.array([scale, share, -share]), stacked, labels)
        assert value == pytest.approx(naive(scale, [share, -share], logits, labels), rel=1e-12)
    assert check_grad(lambda x: _objective(x, stacked, labels)[0], lambda x: _objective(x, stacked, labels)[1],
                      np.array([0.2, 0.5, -0.1])) < 1e-4  # fmt: skip


def test_the_fit_is_the_least_of_a_fine_grid() -> None:
    logits, labels = drawn(30, 1.5, 0.2)
    weights = fit_logit_weights(logits, labels)
    scale = (math.log(weights["image"]) + math.log(weights["audio"])) / 2
    share = math.log(weights["image"]) - scale
    grid = [(a, b) for a in np.linspace(-1, 1, 41) for b in np.linspace(-1, 1, 41)]
    least = min(naive(a, [b, -b], logits, labels) for a, b in grid)
    assert naive(scale, [share, -share], logits, labels) <= least + 1e-6
    assert weights["image"] > weights["audio"], "what tells more counts more"


def test_without_samples_and_for_equal_modalities_it_is_the_plain_mean() -> None:
    none = {"image": np.zeros((0, 4)), "audio": np.zeros((0, 4))}
    assert fit_logit_weights(none, np.zeros(0, dtype=int)) == {"image": 1.0, "audio": 1.0}
    logits, labels = drawn(50, 1.0, 1.0)
    twins = {"image": logits["image"], "audio": logits["image"]}
    weights = fit_logit_weights(twins, labels)
    assert weights["image"] == pytest.approx(weights["audio"], rel=1e-6)


def test_few_samples_keep_near_the_mean_and_many_leave_it() -> None:
    ratios = []
    for samples in (4, 40, 4000):
        logits, labels = drawn(samples, 2.0, 0.0)
        weights = fit_logit_weights(logits, labels)
        ratios.append(weights["image"] / weights["audio"])
    assert 1 < ratios[0] < 1.6
    assert ratios[0] < ratios[1] < ratios[2]
    assert ratios[2] > 5


def test_a_missing_modality_is_left_out_of_the_sum() -> None:
    logits, labels = drawn(40, 1.0, 1.0)
    has = np.arange(40) % 2 == 0
    spoilt = {"image": logits["image"], "audio": np.where(has[:, None], logits["audio"], 1e6)}
    zeroed = {"image": logits["image"], "audio": np.where(has[:, None], logits["audio"], 0.0)}
    assert fit_logit_weights(spoilt, labels, {"audio": has}) == fit_logit_weights(zeroed, labels)
    weights = {"image": 2.0, "audio": 0.5}
    summed = weighted_sum(spoilt, weights, {"audio": has})
    assert np.allclose(summed, 2.0 * logits["image"] + 0.5 * zeroed["audio"])


def test_order_and_names_change_nothing() -> None:
    logits, labels = drawn(40, 1.0, 0.3)
    one, other = fit_logit_weights(logits, labels), fit_logit_weights(dict(reversed(logits.items())), labels)
    assert one["image"] == pytest.approx(other["image"], rel=1e-5)


def test_what_is_not_finite_is_refused() -> None:
    logits, labels = drawn(4, 1.0, 1.0)
    logits["image"][0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        fit_logit_weights(logits, labels)
