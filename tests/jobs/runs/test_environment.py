"""On what and with what a run was trained stands in its result, and decides nothing."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import stored_records
import torch

from rayjobs.runs import environment
from rayjobs.runs.environment import Environment, commit_of, environment_of, merged, now, processor
from rayjobs.runs.result import RunResult


def made(**own: object) -> Environment:
    values = {
        "software": {"python": "3.11.7", "torch": "2.9"}, "commit": "c1", "device": "A", "threads": 1,
        "begun": "2026-01-02T00:00:00+00:00", "ended": "2026-01-02T01:00:00+00:00",
    }  # fmt: skip
    return Environment(**(values | own))  # type: ignore[arg-type]


def test_a_run_on_this_machine_tells_versions_processor_and_times() -> None:
    begun = now()
    found = environment_of(torch.device("cpu"), begun)
    assert torch.__version__.startswith(found.software["torch"].partition("+")[0])
    assert {"python", "equipoise", "torch", "ray", "numpy"} <= found.software.keys()
    assert found.device == processor() != ""
    assert found.threads == torch.get_num_threads()
    assert datetime.fromisoformat(found.begun) <= datetime.fromisoformat(found.ended)


def test_a_processor_is_named_as_the_system_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Another\n")
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "cpuinfo")
    processor.cache_clear()
    assert processor() == "Some CPU @ 2 GHz"
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "absent")
    processor.cache_clear()
    assert processor()
    processor.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", folder, *named, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_checkout_has_a_commit_and_a_folder_inside_somebody_elses_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    git(tmp_path, "tag", "-a", "v1", "-m", "v1")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(tmp_path) == head
    (tmp_path / "site-packages").mkdir()
    assert commit_of(tmp_path / "site-packages") == ""
    commit_of.cache_clear()
    (tmp_path / "file").write_text("two")
    assert commit_of(tmp_path) == f"{head}-dirty"


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) == ""


def test_several_runs_tell_all_that_occurred() -> None:
    later = made(
        software={"python": "3.11.7", "torch": "2.8", "ray": "2"}, commit="", device="B", threads=4,
        begun="2026-01-01T00:00:00+00:00", ended="2026-01-01T02:00:00+00:00",
    )  # fmt: skip
    assert merged([made(), None, later]) == Environment(
        software={"python": "3.11.7", "torch": "2.8, 2.9", "ray": "2"},
        commit="c1",
        device="A, B",
        threads=4,
        begun="2026-01-01T00:00:00+00:00",
        ended="2026-01-02T01:00:00+00:00",
    )
    assert merged([None]) is None


def test_a_result_of_an_earlier_release_has_none_and_stays_as_it_is() -> None:
    stored = stored_records.result()
    result = RunResult.from_dict(stored)
    assert result.environment is None
    assert "environment" not in result.to_dict()
    with_one = RunResult.from_dict(stored | {"environment": made().to_dict()})
    assert with_one.environment == made()
