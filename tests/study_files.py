"""Makes study folders of the files a real study leaves, from a description: no data, no Ray and no training.

    study = MadeStudy(methods={"aug": 0.8, "ensemble-tuned": [0.7, 0.8, 0.75, 0.7, 0.8, 0.75]})
    results = load_study(write_study(tmp_path / "results" / "made", study))

Which samples a model answers rightly follows from its accuracy: of each fold the easiest ones, by an order that has a
part of its own for each model, so that models of one accuracy differ in some answers. `answers` chooses them instead.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmcore.config.schema import RunConfig
from rayjobs.experiment.search_result import SearchResult
from rayjobs.results_layout import FINALS_FILE, LEDGER_FILE, LOCK_FILE, RESULT_FILE, SEARCH_FILE
from rayjobs.runs.predictions import FITTED_LOGITS, FUSED_LOGITS, write_predictions
from rayjobs.runs.result import RunResult
from rayjobs.search.outcome import Outcome
from rayjobs.storage.files import write_json, write_text
from rayjobs.study.cell import Cell
from rayjobs.study.lock import Lock, terms_of
from rayjobs.study.study import OTHER_REFERENCES, REFERENCE, StudiedData, Study

Accuracy = float | Sequence[float]
"""In [0, 1]: of all folds, or of each."""
Place = tuple[str, str, int]
"""Data set, label, fold (0 where there is one split)."""
BEGUN = "2026-11-29T10:00:00+00:00"
HEADS = ("fused", "image", "audio", "validation/logits/fused", "validation/logits/image", "validation/logits/audio")
"""Of a file as large as a real one."""
OWN_ORDER = 0.3
"""How much of the order in which samples are easy is each model's own."""


@dataclass(frozen=True, kw_only=True)
class MadeData:
    """A data set.

    Attributes:
        name: Of the prepared data set.
        unit: What it is a variant of; "": of nothing but itself.
        folds: Of the cross-validation; None: one split.
        samples: Test samples of each fold.
        groups: Groups that each fold tests; 0: samples are split.
        classes: How many there are, equally frequent.
        constructed: Whether it was made to show an effect.
        margin: δ in points; None: the study's.
        methods: Label -> accuracy, where it is another here than elsewhere.
    """

    name: str = "made"
    unit: str = ""
    folds: int | None = 6
    samples: int = 100
    groups: int = 0
    classes: int = 4
    constructed: bool = False
    margin: float | None = None
    methods: Mapping[str, Accuracy] = field(default_factory=dict)

    @property
    def planned(self) -> list[int | None]:
        """Its folds; [None] of one split."""
        return [None] if self.folds is None else list(range(self.folds))


@dataclass(frozen=True, kw_only=True)
class MadeStudy:
    """A study.

    Attributes:
        methods: Label -> accuracy on test; those of REFERENCES are compared with.
        data: Its data sets.
        seeds: Final models of each cell.
        seed_spread: By how much seed s is better than seed s - 1; the mean over seeds stays.
        trials: Of each cell.
        margin: δ in points.
        folds: Those of the study; None: all.
        failed: Place -> why its search found nothing.
        failed_seeds: (data set, label, fold, number of the final model) -> why it failed.
        open: Places whose search has not ended.
        locked: Whether test was read, so that there is a lock.
        answers: Place and number of a final model -> (N,) bool, its right answers; None: as its accuracy says.
        fitted: Label -> accuracy of the sum of its models' heads by fitted weights, of those that have such a sum.
        noise: Standard deviation of noise on the logits, which makes files as large as real ones.
    """

    methods: Mapping[str, Accuracy]
    data: Sequence[MadeData] = (MadeData(),)
    seeds: int = 3
    seed_spread: float = 0.0
    trials: int = 4
    margin: float = 1.0
    folds: list[int] | None = None
    failed: Mapping[Place, str] = field(default_factory=dict)
    failed_seeds: Mapping[tuple[str, str, int, int], str] = field(default_factory=dict)
    open: frozenset[Place] = frozenset()
    locked: bool = True
    answers: Callable[[Place, int], NDArray[np.bool_] | None] = lambda place, number: None
    fitted: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.0

    @property
    def references(self) -> list[str]:
        """Its references, the primary one first; of one without any known, the last method is it."""
        known = [label for label in self.methods if label in REFERENCES or label.startswith("unimodal-")]
        known = sorted(known, key=lambda label: label != REFERENCE)
        return known or [list(self.methods)[-1]]


REFERENCES = (REFERENCE, *OTHER_REFERENCES)


def write_study(folder: Path, made: MadeStudy) -> Path:
    """Writes a study into its folder, and its readings of test into the ledger beside it; returns the folder."""
    study = _study(made)
    folder.mkdir(parents=True)
    study.write(folder)
    readings: list[dict[str, str]] = []
    cells = list(_cells(made))
    for data, cell in cells:
        place = cell.dataset, cell.label, cell.fold or 0
        cell.write(folder)
        if place in made.open:
            continue
        _write_searches(folder, made, data, cell)
        if place not in made.failed:
            readings += _write_finals(folder, made, data, cell)
    write_text(folder.parent / LEDGER_FILE, "".join(f"{json.dumps(reading)}\n" for reading in readings))
    if made.locked:
        terms = terms_of(study, [cell for _, cell in cells])
        lock = Lock(when=BEGUN, command=study.command, terms=terms, current=terms, changes=[])
        write_json(folder / LOCK_FILE, lock.to_dict())
    return folder


