"""Open registries of methods, encoders and data sets.

A user's own package adds to them without touching this repository, through an entry point:

    [project.entry-points."equipoise.methods"]
    my_method = "my_package.my_method:MyMethod"

An entry that cannot be used is left out with one line on the log, and named to whoever asks for it: what else is
installed on a machine must not stop work that does not need it.
"""

from __future__ import annotations

import importlib
import logging
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
        self._unusable: dict[str, str] = {}
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
            UsageError: No such entry, with the nearest one; or an entry of another package that cannot be used.
        """
        self._load()
        if name in self._entries:
            return self._entries[name]
        if name in self._unusable:
            raise UsageError(f"{self._unusable[name]}: mend or uninstall that package")
        raise unknown_name(self.kind, name, self._entries)

    def names(self) -> list[str]:
        """Returns the names of all entries that can be used, sorted."""
        self._load()
        return sorted(self._entries)

    def _load(self) -> None:
        if self._loaded:
            return
        importlib.import_module(self._builtins)
        self._loaded = True  # before the plug-ins, one of which may ask for a name while it is imported
        for point in entry_points(group=self._group):
            self._load_plugin(point)

    def _load_plugin(self, point: EntryPoint) -> None:
        before = dict(self._entries)
        try:
            entry = point.load()
            if not isinstance(entry, type):
                raise TypeError(f"it must be a class, got {entry!r}")
            self.register(point.name)(entry)
        except Exception as error:  # noqa: BLE001 - another package's code may raise anything
            self._entries = before  # a module may have registered its class before it failed
            package = point.dist.name if point.dist else "an installed package"
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            message = f"the {self.kind} '{point.name}' of {package} cannot be loaded from {point.value} ({reason})"
            # A name that is taken stays what it was.
            if point.name not in before:
                self._unusable[point.name] = message
            logging.getLogger(__name__).warning("%s: it is left out", message)
