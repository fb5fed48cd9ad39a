"""A group of more than half of the samples: it trains, and no split of other data sets changes for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mmcore.config.schema import ProtocolConfig
from mmcore.data.spec import SplitRules
from mmcore.data.splits import assign


def one_source_a_row(groups: Sequence[str]) -> pa.Table:
    """A table of two classes in turn, a row for each of these groups' samples."""
    ids = [str(number) for number in range(len(groups))]
    fixed = {"label": [number % 2 for number in range(len(groups))], "replicate": [0] * len(groups)}
    return pa.table({"sample_id": ids, "group": list(groups), "source": ids, "split": ["train"] * len(groups), **fixed})


def drawn_in_hash_order(groups: Sequence[str], seed: int) -> dict[str, set[str]]:
    """Whole groups in hash order, to test and then to validation while that comes nearer to a fifth, to train then."""
    sizes = Counter(groups)
    waiting = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    parts: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for split, num_left in (("test", 2), ("val", 1)):
        while len(waiting) > num_left:
            filled = sum(sizes[group] for group in parts[split])
            if parts[split] and filled + sizes[waiting[0]] / 2 > 0.2 * len(groups):
                break
            parts[split].add(waiting.pop(0))
    return {**parts, "train": set(waiting)}


def test_validation_is_not_cut_from_such_a_group_either() -> None:
    """One of just over half may bring the classes nearest to their shares."""
    small, large = [0] * 4 + [1] * 4, [0] * 2 + [1] * 4 + [2] * 3
    index = one_source_a_row(["small"] * 8 + ["large"] * 9 + ["test"] * 2)
    columns = {"label": [*small, *large, 0, 1], "split": ["train"] * 17 + ["test"] * 2}
    for name, values in columns.items():
        index = index.set_column(index.schema.get_field_index(name), name, pa.array(values))
    for seed in range(5):
        assignment = assign(index, SplitRules(), ProtocolConfig(name="holdout", seed=seed))
        assert assignment.val.tolist() == list(range(8))


def test_a_group_of_more_than_half_trains_and_nothing_else_changes() -> None:
    generator = np.random.default_rng(9)
    ordinary = large = 0
    for _ in range(300):
        sizes = generator.integers(1, 12, size=generator.integers(3, 9))
        sizes[0] += generator.choice([0, 60])
        groups = [f"g{number}" for number in np.repeat(np.arange(len(sizes)), sizes)]
        seed = int(generator.integers(5))
        assignment = assign(one_source_a_row(groups), SplitRules("group"), ProtocolConfig(name="group", seed=seed))
        parts = {split: {groups[row] for row in assignment.rows(split)} for split in ("train", "val", "test")}
        drawn = drawn_in_hash_order(groups, seed)
        if 2 * sizes.max() <= sizes.sum():
            ordinary += 1
            assert parts == drawn
        else:
            large += 1
            assert f"g{sizes.argmax()}" in parts["train"]
            assert all(parts.values())
            assert sum(map(len, parts.values())) == len(sizes)
    assert min(ordinary, large) > 50
