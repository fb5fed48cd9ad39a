"""Registries: the project's own entries, other packages' entry points, and wrong names."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from mmcore import registry as registry_module
from mmcore.encoders import ENCODERS
from mmcore.errors import UsageError
from mmcore.methods import METHODS
from mmcore.registry import Registry


class Kept:
    """Stands for another package's class."""


def make(monkeypatch: pytest.MonkeyPatch, **points: str) -> Registry[object]:
    asked = []

    def entry_points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint(name, value, group) for name, value in points.items()]

    monkeypatch.setattr(registry_module, "entry_points", entry_points)
    registry: Registry[object] = Registry("thing", "equipoise.things", "mmcore.methods")
    registry.asked = asked  # type: ignore[attr-defined]
    return registry


def test_entries_of_this_project_and_of_entry_points_stand_side_by_side(monkeypatch) -> None:
    registry = make(monkeypatch, kept=f"{__name__}:Kept")

    @registry.register("own")
    class Own:
        pass

    assert registry.asked == []  # nothing is imported before it is needed
    assert registry.names() == ["kept", "own"]
    assert registry.get("kept") is Kept
    assert registry.get("own") is Own
    assert registry.asked == ["equipoise.things"]  # and once


def test_an_unknown_name_is_answered_with_the_nearest(monkeypatch) -> None:
    registry = make(monkeypatch, gated=f"{__name__}:Kept")
    with pytest.raises(UsageError) as caught:
        registry.get("gatde")
    assert str(caught.value) == "unknown thing 'gatde': did you mean 'gated'? known: gated"
    with pytest.raises(UsageError, match="unknown thing 'zzz'; known: gated"):
        registry.get("zzz")


def test_a_name_is_registered_once(monkeypatch) -> None:
    registry = make(monkeypatch)
    registry.register("twice")(Kept)
    registry.register("twice")(Kept)  # a module imported again under another name is no harm
    with pytest.raises(ValueError, match="thing 'twice' is registered twice"):
        registry.register("twice")(type("Other", (), {}))
    assert registry.get("twice") is Kept


def test_an_entry_point_may_not_replace_an_entry_of_this_project(monkeypatch, caplog) -> None:
    registry = make(monkeypatch, own=f"{__name__}:Kept")
    own = registry.register("own")(type("Own", (), {}))
    assert registry.get("own") is own
    assert "thing 'own' is registered twice): it is left out" in caplog.text


def test_what_this_project_ships() -> None:
    assert set(METHODS.names()) >= {"aug", "ensemble", "iprm", "joint", "joint_unimodal", "unimodal"}
    assert set(ENCODERS.names()) >= {"resnet18", "small_conv"}
    with pytest.raises(UsageError, match="unknown method 'iprn': did you mean 'iprm'"):
        METHODS.get("iprn")


def test_an_entry_point_that_cannot_be_loaded_is_named_to_whoever_asks_for_it(monkeypatch) -> None:
    registry = make(monkeypatch, broken="no_such_package.module:Thing", kept=f"{__name__}:Kept")
    assert registry.names() == ["kept"]
    with pytest.raises(
        UsageError,
        match=r"the thing 'broken' of .* cannot be loaded from no_such_package\.module:Thing "
        r"\(ModuleNotFoundError: .*\): mend or uninstall",
    ):
        registry.get("broken")
