"""Plain values: what JSON and YAML hold, and so what a configuration, a result and a search's file are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Plain: TypeAlias = bool | int | float | str | Sequence["Plain"] | Mapping[str, "Plain"] | None
"""A plain value of any depth: a number, a text, nothing, or a list or mapping of plain values."""
Settings: TypeAlias = Mapping[str, Plain]
"""Values by name or by path: a section of a configuration, the searched values of a trial, a JSON object."""
