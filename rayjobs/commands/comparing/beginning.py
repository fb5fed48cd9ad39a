"""`compare new` and `compare add`: checked as far as they can be before anything is trained, then written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from mmcore.config.plain import Plain
from mmcore.errors import UsageError
from rayjobs.cli.terminal import format_seconds
from rayjobs.cluster import resources
from rayjobs.commands.comparing.planning import folds_of
from rayjobs.experiment.machine import Machine, trial_shape
from rayjobs.experiment.paces import known_pace
from rayjobs.experiment.plan import check_request
from rayjobs.results_layout import EXPERIMENT_FILE, STUDY_FILE
from rayjobs.search.searches import Search
from rayjobs.study.judging.blocks import points
from rayjobs.study.lock import readings
from rayjobs.study.race import Race, write_race
from rayjobs.study.study import Study

PILOT = ("joint", "ensemble")
"""Methods whose difference a pilot measures."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a study takes.

    Attributes:
        name: Of the study.
        rows: Data set -> labels.
        folds: Data set -> folds; [0] where there is one split.
        trials: Data set -> trials of each cell.
        max_epochs: Of a trial that is not stopped early.
        seeds: Final models of each cell.
        cells: How many.
        places: Runs at once on this machine.
        device_seconds: Of all of them at most, by the pace of earlier experiments; None: not known.
        unknown: Searches whose pace is not known.
    """

    name: str
    rows: dict[str, list[str]]
    folds: dict[str, list[int]]
    trials: dict[str, int]
    max_epochs: int
    seeds: int
    cells: int
    places: int
    device_seconds: float | None
    unknown: list[str]

    def to_dict(self) -> dict[str, Plain]:
        """Returns it as plain values, for `--json`."""
        return dict(vars(self))


def preview(study: Study, folder: Path, machine: Machine) -> Preview:
    """Checks a study without its data, and returns what it takes.

    Raises:
        UsageError: A method, data set or fold there is not; a trial asks for more than this machine has.
        ConfigError: The search space, or what is fixed, breaks a rule.
    """
    rows: dict[str, list[str]] = {}
    folds: dict[str, list[int]] = {}
    trials: dict[str, int] = {}
    paces: list[tuple[Search, float | None]] = []
    max_epochs = cells = 0
    places = 1
    nodes = [resources.local_node(machine.cpus, machine.gpus)]
    for data in study.datasets:
        searches = check_request(study.request_of(data), machine)
        all_folds = tuple(dict.fromkeys(search.fold for search in searches))
        chosen = folds_of(all_folds, study, data.name)
        name = _distinct(data.name, rows)
        own = [search for search in searches if search.fold in chosen]
        rows[name] = list(dict.fromkeys(search.label for search in own))
        folds[name] = [fold or 0 for fold in chosen]
        trials[name] = sum(
            search.trials for search in own if (search.label, search.fold) == (study.reference, chosen[0])
        )
        cells += len(rows[name]) * len(chosen)
        max_epochs = max([max_epochs, *(search.max_epochs for search in own)])
        paces += [(search, _seconds(search, study, folder)) for search in own]
        shape = trial_shape(study.request_of(data), own[0], nodes, streams=False)
        places = max(places, resources.concurrent_trials(shape, nodes))
    seconds = [found for _, found in paces]
    known = [found for found in seconds if found is not None]
    return Preview(
        name=folder.name,
        rows=rows,
        folds=folds,
        trials=trials,
        max_epochs=max_epochs,
        seeds=study.seeds,
        cells=cells,
        places=places,
        device_seconds=sum(known) if len(known) == len(seconds) else None,
        unknown=sorted({search.name.partition("/")[0] for search, found in paces if found is None}),
    )


def _distinct(name: str, taken: dict[str, list[str]]) -> str:
    number = sum(key.partition(" ")[0] == name for key in taken)
    return f"{name} ({number + 1})" if number else name


def _seconds(search: Search, study: Study, folder: Path) -> float | None:
    """Returns the device-seconds of a search and its final models at most; None where no pace is known."""
    for output in (folder, folder.parent):
        pace = known_pace(search, output)
        if pace is not None:
            return pace.device_s * search.max_epochs * (search.trials + study.seeds)
    piloted = [pace.device_s for name in PILOT if (pace := known_pace(_as_piloted(search, name), folder))]
    return max(piloted) * search.max_epochs * (search.trials + study.seeds) if piloted else None


def _as_piloted(search: Search, label: str) -> Search:
    """Returns what the pilot calls its search of a method on the same data and fold."""
    return replace(search, dataset=pilot_name(search.dataset, 0), label=label, part="")


def pilot_name(dataset: str, number: int) -> str:
    """Returns what a pilot calls a data set, for one of its seeds."""
    return f"{dataset}-seed-{number}"


def begin(study: Study, folder: Path) -> None:
    """Writes a new study.

    Raises:
        UsageError: There is one of that name already, or an experiment.
    """
    if (folder / STUDY_FILE).exists():
        raise UsageError(
            f"the study {folder} is there already: go on by rayjobs.compare run {folder.name}, extend it by "
            f"rayjobs.compare add {folder.name}, or choose another name"
        )
    if (folder / EXPERIMENT_FILE).exists():
        raise UsageError(f"{folder} is an experiment of rayjobs.tune: choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    study.write(folder)


def extend(study: Study, folder: Path, race: Race) -> int:
    """Writes what a study is from now on, and who is out of it; returns how often it has read test."""
    study.write(folder)
    if race.leavers:
        write_race(folder, race)
    return readings(folder)


def print_preview(plan: Preview, study: Study, lines: Sequence[str] = ()) -> None:
    """Prints what a study takes, and what it can show.

    Args:
        plan: What it takes.
        study: What is wanted.
        lines: What it can show, in words.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"study {plan.name}: {plan.cells} cells, each a search and {plan.seeds} final models")
    for name, labels in plan.rows.items():
        folds = plan.folds[name]
        console.print(
            f"  {name}: {len(labels)} methods x {len(folds)} folds, {plan.trials[name]} trials of at most "
            f"{plan.max_epochs} epochs each"
        )
        console.print(f"    {', '.join(labels)}")
        console.print(f"    compared with {study.reference}, margin {points(study.margin_of(name))}")
    if plan.device_seconds is not None:
        console.print(
            f"  time: at most {format_seconds(plan.device_seconds)} on one device, by the pace of earlier runs"
        )
    else:
        console.print(f"  cost: not known; no earlier run of {', '.join(plan.unknown)} to go by")
    for line in lines:
        console.print(line)
