"""Ray still has what `rayjobs.ray_internals` uses of it; what is changed is put back; nobody else touches any of it.

Run by itself against the newest Ray, too (`.ci/newest_ray.py`): each test that fails there names what was renamed.
"""

from __future__ import annotations

import ast
import inspect
import logging
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.tune.tune as tune_loop
from places import ROOT
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController

from rayjobs.ray_internals import environment, errors, groups, signals
from rayjobs.ray_internals.controller import PoolController, WarmProcesses, keys_kept, pool_controller

RAY = Path(ray.__file__).parent


@cache
def source(*parts: str) -> str:
    """The text of a file of Ray's, or of all below a folder."""
    place = RAY.joinpath(*parts)
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    return "\n".join(file.read_text(errors="replace") for file in files if "tests" not in file.parts)


@cache
def programs() -> bytes:
    """Ray's own programs, in whose bytes the names of their settings stand."""
    return b"".join(
        path.read_bytes() for path in (RAY / "_raylet.so", RAY / "core" / "src" / "ray" / "raylet" / "raylet")
    )


VARIABLES = [
    *environment.SESSION,
    *environment.JOB,
    environment.PENDING,
    environment.AUTO_CONNECT,
    environment.JOB_SERVER,
    environment.TOKEN,
    environment.TOKEN_PATH,
]


class TestEnvironment:
    @pytest.mark.parametrize("name", sorted(set(VARIABLES)))
    def test_ray_reads_it(self, name: str) -> None:
        if name.removeprefix("RAY_").islower():  # a setting of the programs, which each can be given as RAY_<name>
            assert name.removeprefix("RAY_").encode() in programs()
            return
        folders = ("tune", "air", "train", "_private", "_common", "dashboard", "autoscaler")
        quoted = re.compile(rf"[\"']{name}[\"']")
        found = any(quoted.search(source(folder)) for folder in folders)
        assert found or name.encode() in programs()

    def test_the_token_lies_where_ray_puts_it(self) -> None:
        written = source("_private", "authentication") + source("_private", "authentication_test_utils.py")
        assert f'"{environment.TOKEN_FILE.parts[0]}" / "{environment.TOKEN_FILE.parts[1]}"' in written

    @pytest.mark.parametrize("name", sorted({*environment.LOGGERS, *environment.JOB_LOGGERS} - {"hyperopt"}))
    def test_its_loggers_are_named_by_its_modules(self, name: str) -> None:
        place = RAY.parent.joinpath(*name.split("."))
        assert place.is_dir() or place.with_suffix(".py").is_file()

    def test_a_session_puts_back_what_it_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "mine")
        monkeypatch.delenv("TUNE_PRINT_ALL_TRIAL_ERRORS", raising=False)
        before = dict(os.environ)
        with environment.session():
            assert environment.SESSION.items() <= os.environ.items()
        assert dict(os.environ) == before

    def test_a_user_decides_how_many_trials_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(environment.PENDING, raising=False)
        with environment.pending_trials(7):
            assert os.environ[environment.PENDING] == "7"
        assert environment.PENDING not in os.environ
        monkeypatch.setenv(environment.PENDING, "3")
        with environment.pending_trials(7):
            assert os.environ[environment.PENDING] == "3"
        assert os.environ[environment.PENDING] == "3"

    def test_another_job_server_is_hidden_and_put_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(environment.JOB_SERVER, "http://other:8265")
        with environment.typed_job_server():
            assert environment.JOB_SERVER not in os.environ
        assert os.environ[environment.JOB_SERVER] == "http://other:8265"

    def test_loggers_get_their_levels_back(self) -> None:
        logger = logging.getLogger("ray.tune")
        before = logger.level
        with environment.logging_at(logging.CRITICAL):
            assert logger.level == logging.CRITICAL
        assert logger.level == before

    def test_the_token_of_the_environment_goes_before_the_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in (environment.TOKEN, environment.TOKEN_PATH):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert environment.stored_token() == ""
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("of home\n")
        assert environment.stored_token() == "of home"
        (tmp_path / "named").write_text("of a path\n")
        monkeypatch.setenv(environment.TOKEN_PATH, str(tmp_path / "named"))
        assert environment.stored_token() == "of a path"
        monkeypatch.setenv(environment.TOKEN, "of the environment")
        assert environment.stored_token() == "of the environment"


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "place"),
        [
            (errors.SLOW_START, ("_private", "node.py")),
            (errors.NO_AGENT, ("dashboard", "modules", "job", "job_head.py")),
            (errors.LOG_FOLLOWS.removeprefix(", "), ("dashboard", "modules", "job", "job_supervisor.py")),
            ("Request failed with status code {r.status_code}", ("dashboard", "modules", "dashboard_sdk.py")),
            ("HTTPNotFound", ("dashboard", "modules", "job", "job_head.py")),
        ],
    )
    def test_ray_says_it(self, text: str, place: tuple[str, ...]) -> None:
        assert text in source(*place)

    def test_they_are_told_apart(self) -> None:
        assert errors.is_slow_start(Exception("The current node timed out during startup. This could happen"))
        assert errors.has_no_agent_yet(RuntimeError("No available agent to submit job, please try again later."))
        assert errors.is_unknown_job(RuntimeError("Request failed with status code 404: Job x does not exist"))
        assert not any(tells(RuntimeError("status code 500: no room")) for tells in (
            errors.is_slow_start, errors.has_no_agent_yet, errors.is_unknown_job))  # fmt: skip
        assert errors.without_log("exit code 1, last available logs (truncated):") == "exit code 1"


