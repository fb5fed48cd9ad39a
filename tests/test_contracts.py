"""Modules hand each other typed values: few parameters of `rayjobs` may be anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from places import ROOT

MOST = 0.02
"""Share of parameters that say nothing of what they take."""


def parameters(tree: ast.AST, in_class: bool = False) -> Iterator[tuple[str, ast.arg, bool]]:
    """Function, parameter and whether it collects keywords, of all functions; without `self` and `cls`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            own = node.args
            named = [*own.posonlyargs, *own.args, *own.kwonlyargs, *([own.vararg] if own.vararg else [])]
            named = named[1:] if in_class and named and named[0].arg in {"self", "cls"} else named
            yield from ((f"{node.lineno} {node.name}", each, False) for each in named)
            if own.kwarg:
                yield f"{node.lineno} {node.name}", own.kwarg, True
        yield from parameters(node, isinstance(node, ast.ClassDef))


def is_anything(parameter: ast.arg, collects_keywords: bool) -> bool:
    """`Any` wherever it stands, `object`, or nothing; `**info: object` is what a callback of Tune's never looks at."""
    text = ast.unparse(parameter.annotation) if parameter.annotation else "Any"
    return bool(re.search(r"\bAny\b", text)) or (text == "object" and not collects_keywords)


def counted(text: str) -> tuple[int, list[str]]:
    """How many parameters a module has, and those that are anything."""
    found = list(parameters(ast.parse(text)))
    return len(found), [f"{name}({each.arg})" for name, each, collects in found if is_anything(each, collects)]


def test_few_parameters_are_anything() -> None:
    total, loose = 0, []
    for path in sorted((ROOT / "rayjobs").rglob("*.py")):
        number, names = counted(path.read_text())
        total += number
        loose += [f"{path.relative_to(ROOT)}:{name}" for name in names]
    share = len(loose) / total
    assert share < MOST, f"{len(loose)} of {total} parameters ({share:.1%}) are Any-like:\n" + "\n".join(loose)


def test_what_counts() -> None:
    text = (
        "def f(a, b: int, c: dict[str, Any], *d: Any, e: object, **info: object): ...\n"
        "class C:\n    def m(self, x: Settings, y: Mapping[str, Any], **rest: Any): ..."
    )
    assert counted(text) == (9, ["1 f(a)", "1 f(c)", "1 f(e)", "1 f(d)", "3 m(y)", "3 m(rest)"])
