"""The ranking of an experiment, as `ranking.json` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayjobs.reporting.by_class import ClassRow
from rayjobs.runs.environment import Environment
from rayjobs.search.outcome import Outcome
from rayjobs.storage.json_record import OPTIONAL, JsonRecord


@dataclass(frozen=True, kw_only=True)
class Delta(JsonRecord):
    """What one method has more on test than another, in accuracy, with the ends of its 95 % interval where it has one.

    Attributes:
        mean: The difference.
        low: Lower end.
        high: Upper end.
        folds: The difference on each fold, of a cross-validation.
        word: What a test says of it (docs/statistics.md), over folds or test clusters; None where there is none.
    """

    mean: float
    low: float | None
    high: float | None
    folds: list[float] | None = field(default=None, metadata=OPTIONAL)
    word: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class OwnAccuracy(JsonRecord):
    """A modality's own accuracy on test, and by what it was measured: its "head", or a linear "probe"."""

    accuracy: float
    by: str


@dataclass(frozen=True, kw_only=True)
class Mistake(JsonRecord):
    """A class, what it was taken for, and which share of its test samples was, a mean over the final models."""

    label: str
    answer: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Failure(JsonRecord):
    """A trial or a final model that failed, and why."""

    trial: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RankingRow(JsonRecord):
    """One method, or a row or variant of one.

    Attributes:
        method: The row's name.
        accuracy: On test, the mean over final seeds and folds; None where a final model is missing.
        half_width: Half the accuracy's 95 % interval over the folds of a cross-validation.
        folds: Accuracy on each fold, of a cross-validation.
        accuracies: Test accuracy of each final model.
        seeds: Seed of each final model.
        failed_because: Why there is no result; "" where there is one. The first release did not say.
        delta: What it adds to the reference; None for the reference itself, and where they cannot be compared.
        modalities: Modality -> its own accuracy.
        metrics: Other figures on test, means over the final models: "macro_f1", "map", "ece". Earlier releases did not
            say.
        mistakes: The most frequent ones. Earlier releases did not say.
        trials: Trials of all its searches.
        begun: Those that finished an epoch or failed.
        failed: Those that failed.
        stopped_early: Those that were stopped.
        epochs: Epochs trained by all trials and final models.
        device_seconds: Seconds on a device, of all trials and final models.
        best: The best trial, of the first fold where there are folds.
        best_of_folds: The best trial of each search, where there is more than one.
        config_file: The first of `config_files`; None where there is none.
        config_files: The best configuration of each search that found one. The first release did not say.
        failures: The trials that failed, and the final models that are missing.
    """

    method: str
    accuracy: float | None
    half_width: float | None
    folds: list[float] | None
    accuracies: list[float]
    seeds: list[int]
    failed_because: str = ""
    delta: Delta | None
    modalities: Mapping[str, OwnAccuracy]
    metrics: Mapping[str, float] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    trials: int
    begun: int
    failed: int
    stopped_early: int
    epochs: int
    device_seconds: float
    best: Outcome | None
    best_of_folds: list[Outcome | None] | None
    config_file: str | None
    config_files: list[str] = field(default_factory=list)
    failures: list[Failure]


@dataclass(frozen=True, kw_only=True)
class RankingTable(JsonRecord):
    """The methods on one data set, the best first.

    Attributes:
        dataset: Name of the prepared data set.
        card: What the data is.
        constructed: Whether it was made to show an effect.
        data_fingerprint: `PreparedDataset.fingerprint`.
        protocol: How samples were split.
        folds: How many; None where there is one split.
        num_test_samples: Over all folds.
        interval_note: What must be printed beside the intervals; "" for nothing.
        chance_notes: What a reader must know before believing a row.
        search_note: What must be printed beside the searches; "" for nothing.
        classes: Accuracy by class, where classes are of unequal size or weighted.
        rows: One per method.
    """

    dataset: str
    card: str
    constructed: bool
    data_fingerprint: str
    protocol: str
    folds: int | None
    num_test_samples: int
    interval_note: str
    chance_notes: list[str]
    search_note: str
    classes: list[ClassRow] = field(default_factory=list)
    rows: list[RankingRow]


@dataclass(frozen=True, kw_only=True)
class Ranking(JsonRecord):
    """The whole result of an experiment.

    Attributes:
        experiment: Its name.
        folder: Where it lies, a path or an address.
        command: What was typed.
        reference: The row the others are compared with.
        final_seeds: Final models of each row, on each fold.
        rankings: One table per data set.
        ledger: Where each reading of test stands.
        tensorboard: The command that shows the curves.
        next: The command that trains the first row with more seeds; "" for none. The first release did not say.
        notes: What holds for all tables.
        environment: On what and with what the final models were trained. Earlier releases did not say.
    """

    experiment: str
    folder: str
    command: str
    reference: str | None
    final_seeds: int
    rankings: list[RankingTable]
    ledger: str
    tensorboard: str
    next: str = ""
    notes: list[str]
    environment: Environment | None = field(default=None, metadata=OPTIONAL)
