"""JSON files and texts: written whole or not at all, read with a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmcore.config.plain import Plain
from mmcore.errors import DataError
from mmcore.storage import set_aside, write_whole


def write_text(path: Path, text: str, *, patient: bool = True) -> None:
    """Writes `text` under a temporary name and renames it, so that a reader never sees a part of it.

    Args:
        path: The file.
        text: Its new content.
        patient: Wait, for some minutes, where storage is full or away.
    """
    write_whole(path, text.encode(), patient=patient)


def write_json(path: Path, value: Plain, *, patient: bool = True) -> None:
    """Writes `value` as JSON, whole or not at all; see `write_text`."""
    write_text(path, json.dumps(value, indent=1) + "\n", patient=patient)


def load_json(path: Path, kind: type = dict) -> Any:
    """Returns what stands in a JSON file; None where there is no file.

    Args:
        path: The file.
        kind: What it holds: an object or a list, not an empty one.

    Raises:
        DataError: It was cut, or holds something else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({str(error) or 'nested without end'})") from None
    if not isinstance(value, kind) or not value:
        raise DataError(f"{path} is damaged (it holds {str(value)[:40]!r} where {kind.__name__} was written)")
    return value


def read_json(path: Path, kind: type = dict) -> Any:
    """As `load_json`, but returns None for a file that cannot be read, too: of notes that may be missing."""
    try:
        return load_json(path, kind)
    except (OSError, DataError):
        return None


def json_or_set_aside(path: Path) -> Any:
    """As `load_json`, of a file that will be made again: a damaged one is set aside, and counts as none.

    That is said. Other processes may look at the file meanwhile: they use `load_json`.
    """
    try:
        return load_json(path)
    except DataError as error:
        set_aside(path, str(error))
        return None
