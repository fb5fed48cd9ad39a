"""Trainers the benchmarks time, each with the stored batches it is fed: all defaults, nothing switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms, needs_teachers
from mmcore.assembly.teachers import FrozenTeacher, teacher_config
from mmcore.batch import Batch
from mmcore.config.schema import RunConfig
from mmcore.data.feeding.loader import Loader, TensorLoader
from mmcore.data.prepared.prepare import prepare
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.data.splits import Assignment
from mmcore.methods import METHODS, Method
from mmcore.training.trainer import Trainer

SCALING = {"mean": 0.5, "std": 0.25}


def pictures(count: int = 2) -> DatasetSpec:
    """Returns a data set of some 64x64 pictures a sample, of ten classes."""
    modalities = tuple(Modality(f"image{index}", "image", (3, 64, 64), "uint8") for index in range(1, count + 1))
    return DatasetSpec("pictures", tuple(str(label) for label in range(10)), modalities)


def method_section(case: str) -> tuple[dict[str, object], int]:
    """Returns the run's `method` section of a case, and the classifiers of each modality.

    A case is a method, its variant (`ogm-ge`: what that sets of the method's own), or `aug-5` with five classifiers.
    """
    name, _, rest = case.partition("-")
    if not rest or rest.isdigit():
        return {"name": name}, int(rest or 1)
    values = METHODS.get(name).variants(())[rest]
    own = {path.removeprefix("method."): value for path, value in values.items() if path.startswith("method.")}
    return {"name": name, **own}, 1


def digits_trainer(
    case: str, data_dir: Path, precision: str = "auto", **settings: object
) -> tuple[Trainer, list[Batch]]:
    """Returns a trainer on the prepared `digits` and the full batches of one epoch; `settings` are `trainer.*`."""
    method, classifiers = method_section(case)
    values = {"dataset": {"name": "digits"}, "method": method, "trainer": {"precision": precision, **settings}}
    config = complete_config(parse_config(values))
    prepared = prepare("digits", None, None, data_dir)
    loader = TensorLoader.from_prepared(prepared, prepared.assign(config.protocol), config.trainer.batch_size)
    batches = [batch for batch in loader.train_batches(0) if batch.num_samples == config.trainer.batch_size]
    return _trainer(config, prepared.spec, loader, classifiers), batches


def pictures_trainer(
    case: str, precision: str = "auto", batch_size: int = 16, num_modalities: int = 2, **settings: object
) -> tuple[Trainer, list[Batch]]:
    """Returns a trainer of ResNet-18s on random 64x64 pictures, and some batches; `settings` are `trainer.*`."""
    method, classifiers = method_section(case)
    spec = pictures(num_modalities)
    config = parse_config(
        {
            "dataset": {"name": "digits", "transforms": {name: dict(SCALING) for name in spec.modality_names}},
            "method": method,
            "model": {"encoders": {name: {"name": "resnet18"} for name in spec.modality_names}},
            "trainer": {"batch_size": batch_size, "precision": precision, **settings},
        }
    )
    loader = _random_loader(spec, batch_size)
    return _trainer(config, spec, loader, classifiers), list(loader.train_batches(0))


def stepping(trainer: Trainer, batches: Iterator[Batch]) -> Callable[[], None]:
    """Returns a call that does one step as the trainer's own loop does it, a look for NaNs every 20 steps included."""
    every = trainer.config.trainer.log_every_steps

    def call() -> None:
        trainer.train_step(next(batches))
        if trainer.progress.step_in_epoch % every == 0:
            trainer.engine.check_finite()

    return call


def untrained_teachers(config: RunConfig, spec: DatasetSpec) -> dict[str, FrozenTeacher]:
    """Returns teachers for a method that needs them: what they know is no matter of a step's time."""
    names = spec.modality_names if needs_teachers(config) else ()
    return {name: FrozenTeacher(build_method(teacher_config(config, name), spec), "untrained") for name in names}


def _trainer(config: RunConfig, spec: DatasetSpec, loader: Loader, classifiers: int) -> Trainer:
    method: Method = build_method(config, spec, teachers=untrained_teachers(config, spec))
    if classifiers > 1:
        method.rebuild({"classifiers": dict.fromkeys(spec.modality_names, classifiers)})
    trainer = Trainer(config, method, loader, build_run_transforms(config, spec))
    trainer.method.train()
    trainer.probes.train()
    return trainer


def _random_loader(spec: DatasetSpec, batch_size: int) -> TensorLoader:
    """Returns a loader of four batches of random pictures, and one each for validation and test."""
    total = 6 * batch_size
    generator = torch.Generator().manual_seed(0)
    inputs = {
        modality.name: torch.randint(0, 256, (total, *modality.shape), dtype=torch.uint8, generator=generator)
        for modality in spec.modalities
    }
    labels = torch.randint(0, spec.num_classes, (total,), generator=generator)
    data = Batch(inputs, labels, sample_ids=[str(index) for index in range(total)])
    names = pa.array(data.sample_ids)
    index = pa.table({"sample_id": names, "group": names, "source": names, "label": pa.array(labels.numpy())})
    train, val, test = np.split(np.arange(total), [4 * batch_size, 5 * batch_size])
    return TensorLoader(data, index, Assignment(train, val, test, "holdout", "holdout"), batch_size)
