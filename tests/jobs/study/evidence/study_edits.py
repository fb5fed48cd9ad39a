"""Changes what a made study's files say, so that a test has the figures it speaks of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes what a JSON file holds in place."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_all(folder: Path, pattern: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes all files of a pattern beneath a folder, of which there must be one."""
    paths = sorted(folder.glob(pattern))
    assert paths, f"no {pattern} in {folder}"
    for path in paths:
        edit(path, change)


def set_study(folder: Path, **values: Any) -> None:
    """Changes what `study.yaml` wants."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def trial(number: int, objective: float | None, seconds: float = 1.0, epochs: int = 2, **own: Any) -> dict[str, Any]:
    """A trial of `search.json`; one without an objective failed."""
    return {
        "name": f"trial-{number:03d}", "values": {}, "status": "failed" if objective is None else "done",
        "epochs": epochs, "objective": objective, "objective_loss": 0.1, "device_seconds": seconds, **own,
    }  # fmt: skip


def set_trials(search: Path, trials: list[dict[str, Any]]) -> None:
    """Replaces the trials of a search, and its best one by the best of them."""
    having = [each for each in trials if each["status"] in ("done", "stopped")]
    best = max(having, key=lambda each: each["objective"], default=None)
    edit(search / "search.json", lambda stored: stored.update(trials=trials, best=best))


def environment(device: str = "A", commit: str = "c", torch: str = "2.9") -> dict[str, Any]:
    """The `environment` of a result."""
    return {"software": {"torch": torch}, "commit": commit, "device": device, "threads": 1, "begun": "b", "ended": "e"}
