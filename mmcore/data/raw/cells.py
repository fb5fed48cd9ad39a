"""What a cell of a table must be to serve as a name, a text, a path or numbers. A missing one never becomes "None"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmcore.errors import DataError


def name_in(record: Mapping[str, Any], column: str, use: str) -> str:
    """Returns a label, split, group or id: a text without blanks around it, or a number as text.

    Raises:
        DataError: The cell is missing, empty, or neither text nor number.
    """
    value = record.get(column)
    if isinstance(value, str):
        name = value.strip()
    elif isinstance(value, bool) or not isinstance(value, int | float | None):
        kind = type(value).__name__
        raise DataError(f"column '{column}' ({use}) must hold a text or a number, got {str(value)[:60]} ({kind})")
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"column '{column}' ({use}) must hold a text or a finite number, got {value!r}")
    else:
        name = "" if value is None else str(value)
    if not name:
        raise DataError(f"column '{column}' ({use}) has no value")
    return name


def is_empty(cell: object) -> bool:
    """Tells whether a cell holds nothing: it is not there, or has but blanks."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def text_in(record: Mapping[str, Any], column: str, what: str) -> str:
    """Returns a cell that must be text.

    Raises:
        DataError: It is none; `what` names what it must be.
    """
    value = record.get(column)
    if not isinstance(value, str):
        raise DataError(f"column '{column}' must hold {what}, got {str(value)[:60]} ({type(value).__name__})")
    return value
