"""The searches of a command: for each method a checked configuration, its flat space, and the points tried first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mmcore.assembly.config import complete_config, parse_config, with_values
from mmcore.config.plain import Plain, Settings
from mmcore.config.schema import RunConfig
from mmcore.errors import ConfigError, unknown_name
from mmcore.methods import METHODS
from rayjobs.search.distributions import Distribution
from rayjobs.search.reserved import check_protocol, refusals
from rayjobs.search.spaces import MethodSpace, Space, SpaceFile, collect

TUNED_ENSEMBLE = "ensemble-tuned"
"""The row whose modalities are searched, trained and stopped each by itself, with their share of the row's trials."""
MAX_GRID = 10_000
"""Most combinations of a grid: each is a run to its end."""
MIN_POPULATION = 4
"""Smallest population: with fewer trials the weakest quarter is empty."""


@dataclass(frozen=True)
class Search:
    """One search: a method's variant on one data set, under one protocol.

    Attributes:
        dataset: Name of the prepared data set.
        label: The row's name in the ranking: the method, with its variant (`unimodal-image`).
        fold: Fold of a cross-validation; None where there is one split.
        part: Modality that is searched alone, for a row made of several searches; "" for all others.
        config: The configuration whose searched values are replaced.
        space: Path -> what it is drawn from.
        points: Values tried first.
        trials: How many.
        algorithm: `hyperopt` (TPE); `random`; or `grid`: every point is a trial trained to its end, nothing is drawn.
        scheduler: `asha`, which stops trials early; `fifo`, which lets each come to its end; or `pbt`, whose weak
            trials continue from strong ones with changed settings, every `grace_epochs`.
        grace_epochs: Epochs every trial gets; longer than any interval at which a method changes itself.
        reduction_factor: One in this many of the trials that reach a rung continues.
        changeable: Paths of the space that a population changes; the others come with the weights.
    """

    dataset: str
    label: str
    fold: int | None
    config: RunConfig
    space: dict[str, Distribution]
    points: list[dict[str, Any]]
    trials: int
    algorithm: str
    scheduler: str
    grace_epochs: int
    reduction_factor: float
    changeable: tuple[str, ...] = ()
    part: str = ""

    @property
    def name(self) -> str:
        """Name of the search and of its folder: `avdigits-iprm/fold-2`, `avdigits-ensemble-tuned/fold-2/part-image`."""
        return self.row_name + (f"/part-{self.part}" if self.part else "")

    @property
    def row_name(self) -> str:
        """Name of the folder of the row's final models, on this fold."""
        name = f"{self.dataset}-{self.label}"
        return name if self.fold is None else f"{name}/fold-{self.fold}"

    @property
    def is_grid(self) -> bool:
        """Whether its trials are all known beforehand."""
        return self.algorithm == "grid"

    def depends_on_timing(self, at_once: int | None) -> bool:
        """Tells whether another machine would choose or stop other trials: several at once learn from each other.

        Not so where nothing is learned: a grid or random search to its end, or a population, which waits for all.

        Args:
            at_once: Trials at a time; None: as many as there is room for.
        """
        learns = self.algorithm == "hyperopt" or self.scheduler == "asha"
        return learns and self.scheduler != "pbt" and not self.is_grid and at_once != 1 and self.trials > 1

    @property
    def max_epochs(self) -> int:
        """Length of a trial that is not stopped early."""
        return self.config.trainer.max_epochs

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return {
            "name": self.name,
            "label": self.label,
            "trials": self.trials,
            "algorithm": self.algorithm,
            "scheduler": self.scheduler,
            "max_epochs": self.max_epochs,
            "grace_epochs": self.grace_epochs,
            "reduction_factor": self.reduction_factor,
            "space": {path: distribution.describe() for path, distribution in self.space.items()},
            "points": self.points,
            "drawn_as": "codes",  # a search whose state holds values themselves cannot go on
            "config": self.config.to_dict(),
            **({"changeable": list(self.changeable)} if self.scheduler == "pbt" else {}),
        }


