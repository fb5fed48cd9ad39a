"""What pydantic finds wrong with a configuration, in words: key, rule, value received, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from mmcore.errors import suggest

SENTENCE = "sentence"
"""Type of the problems that `told` makes."""


KINDS = {
    "dict_type": "a mapping", "model_type": "a mapping", "model_attributes_type": "a mapping", "list_type": "a list",
    "tuple_type": "a list",
}  # fmt: skip
"""Type of a problem -> what the value must be."""


COLLECTIONS = {"Dictionary": "a mapping", "List": "a list", "Tuple": "a list"}


def told(sentence: str) -> PydanticCustomError:
    """Returns the error for a validator to raise whose sentence says it all: only the key is put in front of it."""
    return PydanticCustomError(SENTENCE, "{sentence}", {"sentence": sentence})


def describe_problems(error: ValidationError, model: type[BaseModel], path: str = "") -> list[str]:
    """Returns one sentence for each problem pydantic found: key, rule, value received."""
    sentences: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    for details in error.errors():
        place = _place(model, [str(part) for part in details["loc"]])
        key = ".".join([*([path] if path else []), *place.names])
        whole = _whole_sentence(details, place, key)
        if whole:
            sentences[whole] = whole
        else:
            # A field that may be one thing or another yields a problem for each; they make one sentence.
            rules.setdefault(key, []).append(_rule(details, place))
            alternatives = ", or ".join(dict.fromkeys(rules[key]))
            sentences[key] = f"{key} must be {alternatives}, got {details['input']!r}"
    return list(sentences.values())


@dataclass(frozen=True)
class _Place:
    """Where a problem is.

    Attributes:
        names: The keys that lead there, as written in the configuration.
        owner: The section of which the last one is a key; None: it is none of a section's.
        annotation: What may stand there; None: nothing known may.
        above: What may stand one key higher.
    """

    names: list[str]
    owner: type[BaseModel] | None
    annotation: Any
    above: Any


def _place(model: type[BaseModel], location: list[str]) -> _Place:
    """Follows a problem's location without what pydantic adds to it to tell the members of a union apart."""
    place = _Place([], None, model, None)
    for part in location:
        current = _bare(place.annotation)
        if get_origin(current) in {Union, UnionType}:
            member = _member(current, part)
            if member is None:
                break
            place = _Place(place.names, None, member, place.above)
        elif part != "[key]":
            names = [*place.names, part]
            if _is_section(current):
                field = current.model_fields.get(part)
                place = _Place(names, current, field and field.annotation, current)
            else:
                place = _Place(names, None, _item(current), current)
    return place


def _bare(annotation: Any) -> Any:
    """Returns a type without its metadata, and without the None it may be instead."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _bare(members[0]) if len(members) == 1 else annotation
    return annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _item(annotation: Any) -> Any:
    """Returns the type of what a mapping or a list holds."""
    arguments = [one for one in get_args(annotation) if one is not Ellipsis]
    return arguments[-1] if arguments else None


def _member(union: Any, tag: str) -> Any:
    """Returns the section that a key's value (`kind: audio`) chooses among several; None if it chooses none."""
    for member in map(_bare, get_args(union)):
        if _is_section(member) and any(tag in _literals(field.annotation) for field in member.model_fields.values()):
            return member
    return None


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _whole_sentence(details: ErrorDetails, place: _Place, key: str) -> str:
    """Returns the sentence for a problem that is none of a value alone; empty for others."""
    kind = details["type"]
    if kind == "extra_forbidden":
        return _unknown_key(key, place)
    if kind == "missing" and get_origin(_bare(place.above)) is tuple:
        key, _, _ = key.rpartition(".")
        return f"{key} must be {_tuple_rule(place.above)}, got {details['input']!r}"
    if kind == "missing":
        return f"{key} is required"
    if kind == SENTENCE:
        return f"{key}: {details['msg']}"
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        chooser = details["ctx"]["discriminator"].strip("'")
        sections = [member for member in map(_bare, get_args(_bare(place.annotation))) if _is_section(member)]
        tags = ", ".join(str(tag) for one in sections for tag in _literals(one.model_fields[chooser].annotation))
        if kind == "union_tag_not_found":
            return f"{key}.{chooser} is required: one of {tags}"
        return f"{key}.{chooser} must be one of {tags}, got {_value_of(details['input'], chooser)!r}"
    return ""


def _value_of(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)


def _unknown_key(key: str, place: _Place) -> str:
    if place.owner is None or not place.owner.model_fields:
        return f"unknown key '{key}': nothing can be set here"
    return f"unknown key '{key}'{suggest(place.names[-1], place.owner.model_fields)}"


def _rule(details: ErrorDetails, place: _Place) -> str:
    """Returns what a value must be, to follow the words "must be"."""
    kind = details["type"]
    if kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        bounds = _range_rule(place)
        if bounds:
            return bounds
    if kind in KINDS:
        return KINDS[kind]
    if kind in {"too_short", "too_long"}:
        return _length_rule(details, place)
    message = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    # Without the reason why a number or a truth value could not be read: the value itself follows.
    return message.split(", ")[0] if message.startswith("a valid ") else message


def _length_rule(details: ErrorDetails, place: _Place) -> str:
    bounds = details["ctx"]
    if get_origin(_bare(place.annotation)) is tuple and Ellipsis not in get_args(_bare(place.annotation)):
        return _tuple_rule(place.annotation)
    is_short = details["type"] == "too_short"
    number = bounds["min_length" if is_short else "max_length"]
    entries = "1 entry" if number == 1 else f"{number} entries"
    noun = COLLECTIONS.get(bounds["field_type"], "a list")
    return f"{noun} of {entries} or more" if is_short else f"{noun} of {entries} at most"


def _tuple_rule(annotation: Any) -> str:
    return f"a list of {len(get_args(_bare(annotation)))}"


def _range_rule(place: _Place) -> str | None:
    """Returns the range of a field as words, `in [0, 1]` or `at least 1`, or None if it has none."""
    field = place.owner.model_fields.get(place.names[-1]) if place.owner else None
    if field is None:
        return None
    bounds = list(field.metadata)
    for argument in get_args(field.annotation):
        bounds += getattr(argument, "__metadata__", ())
    low = next((f"[{bound.ge:.10g}" if isinstance(bound, Ge) else f"({bound.gt:.10g}"
                for bound in bounds if isinstance(bound, (Ge, Gt))), None)  # fmt: skip
    high = next((f"{bound.le:.10g}]" if isinstance(bound, Le) else f"{bound.lt:.10g})"
                 for bound in bounds if isinstance(bound, (Le, Lt))), None)  # fmt: skip
    if low and high:
        return f"in {low}, {high}"
    if low:
        return f"{'at least' if low[0] == '[' else 'greater than'} {low[1:]}"
    return f"{'at most' if high[-1] == ']' else 'less than'} {high[:-1]}" if high else None
