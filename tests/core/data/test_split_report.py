"""The report on the split that training will use, printed before a model is trained."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from mmcore.data.raw.index import Entry
from mmcore.data.raw.source import index_table
from mmcore.data.spec import SplitRules
from mmcore.data.split_report import SplitReport, report_split
from mmcore.data.splits import default_protocol

CLASSES = ("cat", "dog", "eel", "fox", "gnu")


def table(*rows: tuple[str, int, str]) -> pa.Table:
    """Samples of (group, label, published split)."""
    return index_table(
        [Entry(f"sample-{number}", label, split, {}, group=group) for number, (group, label, split) in enumerate(rows)]
    )


def report(index: pa.Table, published: bool = True, classes: Sequence[str] = CLASSES[:2]) -> SplitReport:
    rules = SplitRules(default_protocol(index, published=published), published=published)
    return report_split(index, rules, classes, "toy")


def rows(split: str, labels: Sequence[int], group: str = "") -> list[tuple[str, int, str]]:
    return [(group, label, split) for label in labels]


def test_samples_that_stand_alone() -> None:
    found = report(table(*rows("train", [0, 1, 0]), *rows("val", [0, 1]), *rows("test", [1, 0])))
    assert found.sentences() == ["split for training: holdout (published splits): 3 train, 2 val, 2 test"]
    assert found.labels["train"] == {"cat": 2, "dog": 1}
    assert found.refused == ""


def test_groups_are_counted_on_the_assignment_itself() -> None:
    speakers = [f"s{number // 4}" for number in range(40)]
    found = report(table(*((group, n % 2, "train") for n, group in enumerate(speakers))), published=False)
    assert found.protocol == "group"
    assert found.samples == {"train": 24, "val": 8, "test": 8}
    assert found.groups == {"train": 6, "val": 2, "test": 2}
    assert found.sentences() == [
        "split for training: group (seed 0): 24 train (6 groups), 8 val (2 groups), 8 test (2 groups)",
        "no group lies on both sides of a boundary",
    ]


def test_a_default_that_leaks_says_so() -> None:
    """A data set's own rule is shown as it is."""
    index = table(
        *rows("train", [0, 1], "a"), *rows("val", [0, 1], "b"), *rows("test", [0, 1], "a"), *rows("test", [0], "c")
    )
    found = report_split(index, SplitRules("holdout"), CLASSES[:2], "toy")
    assert found.shared_groups == {"train/test": ["a"]}
    assert "LEAK: 1 group in train and in test (first: a)" in found.sentences()
    assert "no group lies on both sides of a boundary" not in found.sentences()


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (
            [*rows("train", [0, 1]), *rows("val", [0, 1])],
            "protocol holdout (published splits) leaves no samples for test: use --protocol cv --folds 4, which draws "
            "all three anew, or give it test samples",
        ),
        (
            [*rows("val", [0, 1]), *rows("test", [0, 1])],
            "protocol holdout (published splits) leaves no samples for train: use --protocol cv --folds 4, which draws "
            "all three anew, or give it train samples",
        ),
        (
            [*rows("train", [0, 1]), *rows("test", [0])],
            "protocol holdout (published test, validation cut from train, seed 0) leaves no samples for val: use "
            "--protocol cv --folds 3, which draws all three anew, or give it val samples",
        ),
        (
            [*rows("train", [0]), *rows("test", [1])],
            "protocol holdout (published test, validation cut from train, seed 0) leaves no samples for val",
        ),
        (
            [*rows("train", [0, 1], "a"), *rows("test", [0, 1], "b")],
            "all 2 training samples are of the group 'a', so no validation can be cut from them by group: give a "
            "validation split",
        ),
        (
            [*rows("train", [0, 1], "a"), *rows("test", [0, 1], "b"), *rows("test", [0, 1], "c")],
            "all 2 training samples are of the group 'a', so no validation can be cut from them by group: give a "
            "validation split, or use --protocol group or --protocol cv --folds 3",
        ),
    ],
)  # fmt: skip
def test_what_training_would_refuse(samples: list[tuple[str, int, str]], sentence: str) -> None:
    found = report(table(*samples))
    assert found.refused == f"toy: {sentence}"
    assert found.sentences() == [
        f"warning: training under the default protocol, holdout, would be refused: toy: {sentence}"
    ]
    assert found.samples == {}


@pytest.mark.parametrize(("number", "groups"), [(1, "1 group"), (2, "2 groups")])
def test_too_few_groups_are_said_with_what_to_do(number: int, groups: str) -> None:
    found = report(table(*((f"s{n % number}", n // 2 % 2, "train") for n in range(20))), published=False)
    assert found.sentences() == [
        f"warning: training under the default protocol, group, would be refused: toy has {groups}: protocol group "
        "needs 3 at least, to train, to validate and to test; --protocol holdout does not keep groups apart, so its "
        "result is one on known groups"
    ]


def test_one_class_only() -> None:
    samples = [*rows("train", [1, 1]), *rows("val", [1]), *rows("test", [1])]
    assert report(table(*samples)).warnings == ["every sample is of the class 'dog': there is nothing to tell apart"]
    assert report(table(*samples[:3])).sentences()[-1].startswith("warning: every sample is of the class 'dog'")


def test_classes_that_a_split_lacks() -> None:
    index = table(*rows("train", [0, 1, 1]), *rows("val", [0]), *rows("test", [0, 1, 2]))
    assert report(index, classes=CLASSES[:3]).warnings == [
        "1 class has no training sample (eel): no model can learn it",
        "2 of 3 classes have no validation sample (dog, eel): nothing is chosen by them",
    ]
    many = report(index, classes=CLASSES)
    assert many.warnings[1] == (
        "4 of 5 classes have no validation sample (dog, eel, fox, and 1 more): nothing is chosen by them"
    )
    assert many.warnings[2] == "2 of 5 classes have no test sample (fox, gnu): no result tells of them"


def test_a_class_of_one_group_that_does_not_train_is_said() -> None:
    """The group protocol draws whole groups, whatever classes they hold."""
    index = table(*((f"s{n // 4}", 1 + n // 4 if n // 4 < 4 else 0, "train") for n in range(40)))
    found = report(index, published=False, classes=CLASSES)
    absent = [name for name, number in found.labels["train"].items() if not number]
    assert absent
    assert any(f"no training sample ({', '.join(absent)})" in warning for warning in found.warnings)


def test_a_test_split_of_one_group() -> None:
    found = report(table(*((f"s{n // 4}", n % 2, "train") for n in range(16))), published=False)
    assert found.groups["test"] == 1
    (warning,) = found.warnings
    assert "of 4, and says little of others: --protocol cv --folds 4 tests on each" in warning