@dataclass(frozen=True)
class SearchOptions:
    """What the command line adds to a file.

    Attributes:
        seed: Seed of every trial; the final models have others.
        protocol: Settings of the run's `protocol` section.
        values: Path -> fixed value; takes a path out of the space.
        trials: Replaces the file's.
        max_epochs: Replaces the file's.
        algorithm: `hyperopt`, `random`; or `grid`: every combination of the space's choices is a trial.
        scheduler: `asha`, `fifo` or `pbt`.
        folds: Those of a cross-validation to be searched; (None,) where there is one split.
    """

    seed: int = 0
    protocol: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    trials: int | None = None
    max_epochs: int | None = None
    algorithm: str = "hyperopt"
    scheduler: str = "asha"
    folds: tuple[int | None, ...] = (None,)


def build_searches(
    space: Space,
    dataset: Settings,
    folder_name: str,
    modalities: Sequence[str],
    methods: Sequence[str],
    *,
    options: SearchOptions,
) -> list[Search]:
    """Returns one search per row and fold, with the same number of trials and the same grace period.

    Args:
        space: The file.
        dataset: The run's `dataset` section.
        folder_name: Name of the prepared data set.
        modalities: Those it has.
        methods: Names of methods, or of a row or variant of one: `unimodal-image`, `iprm-linear`.
        options: What the command line adds.

    Raises:
        ConfigError: A path, value or point is not one of the method's configuration; lists every problem.
        UsageError: A method has no such row or variant; or a protocol that picks on test.
    """
    problems: list[str] = []
    searches = []
    rows = {label: row for method in methods for label, row in rows_of(method, modalities).items()}
    check_protocol(options.protocol)
    _check_fixed(options.values, list(dict.fromkeys(row.method for row in rows.values())), problems)
    for row in rows.values():
        problems += refusals([*row.values, *(f"method.{key}" for key in row.settings)], f"the variant {row.label}")
    for fold in options.folds:
        for row in rows.values():
            found = partial(_search, space, dict(dataset), folder_name, row, fold=fold, options=options)
            if search := collect(problems, found):
                searches.append(search)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return searches


@dataclass(frozen=True)
class MethodRow:
    """A row of a ranking, or a part of one: a method with some of its settings, and what its variant sets elsewhere.

    Attributes:
        label: The row's name.
        method: Name of the method.
        settings: Of the method.
        values: Path -> what the variant sets.
        part: The modality a part stands for; "" for a whole row.
        share: Which of how many parts it is; each has its share of the row's trials.
    """

    label: str
    method: str
    settings: Mapping[str, Any]
    values: Mapping[str, Any]
    part: str = ""
    share: tuple[int, int] = (0, 1)


def rows_of(name: str, modalities: Sequence[str]) -> dict[str, MethodRow]:
    """Returns the rows a name stands for: all of a method's (`unimodal`), one of them, or a variant (`iprm-linear`).

    Of the tuned ensemble it is one part for each modality, by the modality's name.

    Raises:
        UsageError: There is no such method, row or variant.
    """
    if name == TUNED_ENSEMBLE:
        number = len(modalities)
        return {
            f"{name} {modality}": MethodRow(name, "unimodal", {"modality": modality}, {}, modality, (at, number))
            for at, modality in enumerate(modalities)
        }
    method, _, suffix = name.partition("-")
    rows, variants = METHODS.get(method).rows(modalities), METHODS.get(method).variants(modalities)
    if suffix in variants:
        return {name: MethodRow(name, method, {}, variants[suffix])}
    if suffix and suffix not in rows:
        raise unknown_name(f"variant of {method}", suffix, [*filter(None, rows), *variants, *_composed(method)])
    chosen = {suffix: rows[suffix]} if suffix else rows
    labels = {key: f"{method}-{key}" if key else method for key in chosen}
    return {labels[key]: MethodRow(labels[key], method, settings, {}) for key, settings in chosen.items()}


