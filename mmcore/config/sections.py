"""What every section of a configuration shares: parsing, paths into it, and problems in words."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mmcore.errors import ConfigError, suggest


class Section(BaseModel):
    """A part of the configuration: unknown keys and infinite numbers are refused, values do not change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def set_path(data: dict[str, Any], path: str, value: Any) -> None:
    """Sets `data["a"]["b"] = value` for the path "a.b", making the mappings on the way.

    Raises:
        ConfigError: Something on the way is a value, not a mapping.
    """
    *parents, last = path.split(".")
    for index, key in enumerate(parents):
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError([f"cannot set '{path}': {'.'.join(parents[: index + 1])} is {data!r}, not a mapping"])
    data[last] = value


def get_path(data: Mapping[str, Any], path: str) -> Any:
    """Returns `data["a"]["b"]` for the path "a.b"; None where there is no such entry."""
    value: Any = data
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def parse_section(model: type[BaseModel], values: Mapping[str, Any], path: str) -> BaseModel:
    """Validates one section, for example a plug-in's own `Config`.

    Args:
        model: The section's class.
        values: Its keys and values.
        path: Where the section stands, for the messages: `method`, `model.encoders.image`.

    Raises:
        ConfigError: Lists every problem.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(describe_problems(error, model, path)) from None


def describe_problems(error: ValidationError, model: type[BaseModel], path: str = "") -> list[str]:
    """Returns one sentence for each problem pydantic found: key, rule, value received."""
    sentences: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    for details in error.errors():
        location = _without_union_members(model, [str(part) for part in details["loc"]])
        key = ".".join([*([path] if path else []), *location])
        if details["type"] == "extra_forbidden":
            sentences[key] = _unknown_key(key, model, location)
        elif details["type"] == "missing":
            sentences[key] = f"{key} is required"
        else:
            # A field that may be one thing or another yields a problem for each; they make one sentence.
            rules.setdefault(key, []).append(_rule(details, model, location))
            alternatives = ", or ".join(dict.fromkeys(rules[key]))
            sentences[key] = f"{key} must be {alternatives}, got {details['input']!r}"
    return list(sentences.values())


def json_plain(value: Any) -> Any:
    """Turns NumPy's and torch's numbers, which searches hand over, into Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise ConfigError([f"a configuration holds numbers, texts, lists and mappings, got {value!r}"])


def _without_union_members(model: type[BaseModel], location: list[str]) -> list[str]:
    """Cuts what pydantic adds to the place of a problem to tell the members of a union apart."""
    for depth in range(1, len(location)):
        parent = _model_at(model, location[: depth - 1])
        field = parent.model_fields.get(location[depth - 1]) if parent else None
        if field is None or get_origin(field.annotation) not in {Union, UnionType}:
            continue
        if len(set(get_args(field.annotation)) - {type(None)}) > 1:
            return location[:depth]
    return location


def _unknown_key(key: str, model: type[BaseModel], location: list[str]) -> str:
    parent = _model_at(model, location[:-1])
    if parent is None or not parent.model_fields:
        return f"unknown key '{key}': nothing can be set here"
    return f"unknown key '{key}'{suggest(location[-1], parent.model_fields)}"


def _rule(details: ErrorDetails, model: type[BaseModel], location: list[str]) -> str:
    """Returns what a value must be, to follow the words "must be"."""
    kind = details["type"]
    if kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        bounds = _range_rule(model, location)
        if bounds:
            return bounds
    if kind in {"dict_type", "model_type"}:
        return "a mapping"
    message = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    # Without the reason why a number or a truth value could not be read: the value itself follows.
    return message.split(", ")[0] if message.startswith("a valid ") else message


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model


def _range_rule(model: type[BaseModel], location: list[str]) -> str | None:
    """Returns the range of a field as words, `in [0, 1]` or `at least 1`, or None if it has none."""
    parent = _model_at(model, location[:-1])
    field = parent.model_fields.get(location[-1]) if parent else None
    if field is None:
        return None
    bounds = list(field.metadata)
    for argument in get_args(field.annotation):
        bounds += getattr(argument, "__metadata__", ())
    low = next((f"[{bound.ge:g}" if isinstance(bound, Ge) else f"({bound.gt:g}"
                for bound in bounds if isinstance(bound, (Ge, Gt))), None)  # fmt: skip
    high = next((f"{bound.le:g}]" if isinstance(bound, Le) else f"{bound.lt:g})"
                 for bound in bounds if isinstance(bound, (Le, Lt))), None)  # fmt: skip
    if low and high:
        return f"in {low}, {high}"
    if low:
        return f"{'at least' if low[0] == '[' else 'greater than'} {low[1:]}"
    return f"{'at most' if high[-1] == ']' else 'less than'} {high[:-1]}" if high else None


def plain(value: Any) -> Any:
    """Returns NumPy's numbers, which HyperOpt draws, as Python's own."""
    return value.item() if hasattr(value, "item") else value
