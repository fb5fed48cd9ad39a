"""A ranking, printed: one table per data set and protocol, at most 80 columns wide, then what to do next."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayjobs.progress import WIDTH


def print_ranking(ranking: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a ranking as `rayjobs.ranking.build_ranking` returned it."""
    console = console or Console(highlight=False, soft_wrap=False)
    for table in ranking["rankings"]:
        _print_table(table, ranking, console)
    for note in ranking["notes"]:
        _print(console, note, style="dim")
    _print_next(ranking, console)


def _print_table(table: Mapping[str, Any], ranking: Mapping[str, Any], console: Console) -> None:
    console.print()
    _print(console, f"{table['dataset']}: test accuracy", style="bold")
    _print(console, f"Protocol: {table['protocol']}; {table['num_test_samples']} test samples, "
                    f"{_seeds(ranking['final_seeds'], table['folds'])}.")  # fmt: skip
    if table["constructed"]:
        card = table["card"]
        prefix = "" if card.startswith("CONSTRUCTED") else "CONSTRUCTED to show an effect: "
        _print(console, prefix + card, style="yellow")
    else:
        _print(console, table["card"], style="dim")
    console.print(_results(table, ranking["reference"]), no_wrap=True, crop=False)
    for note in (table["interval_note"], table["search_note"]):
        if note:
            _print(console, note, style="dim")
    if table["folds"]:
        console.print(_fold_accuracies(table), no_wrap=True, crop=False)
    if any(row["modalities"] for row in table["rows"]):
        console.print(_own_accuracies(table), no_wrap=True, crop=False)
        if any(own["by"] == "probe" for row in table["rows"] for own in row["modalities"].values()):
            _print(console, "* by a linear probe on its features, else by its own head", style="dim")
    for note in table["chance_notes"]:
        _print(console, note, style="yellow")
    for row in table["rows"]:
        for failure in row["failures"]:
            _print(console, f"{row['method']} {failure['trial']} failed: {failure['reason']}", style="red")


def _results(table: Mapping[str, Any], reference: str | None) -> Table:
    shown = Table(box=None, pad_edge=False, width=WIDTH, header_style="bold")
    shown.add_column("method", no_wrap=True, overflow="ellipsis", ratio=1)
    with_interval = any(row["delta"] and row["delta"]["low"] is not None for row in table["rows"])
    against = f"Δ to {reference}" + (" (95 %)" if with_interval else "") if reference else ""
    shown.add_column("test", justify="right", no_wrap=True)
    shown.add_column(against, justify="right", no_wrap=True)
    shown.add_column("trials", justify="right", no_wrap=True)
    shown.add_column("epochs", justify="right", no_wrap=True)
    shown.add_column("device-s", justify="right", no_wrap=True)
    for row in table["rows"]:
        test = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        test += "" if row["half_width"] is None else f" ± {100 * row['half_width']:.1f}"
        trials = str(row["trials"]) + (f", {row['failed']} failed" if row["failed"] else "")
        cost = (trials, str(row["epochs"]), f"{row['device_seconds']:.0f}")
        shown.add_row(row["method"], test, _delta(row, reference), *cost)
    return shown


def _delta(row: Mapping[str, Any], reference: str | None) -> str:
    if row["method"] == reference:
        return "reference"
    delta = row["delta"]
    if not delta:
        return ""
    text = f"{100 * delta['mean']:+.1f}"
    return text if delta["low"] is None else f"{text} [{100 * delta['low']:+.1f}, {100 * delta['high']:+.1f}]"


def _fold_accuracies(table: Mapping[str, Any]) -> Table:
    """Returns each fold's test accuracy, the mean over its seeds."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("test by fold", no_wrap=True, overflow="ellipsis", max_width=24)
    for number in range(table["folds"]):
        shown.add_column(str(number), justify="right", no_wrap=True)
    for row in table["rows"]:
        cells = [f"{accuracy:.1%}" for accuracy in row["folds"]] if len(row["folds"]) == table["folds"] else []
        shown.add_row(row["method"], *cells)
    return shown


def _own_accuracies(table: Mapping[str, Any]) -> Table:
    """Returns each modality's own accuracy: what is left of it inside the joint model."""
    names = list(dict.fromkeys(name for row in table["rows"] for name in row["modalities"]))
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("each modality alone", no_wrap=True, overflow="ellipsis", max_width=24)
    for name in names:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in table["rows"]:
        cells = []
        for name in names:
            own = row["modalities"].get(name)
            cells.append("" if own is None else f"{own['accuracy']:.1%}{'*' if own['by'] == 'probe' else ' '}")
        shown.add_row(row["method"], *cells)
    return shown


def _print_next(ranking: Mapping[str, Any], console: Console) -> None:
    files = [row["config_file"] for table in ranking["rankings"] for row in table["rows"] if row["config_file"]]
    console.print()
    if files:
        _command(console, "best configurations", ranking["folder"] + "/best-*.yaml")
        _command(console, "next, more seeds of the first", f"python -m rayjobs.train --config {files[0]} --seeds 5")
    _command(console, "curves", ranking["tensorboard"])
    _command(console, "every reading of test", ranking["ledger"])
    _command(console, "all numbers", f"{ranking['folder']}/ranking.json")


def _command(console: Console, title: str, text: str) -> None:
    """Prints a path or a command on a line of its own, unbroken, so that it can be copied."""
    console.print(Text(f"{title}:"), style="dim")
    console.print(Text(f"  {text}"), soft_wrap=True)


def _seeds(count: int, folds: int | None) -> str:
    if count == 0:
        return "no final models"
    seeds = f"{count} final {'seed' if count == 1 else 'seeds'}"
    return f"mean of {folds} folds with {seeds} each" if folds else f"mean of {seeds} each"


def _print(console: Console, text: str, style: str = "") -> None:
    for line in textwrap.wrap(text, WIDTH):
        console.print(Text(line, style=style))
