"""The folder of an experiment: made, found again, resumed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from mmcore.errors import DataError, UsageError, suggest
from rayjobs.experiment.request import Request
from rayjobs.experiment.search_result import Keep
from rayjobs.results_layout import EXPERIMENT_FILE, EXPERIMENT_FORMAT, RANKING_FILE
from rayjobs.storage.addresses import reaching
from rayjobs.storage.files import write_json
from rayjobs.storage.json_record import OPTIONAL, JsonRecord
from rayjobs.storage.mirror import NO_MIRROR, Mirror


@dataclass(frozen=True, kw_only=True)
class StoredExperiment(JsonRecord):
    """An experiment as `experiment.json` holds it.

    Attributes:
        format_version: `EXPERIMENT_FORMAT` of the release that began it.
        created: When, ISO 8601.
        folder: Where it was begun; its searches can resume only there.
        command: What was typed.
        request: What was asked for.
        per_search: Trials of each search at a time; None: not fixed yet.
    """

    format_version: int
    created: str
    folder: str
    command: str
    request: Request
    per_search: int | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Experiment:
    """A folder of results and the request it answers; on object storage, the folder's twin counts.

    Attributes:
        folder: Where the results go.
        request: What was asked for.
        command: What was typed.
        mirror: Where the folder has its twin.
        per_search: Trials of each search at a time, for as long as the experiment takes; None: not fixed yet.
        keep: Whose checkpoints stay when a search has ended; each command may say something else.
    """

    folder: Path
    request: Request
    command: str
    mirror: Mirror = NO_MIRROR
    per_search: int | None = None
    keep: Keep = "best"

    @property
    def name(self) -> str:
        """The experiment's name: that of its folder."""
        return self.folder.name

    @property
    def location(self) -> str:
        """The folder that counts: its path, or its twin's address."""
        return self.mirror.address_of(self.folder)


def new_experiment(request: Request, output: Path, name: str | None, command: str) -> Experiment:
    """Makes the folder of a new experiment.

    A name made from what is searched is numbered (`-2`, `-3`) where it is taken; a given name is not.

    Raises:
        UsageError: The given name is taken.
    """
    folder = output / (name or request.name())
    if name and (folder / EXPERIMENT_FILE).exists():
        raise UsageError(
            f"the experiment {folder} is there already: continue it by --resume {name}, or choose another --name"
        )
    number = 1
    while (folder / EXPERIMENT_FILE).exists():
        number += 1
        folder = output / f"{request.name()}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(folder, request, command)
    stored = StoredExperiment(
        format_version=EXPERIMENT_FORMAT,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        folder=str(folder.resolve()),
        command=command,
        request=request,
    )
    write_json(folder / EXPERIMENT_FILE, stored.to_dict())
    return experiment


def find_experiment(output: Path, name: str) -> Experiment:
    """Returns the experiment `name`.

    Raises:
        UsageError: There is none of that name, it was begun by another release, or it was moved.
        DataError: Its file is damaged.
    """
    folder = output / name
    stored = StoredExperiment.read(folder / EXPERIMENT_FILE)
    if not stored:
        known = sorted(path.parent.name for path in output.glob(f"*/{EXPERIMENT_FILE}"))
        there = suggest(name, known) if known else ": there is none yet"
        raise UsageError(f"no experiment '{name}' in {output}{there}")
    if stored.format_version != EXPERIMENT_FORMAT:
        raise UsageError(
            f"{folder} was begun by another release (experiment format {stored.format_version}; this one resumes "
            f"{EXPERIMENT_FORMAT}): finish it with that one, or begin anew; rayjobs.report reads what it has"
        )
    if Path(stored.folder) != folder.resolve():
        raise UsageError(
            f"{folder} was moved from {stored.folder}; its searches can resume only there: move it back, or, for "
            "results at an address, set EQUIPOISE_CACHE to what it was"
        )
    return Experiment(folder, stored.request, stored.command, per_search=stored.per_search)


def fix_per_search(experiment: Experiment, wanted: int | None, default: int) -> Experiment:
    """Returns an experiment that says how many trials of each search run at a time; once it does, it stays so.

    Args:
        experiment: A new one, or one that is resumed.
        wanted: What the command line says.
        default: For a new one, where it says nothing.

    Raises:
        UsageError: It was begun with another number.
    """
    if experiment.per_search is not None:
        if wanted not in (None, experiment.per_search):
            raise UsageError(
                f"--per-search {wanted}: {experiment.name} was begun with {experiment.per_search}, and its searches "
                "would not be the same; leave the option out, or begin anew without --resume"
            )
        return experiment
    fixed = replace(experiment, per_search=wanted or default)
    path = experiment.folder / EXPERIMENT_FILE
    stored = StoredExperiment.read(path)
    assert stored is not None, path
    write_json(path, replace(stored, per_search=fixed.per_search).to_dict())
    return fixed


def meet_twin(experiment: Experiment) -> None:
    """Makes an experiment's folder what its twin is, where it has one; to be called by who holds it.

    Raises:
        UsageError: Nothing can be written there.
    """
    mirror = experiment.mirror
    if mirror:
        with reaching(mirror.address):
            mirror.push([experiment.folder / EXPERIMENT_FILE])
        mirror.renew(experiment.folder)


def resume_experiment(request: Request, output: Path, name: str | None) -> Experiment:
    """Returns the experiment a command resumes: the one named, else the newest of the same request.

    Raises:
        UsageError: There is none, or the one named answers another request.
        DataError: The file of the one named is damaged.
    """
    if name:
        return find_experiment(output, name)
    found = _readable(output, _numbered(output, request.name()))
    same = [experiment for experiment in found if experiment.request == request]
    if not same:
        if found:
            raise UsageError(
                f"{found[-1].folder} answers another command ({_difference(found[-1].request, request)}): "
                f"repeat that one, or pass --resume {found[-1].name} alone"
            )
        raise UsageError(f"there is no experiment '{request.name()}' in {output} to resume; leave out --resume")
    return same[-1]


def unfinished_twins(experiment: Experiment) -> list[str]:
    """Returns the names of other experiments of the same request that have no ranking yet."""
    output, request = experiment.folder.parent, experiment.request
    names = [name for name in _numbered(output, request.name()) if name != experiment.name]
    waiting = [name for name in names if not (output / name / RANKING_FILE).is_file()]
    return [found.name for found in _readable(output, waiting) if found.request == request]


def _readable(output: Path, names: Sequence[str]) -> list[Experiment]:
    """Returns the experiments of these names; of one whose file is damaged it is said that it does not count."""
    found = []
    for name in names:
        try:
            found.append(find_experiment(output, name))
        except DataError as error:
            logging.getLogger(__name__).warning("%s; the experiment %s is passed over", error, name)
    return found


def _numbered(output: Path, name: str) -> list[str]:
    """Returns `name`, `name-2`, ... as far as they exist."""
    names, number = [], 1
    while (output / (numbered := name if number == 1 else f"{name}-{number}") / EXPERIMENT_FILE).exists():
        names.append(numbered)
        number += 1
    return names


def _difference(old: Request, new: Request) -> str:
    before, after = asdict(old), asdict(new)
    different = [f"{key}: {before[key]!r} there, {after[key]!r} here" for key in before if before[key] != after[key]]
    return "; ".join(different)
