"""What is searched: YAML files in `search_spaces/` -> one flat space per method, with the papers' settings first.

    trials: 8                    # of every method
    max_epochs: 24               # of a trial that is not stopped early
    reduction_factor: 3          # of the trials that reach a rung, one in so many goes on
    set: {trainer.batch_size: 64}                  # fixed, for every method
    space: {optimizer.lr: {loguniform: [0.001, 0.1]}}    # searched, for every method
    points: [{optimizer.lr: 0.01}]                 # tried first, by methods that name none of their own
    methods:
      iprm:                      # added to the above
        space: {method.alpha: {uniform: [0.1, 0.99]}}
        points: [{method.alpha: 0.8, optimizer.lr: 0.01}]

Keys are paths in the run's configuration. One space per method: a conditional space over all methods would starve
the one that looks bad early, and HyperOpt refuses points in nested choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict

from mmcore.build import complete_config
from mmcore.config import RunConfig, Section, parse_section
from mmcore.errors import ConfigError, UsageError, unknown_name
from mmcore.methods import METHODS
from rayjobs.distributions import Distribution

DEFAULT_FILE = "default.yaml"


class MethodSpace(Section):
    """What a file says about one method, or about all of them."""

    set: dict[str, Any] = {}
    space: dict[str, Any] = {}
    points: list[dict[str, Any]] = []


class SpaceFile(MethodSpace):
    """The content of a search-space file."""

    trials: Annotated[int, Ge(1)]
    max_epochs: Annotated[int, Ge(1)]
    reduction_factor: Annotated[float, Gt(1)] = 3
    grace_epochs: Annotated[int, Ge(1)] | None = None
    methods: dict[str, Any] = {}


class Space(BaseModel):
    """A checked file: `SpaceFile` with its parts parsed."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    path: Path
    file: SpaceFile
    shared: dict[str, Distribution]
    methods: dict[str, MethodSpace]
    own: dict[str, dict[str, Distribution]]


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


def space_file(dataset: str, given: Path | None = None) -> Path:
    """Returns the file to use: the one `given`, else the data set's own, else the default one.

    Raises:
        UsageError: The file given is not there.
    """
    if given is not None:
        if not given.is_file():
            raise UsageError(f"--space {given}: there is no such file")
        return given
    folder = Path(str(resources.files("rayjobs"))) / "search_spaces"
    if not folder.is_dir():  # a checkout: the folder stands at the top, beside the package
        folder = folder.parent.parent / "search_spaces"
    own = folder / f"{dataset}.yaml"
    return own if own.is_file() else folder / DEFAULT_FILE


def load_space(path: Path) -> Space:
    """Reads and checks a file; paths are checked later, against each method's configuration.

    Raises:
        ConfigError: Lists every problem, each with the file's name.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError([f"{path} is not YAML: {error}"]) from None
    if not isinstance(content, dict):
        raise ConfigError([f"{path} must hold a mapping, got {type(content).__name__}"])
    problems: list[str] = []
    file = _collect(problems, parse_section, SpaceFile, content, "") or SpaceFile(trials=1, max_epochs=1)
    shared = _distributions(file.space, "space", problems)
    methods: dict[str, MethodSpace] = {}
    for name, section in file.methods.items():
        if name not in METHODS.names():
            problems.append(f"methods: {unknown_name('method', name, METHODS.names())}")
        methods[name] = _collect(problems, parse_section, MethodSpace, section or {}, f"methods.{name}") or MethodSpace()
    own = {name: _distributions(part.space, f"methods.{name}.space", problems) for name, part in methods.items()}
    if problems:
        raise ConfigError([f"{path.name}: {problem}" for problem in problems])
    return Space(path=path, file=file, shared=shared, methods=methods, own=own)


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
            search = _collect(problems, _search, space, dict(dataset), folder_name, section, label, options)
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
            _collect(problems, _with_values, config, {path: value}, where)
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


def _distributions(sections: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Distribution]:
    found = {path: _collect(problems, Distribution.parse, section, f"{where}.{path}") for path, section in sections.items()}
    return {path: distribution for path, distribution in found.items() if distribution is not None}


def _collect(problems: list[str], function: Any, *arguments: Any) -> Any:
    """Returns what `function` returns, or None with its problems added to the list."""
    try:
        return function(*arguments)
    except ConfigError as error:
        problems.extend(error.problems)
        return None
