"""Stored features of frozen encoders: what they save, what making them costs, and whether they are fed fast enough.

Two pictures of 64x64 a sample, each through a ResNet-18 of random weights; `joint` with its default `mlp` encoders.

- `features/epoch`: an epoch on the encoded set ÷ the same epoch with the frozen encoders in the loop, batch 64 (bar
  1/20).
- `features/encoding`: encoding the parts (read, transformed, encoded, checked, written) ÷ the encoders' bare forward
  with transformed batches ready in memory, of the same size (bar 1/0.85, that is, 0.85 of its samples a second). The
  start of the command, once for any number of parts, is not in it.
- `features/data_time`: waiting for the loader ÷ the whole step, on stored vectors at batch 256 (bar 0.1), held in
  memory as `train` and a cached search do.

    python benchmarks/features.py [--quick] [--samples 768] [--rounds 5] [--json PATH]
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from common import Report, Rounds, measure, parser, ratio

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.batch import Batch
from mmcore.config.schema import RunConfig
from mmcore.config.sections import Section
from mmcore.data.feeding.loader import TensorLoader
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.part_files import run_here
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.spec import DATASETS, DatasetSource, DatasetSpec, Modality, Sample
from mmcore.encoders import build_encoder
from mmcore.features.encoded_set import EncodedWriter, encode, plan_encoding
from mmcore.features.frozen import FrozenEncoders, recipe_of
from mmcore.training.trainer import Progress, Trainer
from mmcore.transforms.batch_transforms import build_transforms

NAMES = ("image", "second")
SCALING = {"mean": 0.5, "std": 0.25}
RESNET = {"name": "resnet18"}
EPOCH_BAR, ENCODING_BAR, DATA_BAR = 1 / 20, 1 / 0.85, 0.1


class NoiseConfig(Section):
    samples: Annotated[int, Ge(1)] = 768
    stored: bool = False


class Noise(DatasetSource):
    """Random pictures, or with `stored` random vectors as a ResNet-18 leaves them; all but 60 train."""

    Config = NoiseConfig
    needs_raw = False
    options: NoiseConfig

    def spec(self) -> DatasetSpec:
        form: Any = ("features", (512,), "float16") if self.options.stored else ("image", (3, 64, 64), "uint8")
        return DatasetSpec("noise", tuple("0123456789"), tuple(Modality(name, *form) for name in NAMES))

    def samples(self, raw_dir: Path | None) -> Iterator[tuple[str, Sample]]:
        generator = np.random.default_rng(0)
        for number in range(self.options.samples + 60):
            split = "train" if number >= 60 else "val" if number < 30 else "test"
            arrays = {m.name: generator.integers(0, 256, m.shape).astype(m.dtype) for m in self.spec().modalities}
            yield split, Sample(str(number), number % 10, str(number), str(number), arrays)

    def card(self) -> str:
        return "Noise."

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        return {} if self.options.stored else {name: dict(SCALING) for name in NAMES}

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        return {name: {"name": "mlp"} if self.options.stored else dict(RESNET) for name in NAMES}


def build_trainer(config: RunConfig, spec: DatasetSpec, loader: TensorLoader) -> Trainer:
    """Returns a trainer whose steps are called one by one."""
    trainer = Trainer(config, build_method(config, spec), loader, build_run_transforms(config, spec))
    trainer.method.train()
    trainer.probes.train()
    return trainer


def loader_of(prepared: PreparedDataset, config: RunConfig) -> TensorLoader:
    """Returns the loader of a run in this process."""
    return TensorLoader.from_prepared(prepared, prepared.assign(config.protocol), config.trainer.batch_size)


def epoch_of(
    trainer: Trainer, loader: TensorLoader, before: Callable[[Batch], Batch] | None = None
) -> Callable[[], None]:
    """Returns a call that trains one epoch, on what `before` makes of each batch."""

    def call() -> None:
        trainer.progress = Progress()
        for batch in loader.train_batches(0):
            trainer.train_step(before(batch) if before else batch)

    return call


def _epoch(
    config: RunConfig, model_of: PreparedDataset, data: PreparedDataset, before: Callable[[Batch], Batch] | None = None
) -> Callable[[], None]:
    loader = loader_of(data, config)
    return epoch_of(build_trainer(config, model_of.spec, loader), loader, before)


def compare_epochs(report: Report, parent: PreparedDataset, rounds: int) -> None:
    """Times an epoch on stored features against one with the encoders in the loop."""
    config = run_config(64, samples=parent.options["samples"], encode=dict.fromkeys(NAMES, RESNET))
    encoded = encode(parent, config.dataset)
    frozen = FrozenEncoders(recipe_of(config.dataset, parent.spec))
    sides: dict[str, Callable[[], object]] = {
        "stored": _epoch(config, encoded, encoded),
        "in the loop": _epoch(config, encoded, parent, frozen),
    }
    results = measure(sides, rounds, calls=1, warm_up=1)
    report.add(ratio("features/epoch", results, "stored", "in the loop", EPOCH_BAR))


def compare_encoding(report: Report, parent: PreparedDataset, rounds: int, work: Path) -> None:
    """Times the writing of all parts against the bare forward of all samples."""
    config = run_config(64, samples=parent.options["samples"], encode=dict.fromkeys(NAMES, RESNET))
    recipe = recipe_of(config.dataset, parent.spec)
    frozen = FrozenEncoders(recipe)
    transforms = build_transforms(parent.spec, recipe.transforms)
    whole = to_batch(parent.read_table(), parent.spec)
    starts = range(0, len(whole.labels), frozen.batch_size)
    ready = [transforms(whole.select(start, start + frozen.batch_size), training=False).inputs for start in starts]
    networks = {modality.name: build_encoder(RESNET, modality).eval() for modality in parent.spec.modalities}

    def through_parts() -> None:
        folder = Path(tempfile.mkdtemp(dir=work))
        writer = EncodedWriter(parent, recipe, frozen, folder)
        reports = list(run_here(writer, plan_encoding(parent, recipe, frozen.checksums)))
        assert all("error" not in report for report in reports), reports
        shutil.rmtree(folder)

    def bare() -> None:
        with torch.no_grad():
            for inputs in ready:
                for name, network in networks.items():
                    network(inputs[name])

    results = measure({"encoding": through_parts, "bare": bare}, rounds, calls=1, warm_up=1)
    rate = len(whole.labels) / statistics.median(results["encoding"].wall)
    report.add(ratio("features/encoding", results, "encoding", "bare", ENCODING_BAR, f"{rate:.0f} samples a second"))


def compare_data_time(report: Report, data_dir: Path, rounds: int, samples: int) -> None:
    """Times the wait for each batch of stored vectors against the whole step."""
    config = run_config(256, samples=samples, stored=True)
    prepared = prepare("noise", config.dataset.options, None, data_dir)
    loader = loader_of(prepared, config)
    trainer = build_trainer(config, prepared.spec, loader)
    epoch_of(trainer, loader)()
    results = {"data": Rounds(), "step": Rounds()}
    for _ in range(rounds):
        data, whole, steps = _timed_epoch(trainer, loader)
        results["data"].wall.append(data / steps)
        results["step"].wall.append(whole / steps)
    report.add(ratio("features/data_time", results, "data", "step", DATA_BAR))


def _timed_epoch(trainer: Trainer, loader: TensorLoader) -> tuple[float, float, int]:
    """Returns the seconds of an epoch that were spent waiting for batches, all its seconds, and its steps."""
    trainer.progress = Progress()
    data, steps, begin = 0.0, 0, time.perf_counter()
    batches = loader.train_batches(0)
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        data += time.perf_counter() - start
        if batch is None:
            return data, time.perf_counter() - begin, steps
        trainer.train_step(batch)
        steps += 1


def run_config(batch_size: int, encode: dict[str, Any] | None = None, **options: Any) -> RunConfig:
    """Returns a complete configuration of `joint`."""
    return complete_config(
        parse_config(
            {
                "dataset": {"name": "noise", "options": options, "encode": encode or {}},
                "method": {"name": "joint"},
                "trainer": {"batch_size": batch_size, "device": "cpu"},
            }
        )
    )


def main() -> None:
    arguments = parser("stored features: an epoch, making them, feeding them")
    arguments.add_argument("--samples", type=int, default=768)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    samples, rounds, vectors = (64, 1, 1024) if options.quick else (options.samples, options.rounds, 16384)
    DATASETS.register("noise")(Noise)
    work = Path(tempfile.mkdtemp(prefix="equipoise-features-"))
    settings = f"{samples} samples of two 64x64 pictures, resnet18, one thread; {vectors} vectors; {rounds} rounds"
    report = Report("stored features of frozen encoders", settings)
    try:
        parent = prepare("noise", {"samples": samples}, None, work)
        compare_epochs(report, parent, rounds)
        compare_encoding(report, parent, rounds, work)
        compare_data_time(report, work, max(rounds, 2), vectors)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report.finish(options.json)


if __name__ == "__main__":
    main()
