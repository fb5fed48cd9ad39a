"""How long an epoch of each search took in earlier experiments: what estimates and budgets go by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmcore.errors import DataError, UsageError
from rayjobs.cli.terminal import format_seconds
from rayjobs.experiment.search_result import SearchResult
from rayjobs.pool.budget import Budget
from rayjobs.results_layout import SEARCH_FILE
from rayjobs.search.searches import Search


@dataclass(frozen=True)
class KnownPace:
    """What an earlier search tells of one of the same name.

    Attributes:
        device_s: Device-seconds of an epoch.
        experiment: Name of the experiment it was part of.
    """

    device_s: float
    experiment: str


def known_pace(search: Search, output: Path) -> KnownPace | None:
    """Returns the pace of the newest search of that name below a results folder; None where there is none."""
    files = sorted(output.glob(f"*/{search.name}/{SEARCH_FILE}"), key=lambda path: path.stat().st_mtime)
    for file in reversed(files):
        try:
            before = SearchResult.read(file)
        except DataError:
            continue
        trials = before.trials if before else []
        epochs, seconds = sum(trial.epochs for trial in trials), sum(trial.device_seconds for trial in trials)
        if epochs:
            experiment = file.relative_to(output).parts[0]
            return KnownPace(seconds / epochs, experiment)
    return None


def check_budget(budget: Budget, searches: Iterable[Search], output: Path, places: int, workers: int) -> None:
    """Refuses a budget in which not every search can train one trial to its first stop, as far as that is known.

    Args:
        budget: Of all searches together.
        searches: All of them.
        output: Folder with earlier experiments.
        places: Trials at once.
        workers: Of each trial.

    Raises:
        UsageError: It is too small; says how many searches fit, and what all would need.
    """
    if not budget:
        return
    known = [(search, known_pace(search, output)) for search in searches]
    costs = sorted(search.grace_epochs * pace.device_s for search, pace in known if pace)
    if not costs or len(costs) < len(known):
        return
    given = [("--time-budget", budget.time_s, places * workers), ("--cost-budget", budget.device_s, 1)]
    for option, amount, parallel in given:
        if amount is None or sum(costs) <= amount * parallel:
            continue
        fitting = sum(sum(costs[: number + 1]) <= amount * parallel for number in range(len(costs)))
        needed = sum(costs) / parallel
        words = format_seconds(needed) if option == "--time-budget" else f"{needed:.0f} device-seconds"
        raise UsageError(
            f"{option}: a trial of each of the {len(costs)} searches, up to where it may be stopped, takes about "
            f"{words} by the pace of earlier ones; {fitting} of them fit. Give more, or ask for fewer methods or folds"
        )
