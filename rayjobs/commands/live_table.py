"""What a person sees while a search runs: a small table on a terminal, plain lines elsewhere; all on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ray.tune import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mmcore.metric_names import VAL_ACCURACY, own_accuracies
from rayjobs.cli.terminal import WIDTH, format_seconds, short_settings
from rayjobs.results_layout import FAILURE_FILE
from rayjobs.runs.progress import EPOCH, FATAL, OBJECTIVE
from rayjobs.storage.files import read_json
from rayjobs.trials.failures import failure_reason
from rayjobs.trials.trial import trial_name

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

MAX_RUNNING = 8
"""Trials shown one by one; a cluster may run a hundred."""


@dataclass
class Line:
    """Where one stage (a search, or the final models) stands."""

    total: int
    done: int = 0
    failed: int = 0
    best: float | None = None
    epochs: int = 0
    started: float | None = None
    seconds: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds so far, or in all."""
        if self.seconds is not None:
            return self.seconds
        return time.monotonic() - self.started if self.started else 0.0


@dataclass
class Running:
    """One trial as it runs.

    Attributes:
        settings: Its searched values, in short.
        max_epochs: Length of a trial that is not stopped, in epochs.
        epoch: Finished epochs.
        own: Modality -> validation accuracy by its own head, else by its probe.
        fused: The fused prediction's accuracy.
        state: "again" for one whose process was lost before.
    """

    settings: str
    max_epochs: int
    epoch: int = 0
    own: Mapping[str, float] = field(default_factory=dict)
    fused: float | None = None
    state: str = ""


