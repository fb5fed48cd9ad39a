"""What is searched: YAML files in `search_spaces/` -> one flat space per method, with the papers' settings first.

    trials: 8                    # of every method
    max_epochs: 24               # of a trial that is not stopped early
    reduction_factor: 3          # one in this many of the trials that reach a rung continues
    set: {trainer.batch_size: 64}                  # fixed, for every method
    space: {optimizer.lr: {loguniform: [0.001, 0.1]}}    # searched, for every method
    points: [{optimizer.lr: 0.01}]                 # tried first, by methods that name none of their own
    fill_in_methods: true        # methods the file says nothing of: as default.yaml or their own package says
    methods:
      iprm:                      # added to the above
        space: {method.alpha: {uniform: [0.1, 0.99]}}
        points: [{method.alpha: 0.8, optimizer.lr: 0.01}]
        paper: {title: ..., published: ..., stated: {...}}    # for train --paper alone: PaperSettings
      joint:
        widen: {optimizer.lr: [1, 2.5]}    # the low and the high end of that range above, each times its factor

Keys are paths in the run's configuration. One space per method: a conditional space over all methods would starve
the one that looks bad early, and HyperOpt refuses points in nested choices.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field

from mmcore.config.documents import read_yaml
from mmcore.config.plain import Plain, Settings
from mmcore.config.sections import Section, parse_section
from mmcore.errors import ConfigError, UsageError, unknown_name
from mmcore.methods import METHODS
from rayjobs.search.distributions import Distribution
from rayjobs.search.reserved import refusals

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_FILE = "default.yaml"
DEMO_FILE = "demo.yaml"


class SharedSpace(Section):
    """What a file says about one method, or about all of them."""

    set: dict[str, Any] = Field(default={})
    space: dict[str, Any] = Field(default={})
    points: list[dict[str, Any]] = Field(default=[])


class PaperSettings(Section):
    """What a method's paper trained this data set with, for `train --paper`; a search does not look at it.

    Attributes:
        title: The paper.
        published: Its own figures, as printed there.
        stated: Path -> value the paper states.
        code: Path -> value of the released code, where the paper is silent.
        released: Path -> value of the released code where it is another than the paper's; of `--variant released`.
        ours: Path -> (value, why), where neither says anything.
    """

    title: str
    published: str
    stated: dict[str, Any]
    code: dict[str, Any] = Field(default={})
    released: dict[str, Any] = Field(default={})
    ours: dict[str, tuple[Any, str]] = Field(default={})


class MethodSpace(SharedSpace):
    """What a file says about one method.

    Attributes:
        widen: Path of the shared space -> factors of the low and the high end of its range.
        paper: What its paper trained this data set with.
    """

    widen: dict[str, tuple[float, float]] = Field(default={})
    paper: PaperSettings | None = None


class SpaceFile(SharedSpace):
    """The content of a search-space file.

    Attributes:
        trials: Of every method.
        max_epochs: Of a trial that is not stopped early.
        reduction_factor: One in this many of the trials that reach a rung continues.
        grace_epochs: Epochs every trial gets; None: a quarter.
        fill_in_methods: Whether methods without a section here get that of the default file or of their own package;
            else their own settings stay at the defaults.
        methods: Method -> `MethodSpace`.
    """

    trials: Annotated[int, Ge(1), Le(100000)]
    max_epochs: Annotated[int, Ge(1), Le(10**6)]
    reduction_factor: Annotated[float, Gt(1)] = 3
    grace_epochs: Annotated[int, Ge(1), Le(10**6)] | None = None
    fill_in_methods: bool = False
    methods: dict[str, Any] = Field(default={})


class Space(BaseModel):
    """A checked file: `SpaceFile` with its parts parsed."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    path: Path
    file: SpaceFile
    shared: dict[str, Distribution]
    methods: dict[str, MethodSpace]
    own: dict[str, dict[str, Distribution]]


def space_file(dataset: str, given: Path | None = None, *, demo: bool = False, encoded: bool = False) -> Path:
    """Returns the file to use: the one `given`, else that of demos for a demo, else the data set's own or the default.

    On stored features of frozen encoders the data set's own is `<dataset>-encoded.yaml`.

    Raises:
        UsageError: The file given is not there.
    """
    if given is not None:
        if not given.is_file():
            raise UsageError(f"--space {given}: there is no such file")
        return given
    folder = spaces_folder()
    own = folder / (DEMO_FILE if demo else f"{dataset}{'-encoded' if encoded else ''}.yaml")
    return own if own.is_file() else folder / DEFAULT_FILE