class TestController:
    def test_tune_run_takes_the_controller_from_its_module(self) -> None:
        assert tune_loop.TuneController is TuneController
        assert "TuneController(" in inspect.getsource(tune_loop.run)
        assert "runner.checkpoint(force=True, wait=True)" in inspect.getsource(tune_loop.run)
        assert list(inspect.signature(TuneController.checkpoint).parameters) == ["self", "force", "wait"]

    def test_the_state_that_tune_looks_for_at_the_end_holds_no_trials(self) -> None:
        assert "self._get_trial_checkpoints().values()" in inspect.getsource(TuneController.save_to_dir)
        assert "trials=all_trials" in inspect.getsource(tune_loop.run)
        controller = PoolController.__new__(PoolController)
        controller._trials_to_cache = [SimpleNamespace(trial_id="a", get_json_state=lambda: "{}")]  # type: ignore[assignment, list-item]
        controller._trial_metadata = {}
        assert controller._get_trial_checkpoints() == {}
        assert TuneController._get_trial_checkpoints(controller) == {"a": "{}"}

    def test_tune_keeps_processes_in_the_cache_that_is_replaced(self) -> None:
        assert "self._actor_cache = _ObjectCache(" in inspect.getsource(TuneController.__init__)
        assert "self._actor_cache.cache_object(" in inspect.getsource(TuneController._maybe_cache_trial_actor)
        assert list(inspect.signature(TuneController._maybe_cache_trial_actor).parameters) == ["self", "trial"]

    def test_every_process_is_kept_until_another_shape_waits(self) -> None:
        kept = WarmProcesses()
        kept.increase_max("cpu")
        kept.decrease_max("cpu")
        assert [kept.cache_object("cpu", number) for number in range(3)] == [True, True, True]
        assert list(kept.flush_cached_objects()) == []
        assert kept.num_cached_objects == 3
        kept.increase_max("gpu")
        assert not kept.cache_object("cpu", 3), "its room is wanted"
        assert list(kept.flush_cached_objects()) == [0, 1, 2]
        assert kept.num_cached_objects == 0
        assert kept.cache_object("gpu", 4), "it is waited for"
        assert list(kept.flush_cached_objects(force_all=True)) == [4]

    def test_a_group_leaves_no_process(self) -> None:
        controller = PoolController.__new__(PoolController)
        with pool_controller(lambda trial: False):
            assert not controller._maybe_cache_trial_actor(None)  # type: ignore[arg-type]

    def test_the_controller_is_put_back(self) -> None:
        with suppress(ZeroDivisionError), pool_controller(bool):
            assert tune_loop.TuneController is PoolController
            raise ZeroDivisionError
        assert tune_loop.TuneController is TuneController

    def test_keys_are_passed_on_again_afterwards(self) -> None:
        before = set(class_cache.ENV_VARS_TO_PROPAGATE)
        keys = {name for name in before if name.startswith("AWS_")}
        assert "AWS_SECRET_ACCESS_KEY" in keys
        assert "ENV_VARS_TO_PROPAGATE" in inspect.getsource(class_cache._ActorClassCache.get)
        with keys_kept():
            assert before - keys == class_cache.ENV_VARS_TO_PROPAGATE
        assert before == class_cache.ENV_VARS_TO_PROPAGATE


class TestSignals:
    def test_tune_ends_a_search_at_this_signal(self) -> None:
        assert "signal.signal(signal.SIGUSR1" in inspect.getsource(tune_loop)
        seen: list[int] = []
        before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
        try:
            signals.end_search()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert seen == [signal.SIGUSR1]


