"""From the kill of a process to the next optimizer step, in both forms of a trial ÷ the same trial's first start.

A trial on digits is killed (SIGKILL) after its second epoch: the process it has for itself, or one worker of its group.
The parts: until Tune knows, until a process runs the trial again, until that has read its data and done a step.

    python benchmarks/restart.py [--quick] [--rounds 3] [--json PATH]
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Report, Rounds, median, parser, ratio
from pooled import Ground
from ray.tune import Callback
from timed_body import EVENTS_FILE, noted_run

from mmcore.assembly.config import complete_config, parse_config
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from rayjobs.cluster import resources, session
from rayjobs.feeding.handle import open_data
from rayjobs.pool.stage import Place
from rayjobs.pool.tune_run import Execution
from rayjobs.runs.job import Job
from rayjobs.runs.result import read_result
from rayjobs.storage.files import read_json

KILL_AFTER, EPOCHS = 2, 30
"""It must still train when the kill comes."""
FORMS = {
    "own_process": (resources.TrialShape(), "process-trial.json"),
    "worker_group": (resources.TrialShape(workers=2), "process-worker-1.json"),
}


@dataclass
class Restart:
    """Seconds of one kill; the first three make up the whole."""

    noticed: float
    started: float
    stepped: float
    first_start: float

    @property
    def whole(self) -> float:
        """From the kill to the next step."""
        return self.noticed + self.started + self.stepped


class Killer(Callback):
    """Kills a process of a run when it has come so far, once; notes when, and when Tune knew."""

    def __init__(self, process_file: Path):
        self._file = process_file
        self.began = self.killed = self.noticed = 0.0

    def on_trial_start(self, **info: Any) -> None:
        self.began = self.began or time.time()

    def on_trial_result(self, result: dict[str, Any], **info: Any) -> None:
        if result["epoch"] >= KILL_AFTER and not self.killed:
            self.killed = time.time()
            os.kill(read_json(self._file)["pid"], signal.SIGKILL)

    def on_trial_recover(self, **info: Any) -> None:
        self.noticed = self.noticed or time.time()


def restart(form: str, prepared: PreparedDataset, folder: Path, epochs: int) -> Restart:
    """Trains, kills, waits for the next step and the end."""
    shape, process_file = FORMS[form]
    values = {"dataset": {"name": "digits"}, "method": {"name": "joint"}, "trainer": {"max_epochs": epochs}}
    config = complete_config(parse_config(values))
    data = open_data(prepared, None)
    job = Job(config.to_dict(), data, str(folder / "run"))
    killer = Killer(folder / "run" / process_file)
    ground = Ground(data, folder, 1, shape, Execution(callbacks=(killer,), body=noted_run))
    ground.run([ground.given_stage("a run", [job], Place(0, 0, "joint"))])
    lines = (folder / "run" / EVENTS_FILE).read_text().splitlines()
    times: dict[str, list[float]] = {"began": [], "first_step": []}
    for line in map(json.loads, lines):
        times[line["event"]].append(line["time"])
    if read_result(folder / "run") is None or len(times["first_step"]) != 2:
        raise SystemExit(f"{form}: the trial was not killed once, tried again and trained to its end: {times}")
    began, stepped = times["began"][1], times["first_step"][1]
    first = times["first_step"][0] - killer.began
    return Restart(killer.noticed - killer.killed, began - killer.noticed, stepped - began, first)


def main() -> None:
    arguments = parser("from a kill to the next step ÷ from a trial's first start to its first step")
    arguments.add_argument("--rounds", type=int, default=3, help="of a kill in each form")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    rounds, epochs = (1, 8) if options.quick else (options.rounds, EPOCHS)
    os.environ.setdefault("RAY_worker_niceness", "0")
    report = Report("a restart ÷ a first start", f"joint on digits, killed after {KILL_AFTER} epochs, {rounds} rounds")
    folder = Path(tempfile.mkdtemp(prefix="equipoise-restart-"))
    prepared = prepare("digits", None, None, options.data_dir)
    found: dict[str, list[Restart]] = {form: [] for form in FORMS}
    try:
        with session.start(num_cpus=2, needs_dashboard=True):
            for number in range(rounds):
                for form, restarts in found.items():
                    restarts.append(restart(form, prepared, folder / f"{form}-{number}", epochs))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for form, restarts in found.items():
        results = {
            "restart": Rounds([entry.whole for entry in restarts]),
            "first_start": Rounds([entry.first_start for entry in restarts]),
        }
        report.add(ratio(f"{form}/restart÷start", results, "restart", "first_start"))
        report.part(f"{form}: until Tune knew", median([entry.noticed for entry in restarts]))
        report.part(f"{form}: until a process ran it again", median([entry.started for entry in restarts]))
        report.part(f"{form}: data, model, checkpoint, first step", median([entry.stepped for entry in restarts]))
    report.finish(options.json)


if __name__ == "__main__":
    main()
