"""Ends trials that hang: nothing of Ray notices an endless loop, a lost network reply or a stopped process.

Every batch of every worker touches a file in the run's folder (`mmcore.training.heartbeat`). A running trial none of
whose files, and no report, changed for the time allowed is killed, wherever its processes run, and is then a lost
process like any other: tried again from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.tune import Callback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayjobs.results_layout import ALIVE_FILES, CHECKPOINTS, FAILURE_FILE, GROUP_FILE, PROCESS_FILES
from rayjobs.runs.epochs.progress import EPOCH
from rayjobs.storage.files import read_json, write_json
from rayjobs.storage.follower import PUSH_EVERY_S
from rayjobs.storage.mirror import NO_MIRROR, Mirror
from rayjobs.trials.hang_limits import START_LIMIT_S

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

LOOK_EVERY_S = 1.0


def announce(run_dir: Path, role: str) -> None:
    """Writes which process works at a run, so that it can be ended; called by it.

    Args:
        run_dir: The run's folder.
        role: `trial`, or `worker-0`, `worker-1`, ... of a worker group.
    """
    process = {
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
        "node": ray.get_runtime_context().get_node_id(),
    }
    write_json(run_dir / f"process-{role}.json", process)


@dataclass(frozen=True)
class _Sign:
    """The last change seen of a trial.

    Attributes:
        marks: Its newest epoch, and the times of its files.
        seen: When they were first seen, by this process's clock: those of nodes and of storage may differ.
        has_begun: Whether there was a change since the trial was started.
    """

    marks: tuple[Any, ...]
    seen: float
    has_begun: bool = False


class Watchdog(Callback):
    """Kills trials that gave no sign of life for too long.

    Args:
        limit_s: How long; longer than anything a run does between two batches, such as saving a checkpoint.
        run_dir: Trial -> folder of its run.
        mirror: Where that has its twin, in which the signs of other nodes are seen.
        in_group: Whether a trial is a worker group: one that waits for room does not hang.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        limit_s: float,
        run_dir: Callable[[Trial], Path],
        mirror: Mirror = NO_MIRROR,
        *,
        in_group: Callable[[Trial], bool] = lambda trial: False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._limit = limit_s
        self._run_dir = run_dir
        self._mirror = mirror
        self._in_group = in_group
        self._clock = clock
        self._signs: dict[str, _Sign] = {}
        self._next_look = 0.0

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Gives a trial that starts, or starts again, the whole time; what it left before is no sign of this life."""
        self._signs[trial.trial_id] = _Sign(self._marks(trial), self._clock())

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Looks at all running trials; Tune calls this at every step of its loop, results or none."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + (PUSH_EVERY_S if self._mirror else LOOK_EVERY_S)
        for trial in trials:
            if trial.status != "RUNNING":
                self._signs.pop(trial.trial_id, None)
                continue
            marks = self._marks(trial)
            sign = self._signs.get(trial.trial_id)
            if sign is None or sign.marks != marks:
                self._signs[trial.trial_id] = _Sign(marks, now, has_begun=sign is not None)
                continue
            limit = self._limit if sign.has_begun else max(self._limit, START_LIMIT_S)
            if now - sign.seen > limit:
                del self._signs[trial.trial_id]
                with contextlib.suppress(OSError):  # it is ended by what is known here, too
                    self._mirror.pull(self._run_dir(trial), without=(CHECKPOINTS,))
                if sign.has_begun or not self._waits_for_room(trial):
                    end_run(self._run_dir(trial), limit)

    def _waits_for_room(self, trial: Trial) -> bool:
        """Tells whether a trial is a group whose workers are not there yet: nodes may have gone since it was begun."""
        return self._in_group(trial) and not (self._run_dir(trial) / GROUP_FILE).is_file()

    def _marks(self, trial: Trial) -> tuple[Any, ...]:
        run_dir = self._run_dir(trial)
        try:
            files = [*run_dir.glob(ALIVE_FILES), *run_dir.glob(f"*/{ALIVE_FILES}")]  # of a run, and of its parts
            here = sorted((str(file), file.stat().st_mtime_ns) for file in files)
        except OSError:  # storage is away: its trials wait for it, and so may this look at them
            here = []
        # Of a trial that has reported nothing, Tune's own `last_result` would ask its process, and wait for it.
        return (trial.run_metadata.last_result.get(EPOCH), *here, *self._mirror.marks(run_dir, ALIVE_FILES))


def end_run(run_dir: Path, limit_s: float) -> None:
    """Kills all processes of a run, each on its own node, and leaves the reason in the run's folder."""
    reason = f"it hung: no batch was done for {describe_limit(limit_s)}{_last_seen(run_dir)}"
    with contextlib.suppress(OSError):  # it is ended even where nothing can be written
        write_json(run_dir / FAILURE_FILE, {"reason": reason, "fatal": False, "traceback": ""}, patient=False)
    for file in sorted(run_dir.glob(PROCESS_FILES)):  # the trial's own process before its workers
        process = read_json(file)
        if process:
            there = NodeAffinitySchedulingStrategy(process["node"], soft=False)
            _kill_on.options(scheduling_strategy=there).remote(process["pid"], process["created"])


def end_workers(run_dir: Path) -> None:
    """Kills what is left of a worker group that was ended, and waits for it; a node that is gone took its own along."""
    for file in sorted(run_dir.glob("process-worker-*.json")):
        process = read_json(file)
        if process:
            there = NodeAffinitySchedulingStrategy(process["node"], soft=False)
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(_kill_on.options(scheduling_strategy=there).remote(process["pid"], process["created"]))


@ray.remote(num_cpus=0)
def _kill_on(pid: int, created: float) -> None:
    kill(pid, created)


def kill(pid: int, created: float) -> bool:
    """Kills a process of this machine, unless its number is another process's by now; returns whether it did."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) > 1:
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def describe_limit(seconds: float) -> str:
    """Returns `10 minutes`, or `7 s`."""
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} s"


def _last_seen(run_dir: Path) -> str:
    """Returns which worker stopped first, where there are several and that can be told."""
    times = {file.name.removeprefix("alive-"): file.stat().st_mtime for file in run_dir.glob(ALIVE_FILES)}
    if len(times) < 2 or max(times.values()) - min(times.values()) < 2 * LOOK_EVERY_S:
        return ""
    return f" (worker {min(times, key=lambda rank: times[rank])} stopped first)"
