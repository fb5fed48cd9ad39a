"""Trainers the benchmarks time, each with the stored batches it is fed: all defaults, nothing switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.batch import Batch
from mmcore.config.schema import RunConfig
from mmcore.data.feeding.loader import Loader, TensorLoader
from mmcore.data.prepared.prepare import prepare
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.methods import Method
from mmcore.training.trainer import Trainer

PICTURES = DatasetSpec(
    "pictures",
    tuple(str(label) for label in range(10)),
    tuple(Modality(name, "image", (3, 64, 64), "uint8") for name in ("image", "second")),
)
SCALING = {"mean": 0.5, "std": 0.25}


def digits_trainer(
    method: str, data_dir: Path, classifiers: int = 1, precision: str = "auto", **settings: object
) -> tuple[Trainer, list[Batch]]:
    """Returns a trainer on the prepared `digits` and the full batches of one epoch; `settings` are `trainer.*`."""
    values = {
        "dataset": {"name": "digits"},
        "method": {"name": method},
        "trainer": {"precision": precision, **settings},
    }
    config = complete_config(parse_config(values))
    prepared = prepare("digits", None, None, data_dir)
    loader = TensorLoader.from_prepared(prepared, prepared.assign(config.protocol), config.trainer.batch_size)
    batches = [batch for batch in loader.train_batches(0) if batch.num_samples == config.trainer.batch_size]
    return _trainer(config, prepared.spec, loader, classifiers), batches


def pictures_trainer(
    method: str, classifiers: int = 1, precision: str = "auto", batch_size: int = 16, **settings: object
) -> tuple[Trainer, list[Batch]]:
    """Returns a trainer of two ResNet-18 on random 64x64 pictures, and some batches."""
    config = parse_config(
        {
            "dataset": {"name": "digits", "transforms": {name: dict(SCALING) for name in PICTURES.modality_names}},
            "method": {"name": method},
            "model": {"encoders": {name: {"name": "resnet18"} for name in PICTURES.modality_names}},
            "trainer": {"batch_size": batch_size, "precision": precision, **settings},
        }
    )
    generator = torch.Generator().manual_seed(0)
    batches = [_random_batch(batch_size, generator) for _ in range(4)]
    return _trainer(config, PICTURES, None, classifiers), batches


def stepping(trainer: Trainer, batches: Iterator[Batch]) -> Callable[[], None]:
    """Returns a call that does one step as the trainer's own loop does it, a look for NaNs every 20 steps included."""
    every = trainer.config.trainer.log_every_steps

    def call() -> None:
        trainer.train_step(next(batches))
        if trainer.progress.step_in_epoch % every == 0:
            trainer.engine.check_finite()

    return call


def _trainer(config: RunConfig, spec: DatasetSpec, loader: Loader | None, classifiers: int) -> Trainer:
    method: Method = build_method(config, spec)
    if classifiers > 1:
        method.rebuild({"classifiers": dict.fromkeys(spec.modality_names, classifiers)})
    # Steps are called one by one with batches given: without a loader nothing asks for one.
    trainer = Trainer(config, method, loader, build_run_transforms(config, spec))  # type: ignore[arg-type]
    trainer.method.train()
    trainer.probes.train()
    return trainer


def _random_batch(size: int, generator: torch.Generator) -> Batch:
    inputs = {
        modality.name: torch.randint(0, 256, (size, *modality.shape), dtype=torch.uint8, generator=generator)
        for modality in PICTURES.modalities
    }
    labels = torch.randint(0, PICTURES.num_classes, (size,), generator=generator)
    return Batch(inputs, labels, sample_ids=[str(index) for index in range(size)])
