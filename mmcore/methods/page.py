"""The page of the methods, docs/methods.md, from the registry: `python -m mmcore.methods > docs/methods.md`.

What it says of a method stands at the method. Paragraphs of its file's docstring that begin with one of `LABELS`, and
the numbered list of rulings; the `Attributes` of its settings; `variants`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator

from pydantic import BaseModel

from mmcore.config.plain import Settings
from mmcore.config.setting_words import values_in_words
from mmcore.methods.base import METHODS, Method

LABELS = ("In short", "Paper", "Source", "Step by step", "Cost")
"""Words, with a colon, that begin the paragraphs the page takes; a method has a paper or a source."""
RULINGS = "Rulings and deviations"
EXAMPLE = ("audio", "image")
"""Modalities for which variants are told; some of them depend on the data set's."""
HEAD = """# Methods

Made from the registry by `python -m mmcore.methods > docs/methods.md`: all of it stands in the method's own file. Which
method trains is `--method NAME`, a variant of it `--method NAME-VARIANT`, and a setting `--set method.KEY=VALUE`. Costs
are of a step beside `joint`'s, of which F is the forward and B the backward pass; measured:
[performance.md](performance.md). M is the number of modalities. Equations are numbered as in the paper where its text
was at hand (IPRM, AUG); of the other methods the rule itself is written out, checked against the released code.
What is searched, and where each range comes from: [search_spaces/README.md](../search_spaces/README.md). A method of
your own is one file: [CONTRIBUTING.md](../CONTRIBUTING.md).
"""


def page() -> str:
    """Returns the page, Markdown."""
    return "\n".join([HEAD, *(_section(name, METHODS.get(name)) for name in own_methods())])


def own_methods() -> list[str]:
    """Returns the names of this project's own methods, without what other packages add."""
    return [name for name in METHODS.names() if METHODS.get(name).__module__.startswith("mmcore.")]


def paragraphs(method: type[Method]) -> dict[str, str]:
    """Returns label -> text, in one line, of a method's file; the rulings as they stand, one a line."""
    found = {}
    for paragraph in (inspect.getdoc(inspect.getmodule(method)) or "").split("\n\n"):
        label, _, rest = paragraph.partition(":")
        if label in LABELS:
            found[label] = " ".join(rest.split())
        elif label.startswith(RULINGS):
            found[RULINGS] = "\n".join(_items(rest))
    return found


def _items(text: str) -> Iterator[str]:
    """Yields the items of a numbered list, each in one line."""
    for item in re.split(r"\n\s+(?=\d+\. )", text)[1:]:
        yield " ".join(item.split())


def _section(name: str, method: type[Method]) -> str:
    said = paragraphs(method)
    lines = [f"## `{name}`", "", said.get("In short", ""), ""]
    lines += [f"- {label}: {said[label]}" for label in LABELS[1:] if label in said]
    if RULINGS in said:
        lines += ["", "Ours, and what the paper or the released code does otherwise:", "", said[RULINGS]]
    if method.Config.model_fields:
        lines += ["", "| setting | values | default | |", "|---|---|---|---|", *_settings(method.Config)]
    if variants := method.variants(EXAMPLE):
        lines += ["", "| variant | sets |", "|---|---|"]
        lines += [f"| `{name}-{variant}` | {_sets(values)} |" for variant, values in variants.items()]
    return "\n".join([*lines, ""])


def _settings(config: type[BaseModel]) -> Iterator[str]:
    described = attributes(config)
    for key, schema in config.model_json_schema()["properties"].items():
        default = f"`{_plain(schema['default'])}`" if "default" in schema else "none: to be named"
        yield f"| `{key}` | {values_in_words(schema)} | {default} | {described.get(key, '')} |"


def attributes(config: type[BaseModel]) -> dict[str, str]:
    """Returns setting -> what its class's docstring, or that of a class it extends, says of it under `Attributes`."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        _, _, listed = (base.__doc__ or "").partition("Attributes:\n")
        for entry in re.split(r"\n(?= {8}\w)", f"\n{listed}"):
            key, _, text = entry.strip().partition(": ")
            if key in config.model_fields:
                found[key] = " ".join(text.split()).replace("|", r"\|")
    return found


def _sets(values: Settings) -> str:
    return ", ".join(f"`{path}={_plain(value)}`" for path, value in values.items())


def _plain(value: object) -> str:
    """Returns a value as it is written in YAML."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
