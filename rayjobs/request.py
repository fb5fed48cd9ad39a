"""What a `tune` command asks for, and the folder its results go to; kept there, so that `--resume` knows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmcore.data import DATASETS
from mmcore.errors import UsageError, suggest
from mmcore.methods import METHODS
from rayjobs.addresses import reaching
from rayjobs.files import read_json, write_json
from rayjobs.mirror import NO_MIRROR, Mirror
from rayjobs.reserved import check_protocol

EXPERIMENT_FILE = "experiment.json"
RANKING_FILE = "ranking.json"
FORMAT_VERSION = 1
MAX_NAME = 100


@dataclass(frozen=True)
class Request:
    """What decides a result; the rest of a command line decides only where and how fast it is computed.

    Attributes:
        datasets: Names of data sets.
        methods: Names of methods, or of rows or variants of them (`iprm-linear`), the reference among them.
        reference: The method the others are compared with; None for none.
        options: Options of the data sets.
        dataset: Settings of the run's `dataset` section beside name and options: what is encoded.
        protocol: Settings of the run's `protocol` section.
        trials: Of each method; None: what the search-space file says.
        max_epochs: Of each trial; None: what the file says.
        final_seeds: Final models of each method.
        algorithm: How a search chooses its trials: hyperopt, random or grid.
        scheduler: What becomes of weak trials: asha, fifo or pbt.
        search_once: Of a cross-validation, search fold 0 alone.
        seed: Of the search.
        values: Path -> fixed value.
        space: A search-space file; None: the data set's own.
        workers: Workers of a trial; of an elastic one the most.
        min_workers: The fewest of an elastic one; None: their number is fixed.
        gpus_per_worker: None: one where there are GPUs.
        raw_dir: Raw files, for data that is not prepared yet.
        vocab: Vocabulary of the texts of data that is not prepared yet; None: vocab.txt in `raw_dir`.
        data_dir: Where prepared data lies.
    """

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    reference: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    trials: int | None = None
    max_epochs: int | None = None
    final_seeds: int = 3
    algorithm: str = "hyperopt"
    scheduler: str = "asha"
    search_once: bool = False
    seed: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    space: str | None = None
    workers: int = 1
    min_workers: int | None = None
    gpus_per_worker: float | None = None
    raw_dir: str | None = None
    vocab: str | None = None
    data_dir: str = "data"

    def check(self) -> None:
        """Checks what can be checked without the data.

        Raises:
            UsageError: An unknown name, or a protocol that a search must not use.
        """
        for name in self.datasets:
            DATASETS.get(name)
        for name in self.methods:
            METHODS.get(name.partition("-")[0])
        if self.search_once and (self.protocol.get("name") != "cv" or "fold" in self.protocol):
            raise UsageError("--search-once is for --protocol cv over all folds")
        check_protocol(self.protocol)

    def name(self) -> str:
        """Returns the experiment's name, made of what is searched: `digits-aug-iprm-ensemble`."""
        methods = sorted(set(self.methods) - {self.reference})
        datasets = [DATASETS.get(name).short_name(name, self.options) for name in self.datasets]
        encoded = "encoded" if self.dataset.get("encode") else ""
        parts = [*datasets, encoded, self.protocol.get("name", ""), *methods, self.reference or ""]
        name = "-".join(part for part in parts if part)
        if len(name) > MAX_NAME:
            name = "-".join([*filter(None, parts[: len(datasets) + 2]), f"{len(methods)}-methods"])
        return name


@dataclass(frozen=True)
class Experiment:
    """A folder of results and the request it answers; on object storage, the folder's twin counts."""

    folder: Path
    request: Request
    command: str
    mirror: Mirror = NO_MIRROR

    @property
    def name(self) -> str:
        """The experiment's name: that of its folder."""
        return self.folder.name


def new_experiment(request: Request, output: Path, name: str | None, command: str) -> Experiment:
    """Makes the folder of a new experiment.

    A name made from what is searched is numbered (`-2`, `-3`) where it is taken; a given name is not.

    Raises:
        UsageError: The given name is taken.
    """
    folder = output / (name or request.name())
    if name and (folder / EXPERIMENT_FILE).exists():
        raise UsageError(
            f"the experiment {folder} is there already: go on with it by --resume {name}, or choose another --name"
        )
    number = 1
    while (folder / EXPERIMENT_FILE).exists():
        number += 1
        folder = output / f"{request.name()}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(folder, request, command)
    write_json(
        folder / EXPERIMENT_FILE,
        {
            "format_version": FORMAT_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "folder": str(folder.resolve()),
            "command": command,
            "request": asdict(request),
        },
    )
    return experiment


def find_experiment(output: Path, name: str) -> Experiment:
    """Returns the experiment `name`.

    Raises:
        UsageError: There is none of that name, it was written by another release, or it was moved.
    """
    folder = output / name
    stored = read_json(folder / EXPERIMENT_FILE)
    if not stored:
        known = sorted(path.parent.name for path in output.glob(f"*/{EXPERIMENT_FILE}"))
        there = suggest(name, known) if known else ": there is none yet"
        raise UsageError(f"no experiment '{name}' in {output}{there}")
    if stored["format_version"] != FORMAT_VERSION:
        raise UsageError(f"{folder} was written by another release (format {stored['format_version']})")
    if Path(stored["folder"]) != folder.resolve():
        raise UsageError(
            f"{folder} was moved from {stored['folder']}; its searches can go on only there: move it back, or, for "
            "results at an address, set EQUIPOISE_CACHE to what it was"
        )
    request = stored["request"] | {key: tuple(stored["request"][key]) for key in ("datasets", "methods")}
    return Experiment(folder, Request(**request), stored["command"])


def at_address(experiment: Experiment, mirror: Mirror) -> Experiment:
    """Returns an experiment whose folder has a twin, having made the folder what the twin is.

    Raises:
        UsageError: Nothing can be written there.
    """
    with reaching(mirror.address):
        mirror.push([experiment.folder / EXPERIMENT_FILE])
    mirror.renew(experiment.folder)
    return replace(experiment, mirror=mirror)


def resume_experiment(request: Request, output: Path, name: str | None) -> Experiment:
    """Returns the experiment a command goes on with: the one named, else the newest of the same request.

    Raises:
        UsageError: There is none, or the one named answers another request.
    """
    if name:
        return find_experiment(output, name)
    found = [find_experiment(output, folder) for folder in _numbered(output, request.name())]
    same = [experiment for experiment in found if experiment.request == request]
    if not same:
        if found:
            raise UsageError(
                f"{found[-1].folder} answers another command ({_difference(found[-1].request, request)}): "
                f"repeat that one, or pass --resume {found[-1].name} alone"
            )
        raise UsageError(f"there is no experiment '{request.name()}' in {output} to go on with; leave out --resume")
    return same[-1]


def unfinished_twins(experiment: Experiment) -> list[str]:
    """Returns the names of other experiments of the same request that have no ranking yet."""
    output, request = experiment.folder.parent, experiment.request
    names = [name for name in _numbered(output, request.name()) if name != experiment.name]
    waiting = [name for name in names if not (output / name / RANKING_FILE).is_file()]
    return [name for name in waiting if find_experiment(output, name).request == request]


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
