"""Errors cross processes: each survives pickling, with its text, its type and its exit code."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from mmcore import errors
from mmcore.errors import ConfigError, EquipoiseError, UsageError, suggest, unknown_name

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_survives_pickling(kind: type[EquipoiseError]) -> None:
    error = kind(["first", "second"]) if kind is ConfigError else kind("cremad: no audio")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is kind
        assert str(again) == str(error)
        assert again.__dict__ == error.__dict__
    assert str(copy.copy(error)) == str(error)


def test_wrong_use_ends_with_2_and_failed_work_with_1() -> None:
    codes = {kind.__name__: kind.exit_code for kind in ALL}
    assert {name for name, code in codes.items() if code == 2} == {"UsageError", "ConfigError"}
    assert set(codes.values()) == {1, 2}
    assert all(issubclass(kind, EquipoiseError) for kind in ALL)


def test_a_config_error_lists_every_problem() -> None:
    assert str(ConfigError(["method.alpha must be in [0, 1], got 1.7"])) == "method.alpha must be in [0, 1], got 1.7"
    error = pickle.loads(pickle.dumps(ConfigError(("a", "b"))))
    assert error.problems == ["a", "b"]
    assert str(error) == "2 problems:\n  - a\n  - b"


def test_the_nearest_name_is_suggested_where_one_is_near() -> None:
    assert str(unknown_name("method", "iprn", ["joint", "iprm", "aug"])) == (
        "unknown method 'iprn': did you mean 'iprm'? known: aug, iprm, joint"
    )
    assert isinstance(unknown_name("method", "x", []), UsageError)
    assert suggest("zzz", ["b", "a"]) == "; known: a, b"
