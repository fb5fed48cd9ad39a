"""The house has floors: what stands higher may import what stands lower, never the other way, and nothing in a circle.

FLOORS is the one table of what may stand on what. An import inside a function or for typing alone counts too.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

FLOORS = [
    [
        "mmcore.errors",
        "mmcore.seeding",
        "mmcore.distributed",
        "mmcore.batch",
        "mmcore.storage",
        "mmcore.analysis",
        "mmcore.metric_names",
    ],
    ["mmcore.registry", "mmcore.config"],
    ["mmcore.data"],
    ["mmcore.data.media.sound", "mmcore.layers", "mmcore.transforms"],
    ["mmcore.data.media"],
    ["mmcore.data.raw", "mmcore.data.demo", "mmcore.encoders"],
    ["mmcore.data.sources", "mmcore.data.prepared", "mmcore.model"],
    ["mmcore.data.feeding", "mmcore.features", "mmcore.methods"],
    ["mmcore.evaluation"],
    ["mmcore.training"],
    ["mmcore.assembly"],
    ["mmcore.predictor"],
    ["rayjobs.results_layout", "rayjobs.ray_internals", "rayjobs.templates"],
    ["rayjobs.cluster"],
    ["rayjobs.storage"],
    ["rayjobs.cli", "rayjobs.feeding"],
    ["rayjobs.preparing", "rayjobs.runs"],
    ["rayjobs.trials"],
    ["rayjobs.search"],
    ["rayjobs.pool"],
    ["rayjobs.experiment"],
    ["rayjobs.reporting"],
    ["rayjobs.study"],
    ["rayjobs.commands"],
    [
        "rayjobs.clean",
        "rayjobs.compare",
        "rayjobs.predict",
        "rayjobs.prepare",
        "rayjobs.report",
        "rayjobs.submit",
        "rayjobs.train",
        "rayjobs.tune",
    ],
]
"""Lowest first. A package stands for the files in it, but not for packages in it that are named themselves."""

MOST_FILES = 13
"""Files side by side in a folder, `__init__.py` counted; folders of registry entries may hold more."""
REGISTRIES = {"mmcore.methods", "mmcore.encoders", "mmcore.data.sources"}
"""Packages whose own file imports all their entries."""


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of both packages."""
    paths = [path for package in ("mmcore", "rayjobs") for path in (ROOT / package).rglob("*.py")]
    return {_dotted(path): path for path in paths}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(text: str, known: set[str]) -> set[str]:
    """The modules of this project that a text imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in whole}
    return found & known


@cache
def graph() -> dict[str, set[str]]:
    """Module -> the modules it imports."""
    known = set(modules())
    return {name: imports(path.read_text(), known) - {name} for name, path in modules().items()}


def room_of(module: str) -> str:
    """The longest entry of FLOORS that a module belongs to."""
    rooms = [room for floor in FLOORS for room in floor if f"{module}.".startswith(f"{room}.")]
    assert rooms, f"{module} stands on no floor: enter it, or its package, in FLOORS"
    return max(rooms, key=len)


def floor_of(module: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room_of(module) in floor)


def breaches(edges: dict[str, set[str]]) -> Iterator[str]:
    """Imports that lead up, or across to another room of the same floor."""
    for module, targets in edges.items():
        for target in sorted(targets):
            if room_of(module) != room_of(target) and floor_of(target) >= floor_of(module):
                yield f"{module} imports {target}, which stands no lower"


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Modules of one circle of imports, in order; none: []."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges.get(module, ())):
            if found := walk(target, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := walk(module, []))), [])


PACKAGES = ("mmcore", "rayjobs", "rayjobs.search_spaces")


def test_every_import_leads_down() -> None:
    edges = {module: targets - set(PACKAGES) for module, targets in graph().items() if module not in PACKAGES}
    assert list(breaches(edges)) == []


def test_there_is_no_circle() -> None:
    # What imports its parts so that they register is no part of their circle.
    assert circle({name: targets for name, targets in graph().items() if name not in REGISTRIES}) == []


@pytest.mark.parametrize(
    ("text", "module", "named"),
    [
        ("from mmcore.training.engine import Engine", "mmcore.methods.joint", "mmcore.training.engine"),
        ("def f():\n    from mmcore.assembly.config import f", "mmcore.config.schema", "mmcore.assembly.config"),
        ("if TYPE_CHECKING:\n    import rayjobs.tune", "rayjobs.search.asha", "rayjobs.tune"),
    ],
)  # fmt: skip
def test_a_planted_import_is_named_with_both_files(text: str, module: str, named: str) -> None:
    edges = {module: imports(text, set(modules()))}
    assert list(breaches(edges)) == [f"{module} imports {named}, which stands no lower"]


def test_a_planted_circle_is_shown() -> None:
    edges = dict(graph())
    edges["mmcore.config.sections"] = {*edges["mmcore.config.sections"], "mmcore.config.schema"}
    assert set(circle(edges)) == {"mmcore.config.sections", "mmcore.config.schema"}


def test_no_folder_is_a_heap() -> None:
    folders = Counter(".".join(path.parent.relative_to(ROOT).parts) for path in modules().values())
    heaps = {name: number for name, number in folders.items() if number > MOST_FILES and name not in REGISTRIES}
    assert heaps == {}
