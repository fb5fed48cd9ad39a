"""The result of a run, as `result.json` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmcore import distributed
from mmcore.assembly.config import variants_of
from mmcore.config.plain import Settings
from mmcore.config.schema import RunConfig
from mmcore.config.sections import get_path
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import DataError
from mmcore.evaluation.readings import Reading
from mmcore.storage import set_aside
from mmcore.training.run_log import Row
from mmcore.training.trainer import MONITOR, Trainer
from rayjobs.results_layout import RESULT_FILE, SIZES_FILE
from rayjobs.runs.environment import Environment
from rayjobs.runs.handover import Segment
from rayjobs.runs.predictions import read_predictions
from rayjobs.storage.files import read_json
from rayjobs.storage.json_record import OPTIONAL, JsonRecord


@dataclass(frozen=True, kw_only=True)
class Shapley(JsonRecord):
    """Each modality's contribution to the accuracy on test.

    Attributes:
        contributions: Modality -> its share of what all have over none, in accuracy.
        none: Accuracy without any modality: that of the most frequent class.
        all: Accuracy with all of them.
    """

    contributions: Mapping[str, float]
    none: float
    all: float


@dataclass(frozen=True, kw_only=True)
class RunResult(JsonRecord):
    """The result of a run.

    Attributes:
        best: Row of the best epoch on validation.
        last: Row of the last epoch.
        monitor: The metric the best epoch was chosen by.
        epochs: Finished epochs.
        seconds: Wall-clock time of the last attempt.
        device_seconds: Seconds of training times the workers.
        test: Metrics on the data as they are, and the epoch tested; None: not tested yet.
        conditions: Name of a condition -> metrics on test under it (`rayjobs.train --missing`, `--noise`).
        shapley: The modalities' contributions; None: not asked for.
        readings: What the run's numbers say of its modalities, at its end.
        config: `RunConfig.to_dict()`.
        config_fingerprint: `RunConfig.fingerprint()`.
        data_fingerprint: `PreparedDataset.fingerprint`.
        protocol: How samples were split, for a person.
        selects_on_test: Whether validation was the test split, as some papers had it.
        variants: The method's variants whose every setting the configuration has.
        workers: Workers at its end.
        notices: What went otherwise than it should, but not wrong.
        schedule: The settings its weights were trained with, where they changed.
        group_sizes: Workers at each start of an elastic group.
        parts: Modality -> configuration of the network trained on it alone, of a run made of several; `config` is then
            the first one's, as a method `ensemble`.
        weights: Modality -> weight of its logits in the sum, of such a run.
        fitted_weights: Modality -> the same, fitted to its own head afterwards, of a model that has a head for each;
            what it is tested by is its own prediction all the same.
        environment: On what and with what it was trained; decides nothing. Earlier releases did not say.
        teachers: Modality -> folder of the run it learnt from, of a method that learns from teachers.
    """

    best: Row
    last: Row
    monitor: str
    epochs: int
    seconds: float
    device_seconds: float
    test: Row | None
    conditions: Mapping[str, Row]
    shapley: Shapley | None
    readings: list[Reading]
    config: Settings
    config_fingerprint: str
    data_fingerprint: str
    protocol: str
    selects_on_test: bool
    variants: list[str]
    workers: int
    notices: list[str]
    schedule: tuple[Segment, ...] | None = field(default=None, metadata=OPTIONAL)
    group_sizes: list[int] | None = field(default=None, metadata=OPTIONAL)
    parts: Mapping[str, Settings] | None = field(default=None, metadata=OPTIONAL)
    weights: Mapping[str, float] | None = field(default=None, metadata=OPTIONAL)
    fitted_weights: Mapping[str, float] | None = field(default=None, metadata=OPTIONAL)
    environment: Environment | None = field(default=None, metadata=OPTIONAL)
    teachers: Mapping[str, str] | None = field(default=None, metadata=OPTIONAL)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(get_path(self.config, "seed"))

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(get_path(self.config, "method.name"))

    @property
    def fold(self) -> int | None:
        """The fold, of a run of a cross-validation."""
        return int(get_path(self.config, "protocol.fold")) if get_path(self.config, "protocol.name") == "cv" else None

    @property
    def selects_last(self) -> bool:
        """Whether the last epoch was tested; else the best."""
        return bool(get_path(self.config, "trainer.select") == "last")

    @property
    def tested(self) -> Row:
        """The metrics on test of a run that was tested."""
        if self.test is None:
            raise ValueError("the run was not tested")
        return self.test


def read_result(run_dir: Path) -> RunResult | None:
    """Returns the result in a run's folder; None where the run has not ended.

    Neither has a run whose result is damaged, or whose predictions cannot be read: it is to be done again from its
    checkpoints. A damaged file is set aside, and that is said. To look at a result, `RunResult.read` it.

    Raises:
        DataError: The file is no result.
    """
    result = RunResult.read_or_set_aside(run_dir / RESULT_FILE)
    if result is None or result.test is None:
        return result
    try:
        read_predictions(run_dir)
    except DataError as error:
        set_aside(run_dir / RESULT_FILE, f"{error}: without them its result counts for nothing")
        return None
    return result


def read_results(folder: Path) -> list[RunResult]:
    """Returns the results of the finished runs that lie in a folder, in the order of their names.

    Raises:
        DataError: A file is damaged, or is no result.
    """
    found = []
    for path in sorted(folder.glob(f"*/{RESULT_FILE}")):
        try:
            result = RunResult.read(path)
        except DataError as error:
            raise DataError(f"{error}: finish its run by the command that made it, with --resume") from None
        found += [result] if result else []
    return found


def group_sizes(run_dir: Path) -> list[int]:
    """Returns the number of workers at each start of an elastic group."""
    return read_json(run_dir / SIZES_FILE, list) or []


def result_of(config: RunConfig, prepared: PreparedDataset, trainer: Trainer, seconds: float) -> RunResult:
    """Returns the result of a run that was trained, not tested yet."""
    assignment, progress = prepared.assign(config.protocol), trainer.progress
    return RunResult(
        best=progress.best_row,
        last=progress.last_row,
        monitor=MONITOR,
        epochs=progress.epoch,
        seconds=seconds,
        device_seconds=progress.seconds * distributed.world_size(),
        test=None,
        conditions={},
        shapley=None,
        readings=list(trainer.readings()),
        config=config.to_dict(),
        config_fingerprint=config.fingerprint(),
        data_fingerprint=prepared.fingerprint,
        protocol=assignment.line,
        selects_on_test=assignment.selects_on_test,
        variants=variants_of(config, prepared.spec.modality_names),
        workers=distributed.world_size(),
        notices=trainer.notices,
    )
