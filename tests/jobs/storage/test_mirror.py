from __future__ import annotations

import contextlib
import errno
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from object_storage import BUCKET, SECRET, ObjectStorage, object_storage, server_program
from ray.tune.execution import class_cache

from mmcore import storage
from mmcore.errors import UsageError
from mmcore.predictor import read_state
from mmcore.training.checkpoint import MANIFEST_FILE, CheckpointFolder
from rayjobs import results_layout, tune
from rayjobs.cluster.resources import TrialShape
from rayjobs.commands.job_bundle import check_command
from rayjobs.experiment.experiment import Experiment, meet_twin
from rayjobs.experiment.request import Request
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool import tune_run
from rayjobs.pool.pool import Pool
from rayjobs.pool.stage import GivenStage, Place
from rayjobs.pool.storage import AGAIN_S, EVERY_S, JournalPusher, RunPuller
from rayjobs.results_layout import (
    CHECKPOINTS,
    CLAIM_FILE,
    FAILURE_FILE,
    GROUP_FILE,
    JOURNAL_FILE,
    RESULT_FILE,
)
from rayjobs.runs.job import Job
from rayjobs.storage import follower, mirror, object_store
from rayjobs.storage.addresses import check_address, fetched, open_mirror, working_folder
from rayjobs.storage.follower import Follower, following
from rayjobs.storage.mirror import NO_MIRROR, Mirror, own_folder
from rayjobs.trials.ticket import Ticket
from rayjobs.trials.watchdog import Watchdog

RUN = "experiment/search/trial-001"


