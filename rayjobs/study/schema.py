"""Says to programs of others what `compare.json` holds, as a JSON Schema made of the document's own dataclasses.

The file that is shipped is made by it:

    python -m rayjobs.study.schema > rayjobs/schemas/compare-1.json

Keys that a later release adds are allowed. A number that is none (NaN) is null, which can happen to figures by name.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from mmcore.config.plain import Plain
from rayjobs.study.document import SCHEMA, StudyDocument

DRAFT = "https://json-schema.org/draft/2020-12/schema"
PLAIN: Mapping[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
NULL: Mapping[str, Plain] = {"type": "null"}


def document_schema() -> dict[str, Plain]:
    """Returns the schema of a study's document."""
    definitions: dict[str, Plain] = {}
    _define(StudyDocument, definitions)
    whole = definitions.pop(StudyDocument.__name__)
    assert isinstance(whole, dict)
    whole["properties"]["schema"]["const"] = SCHEMA
    return {"$schema": DRAFT, "$id": SCHEMA, **whole, "$defs": dict(sorted(definitions.items()))}


def as_text() -> str:
    """Returns the schema as its file holds it."""
    return json.dumps(document_schema(), indent=1, ensure_ascii=False) + "\n"


def _define(record: type[Any], definitions: dict[str, Plain]) -> None:
    """Enters the schema of a dataclass, and those of all that it is made of."""
    if record.__name__ in definitions:
        return
    definitions[record.__name__] = {}  # while it is being made
    summary, described = _documented(record)
    hints = typing.get_type_hints(record)
    properties: dict[str, Plain] = {}
    for each in fields(record):
        text = described.get(each.name)
        properties[each.name] = {**_of(hints[each.name], definitions), **({"description": text} if text else {})}
    definitions[record.__name__] = {
        "type": "object",
        "description": summary,
        "properties": properties,
        "required": [each.name for each in fields(record) if "optional" not in each.metadata],
    }


def _of(hint: Any, definitions: dict[str, Plain]) -> dict[str, Plain]:
    """Returns the schema of a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [dict(NULL) if each is types.NoneType else _of(each, definitions) for each in arguments]}
    if origin is tuple:
        entries: list[Plain] = [_of(each, definitions) for each in arguments]
        return {"type": "array", "prefixItems": entries, "minItems": len(entries), "maxItems": len(entries)}
    if origin is list:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        value = {"type": ["number", "null"]} if arguments[1] is float else _of(arguments[1], definitions)
        return {"type": "object", "additionalProperties": value}
    if is_dataclass(hint) and isinstance(hint, type):
        _define(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if hint is object:
        return {}
    raise TypeError(f"no JSON Schema is known for {hint}")


def _documented(record: type[Any]) -> tuple[str, dict[str, str]]:
    """Returns what a dataclass is, and what each of its fields is, by its docstring."""
    summary, _, attributes = (inspect.getdoc(record) or "").partition("\n\nAttributes:\n")
    joined = re.sub(r"\n {8,}", " ", attributes)
    found = re.findall(r"^ {4}(\w+): (.+)$", joined, flags=re.MULTILINE)
    return " ".join(summary.split()), dict(found)


if __name__ == "__main__":
    print(as_text(), end="")
