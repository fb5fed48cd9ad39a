"""The one training loop: fit -> train_epoch -> train_step -> evaluate.

A step never waits for the device: loss terms are summed there and read once an epoch; a loss that is not finite is
looked for once per logging interval.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from mmcore import distributed, metric_names, seeding
from mmcore.batch import Batch
from mmcore.config.schema import RunConfig
from mmcore.data.epoch_plan import EpochPlan
from mmcore.data.feeding.loader import Loader
from mmcore.errors import CheckpointError, TrainingError
from mmcore.evaluation.conditions import Condition
from mmcore.evaluation.predictions import PROBE, Collector, Evaluation, log_prior
from mmcore.evaluation.readings import COSINE_EVERY_STEPS, Facts, Reading, kept, readings
from mmcore.methods.base import EpochStats, Method, Need
from mmcore.methods.step import Place
from mmcore.training.checkpoint import CheckpointFolder, Spacing
from mmcore.training.class_weights import sample_weights
from mmcore.training.engine import Engine
from mmcore.training.feed import Feed
from mmcore.training.heartbeat import Heartbeat, heartbeat_file
from mmcore.training.probes import Probes
from mmcore.training.run_log import PlainReporter, Reporter, Row, RunLog, flatten
from mmcore.training.sample_tables import SampleTables
from mmcore.transforms.batch_transforms import BatchTransforms

MONITOR = metric_names.VAL_ACCURACY
"""The metric that picks the best epoch. From validation, so that the test split decides nothing."""


@dataclass
class Progress:
    """How far a run has come; all of it is in a checkpoint.

    Attributes:
        epoch: Number of finished epochs.
        step_in_epoch: Number of finished steps in the running epoch.
        totals: Loss term -> its sum over this epoch's samples, on the device.
        counts: Loss term -> number of samples in the steps that had it.
        num_samples: Number of samples in all of this epoch's steps.
        history: For each finished epoch, the metrics that readings use (`mmcore.evaluation.readings.kept`).
        best_row: Metrics of the best epoch.
        last_row: Metrics of the last finished epoch.
        seconds: Time spent in finished epochs.
        plan: What the running epoch gives; None: every sample once.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    totals: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    num_samples: int = 0
    history: list[Row] = field(default_factory=list)
    best_row: Row = field(default_factory=dict)
    last_row: Row = field(default_factory=dict)
    seconds: float = 0.0
    plan: EpochPlan | None = None


