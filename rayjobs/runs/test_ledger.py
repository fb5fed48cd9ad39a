"""The ledger of test readings: one line each time a model's predictions on the test split were looked at.

Append-only JSON lines in the results folder. Test is read once per final model, and once more for each condition asked
for (`rayjobs.train --missing`, `--noise`, `--shapley`); the ledger is how anyone can check.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmcore import distributed
from mmcore.config.schema import RunConfig
from mmcore.storage import append_whole, patiently, read_json_lines
from rayjobs.results_layout import LEDGER_FILE


def open_ledger(output: Path) -> Path:
    """Makes sure the results folder has a ledger; the runs in it then find it. Returns its path."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / LEDGER_FILE
    patiently(lambda: path.touch(exist_ok=True), path)
    return path


def ledger_path(run_dir: Path) -> Path:
    """Returns the ledger of the results folder a run lies in; a run outside of one has its own."""
    run_dir = run_dir.resolve()
    found = (folder / LEDGER_FILE for folder in run_dir.parents if (folder / LEDGER_FILE).is_file())
    return next(found, run_dir / LEDGER_FILE)


@dataclass(frozen=True)
class Entry:
    """What the readings of one model have in common.

    Attributes:
        run_dir: The run's folder.
        config_fingerprint: `RunConfig.fingerprint()`.
        data_fingerprint: `PreparedDataset.fingerprint`.
        protocol: How the split was made, for a person: `group (seed 0)`.
        command: The command that asked for it.
    """

    run_dir: Path
    config_fingerprint: str
    data_fingerprint: str
    protocol: str
    command: str

    def record(self, condition: str) -> None:
        """Enters one reading of the test split, just before the predictions are made; of a group only rank 0's counts.

        Args:
            condition: `Condition.name`: what was done to the samples.
        """
        if distributed.rank():
            return
        entry = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": self.config_fingerprint,
            "data": self.data_fingerprint,
            "protocol": self.protocol,
            "condition": condition,
            "run_dir": str(self.run_dir.resolve()),
            "command": self.command,
        }
        # Several final models end at the same time, and of a reading that was made there must be an entry.
        append_whole(ledger_path(self.run_dir), f"{json.dumps(entry)}\n".encode(), lines=True, synced=True)


def tested_before(output: Path, configs: Mapping[str, RunConfig], data: str, folder: Path) -> dict[str, str]:
    """Returns title -> folder of the run that was tested before, for those of `configs` outside of `folder`.

    Args:
        output: The results folder.
        configs: Title of a run -> its configuration.
        data: The data's fingerprint.
        folder: Folder whose own runs do not count, since they are resumed.
    """
    read = {
        entry.get("config"): entry["run_dir"]
        for entry in read_ledger(output / LEDGER_FILE)
        if entry.get("data") == data and folder.resolve() not in Path(entry["run_dir"]).parents
    }
    prints = {title: config.fingerprint() for title, config in configs.items()}
    return {title: read[print_] for title, print_ in prints.items() if print_ in read}


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Returns all readings, oldest first; what cannot be read is left out, and that is said."""
    entries, problems = look_at_ledger(path)
    for problem in problems:
        logging.getLogger(__name__).warning("%s", problem)
    return entries


def look_at_ledger(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns all readings, oldest first, and in words what cannot be read."""
    lines, problems = read_json_lines(path)
    entries = [line for line in lines if isinstance(line.get("run_dir"), str)]
    if len(entries) < len(lines):
        problems.append(f"{path}: {len(lines) - len(entries)} lines are no readings; they are left out")
    return entries, problems
