"""A finished search, as `search.json` holds it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmcore.config.plain import Settings
from rayjobs.results_layout import CHECKPOINTS, SEARCH_FILE
from rayjobs.search.outcome import Outcome
from rayjobs.storage.json_record import OPTIONAL, JsonRecord
from rayjobs.storage.mirror import Mirror

Keep = Literal["best", "finals", "all"]
"""Whose checkpoints stay when a search has ended, beside the final models': its best trial's, nobody's, all trials'."""


@dataclass(frozen=True, kw_only=True)
class SearchResult(JsonRecord):
    """A finished search.

    Attributes:
        label: The row's name in the ranking.
        trials: Every trial, in the order they were started.
        best: The best of them; None where none succeeded.
        config: `RunConfig.to_dict()` with the best trial's values.
        at_once: How many trials ran at a time, where that makes a difference: another machine might have found another
            best. None: the result is a function of the seed alone.
    """

    label: str
    trials: list[Outcome]
    best: Outcome | None
    config: Settings | None
    at_once: int | None = field(default=None, metadata=OPTIONAL)


def read_search(folder: Path) -> SearchResult | None:
    """Returns what a search left in its folder; None where it has not ended.

    A damaged file is set aside, and that is said: its search is to be ended again, from its state. To look at one,
    `SearchResult.read` it.

    Raises:
        DataError: The file is no search's.
    """
    return SearchResult.read_or_set_aside(folder / SEARCH_FILE)


def drop_checkpoints(folder: Path, result: SearchResult, keep: Keep, mirror: Mirror, *, dry_run: bool = False) -> int:
    """Removes the checkpoints of a finished search's trials, but for those to be kept; returns the bytes given back.

    Args:
        folder: The search's.
        result: How it ended.
        keep: What stays.
        mirror: Where the folder has its twin.
        dry_run: Remove nothing.
    """
    if keep == "all":
        return 0
    kept = {Path(result.best.name).name} if keep == "best" and result.best else set()
    freed = 0
    for name in sorted({Path(trial.name).name for trial in result.trials} - kept):
        checkpoints = folder / name / CHECKPOINTS
        if mirror:
            freed += mirror.remove(checkpoints, dry_run=dry_run)
        else:
            freed += sum(path.stat().st_size for path in checkpoints.rglob("*") if path.is_file())
        if not dry_run:
            shutil.rmtree(checkpoints, ignore_errors=True)
    return freed
