"""Randomness that is derived from names, stored and restored."""

from __future__ import annotations

import random

import numpy as np
import torch

from mmcore.seeding import capture_state, derive_seed, generator, restore_state, seed_process


def draw() -> list[float]:
    return [
        *torch.randn(3).tolist(),
        *np.random.normal(size=3).tolist(),  # noqa: NPY002
        *np.random.random(2).tolist(),  # noqa: NPY002
        random.random(),
        random.gauss(0, 1),
    ]


def test_derived_seeds_are_fixed_unrelated_and_in_range() -> None:
    seeds = [
        derive_seed(seed, *purpose) for seed in range(50) for purpose in [(), ("a",), ("b",), ("a", 1), ("a", "1b")]
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    # Fixed for ever: a checkpoint made today must mean the same next year.
    assert derive_seed(0, "model") == 3211678333516522061
    assert derive_seed(3, "epoch", 2, 1) == derive_seed(3, "epoch", 2, 1)


def test_generators_of_one_name_agree_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, other = (torch.rand(4, generator=generator(7, name)) for name in ("growth", "growth", "pairs"))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_process_sets_all_three() -> None:
    seed_process(4, "epoch", 1)
    first = draw()
    seed_process(4, "epoch", 1)
    assert draw() == first
    seed_process(4, "epoch", 2)
    assert not set(draw()) & set(first)


def test_the_state_goes_through_a_checkpoint_at_any_point(tmp_path) -> None:
    seed_process(1)
    for num_draws in range(3):  # an odd number of normal deviates leaves one in reserve
        np.random.normal(size=num_draws)  # noqa: NPY002
        random.gauss(0, 1)
        torch.save(capture_state(), tmp_path / "state.pt")
        expected = draw()
        seed_process(99)
        restore_state(torch.load(tmp_path / "state.pt", weights_only=True))
        assert draw() == expected


def test_capturing_draws_nothing() -> None:
    seed_process(2)
    expected = draw()
    seed_process(2)
    capture_state()
    assert draw() == expected
