"""Protocols: which samples train, validate and test.

Every assignment is a pure function of the data set and the protocol: groups and samples are ordered by a hash
of (seed, key), never by a generator whose stream could change.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from mmcore.config.schema import ProtocolConfig
from mmcore.data.spec import SPLITS, SplitRules
from mmcore.errors import DataError, UsageError

FRACTIONS = {"val": 0.2, "test": 0.2}
"""What a hashed split takes from the samples (or groups) for each split; the rest trains."""
MIN_GROUPS = 3
"""One to train, one to validate, one to test."""


@dataclass(frozen=True)
class Assignment:
    """Which rows of a prepared data set's index train, validate and test.

    Attributes:
        train: Row numbers (int64, ascending) into `PreparedDataset.index`.
        val: The same for validation.
        test: The same for the final test; the same rows as `val` under the `paper` protocol.
        protocol: Resolved name: "group", "holdout", "cv" or "paper".
        line: The protocol for people, as in "group (published rule)".
        selects_on_test: True for `paper` alone: validation is the test split.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    protocol: str
    line: str
    selects_on_test: bool = False

    def rows(self, split: str) -> np.ndarray:
        """Returns the row numbers of "train", "val" or "test"."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return {"train": self.train, "val": self.val, "test": self.test}[split]


def hashed_split(
    keys: Sequence[str], labels: Sequence[int], fractions: Mapping[str, float] = FRACTIONS, seed: int = 0
) -> list[str]:
    """Assigns samples to splits by a seeded hash, stratified: within each class every split gets its share.

    Args:
        keys: What must stay together (a sample's id or its source); equal keys get equal splits.
        labels: Class of each key; where samples of one key differ, the lowest counts, whatever the order of the rows.
        fractions: Split -> its share of each class, for all but "train", which takes the rest.
        seed: Another seed is another split.

    Returns:
        A split's name for each key.
    """
    chosen: dict[str, str] = {}
    for members in _keys_by_label(keys, labels).values():
        ordered = _hash_order(members, seed)
        start = 0
        for split, fraction in fractions.items():
            stop = start + round(fraction * len(ordered))
            chosen |= dict.fromkeys(ordered[start:stop], split)
            start = stop
    return [chosen.get(key, "train") for key in keys]


def default_protocol(index: pa.Table, *, published: bool) -> Literal["group", "holdout"]:
    """Returns the protocol under which no group lies on both sides of a boundary.

    `group` where groups of several sources are there and either lie on both sides of the published split, or no split
    is published; else `holdout`, which keeps the published boundaries and cuts validation by group where it must.

    Args:
        index: `PreparedDataset.index`.
        published: Whether its splits are.
    """
    rows = _Rows(index)
    return "group" if rows.has_groups and (not published or rows.published_leaks) else "holdout"


def shared_groups(groups: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Returns "train/test" and so on -> the groups, sorted, on both sides, of split -> its groups; pairs without none.

    Args:
        groups: Split -> groups.
    """
    pairs = [("train", "val"), ("train", "test"), ("val", "test")]
    shared = {f"{one}/{other}": sorted(groups[one] & groups[other]) for one, other in pairs}
    return {pair: names for pair, names in shared.items() if names}


def assign(index: pa.Table, rules: SplitRules, protocol: ProtocolConfig, name: str = "data set") -> Assignment:
    """Returns which rows train, validate and test.

    `holdout` keeps the published splits; a validation split that was not published is cut from train by hash, as the
    published test split was: by group where no group lies on both sides of that boundary, else by source. `group` is
    group-disjoint, by the data set's own rule or by hash; `cv` tests fold i, validates on fold i+1; `paper` validates
    on the published test split. The seed means nothing where the split is fixed, so another one than 0 is refused
    there for `holdout`, and draws the groups by hash for `group`.

    Args:
        index: `PreparedDataset.index`.
        rules: What the data set says about its splits.
        protocol: The protocol asked for; "default" is the data set's own.
        name: The data set, for messages.

    Raises:
        UsageError: The data set cannot do this protocol, or a fold or seed it has not.
        DataError: A split would be empty.
    """
    table = _Rows(index)
    resolved = rules.default_protocol if protocol.name == "default" else protocol.name
    rule = {"holdout": _holdout, "group": _group, "cv": _cv, "paper": _paper}[resolved]
    splits, line = rule(table, rules, protocol, name)
    chosen = {split: np.flatnonzero(_kept(table, rules, split) & (splits == split)) for split in SPLITS}
    if resolved == "paper":
        chosen["val"] = chosen["test"]
    for split, rows in chosen.items():
        if len(rows) == 0:
            raise DataError(f"{name}: protocol {line} leaves no samples for {split}{_advice(table, rules, split)}")
    return Assignment(**chosen, protocol=resolved, line=line, selects_on_test=resolved == "paper")


class _Rows:
    """The index's columns as arrays of one entry per row."""

    def __init__(self, index: pa.Table):
        self.labels = index["label"].to_numpy()
        self.groups = index["group"].to_numpy()
        self.sources = index["source"].to_numpy()
        self.replicates = index["replicate"].to_numpy()
        self.published = index["split"].to_numpy()

    @property
    def has_groups(self) -> bool:
        """Whether at least one group holds several sources; replicates of one source are no group."""
        return hold_several(self.groups, self.sources)

    @property
    def published_leaks(self) -> bool:
        """Whether a group lies on both sides of the published split."""
        return bool(shared_groups({split: set(self.groups[self.published == split]) for split in SPLITS}))


Splits = tuple[np.ndarray, str]


def _holdout(rows: _Rows, rules: SplitRules, protocol: ProtocolConfig, name: str) -> Splits:
    seed = protocol.seed
    if not rules.published:
        splits = hashed_split(rows.sources.tolist(), rows.labels.tolist(), FRACTIONS, seed)
        how = "by sample, whatever the groups, " if rows.has_groups else ""
        return _array(splits), f"holdout ({how}seed {seed})"
    if "val" in rows.published:
        if seed != 0:
            raise UsageError(f"protocol.seed must be 0 for holdout: the splits of {name} are fixed, got {seed}; use cv")
        return rows.published, "holdout (published splits)"
    train = np.flatnonzero(rows.published == "train")
    groups, sources, labels = rows.groups[train], rows.sources[train], rows.labels[train].tolist()
    by_group = hold_several(groups, sources) and not rows.published_leaks
    if by_group:
        if len(set(groups)) == 1:
            raise UsageError(_one_training_group(rows, rules, groups, name))
        cut = _cut_by_group(groups.tolist(), labels, seed)
    else:
        cut = hashed_split(sources.tolist(), labels, {"val": FRACTIONS["val"]}, seed)
    splits = rows.published.copy()
    splits[train] = cut
    how = " by group" if by_group else ""
    return splits, f"holdout (published test, validation cut from train{how}, seed {seed})"


def _paper(rows: _Rows, rules: SplitRules, protocol: ProtocolConfig, name: str) -> Splits:
    if not rules.published:
        raise UsageError(f"protocol paper needs published splits, {name} has none: use holdout or cv")
    return rows.published, "paper (published files, best epoch picked on test)"


def _group(rows: _Rows, rules: SplitRules, protocol: ProtocolConfig, name: str) -> Splits:
    if not rows.has_groups:
        raise UsageError(f"protocol group needs groups, in {name} every sample is its own: use holdout or cv")
    if rules.group_splits and protocol.seed == 0:
        return _array([rules.group_splits.get(group, "train") for group in rows.groups]), "group (published rule)"
    sizes = Counter(rows.groups.tolist())
    if rules.group_counts:
        of_group = _counted_groups(sizes, rules.group_counts, protocol.seed, name)
    else:
        of_group = _hashed_groups(sizes, protocol.seed, name)
    return _array([of_group[group] for group in rows.groups]), f"group (seed {protocol.seed})"


def _cv(rows: _Rows, rules: SplitRules, protocol: ProtocolConfig, name: str) -> Splits:
    folds = protocol.folds or rules.folds
    keys = rows.groups if rows.has_groups else rows.sources
    kind = "groups" if rows.has_groups else "samples"
    if protocol.fold >= folds:
        raise UsageError(f"protocol.fold must be in [0, {folds - 1}] with {folds} folds, got {protocol.fold}")
    if rows.has_groups:
        _check_enough_groups(Counter(keys.tolist()), name, "cv")
    if folds > len(set(keys)):
        raise UsageError(
            f"protocol.folds must be at most {len(set(keys))}, the {kind} of {name}, got {folds}; use --folds"
        )
    if rows.has_groups:
        of_key = _balanced_folds(Counter(keys.tolist()), folds, protocol.seed)
    else:
        of_key = _stratified_folds(keys.tolist(), rows.labels.tolist(), folds, protocol.seed)
    fold = np.array([of_key[key] for key in keys])
    splits = np.full(len(fold), "train", dtype=object)
    splits[fold == protocol.fold] = "test"
    splits[fold == (protocol.fold + 1) % folds] = "val"
    return splits, f"cv over {kind} (fold {protocol.fold} of {folds}, seed {protocol.seed})"


def _one_training_group(rows: _Rows, rules: SplitRules, groups: np.ndarray, name: str) -> str:
    number = len(set(rows.groups))
    others = f", or use --protocol group or {cv_options(number, rules)}" if number >= MIN_GROUPS else ""
    return (
        f"{name}: all {len(groups)} training samples are of the group '{groups[0]}', so no validation can be cut from "
        f"them by group: give a validation split{others}"
    )


def _cut_by_group(groups: Sequence[str], labels: Sequence[int], seed: int) -> list[str]:
    """Cuts validation from train, of two groups at least, in whole groups.

    They are taken in hash order, each if that brings the classes, all in all, nearer to their shares; at least one is.
    None of more than half of the samples is.
    """
    sizes: dict[str, Counter[int]] = {}
    for group, label in zip(groups, labels, strict=True):
        sizes.setdefault(group, Counter())[label] += 1
    percent = round(100 * FRACTIONS["val"])
    missing = Counter({label: percent * number for label, number in Counter(labels).items()})

    def gain(group: str) -> int:
        return sum(abs(missing[label]) - abs(missing[label] - 100 * n) for label, n in sizes[group].items())

    ordered = _hash_order(sizes.keys() - _more_than_half(Counter(groups)), seed)
    nearest = max(ordered, key=gain)
    chosen = set()
    for group in ordered:
        if gain(group) > 0:
            chosen.add(group)
            missing.subtract({label: 100 * n for label, n in sizes[group].items()})
    chosen = chosen or {nearest}
    return ["val" if group in chosen else "train" for group in groups]


def hold_several(groups: np.ndarray, sources: np.ndarray) -> bool:
    """Returns whether a group holds several sources; replicates of one source are no group.

    Args:
        groups: Group of each row.
        sources: Source of each row.
    """
    return len(set(zip(groups, sources, strict=True))) > len(set(groups))


def cv_options(num_keys: int, rules: SplitRules) -> str:
    """Returns the options that ask for a cross-validation of so many groups or samples."""
    return "--protocol cv" if num_keys >= rules.folds else f"--protocol cv --folds {num_keys}"


def _advice(rows: _Rows, rules: SplitRules, split: str) -> str:
    """Returns what helps where a split is empty, as far as this data set has the samples for it."""
    number = len(set(rows.groups if rows.has_groups else rows.sources))
    if number < MIN_GROUPS:
        return ""
    return f": use {cv_options(number, rules)}, which draws all three anew, or give it {split} samples"


def _kept(rows: _Rows, rules: SplitRules, split: str) -> np.ndarray:
    limit = rules.replicates.get(split)
    return np.ones(len(rows.labels), dtype=bool) if limit is None else rows.replicates < limit


def _counted_groups(sizes: Counter[str], counts: Mapping[str, int], seed: int, name: str) -> dict[str, str]:
    """Gives test and val their numbers of groups, in hash order; the rest trains."""
    _check_enough_groups(sizes, name)
    waiting = _hash_order(sizes, seed)
    chosen: dict[str, str] = {}
    for split in ("test", "val"):
        number = max(1, round(counts[split] * len(sizes) / sum(counts.values())))
        chosen |= dict.fromkeys(waiting[:number], split)
        waiting = waiting[number:]
    return chosen | dict.fromkeys(waiting, "train")


def _check_enough_groups(sizes: Counter[str], name: str, protocol: str = "group") -> None:
    if len(sizes) < MIN_GROUPS:
        number = "1 group" if len(sizes) == 1 else f"{len(sizes)} groups"
        raise UsageError(
            f"{name} has {number}: protocol {protocol} needs {MIN_GROUPS} at least, to train, to validate and to test; "
            "--protocol holdout does not keep groups apart, so its result is one on known groups"
        )


def _hashed_groups(sizes: Counter[str], seed: int, name: str) -> dict[str, str]:
    """Fills test, then val, up to their share of the samples (one group at least), in hash order; the rest trains.

    A group of more than half of the samples trains, whatever its place.
    """
    _check_enough_groups(sizes, name)
    chosen = dict.fromkeys(_more_than_half(sizes), "train")
    waiting = _hash_order(sizes.keys() - chosen.keys(), seed)
    for split, num_reserved in (("test", 2 - len(chosen)), ("val", 1 - len(chosen))):
        share = FRACTIONS[split] * sizes.total()
        filled = 0
        # Whole groups, as many as come nearest to the share; each later split keeps at least one.
        while len(waiting) > num_reserved and (filled == 0 or filled + sizes[waiting[0]] / 2 <= share):
            group = waiting.pop(0)
            chosen[group] = split
            filled += sizes[group]
    return chosen | dict.fromkeys(waiting, "train")


def _more_than_half(sizes: Counter[str]) -> set[str]:
    """Returns the group, if there is one, that holds more than half of the samples."""
    return {group for group, size in sizes.items() if 2 * size > sizes.total()}


def _balanced_folds(sizes: Counter[str], folds: int, seed: int) -> dict[str, int]:
    """Deals groups, largest first (ties in hash order), each to the fold with the fewest samples so far."""
    filled = [0] * folds
    chosen = {}
    for group in sorted(_hash_order(sizes, seed), key=lambda group: -sizes[group]):
        fold = filled.index(min(filled))
        chosen[group] = fold
        filled[fold] += sizes[group]
    return chosen


def _keys_by_label(keys: Sequence[str], labels: Sequence[int]) -> dict[int, list[str]]:
    """Returns class -> its keys; a key of several classes is of the lowest, so that no order of rows matters."""
    label_of: dict[str, int] = {}
    for key, label in zip(keys, labels, strict=True):
        label_of[key] = min(label, label_of.get(key, label))
    by_label: dict[int, list[str]] = {}
    for key, label in label_of.items():
        by_label.setdefault(label, []).append(key)
    return by_label


def _stratified_folds(keys: Sequence[str], labels: Sequence[int], folds: int, seed: int) -> dict[str, int]:
    by_label = _keys_by_label(keys, labels)
    dealt = [key for label in sorted(by_label) for key in _hash_order(by_label[label], seed)]
    return {key: place % folds for place, key in enumerate(dealt)}


def _hash_order(keys: Collection[str], seed: int) -> list[str]:
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())


def _array(splits: list[str]) -> np.ndarray:
    return np.array(splits, dtype=object)
