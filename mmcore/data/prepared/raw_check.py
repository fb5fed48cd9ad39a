"""Looks at the raw files of a data set without preparing them: what is there, what is missing, what leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mmcore.data.media import RawFolder
from mmcore.data.prepared.part_files import RunParts, run_here, write_parts
from mmcore.data.prepared.raw_parts import PartWriter, plan_parts
from mmcore.data.raw.index import Entry, Index, Problem
from mmcore.data.raw.source import RawSource, index_table
from mmcore.data.spec import SPLITS, Progress
from mmcore.data.split_report import SplitReport, report_split
from mmcore.data.splits import shared_groups

NUM_SHOWN = 5


ALL = "all"
"""Stands for the published splits where there are none."""


def examine(
    source: RawSource,
    folder: RawFolder,
    *,
    with_media: bool = True,
    run: RunParts = run_here,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Returns what the lists and, if they are there, the media of a data set hold, as plain JSON values.

    Args:
        source: The data set.
        folder: Its raw files.
        with_media: Whether every medium is decoded; else the lists alone are read.
        run: Where they are decoded.
        progress: Told about each part.

    Returns:
        "splits" (listed, usable and found samples), "expected" (published counts, and which of them the lists have),
        "labels" and "groups" by split, "shared_groups" (groups on both sides of the published split), "split"
        (`SplitReport`: what training will use, of the samples found; None where a list is absent), "problems" (every
        one), "left_out" and "noted" (how many, by kind and by rule), "lengths" (modality -> sample -> valid length),
        and more. "usable" leaves out what a rule leaves out; "found" also what is missing or damaged. Where no split
        is published, "splits", "labels" and "groups" have one entry, "all".

    Raises:
        UsageError: No list is there.
    """
    index = source.read_index(folder)
    listed = list(index.entries)
    lengths: dict[str, dict[str, int]] = {}
    problems = index.problems
    if with_media:
        source.complete(index, folder)
        damaged, lengths = _decode(source, index, folder, run, progress)
        problems = index.problems + damaged
    found = replace(index, entries=listed).without(problems)
    split = _split(source, replace(index, entries=found))
    splits = _by_split(index, listed)
    counts = _counts(index, splits, _by_split(index, found) if with_media else None)
    expected = source.expected if index.published and not source.constructed else {}
    return {
        "dataset": source.name,
        "layout": index.layout,
        "lists": [str(path) for path in index.lists],
        "published": index.published,
        "absent": dict(index.absent),
        "with_media": with_media,
        "splits": counts,
        "expected": {name: dict(numbers) for name, numbers in expected.items()},
        "matches": _matches(expected, counts),
        "labels": {name: _labels(source, entries) for name, entries in splits.items()},
        "groups": {name: len(groups) for name, groups in _groups(splits).items()},
        "shared_groups": shared_groups(_groups(splits)) if index.published else {},
        "split": split and split.to_dict(),
        "default_protocol": split and split.protocol,
        "left_out": dict(Counter(problem.kind for problem in problems if not problem.stays_in).most_common()),
        "noted": dict(Counter(problem.rule for problem in problems if problem.stays_in).most_common()),
        "problems": [asdict(problem) for problem in problems],
        "num_faults": sum(problem.is_fault for problem in problems),
        "lengths": lengths,
    }


def length_summary(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns modality -> shortest, median and longest valid length, of those whose length varies."""
    return {
        modality: {"min": min(values), "median": float(np.median(values)), "max": max(values)}
        for modality, by_sample in report["lengths"].items()
        if (values := list(by_sample.values()))
    }


def problem_summary(report: dict[str, Any]) -> dict[str, tuple[int, list[dict[str, str]]]]:
    """Returns kind, or rule of a note -> (how many, the first ones): what was left out, then what was noted."""
    by_kind: dict[str, list[dict[str, str]]] = {}
    for problem in report["problems"]:
        by_kind.setdefault(problem["rule"] or problem["kind"], []).append(problem)
    return {
        kind: (len(problems), problems[:NUM_SHOWN])
        for kind, problems in sorted(by_kind.items(), key=lambda item: (item[0] in report["noted"], -len(item[1])))
    }


def _decode(
    source: RawSource, index: Index, folder: RawFolder, run: RunParts, progress: Progress | None
) -> tuple[list[Problem], dict[str, dict[str, int]]]:
    """Decodes every medium; returns what is damaged or noted, and the valid lengths."""
    if not index.entries:
        return [], {}
    spec = source.stored_spec(folder)
    writer = PartWriter(source, folder, spec, directory=None)
    reports = write_parts(writer, plan_parts(source, index, folder, spec), run, progress)
    lengths: dict[str, dict[str, int]] = {m.name: {} for m in spec.modalities if m.variable_length}
    for report in reports:
        for modality, by_sample in report["lengths"].items():
            lengths[modality] |= by_sample
    return [Problem(**problem) for report in reports for problem in report["problems"]], lengths


def _split(source: RawSource, index: Index) -> SplitReport | None:
    """Returns what training will use of the samples of an index that is complete."""
    if index.absent or not index.entries:
        return None
    known = source.columns_to_fill(index.entries)
    return report_split(index_table(index.entries), source.rules(index), source.classes, source.name, known)


def _by_split(index: Index, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Returns published split -> its entries; all of them under one name where none is published."""
    if not index.published:
        return {ALL: list(entries)}
    return {split: [entry for entry in entries if entry.split == split] for split in SPLITS}


def _groups(splits: Mapping[str, Sequence[Entry]]) -> dict[str, set[str]]:
    """Returns split -> the groups that are named."""
    return {split: {entry.group for entry in entries if entry.group} for split, entries in splits.items()}


def _counts(
    index: Index, usable: Mapping[str, Sequence[Entry]], found: Mapping[str, Sequence[Entry]] | None
) -> dict[str, dict[str, int | None]]:
    """Returns split -> rows listed, samples the rules leave, samples whose media are whole (None: not looked at)."""
    listed = index.num_rows if index.published else {ALL: index.num_rows.total()}
    return {
        split: {
            "listed": listed[split],
            "usable": len(usable[split]),
            "found": None if found is None else len(found[split]),
        }
        for split in usable
    }


def _matches(expected: Mapping[str, Mapping[str, int]], counts: Mapping[str, Mapping[str, int | None]]) -> str | None:
    """Returns the published counts that the lists have, split by split.

    A variant that names no training samples is a test list alone, and tells nothing of the list beside it.
    """
    for variant, published in expected.items():
        splits = SPLITS if "train" in published else tuple(published)
        if any(all(counts[split][of] == published.get(split, 0) for split in splits) for of in ("usable", "listed")):
            return variant
    return None


def _labels(source: RawSource, entries: Sequence[Entry]) -> dict[str, int]:
    counts = Counter(entry.label for entry in entries)
    return {name: counts[label] for label, name in enumerate(source.classes)}
