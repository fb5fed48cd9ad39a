"""A study on object storage, whose driver is killed and whose machine is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from driving import run_driver, start_driver, starts_of, wait_for
from object_storage import BUCKET, object_storage, server_program

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(server_program() is None, reason="no moto_server: `make test` makes an environment that has it"),
]
AT = ["--output", f"s3://{BUCKET}/studies"]
ASKED = [
    "--method", "iprm", "--reference", "joint", "--reference-only", "--cv-folds", "3", "--folds", "0,1",
    "--trials", "2", "--seeds", "2", "--max-epochs", "3",
]  # fmt: skip


def test_a_study_goes_on_from_what_lies_in_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIPOISE_CACHE", str(tmp_path / "cache"))
    with object_storage(tmp_path) as storage:
        for name, value in storage.environment.items():
            monkeypatch.setenv(name, value)
        new = run_driver(tmp_path, "new", "mine", *ASKED, *AT, script="stub_study.py")
        assert new.returncode == 0, new.stderr
        shutil.rmtree(tmp_path / "cache")
        process = start_driver(tmp_path, "run", "mine", "--cpus", "2", *AT, epoch_s=0.3, script="stub_study.py")
        done = f"{BUCKET}/studies/mine/cells/digits-iprm/fold-0/final-1/result.json"
        wait_for(lambda: done in storage.read_all(), process)
        process.kill()
        process.communicate(timeout=60)
        shutil.rmtree(tmp_path / "cache")
        ended = run_driver(tmp_path, "run", "mine", "--cpus", "2", "--json", *AT, script="stub_study.py")
        assert ended.returncode == 0, ended.stderr
        told = run_driver(
            tmp_path, "report", "mine", "--json", "--tables", "csv", "--out", "told", *AT, script="stub_study.py"
        )
        assert told.returncode == 0, told.stderr
        objects = storage.read_all()
    document = json.loads(ended.stdout)
    assert [cell["status"] for cell in document["cells"]] == ["done"] * 4
    assert json.loads(told.stdout) == document
    assert (tmp_path / "told" / "report.html").is_file()
    for name in ("study.yaml", "lock.json", "compare.json", "report.html", "cells/digits-joint/fold-1/cell.json"):
        assert objects[f"{BUCKET}/studies/mine/{name}"]
    (first,) = (tmp_path / "cache").glob("*/mine/cells/digits-iprm/fold-0/final-1")
    assert len(starts_of(first)) <= 1, "a finished final model was trained again"