def _composed(method: str) -> list[str]:
    """Returns the variants of a method that are made of several searches."""
    return [TUNED_ENSEMBLE.partition("-")[2]] if method == TUNED_ENSEMBLE.partition("-")[0] else []


def ablations_of(method: str) -> list[str]:
    """Returns the labels of a method's ablations and controls; the released code's choices are none of them."""
    if "-" in method:
        return []
    return [f"{method}-{name}" for name in METHODS.get(method).variants(()) if name != "released"]


def _search(
    space: Space,
    dataset: Settings,
    folder_name: str,
    row: MethodRow,
    *,
    fold: int | None,
    options: SearchOptions,
) -> Search:
    method, label = row.method, row.label
    part = space.methods.get(method, MethodSpace())
    fixed = {path: value for path, value in options.values.items() if _concerns(path, method)} | dict(row.values)
    max_epochs = options.max_epochs or space.file.max_epochs
    section = {"name": method, **row.settings}
    protocol = dict(options.protocol) if fold is None else {**options.protocol, "fold": fold}
    config = complete_config(
        parse_config({"dataset": dataset, "method": section, "protocol": protocol, "seed": options.seed})
    )
    values = {**space.file.set, **part.set, "trainer.max_epochs": max_epochs, **fixed}
    config = _with_values(config, values, f"{space.path.name} ({label})")
    searched = {**space.shared, **space.own.get(method, {})}
    searched = {path: values for path, values in searched.items() if path not in fixed}
    _check_apart(space.file.set | part.set, fixed, searched, f"{space.path.name} ({label})")
    is_grid = options.algorithm == "grid"
    points = _distinct([_without(point, fixed) for point in (part.points or space.file.points)])
    if is_grid:
        points = _grid(searched, f"{space.path.name} ({label})")
    _check_space(space, label, config, searched, points)
    trials = len(points) if is_grid else _share_of(options.trials or space.file.trials, row) if searched else 1
    is_population = options.scheduler == "pbt" and bool(searched)
    if is_population and trials < MIN_POPULATION:
        raise ConfigError([f"--scheduler pbt needs a population: --trials {MIN_POPULATION} or more, got {trials}"])
    return Search(
        dataset=folder_name,
        label=label,
        fold=fold,
        config=config,
        space=searched,
        points=points if searched or is_grid else [],
        trials=trials,
        algorithm="random" if is_population else options.algorithm,  # it is the exchanges that learn
        scheduler="fifo" if is_grid or (options.scheduler == "pbt" and not searched) else options.scheduler,
        grace_epochs=_grace_epochs(space.file, config.trainer.max_epochs),
        reduction_factor=space.file.reduction_factor,
        part=row.part,
    )


def _share_of(trials: int, row: MethodRow) -> int:
    """Returns the trials of a row, or of a part of one: all parts together have as many, the first ones the remainder.

    Raises:
        ConfigError: There are fewer trials than parts.
    """
    at, parts = row.share
    if trials < parts:
        raise ConfigError(
            [f"{row.label} searches each of {parts} modalities by itself: --trials {parts} or more, got {trials}"]
        )
    return trials // parts + (at < trials % parts)


def _check_apart(in_file: Settings, fixed: Settings, searched: Iterable[str], where: str) -> None:
    """Raises a ConfigError for each path that is searched and fixed, itself or by one above or below it.

    A path that the command line fixes is not searched any more; it may not fix a part of one, or what it is a part of.
    """
    problems = [
        f"{where}: '{path}' is searched and '{other}' is fixed by {by}: leave out one of them"
        for path in searched
        for by, paths in (("set:", in_file), ("--set or a variant", fixed))
        for other in paths
        if f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.")
    ]
    problems += [
        f"{where}: '{path}' and '{other}', a part of it, are both searched: leave out one of them"
        for path in searched
        for other in searched
        if other.startswith(f"{path}.")
    ]
    if problems:
        raise ConfigError(problems)


