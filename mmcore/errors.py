"""The errors a user can meet. Each survives pickling, since it may cross processes.

`exit_code` is what the command line ends with: 2 for wrong use (the command or the configuration must
change), 1 for failed work (the command was right, the data or the run was not).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class EquipoiseError(Exception):
    """Base of every error this project raises on purpose; its text is complete without a traceback."""

    exit_code = 1


class UsageError(EquipoiseError):
    """The command, a name or an argument is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration breaks one or more rules.

    Attributes:
        problems: Every problem found, one sentence each (key, rule, value received, what to change).
    """

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return "\n".join([f"{len(self.problems)} problems:", *(f"  - {problem}" for problem in self.problems)])


class DataError(EquipoiseError):
    """A raw file or a prepared data set is missing, damaged or of another format version."""


class CheckpointError(EquipoiseError):
    """A checkpoint is missing, damaged or belongs to another configuration."""


class TrainingError(EquipoiseError):
    """A run cannot continue (a loss that is not finite, a worker that is not there)."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns `": did you mean 'x'? known: a, b, x"` for an unknown `name` (no guess if none is near)."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f": did you mean '{near[0]}'?" if near else ";"
    return f"{guess} known: {', '.join(names)}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Returns the error for a `name` that is not among the `known` ones of its `kind`."""
    return UsageError(f"unknown {kind} '{name}'{suggest(name, known)}")