class TestGroups:
    def test_the_coordinator_is_named_so(self) -> None:
        module = source("data", "_internal", "cluster_autoscaler")
        assert f'"{groups.COORDINATOR}"' in module
        assert "def cancel_request(" in module

    def test_a_claim_is_called_by_the_run(self) -> None:
        assert 'f"train-{train_run_context.run_id}"' in source("train", "v2", "_internal")
        assert "self.train_run_context" in source("train", "v2", "api", "data_parallel_trainer.py")
        trainer = SimpleNamespace(train_run_context=SimpleNamespace(run_id="7"))
        assert groups.claim_of(trainer) == "train-7"

    def test_outside_a_trial_there_is_none(self) -> None:
        assert not groups.in_tune_session()

    def test_a_lost_worker_is_told_from_what_its_body_raised(self) -> None:
        assert groups.is_lost_worker(RayActorError())
        assert groups.is_lost_worker(WorkerHealthCheckFailedError("no answer", RayActorError()))
        assert not groups.is_lost_worker(ValueError("no"))
        assert WorkerGroupError("failed", {0: ValueError()}).worker_failures.keys() == {0}

    def test_gpus_are_told_by_their_type(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert f'"{groups.GPU_TYPE}"' in source("_private") + source("_common") + source("util")
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2.0, "CPU": 4.0})
        assert not groups.has_real_gpus()
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2.0, "accelerator_type:H100": 1.0})
        assert groups.has_real_gpus()


# Nobody else touches a private name

VARIABLE = re.compile(r"\b(RAY|TUNE)_[A-Za-z]\w+")


PUBLIC = {"_exit"}
"""Of Python's own library, and documented: os._exit."""


def others() -> list[Path]:
    """The files of rayjobs that must not touch a private name of Ray's."""
    return [path for path in sorted((ROOT / "rayjobs").rglob("*.py")) if path.parent.name != "ray_internals"]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def own_names(tree: ast.AST) -> set[str]:
    """Private names that a file itself binds: attributes, functions, classes, variables, fields, arguments."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
    return {name for name in found if is_private(name)}


@cache
def names_of_ours() -> set[str]:
    paths = [path for package in ("mmcore", "rayjobs") for path in (ROOT / package).rglob("*.py")]
    return {
        name for path in paths if "ray_internals" not in path.parts for name in own_names(ast.parse(path.read_text()))
    }


def imported_from_ray(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(Dotted name in Ray, name it is bound to)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (alias.name, alias.asname or "ray") for alias in node.names if alias.name.split(".")[0] == "ray"
            )
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "ray":
            yield from ((f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names)


def private_touches(text: str, ours: set[str]) -> set[str]:
    """What a text uses of Ray that Ray does not promise: private modules, attributes of others, variables by name."""
    tree = ast.parse(text)
    imported = dict(imported_from_ray(tree))
    found = {name for name in imported if any(map(is_private, name.split(".")))}
    bound = set(imported.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = ast.unparse(node).split(".")[0]
            if root in bound or node.attr not in ours:
                found.add(ast.unparse(node))
        elif isinstance(node, ast.ClassDef) and {ast.unparse(base).split(".")[0] for base in node.bases} & bound:
            names = {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)
                     and ast.unparse(child.value) == "self" and is_private(child.attr)}  # fmt: skip
            found |= {f"{node.name}.{name}" for name in names - own_names(node)}
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(target) for target in targets if isinstance(target, ast.Attribute)
                      and ast.unparse(target.value).split(".")[0] in bound}  # fmt: skip
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {match.group() for match in VARIABLE.finditer(node.value)}
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import ray\nray._private.worker.get()", {"ray._private"}),
        (
            "from ray.train.v2._internal.exceptions import RayTrainError",
            {"ray.train.v2._internal.exceptions.RayTrainError"},
        ),
        ("from ray.tune.trainable.util import _in_session", {"ray.tune.trainable.util._in_session"}),
        ("def f(bracket):\n    return bracket._rungs", {"bracket._rungs"}),
        ("from ray.tune import Callback\nclass A(Callback):\n    def f(self):\n        return self._mine", {"A._mine"}),
        ("from ray.tune import Callback\nclass A(Callback):\n    def f(self):\n        self._mine = 1", set()),
        ("import ray.tune.tune as loop\nloop.TuneController = 1", {"loop.TuneController"}),
        ("import os\nos.environ['RAY_AIR_NEW_OUTPUT'] = '0'", {"RAY_AIR_NEW_OUTPUT"}),
        ("text = 'put it into TUNE_SECRET_X'", {"TUNE_SECRET_X"}),
        ("class A:\n    def f(self, other):\n        return other._mine", set()),
        ("import ray\nray.init()", set()),
    ],
)
def test_what_counts_as_private(text: str, found: set[str]) -> None:
    assert private_touches(text, {"_mine"}) == found


@pytest.mark.parametrize("path", others(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_file_touches_a_private_name_of_rays(path: Path) -> None:
    assert private_touches(path.read_text(), names_of_ours()) == set()


def test_the_newest_ray_is_tried_by_tests_that_are_there() -> None:
    names = re.findall(r'"(tests/[\w/]+\.py)"', (ROOT / ".ci" / "newest_ray.py").read_text())
    assert "tests/jobs/test_ray_internals.py" in names
    assert [name for name in names if not (ROOT / name).is_file()] == []
