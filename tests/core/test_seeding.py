"""Randomness that is derived from names, stored and restored."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from mmcore.seeding import capture_state, derive_seed, generator, restore_state, row_uniforms, seed_process


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


def test_a_rows_numbers_are_uniform_and_the_same_in_any_company() -> None:
    rows = torch.arange(20000)
    numbers = row_uniforms(rows, 2**63 - 2, 3)
    assert numbers.shape == (3, 20000)
    assert ((numbers >= 0) & (numbers < 1)).all()
    for tenths in (numbers * 10).long():
        assert (tenths.bincount(minlength=10) / 2000).tolist() == pytest.approx([1] * 10, abs=0.1)
    assert torch.corrcoef(numbers).triu(1).abs().max() < 0.03
    assert torch.corrcoef(torch.stack([numbers[0, :-1], numbers[0, 1:]]))[0, 1].abs() < 0.03
    assert torch.equal(row_uniforms(rows[[7, 3]], 2**63 - 2, 2), numbers[:2, [7, 3]])
    assert not torch.equal(row_uniforms(rows, 5, 1), row_uniforms(rows, 6, 1))


def test_a_rows_number_is_that_of_the_published_mixing() -> None:
    def mixed(bits: int) -> int:
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % 2**64
        return bits ^ (bits >> 31)

    found = row_uniforms(torch.tensor([0, 41]), 123456789, 2).tolist()
    for column, values in enumerate(found):
        for row, value in zip([0, 41], values, strict=True):
            bits = mixed((mixed(row + 123456789) + (column + 1) * 0x9E3779B97F4A7C15) % 2**64)
            assert value == (bits >> 40) / 2**24
