"""What result files hold at least, for tests that write some by hand: a test gives what it is about."""

from __future__ import annotations

from typing import Any


def result(**own: Any) -> dict[str, Any]:
    """A run's `result.json`."""
    row = {"epoch": 1, "val/fused/accuracy": 0.5}
    return {
        "best": row, "last": row, "monitor": "val/fused/accuracy", "epochs": 1, "seconds": 1.0, "device_seconds": 1.0,
        "test": None, "conditions": {}, "shapley": None, "readings": [], "config": {}, "config_fingerprint": "c",
        "data_fingerprint": "d", "protocol": "holdout (seed 0)", "selects_on_test": False, "variants": [],
        "workers": 1, "notices": [], **own,
    }  # fmt: skip


def outcome(**own: Any) -> dict[str, Any]:
    """A trial, in a search's `search.json`."""
    return {"name": "trial-001", "values": {}, "status": "done", "epochs": 3, "objective": 0.5, "objective_loss": 0.1,
            "device_seconds": 1.0, "reason": "", "schedule": [], **own}  # fmt: skip


def row(**own: Any) -> dict[str, Any]:
    """A method, in `ranking.json`."""
    return {
        "method": "iprm", "accuracy": 0.9, "half_width": None, "folds": None, "accuracies": [0.9], "seeds": [1],
        "failed_because": "", "delta": None, "modalities": {}, "metrics": {}, "mistakes": [],
        "trials": 1, "begun": 1, "failed": 0,
        "stopped_early": 0, "epochs": 1, "device_seconds": 1.0, "best": None, "best_of_folds": None,
        "config_file": None, "config_files": [], "failures": [], **own,
    }  # fmt: skip


def table(**own: Any) -> dict[str, Any]:
    """A data set, in `ranking.json`."""
    return {
        "dataset": "digits", "card": "A card.", "constructed": False, "data_fingerprint": "d",
        "protocol": "holdout (seed 0)", "folds": None, "num_test_samples": 3, "interval_note": "", "chance_notes": [],
        "search_note": "", "classes": [], "rows": [], **own,
    }  # fmt: skip


def ranking(**own: Any) -> dict[str, Any]:
    """`ranking.json`."""
    return {"experiment": "mine", "folder": "results/mine", "command": "tune", "reference": "ensemble",
            "final_seeds": 3, "rankings": [], "ledger": "ledger.jsonl", "tensorboard": "tensorboard", "next": "",
            "notes": [], **own}  # fmt: skip
