"""What a study fixes before it reads test, and what was changed afterwards: `lock.json`.

Changes are possible, and always shown: whoever chose the margin after 14 readings of test must say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mmcore.errors import DataError
from rayjobs.results_layout import CELLS, LEDGER_FILE, LOCK_FILE
from rayjobs.runs.test_ledger import read_ledger
from rayjobs.storage.files import write_json
from rayjobs.storage.json_record import JsonRecord
from rayjobs.study.cell import Cell
from rayjobs.study.document import LockChange
from rayjobs.study.study import Study

NO_OTHER = "put back a copy of it: what was fixed before test was read cannot be made again"


@dataclass(frozen=True, kw_only=True)
class Terms(JsonRecord):
    """What is fixed.

    Attributes:
        metric: Primary metric.
        reference: Label of the primary reference.
        margins: Data set -> δ, in points.
        alpha: How often a word may be wrong, over a family.
        families: Label of a reference -> labels compared with it, corrected together; the primary one first.
        folds: Data set -> folds; [0] where there is one split.
        seeds: Final models of each cell.
        trials: Data set -> trials of each cell; of a cell of parts, of all of them together.
    """

    metric: str
    reference: str
    margins: Mapping[str, float]
    alpha: float
    families: Mapping[str, list[str]]
    folds: Mapping[str, list[int]]
    seeds: int
    trials: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Lock(JsonRecord):
    """The terms at the first reading of test, and each later change.

    Attributes:
        when: Of the first reading, ISO 8601.
        command: What was typed to begin the study.
        terms: As they were then.
        current: As they are now.
        changes: What led from one to the other, oldest first.
    """

    when: str
    command: str
    terms: Terms
    current: Terms
    changes: list[LockChange]


def terms_of(study: Study, cells: Sequence[Cell]) -> Terms:
    """Returns what a study fixes: names stand for rows (`unimodal` for one of each modality), so its cells are asked.

    Args:
        study: The study.
        cells: All of its cells.
    """
    labels = list(dict.fromkeys(cell.label for cell in cells))
    references = [label for name in (study.reference, *study.references) for label in rows_named(name, labels)]
    compared = [label for label in labels if label not in references]
    main = [*compared]
    families = {study.reference: main}
    families |= {label: list(main) for label in references if label != study.reference}
    datasets = list(dict.fromkeys(cell.dataset for cell in cells))
    return Terms(
        metric=study.metric,
        reference=study.reference,
        margins={name: study.margin_of(name) for name in datasets},
        alpha=study.alpha,
        families=families,
        folds={name: sorted({cell.fold or 0 for cell in cells if cell.dataset == name}) for name in datasets},
        seeds=study.seeds,
        trials={name: max(cell.trials for cell in cells if cell.dataset == name) for name in datasets},
    )


def rows_named(name: str, labels: Sequence[str]) -> list[str]:
    """Returns the rows a name stands for: its own, or, of a method with one for each modality, all of them."""
    if name in labels:
        return [name]
    return [label for label in labels if label.startswith(f"{name}-") and label != "ensemble-tuned"]


def read_lock(study: Path) -> Lock | None:
    """Returns the lock of a study's folder; None before test was read.

    Raises:
        DataError: It is damaged, or is none.
    """
    path = study / LOCK_FILE
    try:
        lock = Lock.read(path)
    except DataError as error:
        raise DataError(f"{error}; {NO_OTHER}") from None
    for name, terms in (("terms", lock.terms), ("current", lock.current)) if lock else ():
        problem = _problem(terms)
        if problem:
            raise DataError(f"{path}: {name}.{problem}; {NO_OTHER}")
    return lock


def _problem(terms: Terms) -> str:
    """Returns what is wrong with terms that were read, in words; "" where nothing is."""
    if terms.reference not in terms.families:
        return f"families must have the reference, {terms.reference}"
    if not 0 < terms.alpha < 1:
        return f"alpha must be above 0 and below 1, got {terms.alpha}"
    for dataset in terms.folds:
        margin = terms.margins.get(dataset)
        if margin is None or not 0 < margin < math.inf:
            return f"margins.{dataset} must be a number above 0, got {margin}"
    return ""


def fix_terms(folder: Path, study: Study, cells: Sequence[Cell]) -> None:
    """Writes the lock as test is about to be read for the first time; later, enters what was changed since."""
    lock, terms = read_lock(folder), terms_of(study, cells)
    if lock is None:
        now = _now()
        lock = Lock(when=now, command=study.command, terms=terms, current=terms, changes=[])
    elif lock.current == terms:
        return
    else:
        found = changes(lock.current, terms, readings(folder))
        lock = replace(lock, current=terms, changes=[*lock.changes, *found])
    write_json(folder / LOCK_FILE, lock.to_dict())


def changes(before: Terms, after: Terms, read: int) -> list[LockChange]:
    """Returns what differs between two terms, in words, one entry a key."""
    old, new = asdict(before), asdict(after)
    now = _now()
    return [
        LockChange(when=now, key=key, before=_words(old[key]), after=_words(new[key]), readings=read)
        for key in old
        if old[key] != new[key]
    ]


def readings(folder: Path) -> int:
    """Returns how often the models of a study have read test, by the ledger."""
    own = folder.resolve()
    return sum(bool(beneath(entry["run_dir"], own)) for entry in read_ledger(folder.parent / LEDGER_FILE))


def beneath(run_dir: str, folder: Path) -> str:
    """Returns a run's folder beneath a study's; "" for another's.

    A study may have been moved since: then its own name and the folder of its cells are looked for.

    Args:
        run_dir: As it stands in the ledger.
        folder: The study's, absolute.
    """
    path = Path(run_dir)
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    parts = path.parts
    for at in range(len(parts) - 1):
        if parts[at : at + 2] == (folder.name, CELLS):
            return "/".join(parts[at + 1 :])
    return ""


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_words(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
