"""The ledger of test readings: one line each time a model's predictions on the test split were looked at.

Append-only JSON lines in the results folder. Test is read once per final model; the ledger is how anyone can check.
"""

from __future__ import annotations

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LEDGER_FILE = "ledger.jsonl"


def open_ledger(output: Path) -> Path:
    """Makes sure the results folder has a ledger; the runs in it then find it. Returns its path."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / LEDGER_FILE
    path.touch(exist_ok=True)
    return path


def ledger_path(run_dir: Path) -> Path:
    """Returns the ledger of the results folder a run lies in; a run outside of one has its own."""
    run_dir = run_dir.resolve()
    found = (folder / LEDGER_FILE for folder in run_dir.parents if (folder / LEDGER_FILE).is_file())
    return next(found, run_dir / LEDGER_FILE)


def record(run_dir: Path, config_fingerprint: str, data_fingerprint: str, protocol: str, command: str) -> None:
    """Enters one reading of the test split. To be called just before the predictions are made.

    Args:
        run_dir: The run's folder.
        config_fingerprint: `RunConfig.fingerprint()`.
        data_fingerprint: `PreparedDataset.fingerprint`.
        protocol: How the split was made, for a person: `group (seed 0)`.
        command: The command that asked for it.
    """
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config_fingerprint,
        "data": data_fingerprint,
        "protocol": protocol,
        "run_dir": str(run_dir.resolve()),
        "command": command,
    }
    with ledger_path(run_dir).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several final models end at the same time
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Returns all readings, oldest first."""
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.is_file() else []
