from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from mmcore.config.schema import ProtocolConfig
from mmcore.data.spec import SplitRules
from mmcore.data.splits import Assignment, assign, default_protocol, hashed_split
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


def random_index(generator: np.random.Generator) -> tuple[pa.Table, bool]:
    """A small table of some groups of any size, rows that stand alone, replicates, and any published split or none."""
    num_groups, num_sources, num_classes = (int(generator.integers(1, high)) for high in (9, 50, 5))
    alone, by_group = generator.random() < 0.5, generator.random() < 0.5
    splits = [("train", "test"), ("train", "val", "test"), ("train", "train", "train", "test")][generator.integers(3)]
    split_of = {f"g{group}": splits[generator.integers(len(splits))] for group in range(num_groups)}
    rows = []
    for source in range(num_sources):
        group = f"g{generator.integers(num_groups)}" if not alone or generator.random() < 0.7 else f"alone {source}"
        split = split_of.get(group) if by_group else None
        split = split or splits[generator.integers(len(splits))]
        label = int(generator.integers(num_classes))
        for replicate in range(int(generator.integers(1, 3))):
            rows.append((f"{source}-{replicate}", label, group, f"source {source}", replicate, split))
    columns = ("sample_id", "label", "group", "source", "replicate", "split")
    table = {name: list(values) for name, values in zip(columns, zip(*rows, strict=True), strict=True)}
    return pa.table(table), bool(generator.random() < 0.7)


class TestAnyTable:
    """Over many random tables: what no protocol may break, and what the default one may not."""

    @pytest.mark.parametrize("part", range(4))
    def test_default_and_cv_keep_groups_apart(self, part: int) -> None:
        generator = np.random.default_rng([7, part])
        assigned: Counter[str] = Counter()
        for _ in range(150):
            index, published = random_index(generator)
            rules = SplitRules(default_protocol(index, published=published), published=published)
            for protocol in (ProtocolConfig(), ProtocolConfig(name="cv", folds=3, fold=int(generator.integers(3)))):
                try:
                    assignment = assign(index, rules, protocol)
                except (UsageError, DataError):
                    continue
                assigned[
                    assignment.line.partition(" (")[0] + (" by group" if "by group" in assignment.line else "")
                ] += 1
                assert_disjoint(index, assignment, "group")
                rows = np.concatenate([assignment.rows(split) for split in ("train", "val", "test")])
                assert sorted(rows.tolist()) == list(range(index.num_rows))
        assert min(assigned[kind] for kind in ("group", "holdout", "holdout by group", "cv over groups")) > 3, assigned

    def test_the_order_of_rows_does_not_matter(self) -> None:
        generator = np.random.default_rng(8)
        for _ in range(150):
            index, published = random_index(generator)
            turned = index.take(generator.permutation(index.num_rows))
            assert default_protocol(turned, published=published) == default_protocol(index, published=published)
            rules = SplitRules(default_protocol(index, published=published), published=published)
            for name in ("default", "holdout", "group", "cv"):
                protocol = ProtocolConfig.model_validate({"name": name, "folds": 3})
                assert named_rows(index, rules, protocol) == named_rows(turned, rules, protocol)


def named_rows(index: pa.Table, rules: SplitRules, protocol: ProtocolConfig) -> dict[str, list[str]] | str:
    """The sample ids of each split, sorted; or what was refused."""
    try:
        assignment = assign(index, rules, protocol)
    except (UsageError, DataError) as error:
        return str(error)
    return {split: sorted(values(index, "sample_id", assignment.rows(split))) for split in ("train", "val", "test")}


