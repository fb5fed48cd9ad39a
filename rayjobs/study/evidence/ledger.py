"""How often test was read: by a study's final models, those that were replaced too, and by others on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayjobs.results_layout import CELLS, LEDGER_FILE, SUPERSEDED
from rayjobs.runs.test_ledger import read_ledger
from rayjobs.study.document import LedgerEntry
from rayjobs.study.lock import beneath
from rayjobs.study.results import StudyResults

OWN_LEDGERS = tuple(
    f"{CELLS}/{cell}/{run}/{LEDGER_FILE}"
    for cell in ("*", "*/fold-*")
    for run in ("final-*", f"{SUPERSEDED}/*", f"{SUPERSEDED}/*/final-*")
)
"""Where the ledgers of single final models lie: at an address each has one of its own."""


@dataclass(frozen=True)
class Reading:
    """One reading of test.

    Attributes:
        when: ISO 8601; "" where the line does not say.
        config: The configuration's fingerprint.
        data: The data's fingerprint.
        run: Folder of the model beneath the study's, as it was named then; "" of another study's.
        place: The model's folder as it stands in the ledger.
    """

    when: str
    config: str
    data: str
    run: str
    place: str


def ledger_entry(results: StudyResults) -> LedgerEntry:
    """Returns how often test was read, by the ledger of the results folder and those of single models.

    Every seed is a configuration of its own. Readings of a cell that was taken from another study are that study's.
    """
    found = readings_of(results)
    own = [reading for reading in found if reading.run]
    fingerprints = {cell.cell.fingerprint for cell in results.cells}
    same_data = [reading for reading in found if reading.data in fingerprints]
    return LedgerEntry(
        readings=len(own),
        superseded=sum(superseded(own, results)),
        elsewhere=sum(not reading.run for reading in same_data),
        configurations=len({reading.config for reading in [*own, *same_data]}),
    )


def readings_of(results: StudyResults) -> list[Reading]:
    """Returns every reading that the ledgers know, of all studies in the results folder, oldest first."""
    paths = [results.folder.parent / LEDGER_FILE]
    paths += sorted(path for pattern in OWN_LEDGERS for path in results.folder.glob(pattern))
    found, folder = [], results.folder.resolve()
    for path in paths:
        for line in read_ledger(path) if path.is_file() else ():
            words = {key: str(line.get(key, "")) for key in ("when", "config", "data")}
            found.append(Reading(**words, run=beneath(line["run_dir"], folder), place=line["run_dir"]))
    return sorted(found, key=lambda reading: reading.when)


def superseded(own: Sequence[Reading], results: StudyResults) -> list[bool]:
    """Returns for each reading, oldest first, whether the model that was read was replaced by another later."""
    now = {
        model.folder.relative_to(results.folder).as_posix(): model.result.config_fingerprint
        for cell in results.cells
        for model in cell.finals
    }
    last = {reading.run: reading.config for reading in own}
    return [
        SUPERSEDED in Path(reading.run).parts or reading.config != now.get(reading.run, last[reading.run])
        for reading in own
    ]
