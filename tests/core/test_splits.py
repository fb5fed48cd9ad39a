from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from mmcore.config import ProtocolConfig
from mmcore.data.spec import SplitRules
from mmcore.data.splits import Assignment, assign, hashed_split
from mmcore.errors import DataError, UsageError


def make_index(
    num_sources: int = 120,
    num_groups: int | None = 12,
    num_replicates: int = 1,
    splits: Sequence[str] = ("train", "train", "train", "val", "test"),
) -> pa.Table:
    """Source i has label i % 4, group i % num_groups (its own if None), split splits[i % len(splits)]."""
    rows = [(source, replicate) for source in range(num_sources) for replicate in range(num_replicates)]
    return pa.table(
        {
            "sample_id": [f"{source}-{replicate}" for source, replicate in rows],
            "label": [source % 4 for source, _ in rows],
            "group": [str(source % num_groups) if num_groups else f"{source}" for source, _ in rows],
            "source": [str(source) for source, _ in rows],
            "replicate": [replicate for _, replicate in rows],
            "split": [splits[source % len(splits)] for source, _ in rows],
        }
    )


def values(index: pa.Table, column: str, rows: np.ndarray) -> set[str]:
    return set(index[column].take(pa.array(rows)).to_pylist())


def assert_disjoint(index: pa.Table, assignment: Assignment, column: str) -> None:
    parts = [values(index, column, assignment.rows(split)) for split in ("train", "val", "test")]
    assert all(parts)
    assert len(set.union(*parts)) == sum(len(part) for part in parts)


def same(first: Assignment, second: Assignment) -> bool:
    return all(np.array_equal(first.rows(split), second.rows(split)) for split in ("train", "val", "test"))


class TestHashedSplit:
    keys = tuple(f"key-{number}" for number in range(200))
    labels = tuple(number % 4 for number in range(200))

    def test_every_class_gets_its_share(self) -> None:
        splits = hashed_split(self.keys, self.labels)
        for label in range(4):
            of_class = splits[label::4]
            assert [of_class.count(split) for split in ("train", "val", "test")] == [30, 10, 10]

    def test_depends_on_key_and_seed_alone(self) -> None:
        splits = dict(zip(self.keys, hashed_split(self.keys, self.labels), strict=True))
        turned = dict(zip(self.keys[::-1], hashed_split(self.keys[::-1], self.labels[::-1]), strict=True))
        assert splits == turned
        assert hashed_split(self.keys, self.labels, seed=1) != hashed_split(self.keys, self.labels)

    def test_is_the_same_on_every_machine(self) -> None:
        assert hashed_split([f"k{n}" for n in range(10)], [0] * 10) == [
            "test", "train", "train", "val", "train", "train", "val", "train", "test", "train",
        ]  # fmt: skip

    def test_equal_keys_stay_together(self) -> None:
        splits = hashed_split([key for key in self.keys for _ in range(2)], [n for n in self.labels for _ in range(2)])
        assert splits[::2] == splits[1::2]