class Trainer:
    """Trains one method on one data set.

    Args:
        config: The run's complete configuration (see `mmcore.assembly.config.complete_config`).
        method: The method built from it, on `device`.
        loader: Source of this rank's batches.
        transforms: What is done to each batch on the device.
        device: Where to train.
        run_dir: Folder of checkpoints and logs, shared by all ranks; None: nothing is written.
        reporter: Receiver of every epoch's metrics, on every rank.
        alone: Modality -> validation accuracy of a model trained on it alone, where known; readings compare with it.
        always_every: Every so many epochs a resume point is written whatever the configuration says; 0: never.
        lineage: Other configurations whose checkpoints this run may resume from: those it had in earlier epochs, where
            a population search changed its settings on the way.
    """

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        loader: Loader,
        transforms: BatchTransforms,
        device: torch.device | str = "cpu",
        *,
        run_dir: Path | None = None,
        reporter: Reporter | None = None,
        alone: Mapping[str, float] | None = None,
        always_every: int = 0,
        lineage: Sequence[RunConfig] = (),
    ):
        self.config = config
        self._lineage = tuple(lineage)
        self.device = torch.device(device)
        self.method = method
        self.loader = loader
        self._dtype = torch.float64 if config.trainer.precision == "float64" else torch.float32
        self.transforms = transforms.to(self.device, self._dtype)
        self.engine = Engine(method, config, self.device)
        if config.trainer.class_weights != "none":
            labels = torch.from_numpy(loader.rows("train").labels)
            weights = sample_weights(config.trainer.class_weights, labels, method.context.num_classes)
            self.engine.class_weights = None if weights is None else weights.to(self.device, self._dtype)
        self.reporter: Reporter = reporter or PlainReporter()
        self.progress = Progress()
        self.notices: list[str] = []
        self.probes = Probes(method.model.num_features, method.context.num_classes, self._dtype).to(self.device)
        if config.trainer.probes:
            method.model.listener = self.probes.observe
        self._checkpoints = None
        self._spacing = Spacing(config.trainer.checkpoint_every, always_every)
        self._end = config.trainer.max_epochs
        self._log: RunLog | None = None
        self._run_dir = run_dir
        self._alone = dict(alone or {})
        self._facts: Facts | None = None
        self._cosine_every = COSINE_EVERY_STEPS
        self._heartbeat = Heartbeat(heartbeat_file(run_dir, distributed.rank()) if run_dir else None)
        self.engine.samples = SampleTables(loader.num_samples("train"), self.device, self._dtype)
        self.engine.feed = Feed(config, loader, self._on_device, self._heartbeat.beat)
        if run_dir is not None:
            self._checkpoints = CheckpointFolder(run_dir / "checkpoints", config.trainer.keep_checkpoints)

    def fit(self, until: int | None = None) -> Progress:
        """Trains to the last epoch, from the newest valid checkpoint in the run's folder if there is one.

        Args:
            until: Number of finished epochs to stop at; None: train to the end. A run that has as many already trains
                and reports nothing.

        Raises:
            TrainingError: A loss or weight is not finite; checkpoints saved before stay. Or the method lacks teachers.
            CheckpointError: The folder belongs to a run of another configuration, or with other teachers.
        """
        # From the configuration, not the machine: the number of threads changes how sums are rounded.
        torch.set_num_threads(self.config.trainer.threads)
        self._check_teachers()
        is_resumed = self.resume()
        self._end = self.config.trainer.max_epochs if until is None else until
        if until is not None and self.progress.epoch >= until:
            return self.progress
        if self._run_dir is not None and distributed.rank() == 0:
            self._log = RunLog(self._run_dir, self.config, MONITOR)
            # The last epoch's row is reported again below: a kill between saving and reporting leaves it out.
            self._notice(self._log.lacking(self.progress.epoch - 1))
            if is_resumed and self.progress.epoch < self._end:
                logging.getLogger(__name__).warning("%s", goes_on(self.progress, self._log.last_epoch))
        try:
            if self.progress.last_row:
                # A process killed between saving and reporting would else leave a gap in the reports.
                self._report(self.progress.last_row)
            while self.progress.epoch < self._end:
                start = time.perf_counter()
                self.train_epoch()
                self.end_epoch(start)
        finally:  # the process may run another trial next, and must not keep this one's files open
            if self._log is not None:
                self._log.close(finished=self.progress.epoch == self.config.trainer.max_epochs)
        return self.progress

    def train_epoch(self) -> None:
        """Trains on the rest of the current epoch."""
        progress = self.progress
        # Not in the middle of an epoch: there `resume` restored method and generators as they were.
        if progress.step_in_epoch == 0:
            self._begin_epoch()
            seeding.seed_process(self.config.seed, "epoch", progress.epoch, distributed.rank())
        self.method.train()
        self.probes.train()
        num_steps = self._num_steps
        # At most once an epoch, since measuring takes a second backward pass.
        self._cosine_every = max(COSINE_EVERY_STEPS, num_steps)
        every = self.config.trainer.checkpoint_every_steps
        for batch in self.loader.train_batches(progress.epoch, progress.step_in_epoch, progress.plan):
            self.train_step(batch)
            self._heartbeat.beat()
            if progress.step_in_epoch % self.config.trainer.log_every_steps == 0:
                self.engine.check_finite()
            if every and progress.step_in_epoch % every == 0 and progress.step_in_epoch < num_steps:
                self.engine.check_finite()  # a checkpoint with NaN in it would fail every attempt to resume
                self._save_resume_point(mid_epoch=True)

    def train_step(self, batch: Batch) -> None:
        """Does one optimizer step of the method (several, if it has several phases)."""
        batch = self._on_device(batch, training=True)
        progress, engine = self.progress, self.engine
        engine.place = Place(progress.epoch, progress.step_in_epoch, self._num_steps)
        is_diagnosed = self.config.trainer.diagnostics
        engine.log_step = is_diagnosed and progress.step_in_epoch % self.config.trainer.log_every_steps == 0
        # In the middle of each interval, since the first step of a run says little about its course.
        engine.cosine_step = is_diagnosed and engine.step_index % self._cosine_every == self._cosine_every // 2
        terms = self.method.train_step(batch, engine)
        if self.config.trainer.probes:
            self.probes.step()
        for name, term in terms.items():
            if name not in progress.totals:
                progress.totals[name], progress.counts[name] = torch.zeros_like(term), 0
            progress.totals[name].add_(term, alpha=batch.num_samples)
            # Fewer than the batch has, where only some of its micro-batches had the term.
            progress.counts[name] += min(engine.term_samples.get(name, batch.num_samples), batch.num_samples)
        engine.term_samples.clear()
        progress.num_samples += batch.num_samples
        progress.step_in_epoch += 1
        engine.step_index += 1

    def end_epoch(self, start: float) -> None:
        """Evaluates, saves the best model, lets schedule and method react, saves a resume point, reports.

        The order matters: a method may add an untrained module here, which must not enter the best model.
        """
        progress, epoch = self.progress, self.progress.epoch
        self.engine.check_finite()
        row: Row = {
            "epoch": epoch + 1,
            metric_names.LEARNING_RATE: self.engine.learning_rate,
            **self._training_values(),
        }
        evaluation = self.evaluate("val", full=False)
        row |= {metric_names.val(name): value for name, value in evaluation.metrics.items()}
        row[metric_names.EPOCH_SECONDS] = time.perf_counter() - start
        num_samples = self.loader.num_samples("train") if progress.plan is None else len(progress.plan)
        row[metric_names.SAMPLES_PER_SECOND] = num_samples / row[metric_names.EPOCH_SECONDS]
        if progress.plan is not None:
            row[metric_names.TRAIN_SAMPLES] = float(num_samples)
        progress.epoch, progress.step_in_epoch, progress.last_row, progress.plan = epoch + 1, 0, row, None
        progress.totals, progress.counts, progress.num_samples = {}, {}, 0
        progress.history.append(kept(row, self.method.context.modalities))
        self.engine.cosines.values = {}
        progress.seconds += row[metric_names.EPOCH_SECONDS]
        self._spacing.trained(row[metric_names.EPOCH_SECONDS])
        if not progress.best_row or row[MONITOR] > progress.best_row[MONITOR]:
            progress.best_row = row
            self._save_best()
        self.engine.samples.merge()
        self.engine.end_epoch(epoch, row[metric_names.VAL_LOSS])
        self.method.end_epoch(EpochStats(epoch, row), self.engine)
        if self._is_resume_point_due():
            self._save_resume_point(mid_epoch=False)
            self._spacing.written(progress.epoch)
        self._report(row)

    @torch.no_grad()
    def evaluate(self, split: str, *, full: bool = True, condition: Condition | None = None) -> Evaluation:
        """Predicts every sample of a split exactly once, whatever the number of ranks.

        Args:
            split: "train", "val" or "test".
            full: Whether to compute the costly metrics too (mAP, calibration error, per class).
            condition: What is taken from the samples before prediction (a modality, or noise added); None: nothing.
        """
        self.method.eval()
        self.probes.eval()
        modalities, num_classes = self.method.model.modalities, self.method.context.num_classes
        collector = Collector(modalities, num_classes, self._log_prior, self.device, self._dtype)
        for batch in self.loader.eval_batches(split):
            if condition is not None:
                batch = condition.remove(batch)  # on the CPU, since it reads masks value by value
            batch = self._on_device(batch, training=False)
            if condition is not None:
                batch = condition.disturb(batch)  # after them: noise is stated in units of what the encoders take
            with self.engine.autocast():
                logits = self.method.predict(batch)
            collector.add(batch, {**logits, **self._probe_logits()})
            self._heartbeat.beat()
        return collector.finish(full=full)

    def prior_accuracy(self, split: str) -> float:
        """Returns a split's accuracy when every answer is training's most frequent class (of several, the first)."""
        return float((self.loader.rows(split).labels == int(self._log_prior().argmax())).mean())

    def resume(self) -> bool:
        """Restores the newest valid checkpoint; returns whether there was one."""
        if self._checkpoints is None:
            return False
        state, refused = self._checkpoints.newest_resume_point(self.device)
        self._notice([f"{message}; went back to an older one" for message in refused])
        self._check_agreement(state)  # collective: before any rank returns or raises by itself
        if state is None:
            return False
        self._check_lineage(state["config"])
        if state.get("teachers", self._teachers) != self._teachers:
            raise CheckpointError("the run began with other teachers: their models were trained anew, or replaced")
        load_model(self.method, state)
        self.engine.load_state_dict(state["engine"])
        self.engine.samples.keep_on_first_rank()
        self.probes.load_full_state(state["probes"])
        seeding.restore_state(state["rng"][distributed.rank() % len(state["rng"])])
        self.progress = Progress(**{**state["progress"], "plan": EpochPlan.of_state(state["progress"].get("plan"))})
        return True

    def load_selected(self) -> int:
        """Loads the weights to be tested into a freshly built method; returns their epoch (from 1).

        Raises:
            CheckpointError: There is no valid one.
        """
        if self._checkpoints is None:
            raise CheckpointError("this run keeps no checkpoints: give it a run folder")
        state = self._checkpoints.selected(self.config.trainer.select, self.device)
        self._check_lineage(state["config"])
        load_model(self.method, state)
        self.probes.load_state_dict(state["probes"]["weights"])
        return int(state["epoch"])

    # Parts

    def _notice(self, notices: Sequence[str]) -> None:
        """Keeps what the result says of the run, and says it at once."""
        self.notices += notices
        for notice in notices if distributed.rank() == 0 else ():
            logging.getLogger(__name__).warning("%s", notice)

    def _begin_epoch(self) -> None:
        self.engine.place = Place(self.progress.epoch, 0, self.loader.num_steps)
        self.method.eval()
        with self.method.model.unheard():  # probes learn in the epoch's own steps alone
            self.method.begin_epoch(self.engine)
        self.engine.samples.merge()
        self.progress.plan = self._planned()

    def _planned(self) -> EpochPlan | None:
        """Returns what the method plans for the epoch that begins, the same on every worker."""
        with self.method.model.unheard():
            plan = self.method.plan_epoch(self.engine)
        if plan is None:
            return None
        plan = plan.on_cpu()
        plan.check(self.loader.num_samples("train"), self.method.context.modalities)
        if len(set(distributed.gather_objects(plan.checksum()))) > 1:
            raise TrainingError(
                "the workers planned different epochs: plan_epoch may use what is equal on all of them alone "
                "(engine.samples.values, engine.sum, engine.generator)"
            )
        return plan

    @property
    def _num_steps(self) -> int:
        """Steps of the running epoch."""
        plan = self.progress.plan
        return self.loader.num_steps if plan is None else plan.num_steps(self.config.trainer.batch_size)

    def _on_device(self, batch: Batch, *, training: bool) -> Batch:
        if batch.labels.device != self.device:
            batch = batch.to(self.device, non_blocking=True)
        transformed: Batch = self.transforms(batch, training=training)
        return transformed

    def _probe_logits(self) -> dict[str, Tensor]:
        if not self.config.trainer.probes:
            return {}
        return {f"{name}{PROBE}": values for name, values in self.probes.logits.items()}

    def _log_prior(self) -> Tensor:
        labels = torch.from_numpy(self.loader.rows("train").labels)
        return log_prior(labels, self.method.context.num_classes)

    def _training_values(self) -> Row:
        """Returns the epoch's mean loss terms, gradient norms and the method's own numbers, in one read."""
        progress = self.progress
        totals = torch.stack([value.double() for value in progress.totals.values()])
        counts = torch.tensor([*progress.counts.values(), progress.num_samples], dtype=torch.float64)
        packed = torch.cat([totals, counts.to(totals.device)])
        distributed.all_reduce_sum([packed])
        sums, counts, num_samples = packed.split_with_sizes([len(totals), len(totals), 1])
        means = zip(progress.totals, sums / counts, strict=True)
        values = {metric_names.train_loss(name): mean for name, mean in means}
        values[metric_names.train_loss("total")] = sums.sum() / num_samples[0]
        values |= {metric_names.gradient_norm(name): norm for name, norm in self.engine.gradient_norms.items()}
        values |= self.engine.growth.moved()
        values |= {metric_names.of_method(name): value for name, value in self.method.diagnostics().items()}
        cosines = {metric_names.gradient_cosine(name): value for name, value in self.engine.cosines.values.items()}
        numbers = torch.stack([value.double() for value in [*values.values(), *cosines.values()]]).tolist()
        row = dict(zip([*values, *cosines], numbers, strict=True))
        return {name: value for name, value in row.items() if name not in cosines or not math.isnan(value)}

    def _model_state(self) -> dict[str, Any]:
        return {
            "epoch": self.progress.epoch,
            "step": self.engine.step_index,
            "config": self.config.to_dict(),
            "structure": self.method.structure(),
            "method": self.method.state_dict(),
            "probes": self.probes.full_state(),
        }

    def _save_best(self) -> None:
        if self._checkpoints is not None and distributed.rank() == 0:
            with self._spacing.writing():
                self._checkpoints.save_best(self._model_state())

    def _is_resume_point_due(self) -> bool:
        """Tells whether one is written at the end of the epoch; the same on every rank, by the first one's clock."""
        epoch = self.progress.epoch
        if self._checkpoints is None:
            return False
        return bool(distributed.broadcast_object(epoch == self._end or self._spacing.is_due(epoch)))

    def _save_resume_point(self, *, mid_epoch: bool) -> None:
        if self._checkpoints is None:
            return
        self.probes.catch_up()  # a collective, so not left to `_model_state`, which rank 0 alone calls
        self.engine.samples.gather()  # another
        rng = distributed.gather_objects(seeding.capture_state())
        if distributed.rank() == 0:
            state = self._model_state()
            state |= {"mid_epoch": mid_epoch, "engine": self.engine.state_dict(), "rng": rng}
            state |= {"teachers": self._teachers}
            plan = self.progress.plan
            progress = {**vars(self.progress), "plan": None if plan is None else plan.state()}
            with self._spacing.writing():
                self._checkpoints.save({**state, "progress": progress})

    def readings(self) -> list[Reading]:
        """Returns what the finished epochs say about the run, in words."""
        if self._facts is None:
            counts = np.bincount(self.loader.rows("val").labels)
            chance, num_samples = float(counts.max() / counts.sum()), int(counts.sum())
            self._facts = Facts(self.method.context.modalities, chance, num_samples, self._alone)
        return readings(self.progress.history, self._facts)

    def _report(self, row: Row) -> None:
        if self._log is not None:
            self._log.write(row, [reading.to_dict() for reading in self.readings()])
        self._spacing.spent(self.reporter.report(row) or 0.0)

    def _check_lineage(self, stored: dict[str, Any]) -> None:
        if completed(stored) not in [config.to_dict() for config in self._lineage]:
            check_same_config(stored, self.config)

    @property
    def _teachers(self) -> dict[str, str]:
        """Modality -> what tells the weights of its teacher."""
        return {name: teacher.checksum for name, teacher in self.method.context.teachers.items()}

    def _check_teachers(self) -> None:
        if Need.TEACHERS not in self.method.needs(self.method.config):
            return
        if lacking := [name for name in self.method.context.modalities if name not in self._teachers]:
            raise TrainingError(f"method.name = {self.config.method['name']} learns from a model of each modality, and "
                                f"was built without those of {', '.join(lacking)}")  # fmt: skip

    def _check_agreement(self, state: dict[str, Any] | None) -> None:
        own = -1 if state is None else state["step"]
        steps = distributed.gather_objects(own)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"the workers found different checkpoints (steps {steps}): {self._run_dir} must be a folder "
                "that every worker sees"
            )


