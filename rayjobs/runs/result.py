"""The result of a run, as `result.json` holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmcore import distributed
from mmcore.assembly.config import variants_of
from mmcore.config.schema import RunConfig
from mmcore.data.prepared.store import PreparedDataset
from mmcore.training.trainer import MONITOR, Trainer
from rayjobs.results_layout import SIZES_FILE
from rayjobs.storage.files import read_json


def group_sizes(run_dir: Path) -> list[int]:
    """Returns the number of workers at each start of an elastic group."""
    return read_json(run_dir / SIZES_FILE) or []


def result_of(config: RunConfig, prepared: PreparedDataset, trainer: Trainer, seconds: float) -> dict[str, Any]:
    """Returns what `result.json` holds of a run that was trained, not tested yet."""
    assignment, progress = prepared.assign(config.protocol), trainer.progress
    return {
        "best": progress.best_row,
        "last": progress.last_row,
        "monitor": MONITOR,
        "epochs": progress.epoch,
        "seconds": seconds,
        "device_seconds": progress.seconds * distributed.world_size(),
        "test": None,
        "conditions": {},
        "shapley": None,
        "readings": [reading.to_dict() for reading in trainer.readings()],
        "config": config.to_dict(),
        "config_fingerprint": config.fingerprint(),
        "data_fingerprint": prepared.fingerprint,
        "protocol": assignment.line,
        "selects_on_test": assignment.selects_on_test,
        "variants": variants_of(config, prepared.spec.modality_names),
        "workers": distributed.world_size(),
        "notices": trainer.notices,
    }
