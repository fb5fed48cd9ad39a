"""Dependencies go one way: mmcore knows neither Ray nor the command line, rayjobs holds no mathematics."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

BARRED_IN_MMCORE = {"ray", "click", "rayjobs", "rich", "hyperopt"}
# The training and evaluation of anything is mmcore's; rayjobs may move tensors, not compute with them.
BARRED_IN_RAYJOBS = {"torch.nn", "torch.optim", "torch.autograd", "torchvision", "torchmetrics", "torch.amp"}
BARRED_CALLS = {"backward", "zero_grad", "cross_entropy", "softmax", "log_softmax"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Every dotted name an import binds or reads, those inside functions and under `if` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def attribute_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names as they are written: `torch.nn.functional.relu`."""
    yield from (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def breaches_in_mmcore(text: str) -> set[str]:
    return {name for name in imported_names(ast.parse(text)) if name.split(".")[0] in BARRED_IN_MMCORE}


def breaches_in_rayjobs(text: str) -> set[str]:
    tree = ast.parse(text)
    names = {*imported_names(tree), *attribute_names(tree)}
    found = {name for name in names for barred in BARRED_IN_RAYJOBS if f"{name}.".startswith(f"{barred}.")}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found | {call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in BARRED_CALLS}


@pytest.mark.parametrize(
    ("text", "breach"),
    [("import ray", True), ("from ray.train import report", True), ("def f():\n    import click", True),
     ("from rayjobs import files", True), ("importlib.import_module('ray.data')", True), ("import rays", False),
     ("from mmcore import errors", False)],
)  # fmt: skip
def test_what_is_a_breach_in_mmcore(text: str, breach: bool) -> None:
    assert bool(breaches_in_mmcore(text)) == breach


@pytest.mark.parametrize(
    ("text", "breach"),
    [("import torch.nn.functional as F", True), ("from torch import nn", True), ("from torch.nn import Linear", True),
     ("import torch\ntorch.nn.Linear(1, 2)", True), ("loss.backward()", True), ("import torch", False),
     ("torch.from_numpy(x)", False), ("from torch.optim import SGD", True)],
)  # fmt: skip
def test_what_is_a_breach_in_rayjobs(text: str, breach: bool) -> None:
    assert bool(breaches_in_rayjobs(text)) == breach


@pytest.mark.parametrize("path", sources("mmcore"), ids=lambda path: str(path.relative_to(ROOT)))
def test_mmcore_imports_neither_ray_nor_the_command_line(path: Path) -> None:
    assert not breaches_in_mmcore(path.read_text())


@pytest.mark.parametrize("path", sources("rayjobs"), ids=lambda path: str(path.relative_to(ROOT)))
def test_rayjobs_holds_no_mathematics(path: Path) -> None:
    assert not breaches_in_rayjobs(path.read_text())


def test_both_packages_were_found() -> None:
    assert len(sources("mmcore")) > 20
    assert len(sources("rayjobs")) > 10
