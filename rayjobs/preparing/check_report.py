"""Prints what `prepare --check` found in the raw files of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mmcore.data.prepared.raw_check import length_summary, problem_summary
from mmcore.data.raw.index import counted
from mmcore.data.split_report import SplitReport

MAX_CLASSES = 12
NUM_GROUPS_SHOWN = 3


def print_report(report: dict[str, Any]) -> None:
    """Prints the report of `mmcore.data.prepared.raw_check.examine` as tables."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{report['dataset']}: {report['layout']}")
    console.print(_split_table(report))
    if report["matches"]:
        console.print(f"the lists are {report['matches']}")
    elif report["expected"]:
        console.print("the lists are none of the published ones: they were changed, or are others")
    console.print(_label_lines(report["labels"]))
    _print_leaks(console, report["shared_groups"], report["groups"])
    _print_split(console, report)
    for modality, length in length_summary(report).items():
        low, median, high = (f"{length[key]:g}" for key in ("min", "median", "max"))
        console.print(f"{modality}: valid length {low} to {high}, median {median}")
    if report["left_out"]:
        console.print(left_out_line(report["left_out"]))
    for kind, (number, first) in problem_summary(report).items():
        console.print(f"{counted(number, kind)}:")
        for problem in first:
            console.print(f"  {problem['sample_id']}: {problem['reason']}")
        if number > len(first):
            console.print(f"  and {number - len(first)} more; --json lists them")
    if not report["with_media"]:
        console.print("media: not looked at, there is no --raw-dir")
    elif not report["num_faults"]:
        console.print("every file listed is there and can be read")


def left_out_line(by_kind: dict[str, int]) -> str:
    """Returns how many samples were left out, and for what."""
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in by_kind.items())
    return f"left out: {sum(by_kind.values()):,} ({kinds})"


def _split_table(report: dict[str, Any]) -> Table:
    """Returns the counts by published split: rows of the lists, what the rules leave, what is whole, what it should be.

    Where none is published there is one row: the split that training will use is told apart.
    """
    table = Table(box=None)
    for heading in ("", "listed", "usable", "found", *report["expected"]):
        table.add_column(heading, justify="right")
    for split, counts in report["splits"].items():
        found = "" if counts["found"] is None else f"{counts['found']:,}"
        published = [
            f"{expected.get(split, 0):,}" if split in expected or "train" in expected else ""  # of a test list alone
            for expected in report["expected"].values()
        ]
        table.add_row(split, f"{counts['listed']:,}", f"{counts['usable']:,}", found, *published)
    return table


def _label_lines(labels: Mapping[str, Mapping[str, int]]) -> str:
    lines = []
    for split, counts in labels.items():
        if not any(counts.values()):
            continue
        if len(counts) <= MAX_CLASSES:
            lines.append(f"{split}: " + ", ".join(f"{name} {number:,}" for name, number in counts.items()))
        else:
            least, most = (choose(counts, key=lambda name: counts[name]) for choose in (min, max))
            lines.append(
                f"{split}: {len(counts)} classes, from {counts[least]:,} ({least}) to {counts[most]:,} ({most})"
            )
    return "\n".join(lines)


def _print_leaks(console: Console, shared_groups: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> None:
    """Prints what lies on both sides of the published split."""
    for pair, groups in shared_groups.items():
        one, other = pair.split("/")
        first = ", ".join(groups[:NUM_GROUPS_SHOWN])
        shared = "1 group is" if len(groups) == 1 else f"{len(groups):,} groups are"
        console.print(
            f"LEAK: {shared} in {one} and in {other} of the published split (first: {first}); groups: "
            f"{sizes[one]:,} in {one}, {sizes[other]:,} in {other}"
        )


def _print_split(console: Console, report: dict[str, Any]) -> None:
    """Prints the split that training will use, or why none can be told."""
    if report["absent"]:
        console.print(f"split for training: not known, {'; '.join(report['absent'].values())}")
    elif report["split"]:
        console.print("\n".join(SplitReport(**report["split"]).sentences()))