def _study(made: MadeStudy) -> Study:
    primary, *others = made.references
    names = ["unimodal" if label.startswith("unimodal-") else label for label in others]
    units = list(dict.fromkeys(data.unit or data.name for data in made.data))
    return Study(
        created=BEGUN,
        command="python -m rayjobs.compare new made",
        datasets=[StudiedData(name=unit) for unit in units],
        methods=[label for label in made.methods if label not in made.references],
        reference=primary,
        references=list(dict.fromkeys(names)),
        margin=made.margin,
        margins={data.name: data.margin for data in made.data if data.margin is not None},
        protocol={"name": "holdout" if all(data.folds is None for data in made.data) else "cv"},
        folds=made.folds,
        trials=made.trials,
        max_epochs=8,
        seeds=made.seeds,
    )


def _cells(made: MadeStudy) -> Iterator[tuple[MadeData, Cell]]:
    for data in made.data:
        for label in made.methods:
            for fold in data.planned:
                if fold is None or made.folds is None or fold in made.folds:
                    yield data, _cell(made, data, label, fold)


def _cell(made: MadeStudy, data: MadeData, label: str, fold: int | None) -> Cell:
    training = 4 if data.folds is None else data.folds - 2
    tested = data.groups or data.samples
    return Cell(
        identity=hashlib.sha256(f"{data.name} {label} {fold}".encode()).hexdigest(),
        dataset=data.name,
        unit=data.unit or data.name,
        fingerprint=f"{zlib.crc32(data.name.encode()):012x}",
        card=f"Made-up answers under the name of {data.name}.",
        constructed=data.constructed,
        label=label,
        version=1,
        fold=fold,
        folds=data.folds,
        protocol=_protocol(data, fold),
        num_train=training * data.samples,
        num_val=data.samples,
        num_test=data.samples,
        by_group=data.groups > 0,
        train_groups=training * tested,
        test_groups=tested,
        groups=data.groups * (data.folds or training + 2) or None,
        chance=1 / data.classes,
        trials=made.trials,
        seeds_from=1000 * (fold or 0),
        search_seed=fold or 0,
        space={"optimizer.lr": "0.001 to 0.1, logarithmic"},
        parts=["image", "audio"] if label == REFERENCE else [],
        software={"equipoise": "0.1.0", "ray": "2.60.0", "torch": "2.14.0", "numpy": "2.4.6"},
    )


def _protocol(data: MadeData, fold: int | None) -> str:
    over = "groups" if data.groups else "samples"
    return f"holdout over {over} (seed 0)" if fold is None else f"cv over {over} (fold {fold} of {data.folds}, seed 0)"


def _config(cell: Cell, lr: float, seed: int) -> dict[str, object]:
    protocol = {"name": "holdout"} if cell.fold is None else {"name": "cv", "folds": cell.folds, "fold": cell.fold}
    values = {
        "dataset": {"name": cell.unit},
        "method": {"name": cell.label.partition("-")[0]},
        "protocol": protocol,
        "optimizer": {"lr": lr},
        "trainer": {"max_epochs": 8},
        "seed": seed,
    }
    return RunConfig.model_validate(values).to_dict()


def _write_searches(folder: Path, made: MadeStudy, data: MadeData, cell: Cell) -> None:
    """Writes what searches found: as many trials as there are parts share, the best one the last but one."""
    place = cell.dataset, cell.label, cell.fold or 0
    own = cell.folder(folder)
    places = [own / f"part-{part}" for part in cell.parts] or [own]
    share, rest = divmod(cell.trials, len(places))
    for number, path in enumerate(places):
        count = share + (number < rest)
        if place in made.failed:
            trials = [_trial(path.name, at, None, made.failed[place]) for at in range(1, count + 1)]
        else:
            reached = _accuracy(made, data, cell) + 0.02
            trials = [_trial(path.name, at, reached - 0.01 * abs(at - count + 1)) for at in range(1, count + 1)]
        best = max((trial for trial in trials if trial.objective is not None), key=_objective, default=None)
        config = None if best is None else _config(cell, float(best.values["optimizer.lr"]), cell.search_seed)
        path.mkdir(parents=True, exist_ok=True)
        result = SearchResult(label=cell.label, trials=trials, best=best, config=config)
        write_json(path / SEARCH_FILE, result.to_dict())


def _objective(trial: Outcome) -> float:
    return trial.objective or 0.0


def _trial(search: str, number: int, objective: float | None, reason: str = "") -> Outcome:
    return Outcome(
        name=f"{search}/trial-{number:03d}",
        values={"optimizer.lr": min(0.001 * 2**number, 0.09)},
        status="failed" if reason else "done",
        epochs=0 if reason else 8,
        objective=None if objective is None else min(objective, 1.0),
        objective_loss=0.5,
        device_seconds=2.0 + number,
        reason=reason,
    )


