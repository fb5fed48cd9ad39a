"""What one worker runs, whoever started it: build from the configuration, feed, fit, test, write the result.

The same body serves a trial's own process, a worker of a Ray Train group and a plain `python -m rayjobs.train`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmcore import distributed
from mmcore.assembly.config import build_source, parse_config, with_values
from mmcore.assembly.filling import fit_fillings
from mmcore.assembly.objects import build_method, build_run_transforms, resolve_device, used_modalities
from mmcore.config.schema import RunConfig
from mmcore.data.prepared.store import PreparedDataset
from mmcore.evaluation.conditions import Condition
from mmcore.features.encoded_set import check_encoding
from mmcore.training.run_log import Reporter, Row
from mmcore.training.trainer import Trainer, completed
from rayjobs.results_layout import CONFIG_FILE, PROGRESS_FILE, RESULT_FILE
from rayjobs.runs.environment import environment_of, now
from rayjobs.runs.extra_tests import add_conditions
from rayjobs.runs.handover import parts_of
from rayjobs.runs.job import Job
from rayjobs.runs.predictions import write_predictions
from rayjobs.runs.result import RunResult, group_sizes, read_result, result_of
from rayjobs.runs.test_ledger import Entry
from rayjobs.storage.files import read_json, write_json


def run(job: Job, reporter: Reporter) -> RunResult:
    """Trains, resuming from the run's newest valid checkpoint, and returns what is written to `result.json`.

    A run that ended before is not trained again: its last row is reported once more, for whoever missed it.

    Raises:
        EquipoiseError: The configuration, the data or the run is wrong; trying again would not help.
    """
    config, run_dir = parse_config(job.config), Path(job.run_dir)
    result = read_result(run_dir)
    prepared = job.data.prepared()
    if result and completed(dict(result.config)) == config.to_dict() and (result.test is not None or not job.test):
        reporter.report(result.last)
        if not job.test or job.extra.is_read(result, used_modalities(config, prepared.spec)):
            return result
    else:
        job.make_folder()
        result = _train(job, config, prepared, reporter)
    if job.test:
        result = _test(job, config, prepared, result)
    if distributed.rank() == 0:
        write_json(run_dir / RESULT_FILE, result.to_dict())
    return result


def _train(job: Job, config: RunConfig, prepared: PreparedDataset, reporter: Reporter) -> RunResult:
    if distributed.rank() == 0:
        write_json(Path(job.run_dir) / CONFIG_FILE, config.to_dict())
    start, begun = time.perf_counter(), now()
    for part, until in parts_of(config, job.schedule):
        trainer = build_trainer(job, part, prepared, reporter)
        with closing(trainer.loader):
            trainer.fit(until)
    result = result_of(config, prepared, trainer, time.perf_counter() - start)
    result = replace(result, environment=environment_of(trainer.device, begun))
    if job.schedule:
        result = replace(result, schedule=job.schedule)
    if job.elastic:
        summary = read_json(Path(job.run_dir) / PROGRESS_FILE) or {}  # counts each start's own workers
        spent = summary.get("device_seconds", result.device_seconds)
        result = replace(result, group_sizes=group_sizes(Path(job.run_dir)), device_seconds=spent)
    return result


def build_trainer(job: Job, config: RunConfig, prepared: PreparedDataset, reporter: Reporter | None) -> Trainer:
    """Returns the trainer of a job, with its loader open; without a reporter it is to evaluate alone."""
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
        run_dir=Path(job.run_dir),
        reporter=reporter,
        alone=job.alone,
        always_every=job.snapshot_every,
        lineage=lineage,
    )


def _of_size(config: RunConfig, most: int, size: int) -> RunConfig:
    """Returns the configuration for a group of another size: no pass is larger than in the largest group.

    The global batch is the same in any case: the loader cuts it among the workers there are.
    """
    return with_values(config, {"trainer.accumulate": math.ceil(config.trainer.accumulate * most / size)})


def _test(job: Job, config: RunConfig, prepared: PreparedDataset, result: RunResult) -> RunResult:
    """Returns a result completed by what was not read of test yet, with the selected epoch."""
    trainer = build_trainer(job, config, prepared, None)
    epoch = trainer.load_selected()
    line = prepared.assign(config.protocol).line
    entry = Entry(Path(job.run_dir), config.fingerprint(), prepared.fingerprint, line, job.command)
    with closing(trainer.loader):
        if result.test is None:
            entry.record(Condition().name)
            result = replace(result, test={"epoch": epoch, **_predict(trainer, Path(job.run_dir))})
        return add_conditions(trainer, job.extra, result, entry)


def _predict(trainer: Trainer, run_dir: Path) -> Row:
    """Returns the metrics on test as it is; keeps every prediction."""
    evaluation = trainer.evaluate("test")
    logits = {name: values.float().numpy() for name, values in evaluation.logits.items()}
    keep_predictions(run_dir, logits, rows_of(trainer, "test"))
    return evaluation.metrics


def rows_of(trainer: Trainer, split: str) -> dict[str, np.ndarray]:
    """Returns whose the predictions on a split are: sample ids, labels, groups and sources, (N,) each."""
    rows = trainer.loader.rows(split)
    return {
        "sample_ids": rows.sample_ids.astype(str),
        "labels": rows.labels,
        "groups": rows.groups.astype(str),
        "sources": rows.sources.astype(str),
    }


def keep_predictions(run_dir: Path, logits: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]) -> None:
    """Writes a run's predictions on test: by head the logits (N, K), and whose they are; rank 0 alone does."""
    if distributed.rank() == 0:
        named: dict[str, Any] = {**rows, **{f"logits/{name}": values for name, values in logits.items()}}
        write_predictions(run_dir, named)
