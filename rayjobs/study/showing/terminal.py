"""A study, printed: the answer, one table a data set at most 80 columns wide, and where everything is."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayjobs.cli.terminal import WIDTH
from rayjobs.reporting.terminal import print_command, print_wrapped
from rayjobs.study.document import ScoreEntry, StudyDocument
from rayjobs.study.showing import wording
from rayjobs.study.showing.reading import OfDataset, of_datasets
from rayjobs.study.showing.study_sections import unfinished

WORD_WIDTH = 28
"""Room for `better, by less than 1 point`; a longer word takes two lines, so that labels and numbers keep theirs."""


def print_study(document: StudyDocument, page: Path | str | None = None, console: Console | None = None) -> None:
    """Prints what a study found.

    Args:
        document: What was found.
        page: Where its page is; None: nowhere yet.
        console: Where to print; none: standard output.
    """
    console = console or Console(highlight=False, soft_wrap=False)
    console.print()
    for sentence in document.sentences:
        print_wrapped(console, sentence, style="bold")
    for data in of_datasets(document):
        _print_dataset(data, console)
    for line in unfinished(of_datasets(document)):
        print_wrapped(console, line, style="yellow")
    for note in document.notes:
        print_wrapped(console, note, style="dim")
    _print_checklist(document, console)
    if page is not None:
        console.print()
        print_command(console, "all of it, with figures", str(page))


def _print_dataset(data: OfDataset, console: Console) -> None:
    console.print()
    print_wrapped(console, f"{data.name}: test accuracy, Δ to {data.reference} in points", style="bold")
    if not data.scores:
        print_wrapped(console, "No fold is finished by every method yet.", style="yellow")
        return
    console.print(_results(data), crop=False)
    notes: dict[str, list[str]] = {}
    for label, comparison in data.primary.items():
        if comparison.note:
            notes.setdefault(comparison.note, []).append(label)
    for note, labels in notes.items():
        print_wrapped(console, f"{', '.join(labels)}: {note}", style="dim")
    for score in data.scores:
        print_wrapped(console, wording.why_without(score), style="red" if score.status == "failed" else "dim")


def _results(data: OfDataset) -> Table:
    shown = Table(box=None, pad_edge=False, width=WIDTH, header_style="bold")
    shown.add_column("method", no_wrap=True, overflow="ellipsis", ratio=1)
    shown.add_column("test", justify="right", no_wrap=True)
    split = not data.entry.cross_validated
    shown.add_column(Text("Δ [95 %]" if split else "Δ [corrected 95 %]"), justify="right", no_wrap=True)
    shown.add_column("word", max_width=WORD_WIDTH)
    for score in data.scores:
        shown.add_row(*(Text(cell) for cell in _row(data, score)))
    return shown


def _row(data: OfDataset, score: ScoreEntry) -> tuple[str, str, str, str]:
    own = wording.score(score)
    comparison = data.primary.get(score.method)
    if comparison is None:
        shown = wording.without_word(score, data.reference, data.references)
        return score.method, own, "", "" if shown == own else shown
    ends = comparison.corrected or comparison.plain
    difference = wording.signed(comparison.d) + (f" {wording.interval(ends)}" if ends else "")
    return score.method, own, difference, wording.word(comparison)


def _print_checklist(document: StudyDocument, console: Console) -> None:
    """Prints what a reviewer would stop at."""
    for check in document.checklist:
        if check.state in ("fail", "warn"):
            style = "red" if check.state == "fail" else "yellow"
            print_wrapped(console, f"checklist {check.id}, {check.state}: {check.title}: {check.evidence}", style=style)
