"""A ranking, printed: one table per data set and protocol, at most 80 columns wide, then what to do next."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayjobs.cli.terminal import WIDTH
from rayjobs.reporting import wording
from rayjobs.reporting.ranking_table import Ranking, RankingTable


def print_ranking(ranking: Ranking, console: Console | None = None) -> None:
    """Prints a ranking as `rayjobs.reporting.ranking.build_ranking` returned it."""
    console = console or Console(highlight=False, soft_wrap=False)
    for table in ranking.rankings:
        _print_table(table, ranking, console)
    for note in ranking.notes:
        print_wrapped(console, note, style="dim")
    _print_next(ranking, console)


def _print_table(table: RankingTable, ranking: Ranking, console: Console) -> None:
    console.print()
    print_wrapped(console, wording.headline(table), style="bold")
    print_wrapped(console, wording.protocol_text(table, ranking.final_seeds))
    style = "yellow" if table.constructed else "dim"
    print_wrapped(console, wording.card_text(table.card, constructed=table.constructed), style=style)
    console.print(_results(table, ranking.reference), no_wrap=True, crop=False)
    for note in wording.table_notes(table):
        print_wrapped(console, note, style="dim")
    if table.folds:
        console.print(_fold_accuracies(table), no_wrap=True, crop=False)
    if any(row.modalities for row in table.rows):
        console.print(_own_accuracies(table), no_wrap=True, crop=False)
        if wording.uses_probes(table):
            print_wrapped(console, wording.PROBE_NOTE, style="dim")
    for note in table.chance_notes:
        print_wrapped(console, note, style="yellow")
    for line in wording.failure_lines(table):
        print_wrapped(console, line, style="red")


def _results(table: RankingTable, reference: str | None) -> Table:
    shown = Table(box=None, pad_edge=False, width=WIDTH, header_style="bold")
    shown.add_column("method", no_wrap=True, overflow="ellipsis", ratio=1)
    for heading in ("test", wording.delta_heading(table, reference), "trials", "epochs", "device-s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in table.rows:
        cost = (wording.trials_text(row), str(row.epochs), f"{row.device_seconds:.0f}")
        shown.add_row(row.method, wording.test_text(row), wording.delta_text(row, reference), *cost)
    return shown


def _fold_accuracies(table: RankingTable) -> Table:
    """Returns each fold's test accuracy, the mean over its seeds."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("test by fold", no_wrap=True, overflow="ellipsis", max_width=24)
    for number in range(table.folds or 0):
        shown.add_column(str(number), justify="right", no_wrap=True)
    for row in table.rows:
        shown.add_row(row.method, *wording.fold_texts(table, row))
    return shown


def _own_accuracies(table: RankingTable) -> Table:
    """Returns each modality's own accuracy: what is left of it inside the joint model."""
    names = wording.modality_names(table)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("each modality alone", no_wrap=True, overflow="ellipsis", max_width=24)
    for name in names:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in table.rows:
        shown.add_row(row.method, *(wording.own_text(row.modalities.get(name)) for name in names))
    return shown


def _print_next(ranking: Ranking, console: Console) -> None:
    console.print()
    if ranking.next:
        print_command(console, "best configurations", f"{ranking.folder}/best-*.yaml")
        print_command(console, "next, more seeds of the first", ranking.next)
    print_command(console, "curves", ranking.tensorboard)
    print_command(console, "report", f"python -m rayjobs.report {ranking.folder}")
    print_command(console, "every reading of test", ranking.ledger)
    print_command(console, "all numbers", f"{ranking.folder}/ranking.json")


def print_command(console: Console, title: str, text: str) -> None:
    """Prints a path or a command on a line of its own, unbroken, so that it can be copied."""
    console.print(Text(f"{title}:"), style="dim")
    console.print(Text(f"  {text}"), soft_wrap=True)


def print_wrapped(console: Console, text: str, style: str = "") -> None:
    """Prints a text in lines of WIDTH at most."""
    for line in textwrap.wrap(text, WIDTH):
        console.print(Text(line, style=style))
