"""What resume points cost: an epoch of `digits` with a checkpoint each ÷ the same written without care, and ÷ none.

Without care: one `torch.save`, synced and renamed, as before storage that fails was waited for. By `auto`, the default,
a run writes as many as take a twentieth of its training.

    python benchmarks/checkpoints.py [--quick] [--rounds 5] [--epochs 10] [--json PATH]
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import Report, measure, parser, ratio

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.data.feeding.loader import TensorLoader
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.storage import sha256
from mmcore.training import checkpoint
from mmcore.training.trainer import Trainer

CARE_BAR, AUTO_BAR = 1.03, 1.05


def write_plainly(directory: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint by PyTorch alone: no short write is noticed, nothing is tried again."""
    temporary = directory.with_name(f".{directory.name}.tmp")
    temporary.mkdir(parents=True)
    weights = temporary / checkpoint.WEIGHTS_FILE
    with weights.open("wb", buffering=0) as file:
        torch.save({**state, "format_version": checkpoint.FORMAT_VERSION}, file)
        os.fsync(file.fileno())
    numbers = {"epoch": state["epoch"], "step": state["step"], "bytes": weights.stat().st_size}
    manifest = {"format_version": checkpoint.FORMAT_VERSION, **numbers, "sha256": sha256(weights)}
    with (temporary / checkpoint.MANIFEST_FILE).open("w") as text:
        text.write(json.dumps(manifest))
        text.flush()
        os.fsync(text.fileno())
    temporary.rename(directory)
    descriptor = os.open(directory.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def trainer_of(prepared: PreparedDataset, method: str, every: int | str, run_dir: Path | None) -> Trainer:
    """Returns a trainer whose epochs are called one by one; without a folder it writes nothing."""
    values = {
        "dataset": {"name": "digits"},
        "method": {"name": method},
        "trainer": {"checkpoint_every": every, "max_epochs": 10**6, "device": "cpu"},
    }
    config = complete_config(parse_config(values))
    loader = TensorLoader.from_prepared(prepared, prepared.assign(config.protocol), config.trainer.batch_size)
    transforms = build_run_transforms(config, prepared.spec)
    return Trainer(config, build_method(config, prepared.spec), loader, transforms, run_dir=run_dir)


def epoch_of(trainer: Trainer) -> Callable[[], None]:
    """Returns a call that trains and ends one epoch."""

    def call() -> None:
        start = time.perf_counter()
        trainer.train_epoch()
        trainer.end_epoch(start)

    return call


def plainly(epoch: Callable[[], None]) -> Callable[[], None]:
    """Returns a call of an epoch that writes its checkpoints without care."""

    def call() -> None:
        carefully = checkpoint.save_checkpoint
        checkpoint.save_checkpoint = write_plainly
        try:
            epoch()
        finally:
            checkpoint.save_checkpoint = carefully

    return call


def main() -> None:
    arguments = parser("an epoch of digits with a checkpoint ÷ one without")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--epochs", type=int, default=10, help="of each side in a round")
    arguments.add_argument("--method", default="joint")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    rounds, epochs = (2, 2) if options.quick else (options.rounds, options.epochs)
    torch.set_num_threads(1)
    report = Report("what checkpoints cost", f"{options.method} on digits, {rounds} rounds of {epochs} epochs a side")
    prepared = prepare("digits", None, None, options.data_dir)
    folder = Path(tempfile.mkdtemp(prefix="equipoise-checkpoints-"))
    try:
        sides = {}
        for name, every in (("care", 1), ("before", 1), ("auto", "auto"), ("none", 1)):
            run_dir = None if name == "none" else folder / name
            if run_dir is not None:
                run_dir.mkdir()
            epoch = epoch_of(trainer_of(prepared, options.method, every, run_dir))
            sides[name] = plainly(epoch) if name == "before" else epoch
        results = measure(sides, rounds, epochs, warm_up=1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.add(ratio("epoch/care÷before", results, "care", "before", CARE_BAR))
    report.add(ratio("epoch/auto÷none", results, "auto", "none", AUTO_BAR))
    report.add(ratio("epoch/care÷none", results, "care", "none", note="a resume point after every epoch"))
    report.finish(options.json)


if __name__ == "__main__":
    main()