def _accuracy(made: MadeStudy, data: MadeData, cell: Cell) -> float:
    value = data.methods.get(cell.label, made.methods[cell.label])
    return float(value) if isinstance(value, int | float) else float(value[cell.fold or 0])


def _write_finals(folder: Path, made: MadeStudy, data: MadeData, cell: Cell) -> list[dict[str, str]]:
    """Writes a cell's final models, and returns their readings of test."""
    place = cell.dataset, cell.label, cell.fold or 0
    failures, readings = {}, []
    columns = _columns(data, cell)
    for number in range(1, made.seeds + 1):
        run_dir = cell.folder(folder) / f"final-{number}"
        if (*place, number) in made.failed_seeds:
            failures[run_dir.name] = made.failed_seeds[*place, number]
            continue
        run_dir.mkdir()
        accuracy = _accuracy(made, data, cell) + made.seed_spread * (number - (made.seeds + 1) / 2)
        right = made.answers(place, number)
        right = _right(place, number, data.samples, accuracy) if right is None else right
        logits = _logits(place, number, columns["labels"], right, made.noise, data.classes)
        if cell.label in made.fitted:
            sums = _right(place, number, data.samples, made.fitted[cell.label])
            logits[FITTED_LOGITS] = _logits(place, number, columns["labels"], sums, made.noise, data.classes)[
                FUSED_LOGITS
            ]
        write_predictions(run_dir, {**columns, **logits})
        result = _result(cell, number, float(right.mean()))
        write_json(run_dir / RESULT_FILE, result.to_dict())
        readings.append(_reading(run_dir, result))
    if failures:
        write_json(cell.folder(folder) / FINALS_FILE, failures)
    return readings


def _columns(data: MadeData, cell: Cell) -> dict[str, np.ndarray]:
    """Returns ids, labels, groups and sources of a fold's test samples: two samples of each source in a group."""
    fold, samples = cell.fold or 0, range(data.samples)
    ids = np.array([f"fold{fold}-{number:05d}" for number in samples])
    groups = (
        np.array([f"speaker{fold * data.groups + number % data.groups}" for number in samples]) if data.groups else ids
    )
    sources = np.array([f"fold{fold}-take{number // 2:05d}" for number in samples]) if data.groups else ids
    return {
        "sample_ids": ids,
        "labels": np.arange(data.samples) % data.classes,
        "groups": groups,
        "sources": sources,
    }


def _right(place: Place, number: int, samples: int, accuracy: float) -> NDArray[np.bool_]:
    dataset, label, fold = place
    common = np.random.default_rng(zlib.crc32(f"{dataset} {fold}".encode())).random(samples)
    own = np.random.default_rng(zlib.crc32(f"{dataset} {label} {fold} {number}".encode())).random(samples)
    right = np.zeros(samples, dtype=bool)
    easiest = np.argsort(common + OWN_ORDER * own, kind="stable")
    right[easiest[: round(min(max(accuracy, 0), 1) * samples)]] = True
    return right


def _logits(
    place: Place, number: int, labels: np.ndarray, right: np.ndarray, noise: float, classes: int
) -> dict[str, np.ndarray]:
    """Returns logits of the answers, and of two modalities that answer alike."""
    answers = np.where(right, labels, (labels + 1) % classes)
    logits = 4 * np.eye(classes, dtype=np.float32)[answers]
    generator = np.random.default_rng(zlib.crc32(f"{place} {number}".encode()))
    found = {}
    for head in HEADS if noise else ("fused", "image", "audio"):
        moved = noise * generator.normal(size=logits.shape).clip(-1, 1) if noise else 0.0  # moves no answer under 2
        found[head if head.startswith("validation/") else f"logits/{head}"] = (logits + moved).astype(np.float32)
    return found


def _result(cell: Cell, number: int, accuracy: float) -> RunResult:
    config = _config(cell, 0.004, cell.seeds_from + number)
    row = {"epoch": 8, "val/fused/accuracy": min(accuracy + 0.01, 1.0), "val/fused/loss": 0.5}
    heads = {
        f"{head}/{metric}": accuracy for head in ("fused", "image", "audio") for metric in ("accuracy", "macro_f1")
    }
    return RunResult(
        best=row | {"epoch": 6},
        last=row,
        monitor="val/fused/accuracy",
        epochs=8,
        seconds=10.0,
        device_seconds=10.0,
        test={"epoch": 6, **heads, "fused/ece": 0.05, "fused/loss": 0.5},
        conditions={},
        shapley=None,
        readings=[],
        config=config,
        config_fingerprint=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12],
        data_fingerprint=cell.fingerprint,
        protocol=cell.protocol,
        selects_on_test=False,
        variants=[],
        workers=1,
        notices=[],
    )


def _reading(run_dir: Path, result: RunResult) -> dict[str, str]:
    return {
        "when": BEGUN,
        "config": result.config_fingerprint,
        "data": result.data_fingerprint,
        "protocol": result.protocol,
        "condition": "clean",
        "run_dir": str(run_dir.resolve()),
        "command": "python -m rayjobs.compare run made",
    }
