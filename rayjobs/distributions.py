"""What a searched value is drawn from, as written in a search-space file: `{loguniform: [0.001, 0.1]}`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import model_validator
from ray import tune

from mmcore.config import Section, parse_section
from mmcore.errors import ConfigError

Numbers = tuple[float, float]


class Distribution(Section):
    """Exactly one of these; both ends of a range belong to it.

    Attributes:
        uniform: [low, high], a float.
        loguniform: [low, high], a float drawn evenly over the orders of magnitude; low > 0.
        randint: [low, high], an integer.
        lograndint: [low, high], an integer drawn evenly over the orders of magnitude; low > 0.
        choice: One of these values.
    """

    uniform: Numbers | None = None
    loguniform: Numbers | None = None
    randint: tuple[int, int] | None = None
    lograndint: tuple[int, int] | None = None
    choice: list[Any] | None = None

    @classmethod
    def parse(cls, section: Any, where: str) -> Distribution:
        """Returns the distribution a mapping describes.

        Raises:
            ConfigError: It describes none; every problem names `where`.
        """
        if not isinstance(section, dict):
            raise ConfigError([f"{where} must be a mapping like {{loguniform: [0.001, 0.1]}}, got {section!r}"])
        parsed = parse_section(cls, section, where)
        assert isinstance(parsed, Distribution)
        return parsed

    @model_validator(mode="after")
    def _check(self) -> Distribution:
        if len(self.model_fields_set) != 1:
            raise ValueError("one of uniform, loguniform, randint, lograndint, choice")
        if self.choice is not None and not self.choice:
            raise ValueError("a choice of at least one value")
        if self.choice is None:
            low, high = self.ends()
            if not low < high:
                raise ValueError("a range whose low end is under its high end")
            if self.kind.startswith("log") and low <= 0:
                raise ValueError("a range above 0")
        return self

    @property
    def kind(self) -> str:
        """Which of the distributions it is."""
        return next(iter(self.model_fields_set))

    def ends(self) -> list[Any]:
        """Returns the lowest and the highest value, or every value of a choice."""
        return list(getattr(self, self.kind))

    def contains(self, value: Any) -> bool:
        """Tells whether `value` could be drawn."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.ends()
        is_number = isinstance(value, int if self.kind.endswith("randint") else int | float)
        return is_number and low <= value <= high

    def describe(self) -> str:
        """Returns it as text: `loguniform 0.001 ... 0.1`."""
        if self.choice is not None:
            return "one of " + ", ".join(
                f"{value:g}" if isinstance(value, float) else str(value) for value in self.choice
            )
        low, high = self.ends()
        return f"{self.kind} {low:g} ... {high:g}"

    def draw(self, generator: np.random.Generator) -> Any:
        """Returns a value drawn from it."""
        if self.choice is not None:
            return self.choice[int(generator.integers(len(self.choice)))]
        low, high = self.ends()
        integers = self.kind.endswith("randint")
        if self.kind.startswith("log"):
            drawn = float(np.exp(generator.uniform(np.log(low), np.log(high + 1 if integers else high))))
        else:
            drawn = float(generator.uniform(low, high + 1 if integers else high))
        return min(int(drawn), high) if integers else drawn

    def near(self, value: Any, factors: Sequence[float], generator: np.random.Generator) -> Any:
        """Returns a neighbour of `value`: times one of the factors, no further than the ends; of a choice the next one.

        At an end of a choice it may stay as it is.
        """
        if self.choice is not None:
            index = self.choice.index(value) + (1 if generator.random() < 0.5 else -1)
            return self.choice[min(max(index, 0), len(self.choice) - 1)]
        low, high = self.ends()
        moved = min(max(value * factors[int(generator.integers(len(factors)))], low), high)
        return round(moved) if self.kind.endswith("randint") else float(moved)

    def to_tune(self) -> Any:
        """Returns Tune's own form of it."""
        if self.choice is not None:
            return tune.choice(self.choice)
        low, high = self.ends()
        # Tune's integers leave out the high end.
        return getattr(tune, self.kind)(low, high + 1 if self.kind.endswith("randint") else high)
