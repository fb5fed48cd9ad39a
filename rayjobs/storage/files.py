"""Files written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmcore.config.plain import Plain
from mmcore.storage import write_whole


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


def read_json(path: Path) -> Any:
    """Returns what stands in a JSON file, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