class TestHoldout:
    def test_keeps_published_splits(self) -> None:
        index = make_index()
        assignment = assign(index, SplitRules(), ProtocolConfig(name="holdout"))
        for split in ("train", "val", "test"):
            assert values(index, "split", assignment.rows(split)) == {split}
        assert assignment.line == "holdout (published splits)"
        assert assignment.train.dtype == np.int64

    def test_cuts_a_missing_validation_split_from_train_alone(self) -> None:
        index = make_index(num_replicates=2, splits=("train", "train", "train", "train", "test"))
        assignment = assign(index, SplitRules(), ProtocolConfig(name="holdout"))
        assert values(index, "split", assignment.test) == {"test"}
        assert values(index, "split", assignment.val) == {"train"}
        assert len(assignment.test) == 48
        assert (len(assignment.train), len(assignment.val)) == (192 - 40, 40)  # 24 sources a class: 5 validate
        assert_disjoint(index, assignment, "source")
        other = assign(index, SplitRules(), ProtocolConfig(name="holdout", seed=1))
        assert not np.array_equal(other.val, assignment.val)
        assert np.array_equal(other.test, assignment.test)

    def test_hashed_data_sets_draw_again_by_seed(self) -> None:
        index, rules = make_index(num_groups=None), SplitRules(published=False)
        first = assign(index, rules, ProtocolConfig(name="default", seed=0))
        assert same(first, assign(index, rules, ProtocolConfig(name="holdout", seed=0)))
        assert not same(first, assign(index, rules, ProtocolConfig(name="holdout", seed=1)))
        assert (len(first.train), len(first.val), len(first.test)) == (72, 24, 24)
        assert (first.protocol, first.line) == ("holdout", "holdout (seed 0)")

    def test_a_seed_without_effect_is_refused(self) -> None:
        message = "protocol.seed must be 0 for holdout: the splits of toy are fixed, got 3"
        with pytest.raises(UsageError, match=message):
            assign(make_index(), SplitRules(), ProtocolConfig(name="holdout", seed=3), "toy")


class TestGroup:
    @pytest.mark.parametrize("seed", range(5))
    def test_groups_and_sources_are_disjoint(self, seed: int) -> None:
        index = make_index(num_replicates=3)
        assignment = assign(index, SplitRules(), ProtocolConfig(name="group", seed=seed))
        assert_disjoint(index, assignment, "group")
        assert_disjoint(index, assignment, "source")
        counts = [len(values(index, "group", assignment.rows(split))) for split in ("train", "val", "test")]
        assert counts == [8, 2, 2]

    def test_seeds_draw_other_groups(self) -> None:
        drawn = {assign(make_index(), SplitRules(), ProtocolConfig(name="group", seed=s)).test[0] for s in range(5)}
        assert len(drawn) > 1

    @pytest.mark.parametrize("num_groups", [3, 4, 5])
    def test_few_groups_leave_each_split_one(self, num_groups: int) -> None:
        index = make_index(num_groups=num_groups)
        assignment = assign(index, SplitRules(), ProtocolConfig(name="group"))
        assert_disjoint(index, assignment, "group")

    def test_published_rule(self) -> None:
        index = make_index()
        rules = SplitRules(default_protocol="group", group_splits={"3": "test", "5": "val"})
        assignment = assign(index, rules, ProtocolConfig())
        assert values(index, "group", assignment.test) == {"3"}
        assert values(index, "group", assignment.val) == {"5"}
        assert len(values(index, "group", assignment.train)) == 10
        assert (assignment.protocol, assignment.line) == ("group", "group (published rule)")
        other = assign(index, rules, ProtocolConfig(seed=1))
        assert other.line == "group (seed 1)"
        assert_disjoint(index, other, "group")

    def test_data_without_groups(self) -> None:
        with pytest.raises(UsageError, match="protocol group needs groups, in toy every sample is its own"):
            assign(make_index(num_groups=None, num_replicates=2), SplitRules(), ProtocolConfig(name="group"), "toy")

    def test_too_few_groups(self) -> None:
        with pytest.raises(UsageError, match="toy has 2 groups: protocol group needs 3 at least"):
            assign(make_index(num_groups=2), SplitRules(), ProtocolConfig(name="group"), "toy")


