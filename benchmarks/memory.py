"""Resident memory after 100,000 steps ÷ after 10,000, of every method (bar 1.005): nothing may grow with the steps.

Each method in a process of its own (as many at a time as there are CPUs), through the trainer's whole loop (evaluation,
logs and checkpoints included), with networks so small that what a step leaves behind would show: 10 bytes a step would
be a megabyte. AUG grows by design, as one modality says much here and the other nothing; its line says how many
classifiers it had in the end.

    python benchmarks/memory.py [--quick] [--only iprm] [--json PATH]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import Ratio, Report, parser
from setups import untrained_teachers

from mmcore.assembly.config import parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.batch import Batch
from mmcore.data.feeding.loader import TensorLoader
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.data.splits import Assignment
from mmcore.methods import METHODS
from mmcore.training.run_log import Row
from mmcore.training.trainer import Trainer

BAR = 1.005
BATCH_SIZE, NUM_EVALUATED, MARKS = 4, 4, 10
QUICK = ("iprm", "aug")
"""Methods of a quick run: each is a process."""
SPEC = DatasetSpec(
    "dots", ("dark", "light", "grey"), tuple(Modality(name, "image", (1, 4, 4), "uint8") for name in ("left", "right"))
)


class MemoryReporter:
    """Notes this process's resident memory at every tenth of the run."""

    def __init__(self, epochs: int):
        self.resident: list[int] = []
        self._every = epochs // MARKS

    def report(self, metrics: Row) -> None:
        if metrics["epoch"] % self._every == 0:
            gc.collect()
            self.resident.append(resident_bytes())


def resident_bytes() -> int:
    """Returns how much of this process lies in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure_method(method: str, epochs: int, steps_per_epoch: int) -> dict[str, Any]:
    """Trains one method; returns the resident bytes at every tenth, and its structure at the end."""
    torch.set_num_threads(1)
    settings = next(iter(METHODS.get(method).rows(SPEC.modality_names).values()))
    encoder = {"name": "small_conv", "width": 4, "features": 4, "depth": 2}
    config = parse_config(
        {
            "dataset": {"name": "digits", "transforms": {m: {"mean": 0.5, "std": 0.25} for m in SPEC.modality_names}},
            "method": {"name": method, **settings},
            "model": {"encoders": dict.fromkeys(SPEC.modality_names, encoder)},
            "trainer": {"max_epochs": epochs, "batch_size": BATCH_SIZE, "device": "cpu"},
        }
    )
    reporter = MemoryReporter(epochs)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            config,
            build_method(config, SPEC, teachers=untrained_teachers(config, SPEC)),
            make_loader(steps_per_epoch * BATCH_SIZE),
            build_run_transforms(config, SPEC),
            run_dir=Path(folder),
            reporter=reporter,
        )
        trainer.fit()
    return {"resident": reporter.resident, "structure": trainer.method.structure()}


def make_loader(num_train: int) -> TensorLoader:
    """Returns a loader of pictures held in memory: the left one's brightness tells the class, the right one nothing."""
    total = num_train + 2 * NUM_EVALUATED
    generator = torch.Generator().manual_seed(0)
    inputs = {
        m.name: torch.randint(0, 128, (total, *m.shape), dtype=torch.uint8, generator=generator)
        for m in SPEC.modalities
    }
    labels = torch.arange(total) % SPEC.num_classes
    inputs["left"] += (60 * labels)[:, None, None, None].to(torch.uint8)
    data = Batch(inputs, labels, sample_ids=[str(index) for index in range(total)])
    names = pa.array(data.sample_ids)
    index = pa.table({"sample_id": names, "group": names, "source": names, "label": pa.array(labels.numpy())})
    train, val, test = np.split(np.arange(total), [num_train, num_train + NUM_EVALUATED])
    return TensorLoader(data, index, Assignment(train, val, test, "holdout", "holdout"), BATCH_SIZE)


def in_own_process(method: str, epochs: int, steps_per_epoch: int) -> dict[str, Any]:
    """Returns what `measure_method` does in a fresh process."""
    task = json.dumps([method, epochs, steps_per_epoch])
    done = subprocess.run([sys.executable, __file__, "--measure", task], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{method} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def line(method: str, found: dict[str, Any], steps: int, bar: float | None) -> Ratio:
    """Returns a method's line of the table."""
    early, late = found["resident"][0], found["resident"][-1]
    per_step = (late - early) / (steps * (1 - 1 / MARKS))
    tenths = " ".join(f"{value / 2**20:.1f}" for value in found["resident"])
    note = f"{per_step:+.1f} bytes a step; MiB at every tenth: {tenths}"
    if found["structure"]:
        note += f"; {found['structure']}"
    return Ratio(f"memory/{method}", {}, late / early, bar=bar, note=note)


def main() -> None:
    arguments = parser("resident memory late in a run ÷ early")
    arguments.add_argument("--only", action="append", default=[], help="a method; repeatable")
    arguments.add_argument("--measure", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.measure:
        print(json.dumps(measure_method(*json.loads(options.measure))))
        return
    epochs, steps = (10, 20) if options.quick else (200, 500)
    report = Report(
        "resident memory at the end ÷ after a tenth of the steps",
        f"{epochs * steps} steps of batch {BATCH_SIZE}, {epochs} epochs, tiny networks, one process a method",
    )
    methods = options.only or (QUICK if options.quick else METHODS.names())
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(lambda method: in_own_process(method, epochs, steps), methods)
        for method, found in zip(methods, results, strict=True):
            report.add(line(method, found, epochs * steps, None if options.quick else BAR))
    report.finish(options.json)


if __name__ == "__main__":
    main()
