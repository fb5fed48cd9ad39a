"""Tune's controller, of which Ray keeps to itself what is changed here: what it saves, which processes it keeps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import ray.tune.tune as tune_loop
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.utils.object_cache import _ObjectCache

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class WarmProcesses(_ObjectCache):
    """Keeps every process that has ended its trial for the next one, as long as no trial of another shape waits.

    Tune keeps one: at the end of a search, when its final models are not known yet, it would end the others, and start
    them again a moment later, which takes seconds each.
    """

    def cache_object(self, key: Hashable, obj: object) -> bool:
        """Keeps a process; returns whether it did."""
        if self._others_wait(key):
            return bool(super().cache_object(key, obj))
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:  # type: ignore[override]  # noqa: FBT001, FBT002 - as Tune has it
        """Yields the processes to be ended: their room is wanted by trials of another shape, or all is over."""
        if force_all or any(kept and self._others_wait(key) for key, kept in self._cached_objects.items()):
            yield from super().flush_cached_objects(force_all)

    def _others_wait(self, key: Hashable) -> bool:
        return any(number > 0 for other, number in self._max_num_objects.items() if other != key)


class PoolController(TuneController):
    """Tune's controller, but it saves its state only at the end, without the trials, and keeps processes warm.

    An experiment is resumed from its searches' journals. Tune's state would be the JSON of all trials, each time anew:
    of 2,000 trials 24 MB. At the end Tune looks for the file, and has the trials from the controller itself.
    """

    may_share_process: ClassVar[Callable[[Trial], bool]] = staticmethod(lambda trial: True)
    """Whether a trial may leave its process to the next; a worker group's does not."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self._actor_cache = WarmProcesses()

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:  # noqa: FBT001, FBT002 - as Tune has it
        """Saves when Tune insists."""
        if force:
            super().checkpoint(force, wait)

    def _get_trial_checkpoints(self) -> dict[str, str]:
        return {}

    def _maybe_cache_trial_actor(self, trial: Trial) -> bool:
        return type(self).may_share_process(trial) and bool(super()._maybe_cache_trial_actor(trial))


@contextmanager
def pool_controller(may_share_process: Callable[[Trial], bool]) -> Iterator[None]:
    """Makes `tune.run`, which takes no controller, use `PoolController` for the time of a `with` block."""
    before = tune_loop.TuneController  # type: ignore[attr-defined]
    PoolController.may_share_process = staticmethod(may_share_process)
    tune_loop.TuneController = PoolController  # type: ignore[attr-defined]
    try:
        yield
    finally:
        tune_loop.TuneController = before  # type: ignore[attr-defined]


@contextmanager
def keys_kept() -> Iterator[None]:
    """Keeps Tune from passing AWS's keys on to trials for the time of a `with` block.

    Ray would write the values into a log of each node. Every process has its own environment's anyway.
    """
    keys = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(keys)
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE.update(keys)