class TestValidationByGroup:
    def grouped(self, sizes: Sequence[int], splits: Sequence[str], label: int | None = None) -> pa.Table:
        """Group i has sizes[i] samples, in splits[i], of two classes in turn or of one."""
        rows = [(g, n) for g, size in enumerate(sizes) for n in range(size)]
        return pa.table(
            {
                "sample_id": [f"{g}-{n}" for g, n in rows],
                "label": [n % 2 if label is None else label for _, n in rows],
                "group": [f"group {g}" for g, _ in rows],
                "source": [f"{g}-{n}" for g, n in rows],
                "replicate": [0] * len(rows),
                "split": [splits[g] for g, _ in rows],
            }
        )

    def test_takes_whole_groups_near_the_share(self) -> None:
        index = self.grouped([10] * 12, ["train"] * 10 + ["test"] * 2)
        rules = SplitRules(default_protocol(index, published=True))
        assignment = assign(index, rules, ProtocolConfig())
        assert (len(assignment.train), len(assignment.val), len(assignment.test)) == (80, 20, 20)
        assert assignment.line == "holdout (published test, validation cut from train by group, seed 0)"
        assert_disjoint(index, assignment, "group")
        other = assign(index, rules, ProtocolConfig(seed=1))
        assert_disjoint(index, other, "group")
        assert not np.array_equal(other.val, assignment.val)
        assert np.array_equal(other.test, assignment.test)

    @pytest.mark.parametrize(("sizes", "num_val"), [([10, 10], 10), ([40, 2, 40], 2), ([3, 90, 3, 4], 10)])
    def test_takes_one_group_at_least(self, sizes: Sequence[int], num_val: int) -> None:
        index = self.grouped([*sizes, 8], ["train"] * len(sizes) + ["test"])
        assignment = assign(index, SplitRules(), ProtocolConfig(name="holdout"))
        assert len(assignment.val) == num_val
        assert_disjoint(index, assignment, "group")

    def test_keeps_each_class_near_its_share(self) -> None:
        """Groups of one class each, as videos are: a fifth of each class's groups validates, not of all groups."""
        groups = [(g, 0 if g < 50 else 1) for g in range(60)]
        rows = [(g, label, n) for g, label in groups for n in range(2)] + [(60, 0, 0), (60, 1, 1)]
        index = pa.table(
            {
                "sample_id": [f"{g}-{n}" for g, _, n in rows],
                "label": [label for _, label, _ in rows],
                "group": [str(g) for g, _, _ in rows],
                "source": [f"{g}-{n}" for g, _, n in rows],
                "replicate": [0] * len(rows),
                "split": ["test" if g == 60 else "train" for g, _, _ in rows],
            }
        )
        assignment = assign(index, SplitRules(), ProtocolConfig(name="holdout"))
        assert np.bincount(index["label"].to_numpy()[assignment.val]).tolist() == [20, 4]

    def test_a_leaking_data_set_asked_for_holdout_is_cut_by_source(self) -> None:
        index = make_index(num_replicates=2, splits=("train", "train", "train", "train", "test"))
        assert default_protocol(index, published=True) == "group"
        assignment = assign(index, SplitRules(), ProtocolConfig(name="holdout"))
        assert assignment.line == "holdout (published test, validation cut from train, seed 0)"

    def test_samples_drawn_whatever_their_groups_are_named_so(self) -> None:
        assignment = assign(make_index(), SplitRules(published=False), ProtocolConfig(name="holdout"))
        assert assignment.line == "holdout (by sample, whatever the groups, seed 0)"

    def test_one_training_group_can_not_be_cut(self) -> None:
        index = self.grouped([10, 4], ["train", "test"])
        with pytest.raises(
            UsageError, match="toy: all 10 training samples are of the group 'group 0', so no validation"
        ):
            assign(index, SplitRules(), ProtocolConfig(name="holdout"), "toy")


class TestDefaultProtocol:
    @pytest.mark.parametrize(
        ("groups", "splits", "published", "expected"),
        [
            ("aabbcc", ("train", "train", "val", "val", "test", "test"), True, "holdout"),
            ("aabbcc", ("train", "train", "val", "val", "test", "test"), False, "group"),
            ("aabbca", ("train", "train", "val", "val", "test", "test"), True, "group"),
            ("aabacc", ("train", "train", "val", "val", "test", "test"), True, "group"),  # validation alone leaks
            ("aabbcb", ("train", "train", "val", "val", "test", "test"), True, "group"),
            ("abcdef", ("train", "train", "val", "val", "test", "test"), False, "holdout"),
            ("abcdee", ("train", "train", "val", "val", "test", "test"), False, "group"),  # most stand alone
        ],
    )  # fmt: skip
    def test_keeps_groups_apart(self, groups: str, splits: Sequence[str], published: bool, expected: str) -> None:
        index = pa.table(
            {
                "sample_id": list("123456"),
                "label": [0, 1] * 3,
                "group": list(groups),
                "source": list("123456"),
                "replicate": [0] * 6,
                "split": list(splits),
            }
        )
        assert default_protocol(index, published=published) == expected

    def test_replicates_of_one_source_are_no_group(self) -> None:
        assert default_protocol(make_index(num_groups=None, num_replicates=3), published=False) == "holdout"


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", ["group", "cv"])
def test_too_few_groups_say_what_is_left(name: str, number: int) -> None:
    with pytest.raises(
        UsageError, match=f"protocol {name} needs 3 at least, .*; --protocol holdout does not keep groups"
    ):
        assign(make_index(num_groups=number), SplitRules(), ProtocolConfig.model_validate({"name": name}), "toy")


def test_a_key_of_several_classes_goes_by_the_lowest_whatever_the_order() -> None:
    keys, labels = ["a", "b", "c", "a", "d", "e"], [1, 0, 1, 0, 1, 1]
    splits = dict(zip(keys, hashed_split(keys, labels, {"val": 0.5}), strict=True))
    assert dict(zip(keys[::-1], hashed_split(keys[::-1], labels[::-1], {"val": 0.5}), strict=True)) == splits
    assert sorted(splits[key] for key in "ab") == ["train", "val"]  # the two of class 0
