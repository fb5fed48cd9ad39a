"""Reads the YAML and JSON that people write, within limits: nothing that is nested or repeated without end gets in.

A file of a few lines may stand for billions of values, by aliases of aliases, and brackets in brackets end a process
that follows them. So size, depth and number of values are limited. Beyond that only plain values are taken: texts,
truth values, finite numbers of 64 bits, lists, and mappings whose keys are texts, each once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from mmcore.config.texts import decoded, repeated
from mmcore.errors import ConfigError, UsageError

MAX_YAML_BYTES = 2**20
MAX_JSON_BYTES = 2**28
"""Lists of data sets are JSON, and may be long."""


MAX_DEPTH = 32
"""Lists and mappings in each other."""


MAX_VALUES = 100_000
"""Keys, values, lists and mappings of a YAML file; what an alias repeats counts each time."""


LARGEST_INTEGER = 2**63 - 1


TEXT, NULL, MERGE, INT, FLOAT, BOOL, LIST, MAPPING = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "null", "merge", "int", "float", "bool", "seq", "map")
)
PLAIN_TAGS = frozenset({TEXT, NULL, MERGE, INT, FLOAT, BOOL, LIST, MAPPING})


Place = tuple[str, ...]
"""Keys from the top; "*" is any key, or any item of a list."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping that a YAML file holds (or a JSON file, which is YAML, too).

    Raises:
        UsageError: The file cannot be read, is not valid YAML, or exceeds a limit.
        ConfigError: It holds no mapping, or keys twice: each is named.
    """
    content, problems = read_named(path)
    if problems:
        raise ConfigError(problems)
    return content


def read_named(
    path: Path, names: Collection[Place] = (), optional: Collection[Place] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Returns the mapping a file holds, and what is wrong with its keys; names in it stay what was written.

    YAML 1.1 reads `no`, `on`, `01`, `1e3` and `null` as truth values, numbers and nothing.

    Args:
        path: The file.
        names: The places whose plain words are text; only nothing at all is None there.
        optional: Those whose plain words are text, but null and ~ are None.

    Raises:
        UsageError: The file cannot be read, is not valid YAML, or exceeds a limit.
        ConfigError: It holds no mapping.
    """
    text = decoded(path, MAX_YAML_BYTES)
    try:
        content, problems = _load(text, names, optional)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path} is not valid YAML: {_reason(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError([f"{path} must hold a mapping, got {_kind(content)}"])
    return content, [f"{path.name}: {problem}" for problem in problems]


def parse_yaml(text: str) -> Any:
    """Returns the value that a text stands for, as in `--set KEY=TEXT`.

    Raises:
        UsageError: It is not valid YAML, or exceeds a limit.
    """
    try:
        content, problems = _load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{shortened(text)!r} is not valid YAML: {_reason(error)}; put it in quotes") from None
    if problems:
        raise UsageError(f"{shortened(text)!r}: {problems[0]}")
    return content


def parse_json(text: str) -> Any:
    """Returns the value a JSON text holds.

    Raises:
        ValueError: It is not valid JSON, nested too deep, has a key twice, or a number that is none.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for one in level for child in _children_of(one)]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def read_json(path: Path) -> Any:
    """Returns the value a JSON file holds.

    Raises:
        UsageError: The file cannot be read, or see `parse_json`.
    """
    try:
        return parse_json(decoded(path, MAX_JSON_BYTES))
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None


def shortened(text: str, length: int = 60) -> str:
    """Returns a text for a message, cut where it is long."""
    return text if len(text) <= length else f"{text[:length]}..."


class _Loader(yaml.SafeLoader):
    """A safe loader that counts while it reads, and takes plain values alone."""

    def __init__(self, text: str):
        super().__init__(text)
        self._level = 0
        self._extents: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Composes a node that is no deeper than allowed, and stands for no more values than allowed."""
        self._level += 1
        if self._level > MAX_DEPTH:
            raise self._refusal(f"it is nested deeper than {MAX_DEPTH} levels")
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is not None:
            self._measure(node, is_alias=is_alias)
        return node

    def _measure(self, node: yaml.Node, *, is_alias: bool) -> None:
        """Enters (values, depth) of a node and all below it, aliases followed."""
        if is_alias and id(node) not in self._extents:
            raise self._refusal("an alias stands inside of what it repeats")
        if not self._is_plain(node):
            raise self._refusal(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed", node)
        below = [self._extents[id(child)] for child in _children(node)]
        values = 1 + sum(number for number, _ in below)
        depth = 1 + max((depth for _, depth in below), default=0)
        if values > MAX_VALUES:
            raise self._refusal(f"it stands for more than {MAX_VALUES:,} values")
        if depth + self._level > MAX_DEPTH:
            raise self._refusal(f"it is nested deeper than {MAX_DEPTH} levels")
        self._extents[id(node)] = values, depth

    def _is_plain(self, node: yaml.Node) -> bool:
        """Tells whether a node is a plain value; `!!int x` is none."""
        if isinstance(node, yaml.ScalarNode) and node.tag in {INT, FLOAT, BOOL}:
            found: str = self.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
            return found == node.tag
        return node.tag in PLAIN_TAGS

    def _refusal(self, reason: str, node: yaml.Node | None = None) -> yaml.YAMLError:
        mark = node.start_mark if node is not None else self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return yaml.MarkedYAMLError(problem=reason, problem_mark=mark)


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    value = str(loader.construct_scalar(node))
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
        problem = "a text must not hold NUL or half a character (\\ud800 to \\udfff)"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return value


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    value: int = loader.construct_yaml_int(node)
    if abs(value) > LARGEST_INTEGER:
        raise yaml.MarkedYAMLError(problem="a whole number must fit in 64 bits", problem_mark=node.start_mark)
    return value


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    value: float = loader.construct_yaml_float(node)
    if not math.isfinite(value):
        raise yaml.MarkedYAMLError(problem=f"a number must be finite, got {node.value}", problem_mark=node.start_mark)
    return value


# `2024-01-01` and `=` stay text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag in PLAIN_TAGS]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(TEXT, _text)
_Loader.add_constructor(INT, _integer)
_Loader.add_constructor(FLOAT, _number)


def _load(text: str, names: Collection[Place] = (), optional: Collection[Place] = ()) -> tuple[Any, list[str]]:
    """Returns what a text holds, and a sentence for each key that is there twice."""
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None, []
    problems = list(_repeated_keys(node, set()))
    _keep(node, (), names, optional, set())
    return loader.construct_document(node), problems


def _reason(error: Exception) -> str:
    """Returns what is wrong and where, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = " ".join(filter(None, [error.context, error.problem]))
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character {chr(error.character)!r} is not allowed in it"
    return " ".join(str(error).split())


def _kind(value: Any) -> str:
    """Returns what a value is, in words."""
    return {list: "a list", str: "a text", type(None): "nothing"}.get(type(value), type(value).__name__)


def _repeated_keys(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    """Yields a sentence for each key that a mapping has twice: YAML would take the last one."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line, text = key.start_mark.line + 1, str(key.value)
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if text in lines:
                yield f"line {line}: the key '{text}' is given again (first in line {lines[text]}); keep one"
            lines.setdefault(text, line)
    for child in _children(node):
        yield from _repeated_keys(child, seen)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _keep(node: yaml.Node, place: Place, names: Collection[Place], optional: Collection[Place], seen: set[int]) -> None:
    """Turns the tags of names into text, in place; a node that is used twice (an alias) is looked at once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        is_name = any(_fits(place, one) for one in names)
        is_given = any(_fits(place, one) for one in optional) and node.tag != NULL
        if node.value and (is_name or is_given):
            node.tag = TEXT
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                key.tag = TEXT
            _keep(value, (*place, str(key.value)), names, optional, seen)
    else:
        for item in node.value:
            _keep(item, (*place, "*"), names, optional, seen)


def _fits(place: Place, pattern: Place) -> bool:
    return len(place) == len(pattern) and all(two in ("*", one) for one, two in zip(place, pattern, strict=True))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError(f"the key '{next(iter(repeated([name for name, _ in pairs])))}' is given twice")
    return record


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number; write null for what is missing")


def _children_of(value: Any) -> list[Any]:
    """Returns the lists and mappings that a list or a mapping holds."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in inner if isinstance(one, (list, dict))]
