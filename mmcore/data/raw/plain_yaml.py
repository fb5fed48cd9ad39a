"""Reads a YAML file in which names stay what was written: `no`, `on`, `01`, `1e3`, `2024-01-01` and `null` are names.

YAML 1.1 reads them as truth values, numbers, dates and nothing. Which places of a file hold names, its reader says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from mmcore.data.texts import decoded
from mmcore.errors import ConfigError, UsageError

TEXT, NULL, MERGE = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "merge"))


Place = tuple[str, ...]
"""Keys from the top; "*" is any key, or any item of a list."""


def read_yaml(path: Path, names: Collection[Place], optional: Collection[Place]) -> tuple[dict[Any, Any], list[str]]:
    """Returns the mapping a file holds, and what is wrong with its keys. Every key is text.

    Args:
        path: The file.
        names: The places whose plain words are text; only nothing at all is None there.
        optional: Those whose plain words are text, but null and ~ are None.

    Raises:
        UsageError: The file cannot be read, or is not valid YAML.
        ConfigError: It holds no mapping.
    """
    try:
        loader = yaml.SafeLoader(decoded(path))
        node = loader.get_single_node()
        problems = [] if node is None else list(_repeated_keys(node, path.name))
        if node is not None:
            _keep(node, (), names, optional, set())
        content = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError([f"{path} must hold a mapping, got {type(content).__name__}"])
    return content, problems


def _repeated_keys(node: yaml.Node, name: str) -> Iterator[str]:
    """Yields a sentence for each key that a mapping has twice: YAML would take the last one."""
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line, text = key.start_mark.line + 1, str(key.value)
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if text in lines:
                yield f"{name}: line {line}: the key '{text}' is given again (first in line {lines[text]}); keep one"
            lines.setdefault(text, line)
    for child in _children(node):
        yield from _repeated_keys(child, name)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
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
