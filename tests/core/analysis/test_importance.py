from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmcore.analysis.importance import MIN_TRIALS, parameter_importance


def trials(count: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {"lr": float(10 ** generator.uniform(-4, -1)), "alpha": float(generator.uniform()),
         "fusion": str(generator.choice(["sum", "concat", "film"]))}
        for _ in range(count)
    ]  # fmt: skip


def test_the_setting_that_decides_comes_first_and_the_others_near_zero() -> None:
    values = trials(60)
    found = parameter_importance(values, [-abs(np.log10(entry["lr"]) + 2) for entry in values])
    assert next(iter(found.shares)) == "lr"
    assert found.shares["lr"] > 0.8
    assert all(abs(share) < 0.1 for name, share in found.shares.items() if name != "lr")
    assert found.explained is not None
    assert 0.8 < found.explained <= 1
    assert found.num_trials == 60


def test_a_category_counts_like_a_number() -> None:
    values = trials(60)
    found = parameter_importance(
        values, [{"sum": 0.5, "concat": 0.9, "film": 0.6}[entry["fusion"]] for entry in values]
    )
    assert next(iter(found.shares)) == "fusion"


def test_what_folds_differ_by_is_no_setting() -> None:
    values = [{**entry, "fold_like": number % 3} for number, entry in enumerate(trials(60))]
    objectives = [entry["fold_like"] + 0.1 * entry["alpha"] for entry in values]
    folds = [entry["fold_like"] for entry in values]
    assert next(iter(parameter_importance(values, objectives).shares)) == "fold_like"
    assert next(iter(parameter_importance(values, objectives, folds).shares)) == "alpha"


@pytest.mark.parametrize(
    ("count", "objective", "reason"),
    [
        (MIN_TRIALS - 1, lambda entry: entry["lr"], "19 trials with a result; at least 20"),
        (MIN_TRIALS, lambda entry: 0.5, "the same result"),
        (0, lambda entry: 0.5, "0 trials"),
    ],
)
def test_too_little_to_go_by_is_said(count: int, objective: Any, reason: str) -> None:
    values = trials(count)
    found = parameter_importance(values, [objective(entry) for entry in values])
    assert reason in found.reason
    assert found.shares == {}


def test_a_single_setting_has_nothing_to_be_compared_with() -> None:
    values = [{"lr": entry["lr"], "fixed": 1} for entry in trials(30)]
    found = parameter_importance(values, [entry["lr"] for entry in values])
    assert found.reason == "fewer than two settings differ among the trials (only lr)"


def test_noise_is_not_explained() -> None:
    noise = np.random.default_rng(1).normal(size=40).tolist()
    found = parameter_importance(trials(40), noise)
    assert "do not foretell" in found.reason
    assert found.shares == {}


def test_the_same_trials_give_the_same_answer() -> None:
    values = trials(25)
    objectives = [entry["alpha"] for entry in values]
    assert parameter_importance(values, objectives) == parameter_importance(values, objectives)
