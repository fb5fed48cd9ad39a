"""What a cell of a table must be to serve as a name, a text, a path or numbers. A missing one never becomes "None"."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmcore.errors import DataError

LIKE_NOTHING = frozenset({
    "None", "nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "NA", "N/A", "n/a", "#NA", "#N/A", "#N/A N/A", "<NA>", "null",
    "NULL", "Null", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
})  # fmt: skip
"""How programs write that there is nothing: pandas, R, Excel, SQL, C. A text column may well hold them as words."""


CURES = {
    "label": "empty the cell, or list it under classes: (or leave_out:) if it is a class",
    "group": "empty the cell, or rename the group if it is called so",
}
"""What helps where a cell holds one of them; of other columns: `CURE`."""


CURE = "empty the cell, or give it another name"


def name_in(record: Mapping[str, Any], column: str, use: str, known: Collection[str] = ()) -> str:
    """Returns a label, split, group or id: a text without blanks around it, or a number as text.

    A number is the same whatever its type: 1 and 1.0 are both "1".

    Args:
        record: A row's cells.
        column: The one to look at.
        use: What it is for: "label", "split", "group" or "id".
        known: Names that are meant as they stand, even if programs write a missing value so.

    Raises:
        DataError: The cell is missing, empty, neither text nor number, or a way to write that there is nothing.
    """
    value = record.get(column)
    if isinstance(value, str):
        name = value.strip()
    elif isinstance(value, bool) or not isinstance(value, int | float | None):
        kind = type(value).__name__
        raise DataError(f"column '{column}' ({use}) must hold a text or a number, got {str(value)[:60]} ({kind})")
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"column '{column}' ({use}) must hold a text or a finite number, got {value!r}")
    elif value is None:
        name = ""
    else:
        name = str(int(value)) if value == int(value) else str(value)
    if not name:
        raise DataError(f"column '{column}' ({use}) has no value")
    if name in LIKE_NOTHING and name not in known:
        cure = CURES.get(use, CURE)
        raise DataError(f"column '{column}' ({use}) holds '{name}', as programs write a missing value: {cure}")
    return name


def one_number_twice(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns two names that are one whole number, with and without decimals of zero, as "1" and "1.0"; or None."""
    known: dict[str, str] = {}
    for name in names:
        number = re.sub(r"^([+-]?\d+)\.0*$", r"\1", name)
        first = known.setdefault(number, name)
        if first != name:
            return first, name
    return None


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
