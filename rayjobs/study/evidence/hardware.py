"""On what and with what a study was trained, as far as its final models tell."""

from __future__ import annotations

from collections.abc import Iterable

from rayjobs.runs.environment import Environment, merged
from rayjobs.study.results import CellResult

UNKNOWN = "not recorded"
"""Device of what an earlier release trained."""


def spent(cell: CellResult) -> tuple[int, float]:
    """Returns the epochs and the device-seconds of a cell: of all its trials and final models."""
    trials = [trial for search in cell.searches for trial in search.trials]
    epochs = sum(trial.epochs for trial in trials) + sum(model.result.epochs for model in cell.finals)
    seconds = sum(trial.device_seconds for trial in trials)
    return epochs, seconds + sum(model.result.device_seconds for model in cell.finals)


def device_of(cell: CellResult) -> str:
    """Returns what a cell's final models were trained on, joined by commas; UNKNOWN where none says."""
    environment = environment_of(cell)
    return environment.device if environment else UNKNOWN


def environment_of(*cells: CellResult) -> Environment | None:
    """Returns on what and with what the final models of cells were trained; None where none says."""
    return merged(model.result.environment for cell in cells for model in cell.finals)


def hardware(cells: Iterable[CellResult]) -> dict[str, float]:
    """Returns kind of device -> device-seconds spent on it, by its name.

    A search is taken to have run on what its cell's final models ran on: its trials do not say.
    """
    found: dict[str, float] = {}
    for cell in cells:
        if cell.searches:
            found[device_of(cell)] = found.get(device_of(cell), 0.0) + spent(cell)[1]
    return dict(sorted(found.items()))


def one_device(cells: Iterable[CellResult]) -> bool:
    """Tells whether seconds may be compared: all final models that say so were trained on one kind of device."""
    devices = {device_of(cell) for cell in cells} - {UNKNOWN}
    return len(devices) < 2 and not any(", " in device for device in devices)