def spaces_folder() -> Path:
    """Returns the folder of the search spaces that come with this package."""
    installed = Path(str(resources.files("rayjobs"))) / "search_spaces"
    # In a checkout the folder stands at the top, beside the package.
    return installed if installed.is_dir() else installed.parent.parent / "search_spaces"


def load_space(path: Path) -> Space:
    """Reads and checks a file; paths are checked later, against each method's configuration.

    Raises:
        ConfigError: Lists every problem, each with the file's name.
    """
    content = read_yaml(path)
    problems: list[str] = []
    file = collect(problems, parse_section, SpaceFile, content, "")
    shared = _distributions(_mapping(content.get("space")), "space", problems)
    methods: dict[str, MethodSpace] = {}
    sections = _mapping(content.get("methods"))
    if file is not None and file.fill_in_methods:
        sections = {**_filled_in(file.points, sections), **sections}
    for name, section in sections.items():
        if name not in METHODS.names():
            problems.append(f"methods: {unknown_name('method', name, METHODS.names())}")
        methods[name] = collect(problems, parse_section, MethodSpace, section or {}, f"methods.{name}") or MethodSpace()
    own = {
        name: {
            **_widened(shared, part.widen, f"methods.{name}.widen", problems),
            **_distributions(part.space, f"methods.{name}.space", problems),
        }
        for name, part in methods.items()
    }
    for where, part in {"": file, **{f"methods.{name}.": part for name, part in methods.items()}}.items():
        problems += _reserved(part, where) if part else []
    if problems or file is None:
        raise ConfigError([f"{path.name}: {problem}" for problem in problems])
    return Space(path=path, file=file, shared=shared, methods=methods, own=own)


def _filled_in(points: Sequence[Settings], sections: Settings) -> dict[str, Any]:
    """Returns the sections of methods that a file says nothing of, fitted to it.

    Rates belong to a data set, so of their points only the methods' own settings are kept, at each of the file's.
    """
    known = {**_mapping(read_yaml(spaces_folder() / DEFAULT_FILE).get("methods")), **_of_plugins()}
    found = {}
    for name, section in known.items():
        if name in sections or not isinstance(section, dict):
            continue
        own = [_of_method(point) for point in section.get("points", [{}])]
        found[name] = {**section, "points": [{**point, **values} for point in points for values in own]}
    return found


def _of_method(point: Settings) -> dict[str, Any]:
    return {path: value for path, value in point.items() if path.startswith("method.")}


def _of_plugins() -> dict[str, Any]:
    """Returns the sections that methods of other packages bring: `my_method.yaml` beside `my_method.py`."""
    found = {}
    for name in METHODS.names():
        module = inspect.getmodule(METHODS.get(name))
        place = getattr(module, "__file__", None)
        if place is None or METHODS.get(name).__module__.startswith("mmcore."):
            continue
        beside = Path(place).with_suffix(".yaml")
        if beside.is_file():
            found[name] = read_yaml(beside)
            parse_section(
                MethodSpace, found[name], str(beside)
            )  # here, since its problems are not the data set's file's
    return found


def _widened(
    shared: Mapping[str, Distribution], factors: Mapping[str, tuple[float, float]], where: str, problems: list[str]
) -> dict[str, Distribution]:
    problems += [f"{where}: '{path}' is not in the file's space" for path in factors if path not in shared]
    found = {
        path: collect(problems, shared[path].widened, low, high, f"{where}.{path}")
        for path, (low, high) in factors.items()
        if path in shared
    }
    return {path: distribution for path, distribution in found.items() if distribution is not None}


def _reserved(part: SharedSpace, where: str) -> list[str]:
    """Returns what is to be said of paths that no search may set, in any of a section's parts."""
    points = [path for point in part.points for path in point]
    named = {"set": part.set, "space": part.space, "points": dict.fromkeys(points)}
    return [problem for key, paths in named.items() for problem in refusals(paths, f"{where}{key}")]


def _mapping(value: Plain) -> dict[str, Any]:
    """Returns a section as it is, or nothing where it is no mapping (which is a problem named elsewhere)."""
    return value if isinstance(value, dict) else {}


def _distributions(sections: Settings, where: str, problems: list[str]) -> dict[str, Distribution]:
    found = {
        path: collect(problems, Distribution.parse, section, f"{where}.{path}") for path, section in sections.items()
    }
    return {path: distribution for path, distribution in found.items() if distribution is not None}


def collect(problems: list[str], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Returns what `function` returns, or None with its problems added to the list."""
    try:
        return function(*args, **kwargs)
    except ConfigError as error:
        problems.extend(error.problems)
        return None