class Display:
    """Shows the stages of a command and what happens in them.

    Args:
        stages: Name of each stage -> how many trials it has.
        live: Whether to keep a table up to date in place; default: on a terminal.
    """

    def __init__(self, stages: Mapping[str, int], *, live: bool | None = None):
        self.console = Console(stderr=True, highlight=False, soft_wrap=False)
        self._lines = {name: Line(total) for name, total in stages.items()}
        self._running: dict[tuple[str, str], Running] = {}
        self._live_wanted = self.console.is_terminal if live is None else live
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keeps the table on the screen for the time of a `with` block."""
        if not self._live_wanted:
            yield
            return
        with Live(get_renderable=self._table, console=self.console, refresh_per_second=2) as self._live:
            yield
        self._live = None

    def say(self, message: str) -> None:
        """Prints a line above the table."""
        self.console.print(escape(message), soft_wrap=True)

    def start(self, stage: str) -> None:
        """Marks a stage as running."""
        self._lines[stage].started = time.monotonic()
        if not self._live_wanted:
            self.say(f"{stage}: {self._lines[stage].total} trials")

    def skip(self, stage: str, done: int, failed: int, best: float | None, epochs: int) -> None:
        """Marks a stage as finished by an earlier command."""
        self._lines[stage] = Line(done + failed, done, failed, best, epochs, seconds=0.0)
        if not self._live_wanted:
            self.say(f"{stage}: finished before")

    def count_finished(self, stage: str, status: str, last: Mapping[str, float]) -> None:
        """Counts a trial as far as it had come before this command."""
        line = self._lines[stage]
        line.done += status == "TERMINATED"
        line.failed += status == "ERROR"
        line.epochs += int(last.get(EPOCH, 0))
        if OBJECTIVE in last:
            line.best = max(line.best or 0.0, last[OBJECTIVE])

    def finish(self, stage: str) -> None:
        """Marks a stage as ended."""
        self._lines[stage].seconds = self._lines[stage].elapsed

    def began(self, stage: str, name: str, settings: str, max_epochs: int) -> None:
        """Shows a trial that starts."""
        again = "again" if (stage, name) in self._running else ""
        self._running[stage, name] = Running(settings, max_epochs, state=again)

    def epoch(self, stage: str, name: str, row: Mapping[str, float]) -> None:
        """Counts an epoch of a trial, and shows what it reached."""
        line, fused = self._lines[stage], row.get(VAL_ACCURACY)
        line.epochs += 1
        if fused is not None and (line.best is None or fused > line.best):
            line.best = fused
        if (stage, name) in self._running:
            running = self._running[stage, name]
            running.epoch, running.fused, running.own = int(row[EPOCH]), fused, own_accuracies(row)

    def ended(self, stage: str, text: str, *, failed: bool, name: str = "") -> None:
        """Counts a trial that ended; failures are shown in any case, successes where there is no table."""
        self._running.pop((stage, name), None)
        line = self._lines[stage]
        line.done += not failed
        line.failed += failed
        if failed or not self._live_wanted:
            self.say(f"{stage} {text} ({line.done + line.failed} of {line.total})")

    def _table(self) -> Group:
        table = Table(box=None, width=WIDTH, pad_edge=False)
        table.add_column("", ratio=1, overflow="ellipsis", no_wrap=True)
        for title, width in (("trials", 12), ("failed", 6), ("best val", 8), ("epochs", 7), ("time", 10)):
            table.add_column(title, width=width, justify="right", no_wrap=True)
        for name, line in self._lines.items():
            waiting = line.started is None and line.seconds is None
            mark = " " if waiting else ">" if line.seconds is None else "✓"
            best = "" if line.best is None else f"{line.best:.1%}"
            failed = str(line.failed) if line.failed else ""
            row = [f"{mark} {name}", f"{line.done} of {line.total}", failed, best, str(line.epochs or "")]
            table.add_row(*row, "" if waiting else format_seconds(line.elapsed), style="dim" if waiting else "")
        return Group(table, *([self._trials()] if self._running else []))

    def _trials(self) -> Table:
        table = Table(box=None, width=WIDTH, pad_edge=False)
        for title, ratio in (("running", 1), ("settings", 1), ("own, %", 1)):
            table.add_column(title, ratio=ratio, overflow="ellipsis", no_wrap=True)
        for title, width in (("fused", 6), ("epoch", 9)):
            table.add_column(title, width=width, justify="right", no_wrap=True)
        for (stage, name), trial in list(self._running.items())[:MAX_RUNNING]:
            own = " ".join(f"{modality} {100 * value:.0f}" for modality, value in trial.own.items())
            fused = "" if trial.fused is None else f"{trial.fused:.1%}"
            epoch = f"{trial.epoch} of {trial.max_epochs}" if trial.epoch else trial.state or "starts"
            table.add_row(f"  {name.removeprefix(stage).strip()}", trial.settings, own, fused, epoch)
        if len(self._running) > MAX_RUNNING:
            table.add_row(f"  and {len(self._running) - MAX_RUNNING} more")
        return table


class ProgressCallback(Callback):
    """Tells a display what Tune's controller sees.

    Args:
        display: Where it is shown.
        stage: The stage that runs.
        max_epochs: Length of a trial that is not stopped, in epochs.
        run_dirs: Number of a given run -> its folder; a path: the search's folder, with the trials' in it.
    """

    def __init__(self, display: Display, stage: str, max_epochs: int, run_dirs: Sequence[Path] | Path):
        self._display = display
        self._stage = stage
        self._max_epochs = max_epochs
        self._run_dirs = run_dirs
        self._started = False

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Counts what a restored search had finished before."""
        if not self._started:
            self._started = True
            for trial in trials:
                self._display.count_finished(self._stage, trial.status, trial.last_result or {})

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Shows a trial that starts, or starts again."""
        settings = {} if not isinstance(self._run_dirs, Path) else trial.config or {}
        self._display.began(self._stage, self._name(trial), short_settings(settings), self._max_epochs)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, float], **info: object
    ) -> None:
        """Counts an epoch."""
        if not result.get(FATAL) and result.get(EPOCH, 0) > (trial.last_result or {}).get(EPOCH, 0):
            self._display.epoch(self._stage, self._name(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Shows a trial that ended, or was stopped."""
        last = trial.last_result or {}
        epochs = int(last.get(EPOCH, 0))
        how = f"{epochs} epochs" if epochs >= self._max_epochs else f"stopped after {epochs} epochs"
        accuracy = f", val {last[OBJECTIVE]:.1%}" if OBJECTIVE in last else ""
        name = self._name(trial)
        self._display.ended(self._stage, f"{name}: {how}{accuracy}", failed=False, name=name)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Shows a trial that failed for good, with its reason."""
        name = self._name(trial)
        self._display.ended(
            self._stage, f"{name} failed: {failure_reason(self._run_dir(trial))}", failed=True, name=name
        )

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Shows a trial that is tried again."""
        failure = read_json(self._run_dir(trial) / FAILURE_FILE)
        reason = failure["reason"] if failure else "its process was lost"
        self._display.say(f"{self._stage} {self._name(trial)}: {reason}; trying again")

    def _run_dir(self, trial: Trial) -> Path:
        given = self._run_dirs
        return given / trial_name(trial) if isinstance(given, Path) else given[trial.config["run"]]

    def _name(self, trial: Trial) -> str:
        run_dir = self._run_dir(trial)
        if isinstance(self._run_dirs, Path):
            return run_dir.name
        search = run_dir.parent
        names = [search.parent.name, search.name] if search.name.startswith("fold-") else [search.name]
        return " ".join([*names, run_dir.name])
