"""A prepared data set larger than the memory given to Ray: what training on it spills, and how much memory it takes.

The set is of random pictures, several times Ray's object store; it is trained on for some epochs, streamed as by
`--cache auto`. Once more with twice the samples. Each in a process and a Ray of its own.

- `spilled`: bytes Ray wrote to disk because the store was full ÷ what the set holds. Bar 1.
- `memory`: the peak of all processes together, shared pages counted once, with twice the samples ÷ with once. Bar 1.05
  (none by `--quick`, whose smaller set is less than one window of a reader).

    python benchmarks/larger_than_memory.py [--quick] [--megabytes 400] [--epochs 3] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from common import Ratio, Report, parser

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.config.sections import Section
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.spec import DATASETS, DatasetSource, DatasetSpec, Modality, Sample
from mmcore.training.trainer import Trainer
from rayjobs.cluster import session
from rayjobs.feeding.cached import materialise
from rayjobs.feeding.streaming import StreamLoader

STORE_BYTES = 100 * 2**20
SIDE, BATCH_SIZE = 128, 32
POLL_S = 0.1


class NoiseConfig(Section):
    """How many samples."""

    num_samples: int = 0


@DATASETS.register("noise")
class Noise(DatasetSource):
    """Two pictures of noise a sample, 48 KiB each; the label is drawn too."""

    Config = NoiseConfig
    needs_raw = False
    options: NoiseConfig

    def spec(self) -> DatasetSpec:
        pictures = tuple(Modality(name, "image", (3, SIDE, SIDE), "uint8") for name in ("left", "right"))
        return DatasetSpec("noise", ("a", "b"), pictures)

    def samples(self, raw_dir: Path | None) -> Iterator[tuple[str, Sample]]:
        generator = np.random.default_rng(0)
        for number in range(self.options.num_samples):
            arrays = {
                name: np.frombuffer(generator.bytes(3 * SIDE**2), np.uint8).reshape(3, SIDE, SIDE)
                for name in ("left", "right")
            }
            split = {0: "val", 1: "test"}.get(number % 10, "train")
            yield split, Sample(f"n{number:06d}", number % 2, f"n{number}", f"n{number}", arrays)

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        small = {"name": "small_conv", "width": 4, "features": 8, "depth": 2}
        return {"left": small, "right": dict(small)}

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        return {name: {"mean": 0.5, "std": 0.25, "size": [32, 32]} for name in ("left", "right")}

    def card(self) -> str:
        return "Noise."


def train(prepared: PreparedDataset, epochs: int) -> None:
    """Trains on the streamed set in this process, as a trial does."""
    trainer = {"max_epochs": epochs, "batch_size": BATCH_SIZE}
    dataset = {"name": "noise", "options": prepared.options}
    config = complete_config(parse_config({"dataset": dataset, "method": {"name": "joint"}, "trainer": trainer}))
    if materialise(prepared) is not None:
        raise SystemExit("the set fits in the object store: nothing would be streamed")
    loader = StreamLoader(prepared, prepared.assign(config.protocol), BATCH_SIZE, num_epochs=epochs)
    method, transforms = build_method(config, prepared.spec), build_run_transforms(config, prepared.spec)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(config, method, loader, transforms, run_dir=Path(folder)).fit()
    loader.close()


class PeakMemory:
    """Watches what this process and its children hold, shared pages counted once (Linux's PSS)."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._ended.wait(POLL_S):
            held = 0
            for process in [this, *this.children(recursive=True)]:
                try:
                    held += process.memory_full_info().pss
                except psutil.Error:
                    continue  # it has ended
            self.peak_bytes = max(self.peak_bytes, held)


def spilled_bytes() -> int:
    """Returns how much Ray has spilled since it was started."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(get_memory_info_reply(state).store_stats.spilled_bytes_total)


def measure(megabytes: int, epochs: int) -> dict[str, Any]:
    """Returns what training on a set of that size takes."""
    torch.set_num_threads(1)
    # Ray spills nothing to a disk that is more than 95 % full, however large what is left; here it is some 100 MB.
    os.environ.setdefault("RAY_local_fs_capacity_threshold", "0.999")
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare("noise", {"num_samples": megabytes * 2**20 // (6 * SIDE**2)}, None, folder)
        with session.start(num_cpus=1, store_bytes=STORE_BYTES):
            with PeakMemory() as memory:
                train(prepared, epochs)
            found = {"peak": memory.peak_bytes, "spilled": spilled_bytes(), "set": prepared.num_bytes}
    return found


def in_own_process(megabytes: int, epochs: int) -> dict[str, Any]:
    """Returns what `measure` does in a fresh process."""
    task = json.dumps([megabytes, epochs])
    done = subprocess.run([sys.executable, __file__, "--measure", task], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"training on {megabytes} MiB failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = parser("training on a set larger than Ray's memory: what it spills, and its memory")
    arguments.add_argument("--megabytes", type=int, default=400, help="of the smaller set")
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--measure", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    megabytes, epochs = (120, 1) if options.quick else (options.megabytes, options.epochs)
    report = Report(
        "training on a set larger than Ray's object store",
        f"{megabytes} and {2 * megabytes} MiB, a store of {STORE_BYTES // 2**20}, batch {BATCH_SIZE}, {epochs} epochs",
    )
    once, twice = (in_own_process(size, epochs) for size in (megabytes, 2 * megabytes))
    for name, found in (("once", once), ("twice", twice)):
        note = f"{found['spilled'] / 2**20:.0f} MiB of a set of {found['set'] / 2**20:.0f}, over all epochs"
        report.add(Ratio(f"spilled/{name}", {}, found["spilled"] / found["set"], bar=1.0, note=note))
    note = f"{once['peak'] / 2**20:.0f} and {twice['peak'] / 2**20:.0f} MiB"
    report.add(
        Ratio("memory/twice÷once", {}, twice["peak"] / once["peak"], bar=None if options.quick else 1.05, note=note)
    )
    report.finish(options.json)


if __name__ == "__main__":
    main()
