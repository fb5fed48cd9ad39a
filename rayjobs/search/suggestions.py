"""HyperOpt's suggestions, as values: what it draws are codes (`rayjobs.search.distributions`).

Ray's adapter takes a choice's options for HyperOpt expressions. It finds the place of a given point among the plain
ones alone: of [[1, 2], 3] the point 3 is tried as [1, 2], and a list is not found at all. Its whole numbers are
rounded, so that the ends of a logarithmic range are drawn half as often as they should be. Of codes it sees neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.hyperopt import HyperOptSearch

from mmcore.config.plain import Settings
from rayjobs.search.distributions import Distribution, decoded, encoded


class Suggestions(HyperOptSearch):
    """HyperOpt over a space of this project's own.

    Args:
        space: Path -> what is searched; Tune is given the codes' (`Distribution.to_tune`).
        points: Values tried first, each with one for every path.
        settings: Arguments of `HyperOptSearch`.
    """

    def __init__(self, space: Mapping[str, Distribution], points: Sequence[Settings], **settings: Any):
        super().__init__(points_to_evaluate=[encoded(point, space) for point in points] or None, **settings)
        self._distributions = dict(space)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Returns the next trial's values by path."""
        codes = super().suggest(trial_id)
        return decoded(codes, self._distributions) if isinstance(codes, dict) else codes


class Limited(ConcurrencyLimiter):
    """Suggests no more trials than run at once: in a restored search the number of its new run, not the saved one."""

    def set_state(self, state: Mapping[str, object]) -> None:
        """Restores what `get_state` returned, but for the number."""
        super().set_state({key: value for key, value in state.items() if key != "max_concurrent"})
