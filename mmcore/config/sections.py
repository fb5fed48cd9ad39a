"""What every section of a configuration shares: parsing, and paths into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from mmcore.config.problems import describe_problems
from mmcore.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


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


def parse_section(model: type[ModelT], values: Mapping[str, Any], path: str) -> ModelT:
    """Validates one section, for example a plug-in's own `Config`.

    Args:
        model: The section's class.
        values: Its keys and values.
        path: Where the section stands, for the messages: `method`, `model.encoders.image`.

    Raises:
        ConfigError: Lists every problem.
    """
    if not isinstance(values, Mapping):
        raise ConfigError([f"{path or 'the file'} must be a mapping, got {values!r}"])
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(describe_problems(error, model, path)) from None


def minutes_of(text: object) -> int:
    """Returns the minutes a text such as `10m` stands for, at least 1.

    Raises:
        ValueError: It stands for none; the message says what is right.
    """
    found = re.fullmatch(r"0*([1-9][0-9]{0,5})m", text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("minutes such as '10m'")
    return int(found[1])


Minutes = Annotated[str, BeforeValidator(lambda text: f"{minutes_of(text)}m")]
"""Of a setting that may be a time."""


def json_plain(value: Any) -> Any:
    """Turns NumPy's and torch's numbers, which searches hand over, into Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise ConfigError([f"a configuration holds numbers, texts, lists and mappings, got {value!r}"])


def plain(value: Any) -> Any:
    """Returns NumPy's numbers, which HyperOpt draws, as Python's own."""
    return value.item() if hasattr(value, "item") else value
