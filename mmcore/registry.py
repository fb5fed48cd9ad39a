"""Open registries of methods, encoders and data sets.

A user's own package adds to them without touching this repository, through an entry point:

    [project.entry-points."equipoise.methods"]
    my_method = "my_package.my_method:MyMethod"
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from mmcore.errors import UsageError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and the classes behind them.

    Args:
        kind: What an entry is called in messages, for example "method".
        group: Entry-point group through which other packages add entries.
        builtins: Package whose import registers this project's own entries.
    """

    def __init__(self, kind: str, group: str, builtins: str):
        self.kind = kind
        self._group = group
        self._builtins = builtins
        self._entries: dict[str, type[T]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Returns a class decorator that enters the class under `name`."""

        def enter(entry: type[T]) -> type[T]:
            if self._entries.setdefault(name, entry) is not entry:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            return entry

        return enter

    def get(self, name: str) -> type[T]:
        """Returns the class registered as `name`.

        Raises:
            UsageError: No such entry, with the nearest one; or an entry of another package that cannot be loaded.
        """
        self._load()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def names(self) -> list[str]:
        """Returns all registered names, sorted."""
        self._load()
        return sorted(self._entries)

    def _load(self) -> None:
        if self._loaded:
            return
        importlib.import_module(self._builtins)
        for point in entry_points(group=self._group):
            self.register(point.name)(self._load_plugin(point))
        self._loaded = True

    def _load_plugin(self, point: EntryPoint) -> type[T]:
        try:
            loaded: type[T] = point.load()
        except Exception as error:
            package = point.dist.name if point.dist else "an installed package"
            raise UsageError(
                f"the {self.kind} '{point.name}' of {package} cannot be loaded from {point.value} "
                f"({type(error).__name__}: {error}): mend or uninstall that package"
            ) from error
        return loaded