class TestCv:
    @pytest.mark.parametrize("num_groups", [12, None])
    def test_every_fold_tests_once_and_validates_once(self, num_groups: int | None) -> None:
        index = make_index(num_groups=num_groups)
        folds = [assign(index, SplitRules(), ProtocolConfig(name="cv", folds=4, fold=fold)) for fold in range(4)]
        for fold, assignment in enumerate(folds):
            assert_disjoint(index, assignment, "group")
            assert np.array_equal(assignment.val, folds[(fold + 1) % 4].test)
            assert len(assignment.train) + len(assignment.val) + len(assignment.test) == 120
        assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(120))

    def test_folds_without_groups_are_stratified(self) -> None:
        index = make_index(num_groups=None)
        assignment = assign(index, SplitRules(), ProtocolConfig(name="cv", folds=5, fold=2))
        labels = index["label"].to_numpy()[assignment.test]
        assert np.bincount(labels).tolist() == [6, 6, 6, 6]
        assert assignment.line == "cv over samples (fold 2 of 5, seed 0)"

    def test_one_group_a_fold(self) -> None:
        index = make_index(num_groups=6)
        for fold in range(6):
            assignment = assign(index, SplitRules(), ProtocolConfig(name="cv", folds=6, fold=fold))
            assert len(values(index, "group", assignment.test)) == 1
            assert len(values(index, "group", assignment.train)) == 4

    def test_folds_of_groups_are_near_in_size(self) -> None:
        index = make_index(num_groups=7)
        sizes = [len(assign(index, SplitRules(), ProtocolConfig(name="cv", folds=3, fold=f)).test) for f in range(3)]
        assert max(sizes) - min(sizes) <= 18  # the size of one group

    def test_bad_folds(self) -> None:
        own_number = ProtocolConfig.model_construct(name="cv", seed=0, folds=None, fold=6)
        with pytest.raises(UsageError, match=r"protocol.fold must be in \[0, 5\] with 6 folds, got 6"):
            assign(make_index(), SplitRules(folds=6), own_number)
        with pytest.raises(UsageError, match=r"protocol.folds must be at most 3, the groups of toy, got 5"):
            assign(make_index(num_groups=3), SplitRules(), ProtocolConfig(name="cv", folds=5), "toy")


class TestPaper:
    def test_selects_on_the_published_test_split(self) -> None:
        index = make_index()
        assignment = assign(index, SplitRules(), ProtocolConfig(name="paper"))
        assert assignment.selects_on_test
        assert np.array_equal(assignment.val, assignment.test)
        assert values(index, "split", assignment.train) == {"train"}
        assert assignment.line == "paper (published files, best epoch picked on test)"

    def test_without_published_splits(self) -> None:
        with pytest.raises(UsageError, match="protocol paper needs published splits, toy has none"):
            assign(make_index(), SplitRules(published=False), ProtocolConfig(name="paper"), "toy")


def test_no_other_protocol_selects_on_test() -> None:
    for name in ("holdout", "group", "cv"):
        assert not assign(make_index(), SplitRules(), ProtocolConfig(name=name)).selects_on_test


@pytest.mark.parametrize("name", ["holdout", "group", "cv"])
def test_each_split_takes_its_replicates(name: str) -> None:
    index = make_index(num_replicates=3)
    rules = SplitRules(replicates={"train": 3, "val": 1, "test": 2})
    assignment = assign(index, rules, ProtocolConfig(name=name))
    for split, number in (("train", 3), ("val", 1), ("test", 2)):
        assert values(index, "replicate", assignment.rows(split)) == set(range(number))
        assert len(assignment.rows(split)) == number * len(values(index, "source", assignment.rows(split)))


def test_an_empty_split_is_an_error() -> None:
    with pytest.raises(DataError, match=r"toy: protocol holdout \(published splits\) leaves no samples for test"):
        assign(make_index(splits=("train", "val")), SplitRules(), ProtocolConfig(name="holdout"), "toy")


def test_group_counts_hold_out_so_many_groups_of_all() -> None:
    rules = SplitRules(default_protocol="group", group_counts={"train": 63, "val": 14, "test": 14})
    for num_groups, held_out in ((91, 14), (13, 2), (4, 1)):
        index = make_index(num_sources=3 * num_groups, num_groups=num_groups)
        assignment = assign(index, rules, ProtocolConfig(name="group"))
        groups = index["group"].to_numpy()
        parts = [set(groups[assignment.rows(split)]) for split in ("train", "val", "test")]
        assert [len(part) for part in parts] == [num_groups - 2 * held_out, held_out, held_out]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    other = assign(index, rules, ProtocolConfig(name="group", seed=1))
    assert set(groups[other.test]) != set(groups[assignment.test])
