"""Weights by which the logits of networks trained apart are summed, fitted on validation.

Shape legend: N samples, K classes, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import minimize

SCALE_PENALTY, SHARE_PENALTY = 0.5, 2.0
"""Of the common scale's logarithm and of each modality's share, squared: few samples keep both near 0."""


def fit_logit_weights(
    logits: Mapping[str, np.ndarray], labels: np.ndarray, present: Mapping[str, np.ndarray] | None = None
) -> dict[str, float]:
    """Returns modality -> a_m > 0, so that z = sum_m a_m z_m is the likeliest, by few parameters held near 1.

    a_m = exp(b + u_m) with sum_m u_m = 0 minimises sum_i NLL_i(z_i) + b²/2 + 2 sum_m u_m². Without samples all are 1,
    and the sum decides as the plain mean does.

    Args:
        logits: Modality -> (N, K).
        labels: (N,) class indices.
        present: Modality -> (N,) bool, of modalities that samples may lack; their logits are left out of the sum.

    Raises:
        ValueError: A logit is not finite.
    """
    names = list(logits)
    stacked = np.stack(
        [_masked(np.asarray(logits[name], dtype=np.float64), (present or {}).get(name)) for name in names]
    )
    if not np.isfinite(stacked).all():
        raise ValueError("logits must be finite")
    labels = np.asarray(labels)
    found = minimize(_objective, np.zeros(len(names) + 1), args=(stacked, labels), jac=True, method="L-BFGS-B")
    return dict(zip(names, _weights(found.x).tolist(), strict=True))


def weighted_sum(
    logits: Mapping[str, np.ndarray],
    weights: Mapping[str, float],
    present: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Returns sum_m a_m z_m over the modalities each sample has, (N, K) float64; 0 where it has none."""
    parts = [
        weights[name] * _masked(np.asarray(values, dtype=np.float64), (present or {}).get(name))
        for name, values in logits.items()
    ]
    summed: np.ndarray = np.sum(parts, axis=0)
    return summed


def _masked(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return values if mask is None else np.where(np.asarray(mask)[:, None], values, 0.0)


def _weights(parameters: np.ndarray) -> np.ndarray:
    """Returns (M,) weights of (b, v_1, ..., v_M): u_m = v_m minus the mean of all."""
    scale, shares = parameters[0], parameters[1:] - parameters[1:].mean()
    weights: np.ndarray = np.exp(scale + shares)
    return weights


def _objective(parameters: np.ndarray, stacked: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the penalised loss at (b, v) and its gradient."""
    weights, shares = _weights(parameters), parameters[1:] - parameters[1:].mean()
    summed = np.einsum("m,mnk->nk", weights, stacked)
    shifted = summed - summed.max(axis=1, keepdims=True, initial=-np.inf)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    loss = -log_probabilities[rows, labels].sum()
    errors = np.exp(log_probabilities)
    errors[rows, labels] -= 1
    # dz/da_m = z_m, and a_m is an exponential of both b and u_m.
    by_weight = weights * np.einsum("nk,mnk->m", errors, stacked)
    by_share = by_weight + 2 * SHARE_PENALTY * shares
    gradient = np.concatenate([[by_weight.sum() + 2 * SCALE_PENALTY * parameters[0]], by_share - by_share.mean()])
    penalty = SCALE_PENALTY * parameters[0] ** 2 + SHARE_PENALTY * (shares**2).sum()
    return float(loss + penalty), gradient
