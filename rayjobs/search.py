"""The searches of a command: for each method a checked configuration, its flat space, and the points tried first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmcore.build import complete_config
from mmcore.config import RunConfig
from mmcore.errors import ConfigError, unknown_name
from mmcore.methods import METHODS
from rayjobs.distributions import Distribution
from rayjobs.spaces import MethodSpace, Space, SpaceFile, collect


@dataclass(frozen=True)
class Search:
    """One search: a method's variant on one data set, under one protocol.

    Attributes:
        dataset: Name of the prepared data set.
        label: The row's name in the ranking: the method, with its variant (`unimodal-image`).
        config: The configuration whose searched values are replaced.
        space: Path -> what it is drawn from.
        points: Values tried first.
        trials: How many.
        grace_epochs: Epochs every trial gets; longer than any interval at which a method changes itself.
        reduction_factor: Of the trials that reach a rung, one in so many goes on.
    """

    dataset: str
    label: str
    config: RunConfig
    space: dict[str, Distribution]
    points: list[dict[str, Any]]
    trials: int
    grace_epochs: int
    reduction_factor: float

    @property
    def name(self) -> str:
        """Name of the search and of its folder."""
        return f"{self.dataset}-{self.label}"

    @property
    def max_epochs(self) -> int:
        """Length of a trial that is not stopped early."""
        return self.config.trainer.max_epochs

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return {
            "name": self.name,
            "trials": self.trials,
            "max_epochs": self.max_epochs,
            "grace_epochs": self.grace_epochs,
            "reduction_factor": self.reduction_factor,
            "space": {path: distribution.describe() for path, distribution in self.space.items()},
            "points": self.points,
            "config": self.config.to_dict(),
        }


@dataclass(frozen=True)
class SearchOptions:
    """What the command line adds to a file.

    Attributes:
        seed: Of every trial; the final models have others.
        protocol: Settings of the run's `protocol` section.
        values: Path -> fixed value; takes a path out of the space.
        trials: Replaces the file's.
        max_epochs: Replaces the file's.
    """

    seed: int = 0
    protocol: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    trials: int | None = None
    max_epochs: int | None = None


def build_searches(
    space: Space,
    dataset: Mapping[str, Any],
    folder_name: str,
    modalities: Sequence[str],
    methods: Sequence[str],
    options: SearchOptions,
) -> list[Search]:
    """Returns one search per variant of each method, with the same number of trials and the same grace period.

    Args:
        space: The file.
        dataset: The run's `dataset` section.
        folder_name: Name of the prepared data set.
        modalities: Those it has.
        methods: Names of methods.
        options: What the command line adds.

    Raises:
        ConfigError: A path, value or point is not one of the method's configuration; lists every problem.
    """
    problems: list[str] = []
    searches = []
    _check_fixed(options.values, methods, problems)
    for method in methods:
        variants = METHODS.get(method).variants(modalities)
        for suffix, settings in variants.items():
            section = {"name": method, **settings}
            label = f"{method}-{suffix}" if suffix else method
            search = collect(problems, _search, space, dict(dataset), folder_name, section, label, options)
            if search:
                searches.append(search)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return searches


def _search(
    space: Space,
    dataset: dict[str, Any],
    folder_name: str,
    section: dict[str, Any],
    label: str,
    options: SearchOptions,
) -> Search:
    method = section["name"]
    part = space.methods.get(method, MethodSpace())
    fixed = {path: value for path, value in options.values.items() if _concerns(path, method)}
    max_epochs = options.max_epochs or space.file.max_epochs
    config = complete_config(
        RunConfig.parse(
            {"dataset": dataset, "method": section, "protocol": dict(options.protocol), "seed": options.seed}
        )
    )
    values = {**space.file.set, **part.set, "trainer.max_epochs": max_epochs, **fixed}
    config = _with_values(config, values, f"{space.path.name} ({label})")
    searched = {**space.shared, **space.own.get(method, {})}
    searched = {path: values for path, values in searched.items() if path not in fixed}
    points = [_without(point, fixed) for point in (part.points or space.file.points)]
    _check_space(space, label, config, searched, points)
    return Search(
        dataset=folder_name,
        label=label,
        config=config,
        space=searched,
        points=points if searched else [],
        trials=(options.trials or space.file.trials) if searched else 1,
        grace_epochs=_grace_epochs(space.file, config.trainer.max_epochs),
        reduction_factor=space.file.reduction_factor,
    )


def _grace_epochs(file: SpaceFile, max_epochs: int) -> int:
    """A method changes itself at most every quarter of a run (design: t_N), so a trial gets more than that."""
    shortest = min(max_epochs, max_epochs // 4 + 1)
    return max(shortest, min(file.grace_epochs or shortest, max_epochs))


def _concerns(path: str, method: str) -> bool:
    """Tells whether a fixed value is for `method`: one of `method.*` is for the methods that have such a key."""
    section, _, key = path.partition(".")
    return section != "method" or key.partition(".")[0] in METHODS.get(method).Config.model_fields


def _check_fixed(values: Mapping[str, Any], methods: Sequence[str], problems: list[str]) -> None:
    for path in values:
        if not any(_concerns(path, method) for method in methods):
            keys = sorted({key for method in methods for key in METHODS.get(method).Config.model_fields})
            problems.append(f"--set: {unknown_name('key', path, [f'method.{key}' for key in keys])}")


def _check_space(
    space: Space,
    label: str,
    config: RunConfig,
    searched: Mapping[str, Distribution],
    points: Sequence[Mapping[str, Any]],
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


def _with_values(config: RunConfig, values: Mapping[str, Any], where: str) -> RunConfig:
    """Returns `config` with `values`; problems name the file and the method."""
    data = config.to_dict()
    problems = [f"{where}: {path} is no path of the configuration" for path in values if not _leads_on(data, path)]
    if not problems:
        try:
            return config.with_values(values)
        except ConfigError as error:
            problems = [f"{where}: {problem}" for problem in error.problems]
    raise ConfigError(problems)


def _leads_on(data: Any, path: str) -> bool:
    """Tells whether all but the last part of `path` are, or could be, mappings."""
    for part in path.split("."):
        if not isinstance(data, dict):
            return False
        data = data.get(part, {})
    return True


def _without(point: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in point.items() if path not in fixed}
