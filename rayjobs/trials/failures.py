"""Why a trial failed, and whether it is worth another try."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ray.exceptions import RayError, RayTaskError
from ray.tune import Callback

from mmcore.errors import EquipoiseError
from mmcore.storage import storage_fault
from rayjobs.results_layout import FAILURE_FILE
from rayjobs.runs.epochs.progress import FATAL
from rayjobs.storage.files import read_json, write_json

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class LostWorkers(OSError):
    """Workers of a group went away; the run can resume from its last checkpoint."""


def is_fatal(error: BaseException) -> bool:
    """Tells whether a run that failed with `error` would fail again.

    Not so: a lost process, node or object, and storage that is full or away. Everything else comes from the input:
    configuration, damaged data, a loss that is not finite, an exception in a method.
    """
    if isinstance(error, EquipoiseError):
        return True
    if storage_fault(error) is not None:  # whatever wraps it: a serialiser's own error, for one
        return False
    if isinstance(error, RayTaskError):
        return is_fatal(error.cause) if isinstance(error.cause, BaseException) else True
    return not isinstance(error, RayError | OSError | ConnectionError)


def record_failure(run_dir: Path, error: BaseException) -> None:
    """Writes why a run failed into its folder, where the ranking finds it; not over why its workers were ended."""
    if isinstance(error, LostWorkers) and (run_dir / FAILURE_FILE).is_file():
        return  # the watchdog's, which ends a group's workers and its trial at the same time
    named = isinstance(error, EquipoiseError | LostWorkers)
    reason = str(error) if named else f"{type(error).__name__}: {brief(str(error))}"
    trace = "".join(traceback.format_exception(error))
    try:
        write_json(
            run_dir / FAILURE_FILE, {"reason": reason, "fatal": is_fatal(error), "traceback": trace}, patient=False
        )
    except OSError:  # a full disk must not hide what went wrong
        return


def brief(text: str) -> str:
    """Returns the first and the last line of a message: Ray's hold whole tracebacks, with colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else "no message"


def failure_reason(run_dir: Path) -> str:
    """Returns why a run failed: what it said itself, or that its process was lost."""
    failure = read_json(run_dir / FAILURE_FILE)
    return str(failure["reason"]) if failure else "its process was lost (killed, out of memory, or its node went away)"


class FailureRules(Callback):
    """A trial that reported a fatal failure is not tried again."""

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, float], **info: object
    ) -> None:
        """Takes away the retries of a trial whose last report is fatal."""
        if result.get(FATAL):
            trial.max_failures = 0
