"""Looks at the raw files of a data set without preparing them: what is there, what is missing, what leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mmcore.data.media import RawFolder
from mmcore.data.part_files import RunParts, run_here, write_parts
from mmcore.data.parts import PartWriter, plan_parts
from mmcore.data.raw import Entry, Index, Problem, RawSource, shared_groups
from mmcore.data.spec import SPLITS
from mmcore.data.writer import Progress

NUM_SHOWN = 5


def examine(
    source: RawSource,
    folder: RawFolder,
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
        "labels" and "groups" by split, "shared_groups" (groups on both sides of the published split), "problems"
        (every one), "lengths" (modality -> sample -> valid length), and more. "usable" leaves out what a rule leaves
        out; "found" also what is missing or damaged.

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
    counts = _counts(index, listed, problems, with_media)
    return {
        "dataset": source.name,
        "layout": index.layout,
        "lists": [str(path) for path in index.lists],
        "with_media": with_media,
        "splits": counts,
        "expected": {} if source.constructed else {name: dict(counts) for name, counts in source.expected.items()},
        "matches": _matches(source, counts),
        "labels": _labels(source, listed),
        "groups": {split: len({e.group for e in listed if e.split == split and e.group}) for split in SPLITS},
        "shared_groups": shared_groups(listed),
        "default_protocol": source.rules(index).default_protocol,
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
    """Returns kind, or rule of a note -> (how many, the first ones), the most frequent first."""
    by_kind: dict[str, list[dict[str, str]]] = {}
    for problem in report["problems"]:
        by_kind.setdefault(problem["rule"] or problem["kind"], []).append(problem)
    return {
        kind: (len(problems), problems[:NUM_SHOWN])
        for kind, problems in sorted(by_kind.items(), key=lambda item: -len(item[1]))
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


def _counts(
    index: Index, listed: Sequence[Entry], problems: Sequence[Problem], with_media: bool
) -> dict[str, dict[str, int | None]]:
    """Returns split -> rows listed, samples the rules leave, samples whose media are whole (None: not looked at)."""
    lost = {problem.sample_id for problem in problems if problem.is_fault}
    usable = Counter(entry.split for entry in listed)
    found = Counter(entry.split for entry in listed if entry.sample_id not in lost)
    return {
        split: {
            "listed": index.num_rows[split],
            "usable": usable[split],
            "found": found[split] if with_media else None,
        }
        for split in SPLITS
    }


def _matches(source: RawSource, counts: dict[str, dict[str, int | None]]) -> str | None:
    """Returns the published counts that the lists have, split by split."""
    for variant, published in source.expected.items():
        if all(counts[split]["usable"] == published.get(split, 0) for split in SPLITS):
            return variant
    return None


def _labels(source: RawSource, entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    counts = Counter((entry.split, entry.label) for entry in entries)
    return {split: {name: counts[split, label] for label, name in enumerate(source.classes)} for split in SPLITS}