class Away:
    """Storage that fails so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int):
        self.left = times
        self._upload = Mirror._upload
        monkeypatch.setattr(Mirror, "_upload", lambda own, path: self(own, path))

    def __call__(self, own: Mirror, path: Path) -> None:
        if self.left:
            self.left -= 1
            raise OSError("AWS Error NETWORK_CONNECTION during PutObject operation")  # without a number, as pyarrow's
        self._upload(own, path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStorage]:
    with object_storage(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    return tmp_path / "bucket" / "prefix"


@pytest.fixture
def here(tmp_path: Path, twin: Path) -> Mirror:
    return Mirror(tmp_path / "cache" / "here", f"file://{twin}")


@pytest.fixture
def elsewhere(tmp_path: Path, twin: Path) -> Mirror:
    """The same on another machine."""
    return Mirror(tmp_path / "other" / "elsewhere", f"file://{twin}")


def checkpoints_in(run_dir: Path) -> CheckpointFolder:
    """The checkpoints of a run that has begun: where its folder is gone, its disk counts as away."""
    run_dir.mkdir(parents=True, exist_ok=True)
    return CheckpointFolder(run_dir / CHECKPOINTS)


def write(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": epoch, "mid_epoch": False, "weights": torch.full((3,), float(epoch))}


def test_the_files_it_knows_by_name_are_called_so() -> None:
    assert results_layout.LAST_FILES == ((MANIFEST_FILE,), (RESULT_FILE,))
    assert (FAILURE_FILE, GROUP_FILE, CLAIM_FILE) == results_layout.NOTES


class TestARunAndItsTwin:
    def test_what_is_pushed_is_found_elsewhere(self, here: Mirror, elsewhere: Mirror) -> None:
        run_dir = here.root / RUN
        with following(here, run_dir) as follower:
            checkpoints_in(run_dir).save(state(1))
            write(run_dir / "metrics.jsonl", "1")
            write(run_dir / ".half-written.tmp")
            write(run_dir / "train/notes.json")
            follower.push()
            write(run_dir / "metrics.jsonl", "2")
        other = elsewhere.root / RUN
        write(other / "leftover.json")
        write(other / CHECKPOINTS / "epoch-000009/manifest.json")
        elsewhere.pull(other)
        assert names(other) == [
            "checkpoints/epoch-000001/checkpoint.pt",
            "checkpoints/epoch-000001/manifest.json",
            "metrics.jsonl",
        ]
        assert (other / "metrics.jsonl").read_text() == "2"
        assert [path.name for path in (other / CHECKPOINTS).iterdir()] == ["epoch-000001"]

    @pytest.mark.parametrize("uploads", range(1, 7))
    def test_whenever_it_is_killed_the_newest_valid_checkpoint_is_whole(
        self, here: Mirror, elsewhere: Mirror, monkeypatch: pytest.MonkeyPatch, uploads: int
    ) -> None:
        """The third epoch's push ends after so many files; both rows of checkpoints must still have one."""
        run_dir, checkpoints = here.root / RUN, checkpoints_in(here.root / RUN)
        real, left = Mirror._upload, [100]

        def upload(own: Mirror, path: Path) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(own, path)

        monkeypatch.setattr(Mirror, "_upload", upload)
        monkeypatch.setattr(mirror, "PARALLEL", 1)
        follower = Follower(here, run_dir)
        for epoch in (1, 2, 3):
            checkpoints.save_best(state(epoch))
            checkpoints.save(state(epoch))
            write(run_dir / "metrics.jsonl", str(epoch))
            left[0] = uploads - 1 if epoch == 3 else 100
            with contextlib.suppress(KeyboardInterrupt):
                follower.push()
        elsewhere.pull(elsewhere.root / RUN)
        found = CheckpointFolder(elsewhere.root / RUN / CHECKPOINTS)
        newest, _ = found.newest_resume_point()
        assert newest is not None
        assert newest["epoch"] in {2, 3}
        assert torch.equal(newest["weights"], state(newest["epoch"])["weights"])
        assert found.best()["epoch"] in {2, 3}

    def test_a_superseded_checkpoint_is_removed_there_too(self, here: Mirror, twin: Path) -> None:
        checkpoints = checkpoints_in(here.root / RUN)
        with following(here, here.root / RUN) as follower:
            for epoch in (1, 2, 3, 4):
                checkpoints.save(state(epoch))
                checkpoints.save_best(state(epoch))
                follower.push()
        found = sorted(path.name for path in (twin / RUN / CHECKPOINTS).iterdir())
        assert found == ["best-000004", "epoch-000003", "epoch-000004"]

    def test_a_folder_that_vanishes_under_its_process_leaves_the_twin(self, here: Mirror, twin: Path) -> None:
        run_dir = here.root / RUN
        with following(here, run_dir) as follower:
            checkpoints_in(run_dir).save(state(1))
            write(run_dir / "metrics.jsonl")
            follower.push()
            before = names(twin)
            shutil.rmtree(here.root)
            follower.push()
        assert names(twin) == before
        assert len(before) == 3

    def test_the_note_of_a_failure_is_removed_by_the_next_attempt(self, here: Mirror, twin: Path) -> None:
        write(twin / RUN / "failure.json")
        write(twin / RUN / "metrics.jsonl")
        with following(here, here.root / RUN):
            (here.root / RUN / "failure.json").unlink()
        assert names(twin / RUN) == ["metrics.jsonl"]

    def test_a_worker_that_is_not_the_first_pushes_its_own_files_alone(self, here: Mirror, twin: Path) -> None:
        with following(here, here.root / RUN, ("alive-*",)):
            write(here.root / RUN / "alive-1")
            write(here.root / RUN / "metrics.jsonl")
        assert names(twin / RUN) == ["alive-1"]

    def test_storage_that_is_away_is_waited_for(
        self, here: Mirror, twin: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr(time, "sleep", waits.append)
        away = Away(monkeypatch, times=3)
        with following(here, here.root / RUN):
            write(here.root / RUN / "metrics.jsonl")
        assert (away.left, waits) == (0, list(storage.WAITS_S[:3]))
        assert "NETWORK_CONNECTION" in caplog.text
        assert names(twin / RUN) == ["metrics.jsonl"]

    def test_signs_of_life_are_sent_while_an_epoch_runs(
        self, here: Mirror, elsewhere: Mirror, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the watchdog of a driver on another machine goes by."""
        monkeypatch.setattr(follower, "PUSH_EVERY_S", 0.01)
        reported = SimpleNamespace(last_result={})
        trial = SimpleNamespace(trial_id="a", run_metadata=reported, status="RUNNING")
        dog = Watchdog(10.0, lambda trial: elsewhere.root / RUN, elsewhere)
        before = dog._marks(trial)
        with following(here, here.root / RUN):
            write(here.root / RUN / "alive-0")
            arrived = threading.Event()
            for _ in range(6000):
                if dog._marks(trial) != before:
                    arrived.set()
                    break
                arrived.wait(0.01)
            assert arrived.is_set()

    def test_an_ordinary_folder_has_no_twin(self, tmp_path: Path) -> None:
        write(tmp_path / "kept.json")
        threads = threading.active_count()
        with following(NO_MIRROR, tmp_path) as follower:
            assert threading.active_count() == threads
            follower.push()
        NO_MIRROR.renew(tmp_path)
        NO_MIRROR.pull_index(("kept.json",))
        NO_MIRROR.rename(tmp_path, tmp_path / "other")
        assert names(tmp_path) == ["kept.json"]
        assert Mirror(tmp_path).address_of(tmp_path / "a") == str(tmp_path / "a")


class TestTheDriver:
    def test_an_experiment_is_what_storage_holds(self, here: Mirror, twin: Path) -> None:
        write(twin / "one/experiment.json", "there")
        write(twin / "one/search/trial-001/metrics.jsonl")
        write(twin / "one/search/trial-001/checkpoints/epoch-000001/checkpoint.pt")
        write(here.root / "one/search/stale.json")
        write(here.root / "two/experiment.json")
        here.pull_index(("experiment.json",))
        assert names(here.root) == ["one/experiment.json", "one/search/stale.json"]
        here.renew(here.root / "one")
        assert names(here.root) == ["one/experiment.json", "one/search/trial-001/metrics.jsonl"]

    def test_journals_go_there_as_they_grow_and_come_back(self, here: Mirror, elsewhere: Mirror) -> None:
        journal, now = here.root / "experiment/search" / JOURNAL_FILE, [0.0]
        pusher = JournalPusher(here, [journal, journal.with_name("none")], print, clock=lambda: now[0])
        pusher.on_step_end(0, [])
        now[0] += EVERY_S
        for text in ("one\n", "one\ntwo\n"):
            write(journal, text)
            pusher.on_step_end(0, [])
            elsewhere.renew(elsewhere.root / "experiment/search")
            assert (elsewhere.root / "experiment/search" / JOURNAL_FILE).read_text() == text
            now[0] += EVERY_S

    def test_a_search_goes_on_while_storage_is_away_and_says_so_once(
        self, here: Mirror, twin: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = here.root / "experiment/search" / JOURNAL_FILE
        write(journal, "one\n")
        away, said, now = Away(monkeypatch, times=2), [], [0.0]
        pusher = JournalPusher(here, [journal], said.append, clock=lambda: now[0])
        for _ in range(4):
            pusher.on_step_end(0, [])
            now[0] += AGAIN_S / 2
        assert away.left == 0
        assert len(said) == 1
        assert "storage is away" in said[0]
        pusher.on_step_end(0, [])
        assert said[1:] == ["storage is back: the search's journal was sent"]
        there = twin / "experiment/search" / JOURNAL_FILE
        write(journal, "one\ntwo\n")
        now[0] += EVERY_S / 2
        pusher.on_step_end(0, [])
        assert there.read_text() == "one\n", "sent again at once"
        now[0] += EVERY_S
        pusher.on_step_end(0, [])
        assert there.read_text() == "one\ntwo\n"
        write(journal, "one\ntwo\nthree\n")
        with contextlib.suppress(KeyboardInterrupt), pusher.sending():
            raise KeyboardInterrupt
        assert there.read_text() == "one\ntwo\nthree\n"

    @pytest.mark.parametrize("event", ["on_trial_complete", "on_trial_error", "on_trial_recover"])
    def test_a_trial_that_ends_while_storage_is_away_does_not_end_the_search(
        self, here: Mirror, twin: Path, monkeypatch: pytest.MonkeyPatch, event: str
    ) -> None:
        def away(own: Mirror, folder: Path, recursive: bool = True) -> list[Any]:
            raise OSError(errno.EIO, "AWS Error NETWORK_CONNECTION")

        write(twin / RUN / "failure.json")
        write(twin / RUN / CHECKPOINTS / "epoch-000001" / MANIFEST_FILE)
        said: list[str] = []
        end = getattr(RunPuller(said.append), event)
        job = Job({}, DataHandle(""), str(here.root / RUN), mirror=here)
        trial = SimpleNamespace(config={"ticket": Ticket("search", "trial-001", TrialShape(), job)})
        with monkeypatch.context() as patched:
            patched.setattr(time, "sleep", lambda seconds: None)
            patched.setattr(Mirror, "_list", away)
            end(0, [], trial)
        assert len(said) == 1
        assert "NETWORK_CONNECTION" in said[0]
        assert "continues without what search trial-001 wrote" in said[0]
        end(0, [], trial)
        assert names(here.root / RUN) == ["failure.json"], "checkpoints are the run's own to pull"
        assert len(said) == 1

    def test_what_is_set_aside_is_set_aside_there_too(self, here: Mirror, twin: Path) -> None:
        write(twin / RUN / "a/b.json")
        here.rename(here.root / RUN, here.root / f"{RUN}.set-aside")
        assert names(twin) == [f"{RUN}.set-aside/a/b.json"]


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("ftp://host/results", "must be a folder or s3://BUCKET/PREFIX, got the scheme 'ftp'"),
            ("s3://", "must name a bucket"),
            ("s3://key:hidden@bucket/prefix", "keys come from AWS_ACCESS_KEY_ID"),
            ("s3://bucket/prefix?secret_key=hidden", "keys come from AWS_ACCESS_KEY_ID"),
        ],
    )
    def test_others_are_refused_with_one_message(self, address: str, message: str) -> None:
        result = CliRunner().invoke(tune.main, ["--output", address])
        assert result.exit_code == 2
        assert message in result.output
        assert "hidden" not in result.output

    def test_each_address_has_a_working_folder_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EQUIPOISE_CACHE", "/cache")
        found = {working_folder(check_address(address)) for address in ("s3://b/a-b", "s3://b/a/b", "s3://b/a/b/")}
        assert len(found) == 2
        assert all(folder.parent == Path("/cache") for folder in found)

    def test_a_working_folder_of_another_user_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mirror.os, "geteuid", lambda: -1)
        with pytest.raises(PermissionError, match="another user"):
            own_folder(tmp_path / "cache")

    def test_a_job_takes_an_address_for_its_output(self) -> None:
        check_command("tune", ["--output", "s3://bucket/prefix", "--data-dir", "/shared/data"])
        with pytest.raises(UsageError, match="--output must be absolute"):
            check_command("tune", ["--output", "results", "--data-dir", "/shared/data"])

    def test_a_folder_at_an_address_is_fetched_whole(self, twin: Path) -> None:
        checkpoints_in(twin / RUN).save_best(state(2))
        with fetched(f"file://{twin / RUN}") as run_dir:
            assert run_dir.name == "trial-001"
            assert read_state(run_dir)["epoch"] == 2
        assert not run_dir.exists()
        with pytest.raises(UsageError, match="nothing lies at"), fetched(f"file://{twin / 'none'}"):
            pass

    def test_no_key_is_pickled_or_passed_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        own = Mirror(Path("/cache/b"), "s3://bucket/prefix")
        assert SECRET.encode() not in pickle.dumps(own)
        passed_on: list[str] = []

        def tune_run_(*given: object, **more: object) -> object:
            passed_on.append(str(class_cache._ActorClassCache().get(StandIn)._default_options["runtime_env"]))
            return SimpleNamespace(trials=[])

        monkeypatch.setattr(tune_run.tune, "run", tune_run_)
        job = Job({}, DataHandle(""), str(tmp_path / "run"))
        stage = GivenStage("runs", lambda: [job], 1, 1, TrialShape(), Place(0, 0, ""), frozenset(), lambda job: False)
        tune_run.run_pool(Pool([stage], lambda shape: 1), {}, tmp_path, tune_run.Execution())
        assert "PL_DISABLE_FORK" in passed_on[0]
        assert SECRET not in passed_on[0]


class StandIn:
    pass


@pytest.mark.skipif(server_program() is None, reason="no moto_server: `make test` makes an environment that has it")
class TestS3:
    @pytest.fixture
    def environment(self, tmp_path: Path, server: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name, value in {**server.environment, "EQUIPOISE_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        object_store.connect.cache_clear()
        yield
        object_store.connect.cache_clear()

    @pytest.mark.usefixtures("environment")
    def test_a_run_goes_there_and_comes_back(self, tmp_path: Path, server: ObjectStorage) -> None:
        here = open_mirror(check_address(f"s3://{BUCKET}/a/b/"))
        run_dir = here.root / RUN
        with following(here, run_dir) as follower:
            for epoch in (1, 2, 3):
                checkpoints_in(run_dir).save(state(epoch))
                follower.push()
        here.rename(here.root / RUN, here.root / "experiment/search/trial-002")
        write(here.root / "experiment/experiment.json")
        here.push([here.root / "experiment/experiment.json"])
        shutil.rmtree(here.root)
        here.pull_index(("experiment.json", "ranking.json"))
        assert names(here.root) == ["experiment/experiment.json"]
        here.pull(here.root / "experiment")
        assert names(here.root / "experiment/search/trial-002/checkpoints") == [
            f"epoch-00000{epoch}/{name}" for epoch in (2, 3) for name in ("checkpoint.pt", "manifest.json")
        ]
        assert len(here.marks(here.root / "experiment/search/trial-002/checkpoints/epoch-000003", "*.json")) == 1
        assert not any(SECRET.encode() in content for content in server.read_all().values())

    @pytest.mark.usefixtures("environment")
    def test_storage_that_cannot_be_used_ends_a_command_with_one_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        absent = open_mirror("s3://no-such-bucket")
        experiment = Experiment(absent.root / "a", Request(datasets=(), methods=()), "")
        write(experiment.folder / "experiment.json")
        with pytest.raises(UsageError, match=r"s3://no-such-bucket cannot be used \(.*NO_SUCH_BUCKET"):
            meet_twin(replace(experiment, mirror=absent))
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        object_store.connect.cache_clear()
        with pytest.raises(UsageError, match=r"cannot be used .*AWS_ENDPOINT_URL"):
            open_mirror(f"s3://{BUCKET}/prefix")
