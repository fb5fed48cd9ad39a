"""A whole search on object storage, whose driver is killed and whose machine is lost."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from driving import FAST, epochs_of, run_driver, start_driver, starts_of, trials_of, wait_for
from object_storage import BUCKET, SECRET, object_storage, server_program
from ray.thirdparty_files import psutil  # ray brings it along

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(server_program() is None, reason="no moto_server: `make test` makes an environment that has it"),
]


def test_a_search_on_object_storage_goes_on_after_its_machine_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is left is what lies in the bucket; no key is in it, in the working folder, in Ray's logs or shown."""
    ray_folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: sockets lie in it
    monkeypatch.setenv("RAY_TMPDIR", str(ray_folder))
    monkeypatch.setenv("EQUIPOISE_CACHE", str(tmp_path / "cache"))
    arguments = [*FAST, "--trials", "3", "--final-seeds", "1", "--output", f"s3://{BUCKET}/results"]
    plan = {"digits-iprm/trial-003": {"hold_at": 4}}
    with object_storage(tmp_path) as storage:
        for name, value in storage.environment.items():
            monkeypatch.setenv(name, value)
        process = start_driver(tmp_path, *arguments, plan=plan)
        (working,) = wait_for_folder(tmp_path / "cache", process)
        search = working / "digits-iprm/digits-iprm"
        wait_for(lambda: epochs_of(search / "trial-003") == 3, process)
        # As another machine would see it: the journal names the trial that runs.
        wait_for(lambda: b'"trial": 3' in storage.read_all().get(f"{BUCKET}/{JOURNAL}", b""), process)
        workers = [pid for run_dir in search.glob("trial-*") for pid, _ in starts_of(run_dir)]
        process.kill()
        _, killed_stderr = process.communicate(timeout=60)
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in workers))
        shutil.rmtree(tmp_path / "cache")
        resumed = ["--resume", "digits-iprm", "--output", f"s3://{BUCKET}/results", "--cpus", "2", "--json"]
        done = run_driver(tmp_path, *resumed)
        objects = storage.read_all()
    assert done.returncode == 0, done.stderr
    assert "set aside" not in done.stderr
    trials = trials_of(search)
    assert sorted(trials) == ["trial-001", "trial-002", "trial-003"]
    assert trials["trial-003"]["epochs"] == 8
    assert [epoch for _, epoch in starts_of(search / "trial-003")][1:] == [3], "it did not resume from its last report"
    row = json.loads(done.stdout)["rankings"][0]["rows"][0]
    assert (row["trials"], row["failed"], len(row["accuracies"])) == (3, 0, 1)
    for name in ("ranking.json", "best-digits-iprm.yaml", "digits-iprm/search.json", "digits-iprm/final-1/result.json"):
        assert objects[f"{BUCKET}/results/digits-iprm/{name}"]
    files = [path for folder in (tmp_path, ray_folder) for path in folder.rglob("*") if path.is_file()]
    held = [*objects.values(), *(path.read_bytes() for path in files)]
    assert not any(SECRET.encode() in content for content in held)
    assert SECRET not in killed_stderr + done.stderr + done.stdout
    shutil.rmtree(ray_folder)


JOURNAL = "results/digits-iprm/digits-iprm/journal.jsonl"


def wait_for_folder(cache: Path, process: object) -> list[Path]:
    wait_for(lambda: list(cache.glob("*")), process)  # type: ignore[arg-type]
    return list(cache.glob("*"))
