"""A finished search, as `search.json` holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mmcore.config.plain import Settings
from rayjobs.results_layout import SEARCH_FILE
from rayjobs.search.outcome import Outcome
from rayjobs.storage.json_record import OPTIONAL, JsonRecord


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
