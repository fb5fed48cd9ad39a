"""What a person sees while an experiment runs: a table on a terminal, plain lines elsewhere; all on standard error.

The table is drawn from the pool, twice a second, by the thread that deals and enters: one of its own would meet
dictionaries that change beneath it. It has a line for each search with its final models, the running trials
beneath as room allows, a bar for the whole. Names are shortened in the middle, so that both ends and all numbers stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ray.tune import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mmcore.metric_names import VAL_ACCURACY, own_accuracies
from rayjobs.cli.terminal import WIDTH, format_seconds, short_settings
from rayjobs.experiment.stages import FINALS
from rayjobs.pool.pool import Pool, Run
from rayjobs.pool.stage import Count
from rayjobs.results_layout import FAILURE_FILE
from rayjobs.runs.epochs.progress import OBJECTIVE
from rayjobs.storage.files import read_json
from rayjobs.trials.failures import failure_reason
from rayjobs.trials.ticket import Ticket, ticket_of

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

HEIGHT = 24
"""Lines of a terminal that does not tell how many it has."""
FRAME = 3
"""Lines of the table's head, of the bar, and of the prompt beneath."""
MIN_RUNNING = 4
"""Lines kept for running trials, however many searches there are."""
NAME_WIDTH = 28
DRAW_S = 0.5
"""Between two times the table is drawn."""
PLACE_S = 60.0
"""How long a run may wait for a process before a person is told."""


