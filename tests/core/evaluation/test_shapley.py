"""Shapley values: the axioms, the definition by orders, and the values of games known in closed form."""

from __future__ import annotations

import itertools
import random

import pytest

from mmcore.errors import UsageError
from mmcore.evaluation.shapley import shapley_values, subsets

NAMES = ("image", "audio", "text", "depth")


def random_game(count: int, seed: int) -> dict[tuple[str, ...], float]:
    draw = random.Random(seed)
    return {subset: draw.random() for subset in subsets(NAMES[:count])}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_contributions_sum_to_all_minus_none(count: int) -> None:
    names = NAMES[:count]
    values = random_game(count, count)
    found = shapley_values(values, names)
    assert list(found) == list(names)
    assert sum(found.values()) == pytest.approx(values[names] - values[()], abs=1e-12)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_they_are_the_mean_over_all_orders_of_what_each_adds(count: int) -> None:
    names = NAMES[:count]
    values = random_game(count, 10 + count)
    expected = dict.fromkeys(names, 0.0)
    orders = list(itertools.permutations(names))
    for order in orders:
        for place, name in enumerate(order):
            before, after = set(order[:place]), set(order[: place + 1])
            keys = [tuple(other for other in names if other in group) for group in (after, before)]
            expected[name] += (values[keys[0]] - values[keys[1]]) / len(orders)
    assert shapley_values(values, names) == pytest.approx(expected, abs=1e-12)


def test_a_modality_that_never_adds_anything_is_worth_nothing_and_twins_are_worth_the_same() -> None:
    names = NAMES[:3]
    worth = {(): 0.1, ("image",): 0.5, ("audio",): 0.5, ("text",): 0.1}
    worth |= {("image", "audio"): 0.8, ("image", "text"): 0.5, ("audio", "text"): 0.5, names: 0.8}
    found = shapley_values(worth, names)
    assert found == pytest.approx({"image": 0.35, "audio": 0.35, "text": 0.0})


def test_more_than_four_modalities_are_refused() -> None:
    assert len(subsets(NAMES)) == 16
    with pytest.raises(UsageError, match="at most 4 modalities, got 5"):
        subsets([*NAMES, "touch"])
