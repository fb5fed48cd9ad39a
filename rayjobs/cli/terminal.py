"""Formats for the terminal: settings, durations, progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmcore.config.plain import Settings
from mmcore.config.sections import plain
from mmcore.data.spec import Progress as ReportProgress


@contextmanager
def progress_bar(title: str) -> Iterator[ReportProgress]:
    """Shows a bar on standard error; yields the function that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


WIDTH = 80


def short_settings(values: Settings) -> str:
    """Returns searched values by the last part of their paths: `lr 0.0132 alpha 0.68`."""
    shown = ((path.rpartition(".")[2], plain(value)) for path, value in values.items())
    return " ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown)


def format_seconds(seconds: float) -> str:
    """Returns `7 s`, `3 m 20 s` or `2 h 05 m`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"