@dataclass
class Line:
    """A search and its final models.

    Attributes:
        name: The search's.
        trials: How far its trials have come; None: it is another fold's.
        finals: How far its final models have come; None: there are none.
        running: Its runs that were dealt out.
    """

    name: str
    trials: Count | None = None
    finals: Count | None = None
    running: list[Run] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether all its runs have ended."""
        return not self.running and all(
            count.done + count.failed >= count.total for count in (self.trials, self.finals) if count
        )


class Display(Callback):
    """Shows how the stages of a pool come along.

    Args:
        live: Whether to keep a table up to date in place; default: on a terminal.
        verbose: Show every search and every run, however many lines that takes.
    """

    def __init__(self, *, live: bool | None = None, verbose: bool = False):
        self.console = Console(stderr=True, highlight=False, soft_wrap=False)
        self._live_wanted = self.console.is_terminal if live is None else live
        self._verbose = verbose
        self._pool: Pool | None = None
        self._live: Live | None = None
        self._next_draw = 0.0
        self._next_look = 0.0

    @contextmanager
    def shown(self, pool: Pool) -> Iterator[None]:
        """Keeps the table of a pool on the screen for the time of a `with` block."""
        self._pool = pool
        self._greet(pool)
        if not self._live_wanted:
            yield
            return
        with Live(get_renderable=self._table, console=self.console, auto_refresh=False) as self._live:
            yield
        self._live = None

    def say(self, message: str) -> None:
        """Prints a line above the table."""
        self.console.print(escape(message), soft_wrap=True)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Says that a run ended, where there is no table that counts it."""
        ticket = ticket_of(trial)
        run = self._pool.runs.get((ticket.stage, ticket.name)) if self._pool else None
        if self._live_wanted or run is None or run.decision == "wait":  # it waits for the others of its population
            return
        how = f"{run.epoch} epochs" if run.epoch >= ticket.job.max_epochs else f"stopped after {run.epoch} epochs"
        accuracy = f", val {run.row[OBJECTIVE]:.1%}" if OBJECTIVE in run.row else ""
        self.say(f"{ticket}: {how}{accuracy}{self._how_far(ticket)}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Says that a run failed for good, and why."""
        ticket = ticket_of(trial)
        self.say(f"{ticket} failed: {failure_reason(ticket.run_dir)}{self._how_far(ticket)}")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Says that a run is tried again."""
        ticket = ticket_of(trial)
        failure = read_json(ticket.run_dir / FAILURE_FILE)
        self.say(f"{ticket}: {failure['reason'] if failure else 'its process was lost'}; trying again")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Draws the table anew; says, each minute, which run waits for a place that does not come."""
        now = time.monotonic()
        if self._live is not None and now >= self._next_draw:
            self._next_draw = now + DRAW_S
            self._live.refresh()
        if self._pool is not None and now >= self._next_look:
            self._next_look = now + PLACE_S
            self._say_who_waits(self._pool)

    # Parts

    def _say_who_waits(self, pool: Pool) -> None:
        waiting = pool.without_place(PLACE_S)
        if waiting:
            run, seconds = waiting[0]
            more = f", as {len(waiting) - 1} more do" if len(waiting) > 1 else ""
            asked = run.ticket.shape.describe()
            self.say(
                f"{run.ticket} has waited {format_seconds(seconds)} for {asked}{more}: other work has the machines, or "
                "they are gone. It starts when they are there; Ctrl-C ends, --resume goes on"
            )

    def _greet(self, pool: Pool) -> None:
        """Says what is done already, and whether places stay idle."""
        for name, stage in pool.stages.items():
            count = stage.count()
            if stage.is_search and stage.is_over:
                self.say(f"{name}: finished before ({count.done + count.failed} trials)")
        hint = pool.idle_hint()
        if hint is not None:
            self.say(
                f"{pool.places} runs fit at once, but --per-search keeps the searches from filling that: "
                f"--per-search {hint} would, in a new experiment whose result then depends on timing"
            )

    def _how_far(self, ticket: Ticket) -> str:
        """Returns how many runs of a stage have ended; the pool is told of this one's end a moment later."""
        if self._pool is None:
            return ""
        count = self._pool.count(ticket.stage)
        return f" ({count.done + count.failed + 1} of {count.total})"

    def _table(self) -> Group:
        assert self._pool is not None
        lines = lines_of(self._pool)
        height = (10**6 if self._verbose else self.console.height or HEIGHT) - FRAME
        running = [run for line in lines for run in line.running]
        room = height - min(len(running), MIN_RUNNING) - bool(running)
        chosen = sorted(lines, key=_interest)[: room if len(lines) <= room else room - 1]
        shown = [line for line in lines if line in chosen]
        left = height - len(shown) - (len(shown) < len(lines)) - bool(running)
        parts = [self._searches(shown, lines), *([self._runs(running, left)] if running else []), self._whole(lines)]
        return Group(*parts)

    def _searches(self, shown: Sequence[Line], lines: Sequence[Line]) -> Table:
        table = _grid(("", NAME_WIDTH), ("trials", 9), ("finals", 7), ("failed", 6), ("best val", 8), ("epoch", 9),
                      ("left", 6))  # fmt: skip
        for line in shown:
            counts = [count for count in (line.trials, line.finals) if count]
            failed = sum(count.failed for count in counts)
            best = line.trials.best if line.trials else None
            epoch = f"{line.running[0].epoch}/{line.running[0].ticket.job.max_epochs}" if line.running else ""
            mark = "✓" if line.is_over else ">" if line.running else " "
            table.add_row(
                f"{mark} {shortened(line.name, NAME_WIDTH - 2)}",
                _ended(line.trials),
                _ended(line.finals),
                str(failed or ""),
                "" if best is None else f"{best:.1%}",
                epoch,
                self._left(line),
                style="" if line.running or line.is_over else "dim",
            )
        hidden = [line for line in lines if line not in shown]
        if hidden:
            over = sum(line.is_over for line in hidden)
            table.add_row(f"  and {len(hidden)} more: {over} done")
        return table

    def _runs(self, running: Sequence[Run], room: int) -> Table:
        table = _grid(("running", 20), ("settings", 24), ("own, %", 18), ("fused", 6), ("epoch", 8))
        shown = running if len(running) <= room else running[: max(0, room - 1)]
        for run in shown:
            ticket = run.ticket
            own = " ".join(f"{modality} {100 * value:.0f}" for modality, value in own_accuracies(run.row).items())
            fused = run.row.get(VAL_ACCURACY)
            state = "again" if run.is_again else "starts"
            epoch = f"{run.epoch}/{ticket.job.max_epochs}" if run.epoch and not run.is_again else state
            name = f"{ticket.stage.removesuffix(FINALS)} {ticket.name}"
            settings = short_settings(dict(ticket.values))
            table.add_row(shortened(name, 20), settings, own, "" if fused is None else f"{fused:.1%}", epoch)
        if len(shown) < len(running):
            table.add_row(f"and {len(running) - len(shown)} more")
        return table

    def _whole(self, lines: Sequence[Line]) -> Table:
        """Returns a bar of all epochs, those to come counted as if no trial were stopped early, and the end's time."""
        counts = [count for line in lines for count in (line.trials, line.finals) if count]
        done, left = sum(count.epochs for count in counts), sum(count.epochs_left for count in counts)
        assert self._pool is not None
        seconds = self._pool.left_s()
        table = Table.grid(padding=(0, 1))
        table.add_column(width=30)
        table.add_column(width=4)
        table.add_column(width=WIDTH - 36, no_wrap=True, overflow="ellipsis", justify="right")
        bar = ProgressBar(total=max(1, done + left), completed=done, width=30)
        table.add_row(bar, Text(f"{done / max(1, done + left):4.0%}"), Text(_end(seconds)))
        return table

    def _left(self, line: Line) -> str:
        assert self._pool is not None
        names = [name for name in (line.name, line.name + FINALS) if name in self._pool.stages]
        seconds = [self._pool.left_of(name) for name in names]
        known = [each for each in seconds if each is not None]
        return "" if line.is_over or len(known) < len(seconds) else brief_seconds(sum(known))


def lines_of(pool: Pool) -> list[Line]:
    """Returns a line for each search with its final models, in the order of the command."""
    lines: dict[str, Line] = {}
    for name, stage in pool.stages.items():
        line = lines.setdefault(name.removesuffix(FINALS), Line(name.removesuffix(FINALS)))
        if stage.is_search:
            line.trials = stage.count()
        else:
            line.finals = stage.count()
    for run in pool.runs.values():
        lines[run.ticket.stage.removesuffix(FINALS)].running.append(run)
    return list(lines.values())


def shortened(text: str, width: int) -> str:
    """Returns a text without its middle where it is longer than `width`: both ends tell names apart."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def brief_seconds(seconds: float) -> str:
    """Returns `7s`, `12m`, `5h` or `3d`: at most four letters."""
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "m"), (360_000, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def _interest(line: Line) -> int:
    """Orders lines by how much a person wants to see them: what runs, then what waits, then what is over."""
    return 0 if line.running else 2 if line.is_over else 1


def _ended(count: Count | None) -> str:
    return "" if count is None else f"{count.done + count.failed}/{count.total}"


def _end(seconds: tuple[float, float] | None) -> str:
    """Returns when all will be over, as a range."""
    if seconds is None:
        return "the end is known when a trial has ended"
    ends = [time.strftime("%H:%M", time.localtime(time.time() + each)) for each in seconds]
    when, wait = (" to ".join(dict.fromkeys(texts)) for texts in (ends, map(brief_seconds, seconds)))
    return f"ends {when} (in {wait})"


def _grid(*columns: tuple[str, int]) -> Table:
    table = Table(box=None, width=WIDTH, pad_edge=False, collapse_padding=True)
    for number, (title, width) in enumerate(columns):
        is_text = number == 0 or title in {"settings", "own, %"}
        table.add_column(title, width=width, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis")
    return table
