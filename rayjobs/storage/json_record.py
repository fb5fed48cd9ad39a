"""Dataclasses that stand in JSON files: how they become plain values, and how they are read back.

Keys are the fields' names, in their order. A field may say of itself:

    field(metadata=key("class"))                  the file has it under another name, which is none in Python
    field(default=None, metadata=OPTIONAL)        the key is left out where the value is None
    a default                                     the key came after the first release, whose files lack it
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

from mmcore.config.plain import Plain, Settings
from mmcore.errors import DataError
from rayjobs.storage.files import json_or_set_aside, load_json

OPTIONAL: Mapping[str, bool] = {"optional": True}
"""Metadata of a field whose key is left out of the file where it is None."""
SCALARS: Mapping[Any, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
R = TypeVar("R", bound="JsonRecord")


def key(name: str) -> Mapping[str, str]:
    """Returns the metadata of a field that the file has under another name."""
    return {"key": name}


class JsonRecord:
    """A dataclass that stands in a JSON file; its fields may hold dataclasses, and lists and mappings of them."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def to_dict(self) -> dict[str, Plain]:
        """Returns it as plain values, as its file holds them."""
        values = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None or "optional" not in each.metadata:
                values[_key_of(each)] = _plain(value)
        return values

    @classmethod
    def from_dict(cls: type[R], stored: Settings) -> R:
        """Returns what `to_dict` returned as a dataclass; keys of a later release are left out.

        Raises:
            DataError: A key is missing that every release wrote, or holds what is of another type.
        """
        return cast(R, _record(cls, stored, ""))

    @classmethod
    def read(cls: type[R], path: Path) -> R | None:
        """Returns what a file holds; None where there is none.

        Raises:
            DataError: It is damaged, or holds something else.
        """
        return cls._checked(path, load_json(path))

    @classmethod
    def read_or_set_aside(cls: type[R], path: Path) -> R | None:
        """As `read`, of a file that will be made again: a damaged one is set aside, and counts as none.

        Raises:
            DataError: It holds something else.
        """
        return cls._checked(path, json_or_set_aside(path))

    @classmethod
    def _checked(cls: type[R], path: Path, stored: Any) -> R | None:
        try:
            return None if stored is None else cls.from_dict(stored)
        except (DataError, AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{path} is no {cls.__name__} ({error}): it is damaged, or was changed") from None


def _key_of(each: Field[Any]) -> str:
    return str(each.metadata.get("key", each.name))


def _plain(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_dict()
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


def _record(cls: type[Any], stored: Any, path: str) -> Any:
    if not isinstance(stored, Mapping):
        raise _not(path, "an object", stored)
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable, which mypy does not see
    found = [each for each in fields(cls) if _key_of(each) in stored]
    values = {
        each.name: _read(hints[each.name], stored[_key_of(each)], f"{path}.{_key_of(each)}".strip("."))
        for each in found
    }
    lacking = [
        _key_of(each)
        for each in fields(cls)
        if each.name not in values and each.default is MISSING and each.default_factory is MISSING
    ]
    if lacking:
        raise DataError(f"{f'{path}: ' if path else ''}{cls.__name__} lacks {', '.join(lacking)}")
    return cls(**values)


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    # A plain value is taken as it stands, and its alias speaks of itself by name, which no other module has.
    return typing.get_type_hints(cls, localns={"Plain": object})


def _read(hint: Any, value: Any, path: str) -> Any:
    """Returns a stored value as the type a field has; a plain value of any kind is taken as it stands."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_optional(arguments, value, path)
    if hint in SCALARS:
        return _scalar(hint, value, path)
    if origin is Literal and value not in arguments:
        raise _not(path, f"one of {', '.join(map(str, arguments))}", value)
    if isinstance(hint, type) and is_dataclass(hint):
        return _record(hint, value, path)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _not(path, "an object", value)
        return {name: _read(arguments[1], entry, f"{path}.{name}") for name, entry in value.items()}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if not isinstance(value, (list, tuple)):
            raise _not(path, "a list", value)
        entries = [_read(arguments[0], entry, f"{path}[{at}]") for at, entry in enumerate(value)]
        return tuple(entries) if origin is tuple else entries
    return value


def _read_optional(kinds: Sequence[Any], value: Any, path: str) -> Any:
    """Returns a value that may be none; one of several other kinds is plain, and is taken as it stands."""
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    return _read(others[0], value, path) if len(others) == 1 else value


def _scalar(kind: type[Any], value: Any, path: str) -> Any:
    """Returns a text, a truth or a number; null is what was no number (NaN)."""
    if kind is float and value is None:
        return math.nan
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _not(path, SCALARS[kind], value)
    return value


def _not(path: str, kind: str, value: Any) -> DataError:
    return DataError(f"{path} must be {kind}, got {str(value)[:40]!r}".strip())
