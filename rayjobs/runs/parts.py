"""A run made of parts: one network for each modality, each trained by its own configuration, their logits summed.

    final-1/image/        a run of `unimodal` on one modality, with its own checkpoints; resumes by itself
    final-1/audio/        the next one, trained when the first has ended
    final-1/result.json   the sum: test read once, from the epoch of each part that was best on validation

The weights of the sum are fitted on validation (`mmcore.analysis.logit_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mmcore import distributed
from mmcore.analysis.logit_weights import fit_logit_weights, weighted_sum
from mmcore.assembly.config import complete_config, parse_config
from mmcore.config.schema import RunConfig
from mmcore.data.prepared.store import PreparedDataset
from mmcore.evaluation.conditions import Condition
from mmcore.evaluation.predictions import Evaluation, head_metrics, log_prior
from mmcore.metric_names import FUSED, val
from mmcore.training.run_log import Reporter, Row
from rayjobs.results_layout import CONFIG_FILE, RESULT_FILE
from rayjobs.runs import worker
from rayjobs.runs.environment import merged
from rayjobs.runs.epochs.progress import EPOCH
from rayjobs.runs.job import Job
from rayjobs.runs.result import RunResult, read_result
from rayjobs.runs.test_ledger import Entry
from rayjobs.storage.files import write_json


def run(job: Job, reporter: Reporter) -> RunResult:
    """Does a job, of parts or not, and returns what is written to `result.json`; see `rayjobs.runs.worker.run`."""
    if not job.parts:
        return worker.run(job, reporter)
    run_dir, result = Path(job.run_dir), read_result(Path(job.run_dir))
    if result and result.parts == job.parts and result.test is not None:
        reporter.report(result.last)
        return result
    job.make_folder()
    config = ensemble_config(job)
    if distributed.rank() == 0:
        write_json(run_dir / CONFIG_FILE, config.to_dict())
    trained: dict[str, RunResult] = {}
    for name in job.parts:
        before = sum(part.epochs for part in trained.values())
        trained[name] = worker.run(_part_job(job, name), _Onwards(reporter, before))
    result = _test(job, config, trained)
    if distributed.rank() == 0:
        write_json(run_dir / RESULT_FILE, result.to_dict())
    return result


def ensemble_config(job: Job) -> RunConfig:
    """Returns what a run of parts is entered as: the first part's configuration, with `ensemble` for its method."""
    return complete_config(parse_config({**job.config, "method": {"name": "ensemble"}}))


@dataclass
class _Onwards:
    """Reports a part's epochs as those that follow the parts before."""

    reporter: Reporter
    before: int

    def report(self, metrics: Row) -> float | None:
        """Passes a row on."""
        return self.reporter.report({**metrics, EPOCH: metrics[EPOCH] + self.before})


def _part_job(job: Job, name: str) -> Job:
    run_dir = str(Path(job.run_dir) / name)
    return replace(job, config=job.parts[name], run_dir=run_dir, test=False, alone={}, schedule=(), parts={})


@dataclass(frozen=True)
class _Split:
    """What the parts predict on one split.

    Attributes:
        logits: Modality -> (N, K).
        labels: (N,).
        present: Modality -> (N,) bool, of modalities that samples may lack.
        own: Modality -> the metrics of its own head.
    """

    logits: Mapping[str, np.ndarray]
    labels: np.ndarray
    present: Mapping[str, np.ndarray]
    own: Mapping[str, float]

    def fused(self, weights: Mapping[str, float], prior: np.ndarray) -> np.ndarray:
        """Returns the weighted sum, (N, K); the classes' frequencies where a sample has no modality."""
        summed = weighted_sum(self.logits, weights, self.present)
        none = np.ones(len(summed), dtype=bool)
        for name in self.logits:
            none &= ~self.present[name] if name in self.present else False
        return np.where(none[:, None], prior, summed)

    def metrics(self, fused: np.ndarray) -> dict[str, float]:
        """Returns the metrics of the sum and of each modality."""
        values, labels = torch.from_numpy(fused), torch.from_numpy(self.labels)
        return {**head_metrics(FUSED, values, labels, full=True), **self.own}


def _test(job: Job, config: RunConfig, trained: Mapping[str, RunResult]) -> RunResult:
    """Fits the weights on validation, reads test once and returns the result of the sum."""
    prepared = job.data.prepared()
    line = prepared.assign(config.protocol).line
    validation, chosen_by = _evaluated(job, prepared, "val")
    weights = fit_logit_weights(validation.logits, validation.labels, validation.present)
    Entry(Path(job.run_dir), config.fingerprint(), prepared.fingerprint, line, job.command).record(Condition().name)
    test, rows = _evaluated(job, prepared, "test")
    prior = _prior(prepared, config)
    fused, fused_there = test.fused(weights, prior), validation.fused(weights, prior)
    there = worker.named({FUSED: fused_there.astype(np.float32), **validation.logits})
    there |= {name: chosen_by[name] for name in ("sample_ids", "labels")}
    worker.keep_predictions(Path(job.run_dir), {FUSED: fused.astype(np.float32), **test.logits}, rows, there)
    epochs = sum(part.epochs for part in trained.values())
    on_validation = validation.metrics(fused_there)
    row = {EPOCH: epochs, **{val(name): value for name, value in on_validation.items()}}
    first = next(iter(trained.values()))
    return replace(
        first,
        best=row,
        last=row,
        epochs=epochs,
        seconds=sum(part.seconds for part in trained.values()),
        device_seconds=sum(part.device_seconds for part in trained.values()),
        test={EPOCH: epochs, **test.metrics(fused)},
        readings=[reading for part in trained.values() for reading in part.readings],
        config=config.to_dict(),
        config_fingerprint=config.fingerprint(),
        variants=[],
        notices=[f"{name}: {notice}" for name, part in trained.items() for notice in part.notices],
        parts=dict(job.parts),
        weights=weights,
        environment=merged(part.environment for part in trained.values()),
    )


def _evaluated(job: Job, prepared: PreparedDataset, split: str) -> tuple[_Split, dict[str, np.ndarray]]:
    """Returns what each part's chosen epoch predicts on a split, and whose the rows are."""
    found: dict[str, Evaluation] = {}
    rows: dict[str, np.ndarray] = {}
    for name in job.parts:
        part = _part_job(job, name)
        trainer = worker.build_trainer(part, parse_config(part.config), prepared, None)
        trainer.load_selected()
        with closing(trainer.loader):
            found[name] = trainer.evaluate(split)
            rows = worker.rows_of(trainer, split)
    present = {name: each.present[name].numpy() for name, each in found.items() if name in each.present}
    own = {
        key: value for name, each in found.items() for key, value in each.metrics.items() if key.split("/")[0] == name
    }
    logits = {name: each.logits[name].float().numpy() for name, each in found.items()}
    return _Split(logits, rows["labels"], present, own), rows


def _prior(prepared: PreparedDataset, config: RunConfig) -> np.ndarray:
    """Returns the logits (K,) of a sample that has no modality."""
    labels = prepared.index["label"].to_numpy()[prepared.assign(config.protocol).train]
    return np.asarray(log_prior(torch.from_numpy(labels), prepared.spec.num_classes).numpy())
