"""The look-up of advisories tells "none" from "could not ask"."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest
from places import ROOT


@pytest.fixture
def audit() -> Any:
    specification = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


CLEAN = {"name": "ray", "version": "2.60.0", "vulns": []}
BAD = {"name": "torch", "version": "2.14.1", "vulns": [{"id": "X-1", "fix_versions": ["2.14.2"]}, {"id": "X-2"}]}
UNKNOWN = {"name": "mine", "skip_reason": "Dependency not found"}


def answer(*packages: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], 0, json.dumps({"dependencies": packages, "fixes": []}), "")


def failure(stderr: str) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], 1, "", stderr)


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ([answer(CLEAN, UNKNOWN)], 0, "1 packages were looked up: 0 advisories; not known to the service: mine"),
        ([answer(CLEAN, BAD)], 1, "torch 2.14.1: X-1, fixed in 2.14.2"),
        ([answer(BAD)], 1, "torch 2.14.1: X-2, no fix yet"),
        ([answer(UNKNOWN), answer(BAD)], 1, "torch 2.14.1"),
        ([answer(UNKNOWN), failure("requests.exceptions.ConnectionError: no route")], 0, "NOT DONE"),
        ([failure("ReadTimeout"), failure("ReadTimeout")], 0, "NOT DONE"),
        ([failure("usage: unknown option")], 2, "the look-up failed: usage: unknown option"),
    ],
)
def test_each_outcome(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, answers: list[Any], code: int, said: str
) -> None:
    waiting = iter(answers)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: next(waiting))
    assert audit.main() == code
    assert said in capsys.readouterr().out


def test_a_service_that_does_not_answer_in_time_counts_as_unreachable(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def too_slow(*arguments: Any, **options: Any) -> None:
        raise subprocess.TimeoutExpired(arguments[0], options["timeout"])

    monkeypatch.setattr(audit.subprocess, "run", too_slow)
    assert audit.main() == 0
    assert "NOT DONE" in capsys.readouterr().out


def test_every_package_of_the_constraints_is_pinned_and_asked_about(audit: Any) -> None:
    lines = [line for line in audit.CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert all("==" in line for line in lines)
    assert subprocess.run([sys.executable, "-m", "pip_audit", "--version"], capture_output=True).returncode == 0
