"""A study's result, as `compare.json` holds it: every number the report, the tables and the figures show.

Accuracies and differences are in points (0 to 100). All of it is a function of the study's files. The JSON Schema in
`rayjobs/schemas/compare-1.json` says the same for programs of others; within version 1 keys are only added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rayjobs.storage.json_record import JsonRecord

SCHEMA = "equipoise.compare/1"
CellStatus = Literal["done", "failed", "left out", "open"]
ScoreStatus = Literal["done", "failed", "left out"]
CheckState = Literal["pass", "warn", "fail", "not applicable"]
Ends = tuple[float, float]
"""Lower and upper end of a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class LockChange(JsonRecord):
    """What was changed after test had been read.

    Attributes:
        when: ISO 8601.
        key: What: "margin", "trials", "methods", ...
        before: In words.
        after: In words.
        readings: How often this study had read test by then.
    """

    when: str
    key: str
    before: str
    after: str
    readings: int


@dataclass(frozen=True, kw_only=True)
class StudyEntry(JsonRecord):
    """The study.

    Attributes:
        name: Its folder's name.
        command: What was typed to begin it.
        created: ISO 8601.
        cells: How many it has.
        done: How many of them are finished; failed ones are.
        blocks: Data set -> folds that every method has finished: those the comparisons are of.
    """

    name: str
    command: str
    created: str
    cells: int
    done: int
    blocks: Mapping[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class LockEntry(JsonRecord):
    """What was fixed before test was read, and what was changed later.

    Attributes:
        when: Of the first reading of test, ISO 8601; "" before.
        metric: Primary metric: "accuracy".
        reference: Label of the primary reference.
        margins: Data set -> δ, in points.
        alpha: How often a word may be wrong, over a family.
        families: Name -> labels in it: "primary", "ensemble", ...
        folds: Data set -> folds.
        seeds: Final models of each cell.
        trials: Of each cell.
        changes: Later ones, oldest first.
    """

    when: str
    metric: str
    reference: str
    margins: Mapping[str, float]
    alpha: float
    families: Mapping[str, list[str]]
    folds: Mapping[str, list[int]]
    seeds: int
    trials: int | None
    changes: list[LockChange]


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(JsonRecord):
    """One data set.

    Attributes:
        name: Name of the prepared data set.
        unit: What it is a variant of: variants count once among data sets.
        fingerprint: `PreparedDataset.fingerprint`.
        protocol: How samples were split, in words.
        folds: The folds of the study; [0] where there is one split.
        cross_validated: Whether there are folds.
        groups: How many groups test together (speakers); None where samples are split.
        n: Test samples of all complete folds.
        num_train: Of each complete fold.
        chance: Accuracy of always answering the most frequent class of training, in points, mean over folds.
        rho: Test size by training size, mean over folds, of groups where there are groups.
        constructed: Whether it was made to show an effect; such a set counts in no test over data sets.
        card: What the data is.
    """

    name: str
    unit: str
    fingerprint: str
    protocol: str
    folds: list[int]
    cross_validated: bool
    groups: int | None
    n: int
    num_train: list[int]
    chance: float
    rho: float
    constructed: bool
    card: str


@dataclass(frozen=True, kw_only=True)
class MethodEntry(JsonRecord):
    """One method.

    Attributes:
        label: Its name in every table.
        version: Of its code.
        role: "method" where it is compared, "reference" where others are compared with it; "fit" where it is the same
            models as `<label>` without "+fit", the logits of their heads summed by weights fitted on validation.
        space: Path -> what it is drawn from, in words.
        failed: Data set -> why it has no result there.
    """

    label: str
    version: int
    role: Literal["method", "reference", "fit"]
    space: Mapping[str, str]
    failed: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class BestEntry(JsonRecord):
    """The best trial of a cell: what was searched, and its accuracy on validation in points."""

    config: Mapping[str, object]
    val: float


@dataclass(frozen=True, kw_only=True)
class FinalEntry(JsonRecord):
    """A final model.

    Attributes:
        seed: Its seed.
        metrics: On test; accuracies in points, others as they are: "accuracy", "macro_f1", "ece", "<modality>", ...
        val: Accuracy on validation, in points.
        epochs: Trained.
        best_epoch: The one that was tested.
        device_seconds: Spent.
        predictions: File beneath the study's folder.
        sha256: Of that file.
    """

    seed: int
    metrics: Mapping[str, float]
    val: float
    epochs: int
    best_epoch: int
    device_seconds: float
    predictions: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShrinkageEntry(JsonRecord):
    """What a search's best score fell by when it was trained again, in points, and what noise alone gives."""

    fall: float
    by_noise: float | None
    fits_validation: bool | None


@dataclass(frozen=True, kw_only=True)
class CellEntry(JsonRecord):
    """A method on a fold of a data set.

    Attributes:
        dataset: Name of the data set.
        method: Label of the method.
        fold: Fold; 0 where there is one split.
        identity: By which it is known in other studies.
        status: "done", "failed", "left out" by a race, or "open": not finished yet.
        reason: Why it failed or was left out; "" else.
        folder: Beneath the study's folder.
        trials: Trials of its searches.
        failed_trials: Those that failed.
        epochs: Trained by trials and final models.
        device_seconds: Spent on trials and final models.
        best: None where no trial succeeded.
        at_edge: Searched paths whose best value lies at an end of their range.
        shrinkage: None without final models.
        finals: Those that are finished, by seed.
    """

    dataset: str
    method: str
    fold: int
    identity: str
    status: CellStatus
    reason: str
    folder: str
    trials: int
    failed_trials: int
    epochs: int
    device_seconds: float
    best: BestEntry | None
    at_edge: list[str]
    shrinkage: ShrinkageEntry | None
    finals: list[FinalEntry]


@dataclass(frozen=True, kw_only=True)
class ScoreEntry(JsonRecord):
    """What a method reaches on a data set, on its complete folds.

    Attributes:
        dataset: Name of the data set.
        method: Label.
        mean: Accuracy on test in points, mean over folds of the mean over seeds; None where it failed or was left out,
            and where no fold is complete.
        half_width: Half its plain 95 % interval over folds; None under 3 folds.
        folds: Mean over seeds of each fold.
        seeds: Fold -> each seed's accuracy.
        metrics: Means of the other figures: "macro_f1", "ece", "<modality>", ...
        status: "done", "failed", or "left out" by a race.
        reason: Why it failed or was left out; "" else.
        parameters: Trained; None where not known.
        epochs: Of all its complete cells.
        device_seconds: Of all its complete cells.
    """

    dataset: str
    method: str
    mean: float | None
    half_width: float | None
    folds: list[float]
    seeds: list[list[float]]
    metrics: Mapping[str, float]
    status: ScoreStatus
    reason: str
    parameters: int | None
    epochs: int
    device_seconds: float


@dataclass(frozen=True, kw_only=True)
class Comparison(JsonRecord):
    """A against B on one data set; above 0 A is better.

    Attributes:
        dataset: Name of the data set.
        a: Label.
        b: Label of the reference.
        family: "primary", or what else it is corrected with, exploratory: the label of another reference, or "fit".
        d: Mean difference over folds, in points; of one split over seeds.
        folds: Difference on each fold.
        s_d: Standard deviation over folds.
        k: Folds.
        rho: Test size by training size.
        plain: The estimate's interval, over these folds; of one split the paired bootstrap's over test clusters.
        corrected: The interval that decides the word; None where there is none.
        p: Of "no difference".
        p_holm: Corrected over the family.
        p_tost: Of "different by δ or more".
        p_tost_holm: Corrected.
        p_not_worse_holm: Of "worse by δ or more", corrected.
        bayes: P(worse by more than δ), P(within δ), P(better by more).
        p_win: Share of folds won, ties half.
        variance: Of one difference: what folds add and what seeds add; None where they cannot be told apart.
        narrows: What narrows the interval more: "fold", "seed", "neither"; "" where not known.
        only_a: Test samples that A alone answered rightly, summed over folds, mean over seeds.
        only_b: The same for B.
        word: One of `mmcore.analysis.words.Word`, with δ; None where there is no test.
        note: What must be printed beside it, or "".
    """

    dataset: str
    a: str
    b: str
    family: str
    d: float
    folds: list[float]
    s_d: float | None
    k: int
    rho: float
    plain: Ends | None
    corrected: Ends | None
    p: float | None
    p_holm: float | None
    p_tost: float | None
    p_tost_holm: float | None
    p_not_worse_holm: float | None
    bayes: tuple[float, float, float] | None
    p_win: float | None
    variance: tuple[float, float] | None
    narrows: str
    only_a: float | None
    only_b: float | None
    word: str | None
    note: str


@dataclass(frozen=True, kw_only=True)
class PairOverSets(JsonRecord):
    """A against the reference over data sets: P(worse), P(within), P(better) by the signed-rank test, and p."""

    a: str
    b: str
    differences: Mapping[str, float]
    bayes: tuple[float, float, float] | None
    p: float | None
    p_holm: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class OverDatasets(JsonRecord):
    """What several data sets say together.

    Attributes:
        units: Those counted.
        left_out: Data set -> why it does not count.
        friedman: "chi2", "p_chi2", "f", "p"; None under 2 units or methods.
        ranks: Label -> mean rank, 1 the best.
        cd_bars: Labels under each bar of the critical-difference diagram; None where there is no diagram.
        pairs: Each method against the reference.
        profiles: Label -> "middle", "low", "high": the interquartile mean on the common scale with its interval.
        needed: Data sets for any p of the primary family to be under α.
        note: What must be printed beside it, or "".
    """

    units: list[str]
    left_out: Mapping[str, str]
    friedman: Mapping[str, float] | None
    ranks: Mapping[str, float]
    cd_bars: list[list[str]] | None
    pairs: list[PairOverSets]
    profiles: Mapping[str, Mapping[str, float]]
    needed: int
    note: str


@dataclass(frozen=True, kw_only=True)
class BestOfEntry(JsonRecord):
    """The best of all methods on a data set, corrected for having been chosen.

    Attributes:
        dataset: Name of the data set.
        observed: Highest mean, in points.
        corrected: What it is worth where it was not chosen by; None for one fold of one cluster.
        chosen: Label -> share of the draws in which it was best.
        units: What was drawn: "folds", or what a cluster is.
    """

    dataset: str
    observed: float
    corrected: float | None
    chosen: Mapping[str, float]
    units: str


@dataclass(frozen=True, kw_only=True)
class CurvePoint(JsonRecord):
    """A search after some of its trials: their number, epochs, device-seconds, and the best on validation in points."""

    trials: int
    epochs: int
    device_seconds: float
    best: float


@dataclass(frozen=True, kw_only=True)
class BudgetEntry(JsonRecord):
    """What a method spent on a data set, and what it had when.

    Attributes:
        dataset: Name of the data set.
        method: Label.
        trials: Of a cell.
        epochs: Of all complete cells.
        device_seconds: Of all complete cells.
        at_common_cost: Best on validation once the least that any method spent was spent, mean over folds, in points.
        curves: Fold -> the search as it went.
        expected_best: Expected best of n trials, n = 1.., mean over folds; None where trials are not exchangeable.
    """

    dataset: str
    method: str
    trials: int
    epochs: int
    device_seconds: float
    at_common_cost: float | None
    curves: Mapping[str, list[CurvePoint]]
    expected_best: list[float] | None


@dataclass(frozen=True, kw_only=True)
class PowerEntry(JsonRecord):
    """What the plan can show on a data set.

    Attributes:
        dataset: Name of the data set.
        margin: δ, in points.
        deviation: σ_d that it goes by, in points; None: not known.
        source: Where it is from, in words.
        folds: k.
        family: m.
        smallest: Smallest difference shown in 4 of 5 studies, in points.
        with_more: Number of folds -> the same, up to all there could be.
        folds_needed: The fewest folds that show δ; None where no number there is does.
        note: What must be printed beside it, or "".
    """

    dataset: str
    margin: float
    deviation: float | None
    source: str
    folds: int
    family: int
    smallest: float | None
    with_more: Mapping[str, float]
    folds_needed: int | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Check(JsonRecord):
    """One item of the checklist.

    Attributes:
        id: Its number in the list, from 1.
        title: What is asked.
        state: How it stands.
        evidence: What shows it, in words, with the file or the figure.
    """

    id: int
    title: str
    state: CheckState
    evidence: str


@dataclass(frozen=True, kw_only=True)
class LedgerEntry(JsonRecord):
    """Readings of test.

    Attributes:
        readings: By this study's final models.
        superseded: Those of them whose model was replaced by a later one.
        elsewhere: Readings of the same data by other studies in the same results folder.
        configurations: Configurations ever read on the same data.
    """

    readings: int
    superseded: int
    elsewhere: int
    configurations: int


@dataclass(frozen=True, kw_only=True)
class StudyDocument(JsonRecord):
    """The whole of `compare.json`.

    Attributes:
        schema: SCHEMA.
        sentences: The answer in words, one for each data set, and one over them where there are enough.
        study: The study.
        lock: What was fixed before test was read.
        software: Package -> version, and "commit" where known.
        hardware: Kind of device -> device-seconds spent on it.
        datasets: In the order of the study.
        methods: Those compared, then references, then each with fitted weights where it has such a row.
        scores: By data set, in the order of `methods`.
        cells: By data set, method, fold.
        comparisons: By data set, family, method.
        over_datasets: None for one data set.
        best_of: One a data set.
        budgets: By data set and method.
        power: One a data set.
        checklist: All items.
        ledger: Readings of test.
        commands: Command -> what it does: run, report, add, and all of it again.
        notes: What holds for all of it.
    """

    schema: str
    sentences: list[str]
    study: StudyEntry
    lock: LockEntry
    software: Mapping[str, str]
    hardware: Mapping[str, float]
    datasets: list[DatasetEntry]
    methods: list[MethodEntry]
    scores: list[ScoreEntry]
    cells: list[CellEntry]
    comparisons: list[Comparison]
    over_datasets: OverDatasets | None
    best_of: list[BestOfEntry]
    budgets: list[BudgetEntry]
    power: list[PowerEntry]
    checklist: list[Check]
    ledger: LedgerEntry
    commands: Mapping[str, str]
    notes: list[str]
