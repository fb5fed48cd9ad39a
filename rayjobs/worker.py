"""What one worker runs, whoever started it: build from the configuration, feed, fit, test, write the result.

The same body serves a trial's own process, a worker of a Ray Train group and a plain `python -m rayjobs.train`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcore import distributed
from mmcore.build import build_method, build_run_transforms, build_source, resolve_device, used_modalities, variants_of
from mmcore.conditions import Condition
from mmcore.config import RunConfig
from mmcore.data.encoded import check_encoding
from mmcore.data.loader import Loader, TensorLoader
from mmcore.data.store import PreparedDataset
from mmcore.filling import fit_fillings
from mmcore.reporting import Reporter, Row
from mmcore.trainer import MONITOR, Trainer
from rayjobs.evaluations import NOTHING_MORE, Extra, add_conditions
from rayjobs.files import read_json, write_json
from rayjobs.ledger import Entry
from rayjobs.lineage import PROGRESS_FILE, Schedule, dump_schedule, parts_of
from rayjobs.mirror import NO_MIRROR, Mirror

if TYPE_CHECKING:
    from rayjobs.streaming import CachedData

RESULT_FILE = "result.json"
CONFIG_FILE = "config.json"
PREDICTIONS_FILE = "predictions.npz"
SIZES_FILE = "group_sizes.json"


@dataclass(frozen=True)
class DataHandle:
    """Where a worker's samples come from; small, and picklable.

    Attributes:
        directory: The prepared data set.
        cached: Its rows in the object store, shared by all trials of a node; None: they are streamed.
        in_process: Read the files into this process instead; needs no Ray.
    """

    directory: str
    cached: CachedData | None = None
    in_process: bool = False

    def prepared(self) -> PreparedDataset:
        """Opens the prepared data set."""
        return PreparedDataset.open(self.directory)

    def loader(self, config: RunConfig, prepared: PreparedDataset, pin_memory: bool) -> Loader:
        """Returns this rank's loader."""
        assignment = prepared.assign(config.protocol)
        options: dict[str, Any] = {
            "eval_batch_size": config.trainer.eval_batch_size,
            "seed": config.seed,
            "rank": distributed.rank(),
            "world_size": distributed.world_size(),
            "pin_memory": pin_memory,
        }
        batch_size = config.trainer.batch_size
        if self.in_process:
            return TensorLoader.from_prepared(prepared, assignment, batch_size, **options)
        from rayjobs.streaming import StreamLoader

        if self.cached is not None:
            return self.cached.loader(assignment, batch_size, **options)
        return StreamLoader(prepared, assignment, batch_size, num_epochs=config.trainer.max_epochs, **options)


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        config: `RunConfig.to_dict()` of a complete configuration.
        data: Where the samples come from.
        run_dir: Folder of everything the run writes; seen by all workers, itself or by its twin.
        test: Read test once at the end, from the selected epoch. For final models only.
        command: What was typed, for the ledger.
        extra: What is tested beside the data as they are.
        alone: Modality -> validation accuracy of a reference trained on it alone, as far as known; for the readings.
        schedule: Searched values that change at some epochs, of population-based training; `config` has the last ones.
        snapshot_every: Epochs after which the run is kept for another trial to go on from; 0: never.
        elastic: The fewest and the most workers of a group whose size may change; None: it is fixed.
        mirror: Where the run's folder has its twin.
    """

    config: dict[str, Any]
    data: DataHandle
    run_dir: str
    test: bool = False
    command: str = ""
    extra: Extra = NOTHING_MORE
    alone: Mapping[str, float] = field(default_factory=dict)
    schedule: Schedule = ()
    snapshot_every: int = 0
    elastic: tuple[int, int] | None = None
    mirror: Mirror = NO_MIRROR


def run(job: Job, reporter: Reporter) -> dict[str, Any]:
    """Trains, going on from the run's newest valid checkpoint, and returns what is written to `result.json`.

    A run that ended before is not trained again: its last row is reported once more, for whoever missed it.

    Raises:
        EquipoiseError: The configuration, the data or the run is wrong; trying again would not help.
    """
    config, run_dir = RunConfig.parse(job.config), Path(job.run_dir)
    result = read_json(run_dir / RESULT_FILE)
    prepared = job.data.prepared()
    if result and result["config"] == config.to_dict() and (result["test"] is not None or not job.test):
        reporter.report(result["last"])
        if not job.test or job.extra.is_read(result, used_modalities(config, prepared.spec)):
            return result
    else:
        run_dir.mkdir(parents=True, exist_ok=True)
        result = _train(job, config, prepared, reporter)
    if job.test:
        _test(job, config, prepared, result)
    if distributed.rank() == 0:
        write_json(run_dir / RESULT_FILE, result)
    return result


def _train(job: Job, config: RunConfig, prepared: PreparedDataset, reporter: Reporter) -> dict[str, Any]:
    if distributed.rank() == 0:
        write_json(Path(job.run_dir) / CONFIG_FILE, config.to_dict())
    start = time.perf_counter()
    for part, until in parts_of(config, job.schedule):
        trainer = _build_trainer(job, part, prepared, reporter)
        with closing(trainer.loader):
            trainer.fit(until)
    result = _result(config, prepared, trainer, time.perf_counter() - start)
    if job.schedule:
        result["schedule"] = dump_schedule(job.schedule)
    if job.elastic:
        result["group_sizes"] = group_sizes(Path(job.run_dir))
        summary = read_json(Path(job.run_dir) / PROGRESS_FILE) or {}  # counts each start's own workers
        result["device_seconds"] = summary.get("device_seconds", result["device_seconds"])
    return result


def _build_trainer(job: Job, config: RunConfig, prepared: PreparedDataset, reporter: Reporter | None) -> Trainer:
    check_encoding(config.dataset, prepared, build_source(config).spec())
    device = resolve_device(config.trainer.device)
    lineage = [part for part, _ in parts_of(config, job.schedule)] if job.schedule else []
    if job.elastic:
        least, most = job.elastic
        lineage = [_of_size(part, most, size) for part in lineage or [config] for size in range(least, most + 1)]
        config = _of_size(config, most, distributed.world_size())
    method = build_method(config, prepared.spec, device)
    fit_fillings(method.model, prepared, config.protocol)
    return Trainer(
        config,
        method,
        job.data.loader(config, prepared, pin_memory=device.type == "cuda"),
        build_run_transforms(config, prepared.spec),
        device,
        Path(job.run_dir),
        reporter,
        job.alone,
        lineage,
    )


def _of_size(config: RunConfig, most: int, size: int) -> RunConfig:
    """Returns the configuration for a group of another size: no pass is larger than in the largest group.

    The global batch is the same in any case: the loader cuts it among the workers there are.
    """
    return config.with_values({"trainer.accumulate": math.ceil(config.trainer.accumulate * most / size)})


def group_sizes(run_dir: Path) -> list[int]:
    """Returns the number of workers at each start of an elastic group."""
    return read_json(run_dir / SIZES_FILE) or []


def _test(job: Job, config: RunConfig, prepared: PreparedDataset, result: dict[str, Any]) -> None:
    """Completes a result by what was not read of test yet, with the selected epoch."""
    trainer = _build_trainer(job, config, prepared, None)
    epoch = trainer.load_selected()
    line = prepared.assign(config.protocol).line
    entry = Entry(Path(job.run_dir), config.fingerprint(), prepared.fingerprint, line, job.command)
    with closing(trainer.loader):
        if result["test"] is None:
            entry.record(Condition().name)
            result["test"] = {"epoch": epoch, **_predict(trainer, Path(job.run_dir))}
        add_conditions(trainer, job.extra, result, entry)


def _predict(trainer: Trainer, run_dir: Path) -> Row:
    """Returns the metrics on test as it is; keeps every prediction."""
    evaluation = trainer.evaluate("test")
    rows = trainer.loader.rows("test")
    if distributed.rank() == 0:
        predictions: dict[str, Any] = {
            "sample_ids": rows.sample_ids.astype(str),
            "labels": rows.labels,
            "groups": rows.groups.astype(str),
            "sources": rows.sources.astype(str),
        }
        predictions |= {f"logits/{name}": values.float().numpy() for name, values in evaluation.logits.items()}
        np.savez_compressed(run_dir / PREDICTIONS_FILE, **predictions)
    return evaluation.metrics


def _result(config: RunConfig, prepared: PreparedDataset, trainer: Trainer, seconds: float) -> dict[str, Any]:
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