def goes_on(progress: Progress, last_epoch: int) -> str:
    """Returns, in words, where a resumed run goes on, and what it does again.

    Args:
        progress: As its checkpoint holds it.
        last_epoch: The newest epoch the run had ended before.
    """
    place = f"goes on after epoch {progress.epoch}"
    if progress.step_in_epoch:
        place += f" and {progress.step_in_epoch} steps"
    again = last_epoch - progress.epoch
    if again < 1:
        return place
    epochs = f"epoch {last_epoch} is" if again == 1 else f"epochs {progress.epoch + 1} to {last_epoch} are"
    return f"{place}; {epochs} trained again"


def load_model(method: Method, state: dict[str, Any]) -> None:
    """Builds the modules a checkpoint's method had added, then loads its weights."""
    method.rebuild(state["structure"])
    method.load_state_dict(state["method"])


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """Returns a stored configuration with the settings that came after it.

    The default of a new setting is what was done before there was a choice.
    """
    try:
        return RunConfig.model_validate(stored).to_dict()
    except ValidationError:
        return stored  # a setting of then is gone: the caller names it as a difference


def check_same_config(stored: dict[str, Any], config: RunConfig) -> None:
    """Raises a CheckpointError that lists the keys in which a checkpoint's configuration differs."""
    old, new = flatten(completed(stored)), flatten(config.to_dict())
    different = [
        f"{key} = {old.get(key)!r} there, {new.get(key)!r} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if different:
        raise CheckpointError(
            "the run's folder holds a checkpoint of another configuration: "
            + "; ".join(different)
            + ". Use another folder or the same configuration"
        )
