"""What one worker runs, whoever started it: build from the configuration, feed, fit, test, write the result.

The same body serves a trial's own process, a worker of a Ray Train group and a plain `python -m rayjobs.train`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmcore import distributed
from mmcore.analysis.logit_weights import fit_logit_weights, weighted_sum
from mmcore.assembly.config import build_source, parse_config, with_values
from mmcore.assembly.filling import fit_fillings
from mmcore.assembly.objects import build_method, build_run_transforms, resolve_device, used_modalities
from mmcore.config.schema import RunConfig
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import EquipoiseError, TrainingError
from mmcore.evaluation.conditions import Condition
from mmcore.evaluation.predictions import Evaluation
from mmcore.features.encoded_set import check_encoding
from mmcore.metric_names import FUSED
from mmcore.training.run_log import PlainReporter, Reporter, Row
from mmcore.training.trainer import Trainer, completed
from rayjobs.results_layout import CONFIG_FILE, PROGRESS_FILE, RESULT_FILE
from rayjobs.runs.environment import environment_of, now
from rayjobs.runs.extra_tests import add_conditions
from rayjobs.runs.handover import parts_of
from rayjobs.runs.job import Job
from rayjobs.runs.predictions import FITTED, VALIDATION, write_predictions
from rayjobs.runs.result import RunResult, group_sizes, read_result, result_of
from rayjobs.runs.teachers import jobs_of_teachers, load_teachers, with_teachers
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
    job = _taught(job, config, prepared)
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
    return with_teachers(result, job)


def _taught(job: Job, config: RunConfig, prepared: PreparedDataset) -> Job:
    """Returns the job with its teachers: those it needs and was not given are trained first.

    Raises:
        TrainingError: The training of one failed.
    """
    jobs = jobs_of_teachers(job, config, prepared)
    if jobs and distributed.rank() == 0:
        told = "%s learns from a model of each modality: %s are trained first, in %s"
        where = Path(next(iter(jobs.values())).run_dir).parent
        logging.getLogger(__name__).warning(told, config.method["name"], ", ".join(jobs), where)
    for name, each in jobs.items():
        try:
            run(each, PlainReporter())
        except EquipoiseError as error:
            raise TrainingError(f"the teacher of {name}, {each.run_dir}, failed: {error}") from error
    return replace(job, teachers={name: each.run_dir for name, each in jobs.items()}) if jobs else job


def build_trainer(job: Job, config: RunConfig, prepared: PreparedDataset, reporter: Reporter | None) -> Trainer:
    """Returns the trainer of a job, with its loader open; without a reporter it is to evaluate alone."""
    check_encoding(config.dataset, prepared, build_source(config).spec())
    device = resolve_device(config.trainer.device)
    lineage = [part for part, _ in parts_of(config, job.schedule)] if job.schedule else []
    if job.elastic:
        least, most = job.elastic
        lineage = [_of_size(part, most, size) for part in lineage or [config] for size in range(least, most + 1)]
        config = _of_size(config, most, distributed.world_size())
    teachers = load_teachers(job, config, prepared, device) if reporter else {}
    method = build_method(config, prepared.spec, device, teachers)
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
            test, weights = _predict(trainer, Path(job.run_dir), used_modalities(config, prepared.spec))
            result = replace(result, test={"epoch": epoch, **test}, fitted_weights=weights)
        return add_conditions(trainer, job.extra, result, entry)


def _predict(trainer: Trainer, run_dir: Path, modalities: Sequence[str]) -> tuple[Row, dict[str, float] | None]:
    """Returns the metrics on test as it is, and fitted weights of its heads; keeps every prediction.

    Of validation they are kept as well: what is fitted to a finished model is fitted there.
    """
    validation, evaluation = trainer.evaluate("val"), trainer.evaluate("test")
    logits, weights = _logits(evaluation), None
    if len(modalities) > 1 and all(name in evaluation.logits for name in modalities):
        weights = fit_logit_weights(_of(modalities, validation), validation.labels.numpy(), _present(validation))
        fitted = weighted_sum(_of(modalities, evaluation), weights, _present(evaluation))
        answerable = _has_any(modalities, evaluation)
        logits[FITTED] = np.where(answerable[:, None], fitted, logits[FUSED]).astype(np.float32)
    rows = rows_of(trainer, "val")
    on_validation = {name: rows[name] for name in ("sample_ids", "labels")} | named(_logits(validation))
    keep_predictions(run_dir, logits, rows_of(trainer, "test"), on_validation)
    return evaluation.metrics, weights


def _logits(evaluation: Evaluation) -> dict[str, np.ndarray]:
    return {name: values.float().numpy() for name, values in evaluation.logits.items()}


def _of(modalities: Sequence[str], evaluation: Evaluation) -> dict[str, np.ndarray]:
    return {name: evaluation.logits[name].float().numpy() for name in modalities}


def _present(evaluation: Evaluation) -> dict[str, np.ndarray]:
    return {name: mask.numpy() for name, mask in evaluation.present.items()}


def _has_any(modalities: Sequence[str], evaluation: Evaluation) -> np.ndarray:
    """Returns (N,) bool, whether each sample has one of the modalities."""
    masks, everywhere = _present(evaluation), np.ones(len(evaluation.labels), dtype=bool)
    found: np.ndarray = np.any([masks.get(name, everywhere) for name in modalities], axis=0)
    return found


def named(logits: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns logits by the names they have in the file."""
    return {f"logits/{name}": values for name, values in logits.items()}


def rows_of(trainer: Trainer, split: str) -> dict[str, np.ndarray]:
    """Returns whose the predictions on a split are: sample ids, labels, groups and sources, (N,) each."""
    rows = trainer.loader.rows(split)
    return {
        "sample_ids": rows.sample_ids.astype(str),
        "labels": rows.labels,
        "groups": rows.groups.astype(str),
        "sources": rows.sources.astype(str),
    }


def keep_predictions(
    run_dir: Path,
    logits: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    validation: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes a run's predictions; rank 0 alone does.

    Args:
        run_dir: The run's folder.
        logits: Of test by head, (N, K).
        rows: Whose they are: COLUMNS, (N,) each.
        validation: Columns and logits of validation.
    """
    if distributed.rank() == 0:
        on_validation = {f"{VALIDATION}{name}": values for name, values in (validation or {}).items()}
        write_predictions(run_dir, {**rows, **named(logits), **on_validation})
