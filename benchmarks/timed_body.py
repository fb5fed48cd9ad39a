"""The worker's body with a clock: when a trial began, did its first optimizer step, and ended.

In a module of its own, which a trial's process imports.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from mmcore.engine import Engine
from mmcore.reporting import Reporter
from rayjobs.files import write_json
from rayjobs.worker import Job, run

TIMES_FILE = "times.json"


def timed_run(job: Job, reporter: Reporter) -> dict[str, Any]:
    """Runs the worker's body, and writes the times, in seconds since the epoch, into the run's folder."""
    times = {"process": os.getpid(), "began": time.time()}
    step = Engine.step

    def first_step(engine: Engine) -> None:
        Engine.step = step  # type: ignore[method-assign]
        times["first_step"] = time.time()
        step(engine)

    Engine.step = first_step  # type: ignore[method-assign, assignment]
    try:
        return run(job, reporter)
    finally:
        Engine.step = step  # type: ignore[method-assign]
        write_json(Path(job.run_dir) / TIMES_FILE, times | {"ended": time.time()})