def _grid(space: Mapping[str, Distribution], where: str) -> list[dict[str, Any]]:
    """Returns every combination of a space's choices, the last path changing first.

    Raises:
        ConfigError: A path is drawn from a range, or there are more than MAX_GRID of them.
    """
    ranges = [path for path, distribution in space.items() if distribution.choice is None]
    if ranges:
        raise ConfigError([f"{where}: --search grid needs a choice for {path}, not a range" for path in ranges])
    choices = [distribution.ends() for distribution in space.values()]
    number = math.prod(map(len, choices))
    if number > MAX_GRID:
        sizes = " x ".join(str(len(values)) for values in choices)
        raise ConfigError(
            [f"{where}: --search grid would train {number:,} combinations ({sizes}), {MAX_GRID:,} at most: take "
             "options out of the space, fix paths by --set, or use --search random"]
        )  # fmt: skip
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]


def _grace_epochs(file: SpaceFile, max_epochs: int) -> int:
    """A method changes itself at most every quarter of a run (design: t_N), so a trial gets more than that."""
    shortest = min(max_epochs, max_epochs // 4 + 1)
    return max(shortest, min(file.grace_epochs or shortest, max_epochs))


def _concerns(path: str, method: str) -> bool:
    """Tells whether a fixed value is for `method`: one of `method.*` is for the methods that have such a key."""
    section, _, key = path.partition(".")
    return section != "method" or key.partition(".")[0] in METHODS.get(method).Config.model_fields


def _check_fixed(values: Settings, methods: Sequence[str], problems: list[str]) -> None:
    problems += refusals(values, "--set")
    for path in values:
        if not any(_concerns(path, method) for method in methods):
            keys = sorted({key for method in methods for key in METHODS.get(method).Config.model_fields})
            problems.append(f"--set: {unknown_name('key', path, [f'method.{key}' for key in keys])}")


def _check_space(
    space: Space,
    label: str,
    config: RunConfig,
    searched: Mapping[str, Distribution],
    points: Sequence[Settings],
) -> None:
    """Checks that each path exists, that the configuration takes all of its range, and that points lie in it."""
    where = f"{space.path.name} ({label})"
    problems: list[str] = []
    for path, distribution in searched.items():
        for value in distribution.ends():
            collect(problems, _with_values, config, {path: value}, where)
    for point in points:
        problems += [
            f"{where}: the point {dict(point)} needs a value for '{path}'" for path in searched if path not in point
        ]
        for path, value in point.items():
            if path not in searched:
                problems.append(f"{where}: a point sets '{path}', which is not searched")
            elif not searched[path].contains(value):
                problems.append(f"{where}: a point sets {path} to {value}, outside {searched[path].describe()}")
    if problems:
        raise ConfigError(problems)


def _with_values(config: RunConfig, values: Settings, where: str) -> RunConfig:
    """Returns `config` with `values`; problems name the file and the method."""
    data = config.to_dict()
    problems = [f"{where}: {path} is no path of the configuration" for path in values if not _leads_on(data, path)]
    if not problems:
        try:
            return with_values(config, values)
        except ConfigError as error:
            problems = [f"{where}: {problem}" for problem in error.problems]
    raise ConfigError(problems)


def _leads_on(data: Plain, path: str) -> bool:
    """Tells whether all but the last part of `path` are, or could be, mappings."""
    for part in path.split("."):
        if not isinstance(data, dict):
            return False
        data = data.get(part, {})
    return True


def _distinct(points: Sequence[dict[str, Plain]]) -> list[dict[str, Plain]]:
    """Returns points in their order; those that became equal when a path was fixed only once."""
    return [point for number, point in enumerate(points) if point not in points[:number]]


def _without(point: Settings, fixed: Settings) -> dict[str, Any]:
    return {path: value for path, value in point.items() if path not in fixed}
