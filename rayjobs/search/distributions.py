"""What a searched value is drawn from, as written in a search-space file: `{loguniform: [0.001, 0.1]}`.

A search tool draws a *code*, a plain number, and `decode` makes the value of it: an option's index, or a number from a
range that an integer is the whole part of. So every option may be anything YAML holds, every integer has the same
share of its range, both ends included, and whoever draws codes (HyperOpt, Tune, `Distribution.draw`) draws alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from pydantic import model_validator

from mmcore.config.plain import Plain, Settings
from mmcore.config.sections import Section, parse_section
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
    def parse(cls, section: Plain, where: str) -> Distribution:
        """Returns the distribution a mapping describes.

        Raises:
            ConfigError: It describes none; every problem names `where`.
        """
        if not isinstance(section, dict):
            raise ConfigError([f"{where} must be a mapping like {{loguniform: [0.001, 0.1]}}, got {section!r}"])
        parsed = parse_section(cls, section, where)
        assert isinstance(parsed, Distribution)
        return parsed

    @classmethod
    def from_words(cls, words: str) -> Distribution | None:
        """Returns what `describe` told, in six digits; None for options that are no numbers, and for other words."""
        kind, _, rest = words.partition(" ")
        try:
            if kind == "one":
                return cls(choice=[float(option) for option in rest.removeprefix("of ").split(", ")])
            ends = [float(end) for end in rest.split(" ... ")]
            return cls.parse({kind: [int(end) for end in ends] if kind.endswith("randint") else ends}, words)
        except (ConfigError, ValueError):
            return None

    @model_validator(mode="after")
    def _check(self) -> Distribution:
        if len(self.model_fields_set) != 1 or getattr(self, self.kind) is None:
            raise ValueError("one of uniform, loguniform, randint, lograndint, choice")
        if self.choice is not None and not self.choice:
            raise ValueError("a choice of at least one value")
        if self.choice is None:
            low, high = self.ends()
            if not low < high:
                raise ValueError("a range whose low end is under its high end")
            if self.is_log and low <= 0:
                raise ValueError("a range above 0")
        return self

    @property
    def kind(self) -> str:
        """Which of the distributions it is."""
        return next(iter(self.model_fields_set))

    def ends(self) -> list[Any]:
        """Returns the lowest and the highest value, or every value of a choice."""
        return list(getattr(self, self.kind))

    def contains(self, value: Plain) -> bool:
        """Tells whether `value` could be drawn."""
        if self.choice is not None:
            return self._index(value) is not None
        low, high = self.ends()
        is_number = isinstance(value, int if self._is_integer else int | float) and not isinstance(value, bool)
        return is_number and low <= value <= high

    def widened(self, low: float, high: float, where: str) -> Distribution:
        """Returns the range with its low and its high end each times a factor.

        Raises:
            ConfigError: It is no range of floats; named by `where`.
        """
        if self.kind not in ("uniform", "loguniform"):
            raise ConfigError([f"{where} widens a range, uniform or loguniform, got {self.describe()}"])
        ends = self.ends()
        return Distribution.parse({self.kind: [ends[0] * low, ends[1] * high]}, where)

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
            return self.decode(int(generator.integers(len(self.choice))))
        low, high = self._code_ends()
        if self.is_log:
            return self.decode(math.exp(generator.uniform(math.log(low), math.log(high))))
        return self.decode(float(generator.uniform(low, high)))

    def decode(self, code: Plain) -> Any:
        """Returns the value a code stands for; never out of the range, however the code was rounded."""
        if self.choice is not None:
            return self.choice[int(cast(int, code))]
        low, high = self.ends()
        number = cast(float, code)  # or one of NumPy's, as HyperOpt draws them
        return min(max(math.floor(number) if self._is_integer else float(number), low), high)

    def encode(self, value: Plain) -> Any:
        """Returns the code of a value it contains: of an integer the middle of its part of the range."""
        if self.choice is not None:
            return self._index(value)
        number = cast(float, value)
        if not self._is_integer:
            return float(number)
        return math.sqrt(number * (number + 1)) if self.is_log else number + 0.5

    def near(self, value: Plain, factors: Sequence[float], generator: np.random.Generator) -> Any:
        """Returns a neighbour of `value`: times one of the factors, no further than the ends; of a choice the next one.

        At an end of a choice it may stay as it is.
        """
        if self.choice is not None:
            index = self.encode(value) + (1 if generator.random() < 0.5 else -1)
            return self.choice[min(max(index, 0), len(self.choice) - 1)]
        low, high = self.ends()
        moved = min(max(cast(float, value) * factors[int(generator.integers(len(factors)))], low), high)
        return round(moved) if self._is_integer else float(moved)

    def to_tune(self) -> Any:
        """Returns what its codes are drawn from, in Tune's own form."""
        from ray import tune  # late: it takes seconds, and a file is read without it

        if self.choice is not None:
            return tune.choice(list(range(len(self.choice))))
        return (tune.loguniform if self.is_log else tune.uniform)(*self._code_ends())

    @property
    def _is_integer(self) -> bool:
        return self.kind.endswith("randint")

    @property
    def is_log(self) -> bool:
        """Whether it is drawn evenly over the orders of magnitude."""
        return self.kind.startswith("log")

    def _code_ends(self) -> tuple[float, float]:
        low, high = self.ends()
        return low, high + 1 if self._is_integer else high

    def _index(self, value: Plain) -> int | None:
        """Returns the first option that is `value`; `true` is not 1, as it is for Python."""
        found = (index for index, option in enumerate(self.choice or ()) if _same(option, value))
        return next(found, None)


def decoded(codes: Settings, space: Mapping[str, Distribution]) -> dict[str, Any]:
    """Returns the values that a search tool's codes stand for, by path; what is not searched stays."""
    return {path: space[path].decode(code) if path in space else code for path, code in codes.items()}


def encoded(values: Settings, space: Mapping[str, Distribution]) -> dict[str, Any]:
    """Returns the codes of values, by path: what `decoded` takes back."""
    return {path: space[path].encode(value) if path in space else value for path, value in values.items()}


def _same(one: Plain, other: Plain) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
