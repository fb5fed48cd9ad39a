"""A small classification task in memory, with encoders small enough for float64 equality tests.

Modality i of each sample is its class's mean plus noise that grows with i, so the first modality is the strongest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from distilling import untrained_teachers
from torch import Tensor, nn

from mmcore.assembly.config import parse_config, with_values
from mmcore.assembly.objects import build_method
from mmcore.batch import Batch
from mmcore.config.schema import RunConfig
from mmcore.config.sections import Section
from mmcore.data.feeding.loader import TensorLoader
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.data.splits import Assignment
from mmcore.encoders import ENCODERS, Encoder
from mmcore.methods import METHODS, Method
from mmcore.methods.step import Teacher
from mmcore.training.trainer import Trainer
from mmcore.transforms.batch_transforms import build_transforms

NUM_CLASSES = 3
QUICKER: dict[str, dict[str, object]] = {
    "lfm": {"method__start": 0.5},
    "gblending": {"method__predict": "sum"},
    "umt": {"method__weight": 0.1},
    "g2d": {"method__distil": 0.05, "method__features": 0.1},
}
"""Method -> settings with which it gets somewhere in a few epochs: LFM begins with a twentieth of the weight, and of
G-Blending's heads the joint one may be given next to none, and UMT's and G2D's teachers know nothing here."""


class TinyConfig(Section):
    features: int = 6
    batch_norm: bool = False


@ENCODERS.register("tiny")
class Tiny(Encoder):
    """One linear layer and tanh; by default without batch statistics, so that shards can be compared with the whole."""

    Config = TinyConfig
    kinds = frozenset({"features"})

    def __init__(self, config: TinyConfig, modality: Modality):
        super().__init__(config, modality)
        self.layer = nn.Linear(modality.shape[0], config.features)
        self.norm = nn.BatchNorm1d(config.features) if config.batch_norm else nn.Identity()
        self.num_features = config.features

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return torch.tanh(self.norm(self.layer(x)))


def make_spec(num_modalities: int) -> DatasetSpec:
    names = ("loud", "quiet", "faint", "silent")[:num_modalities]
    modalities = tuple(Modality(name, "features", (4 + index,), "float32") for index, name in enumerate(names))
    return DatasetSpec("synthetic", tuple(f"class {k}" for k in range(NUM_CLASSES)), modalities)


def make_data(spec: DatasetSpec, num_samples: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_samples) % NUM_CLASSES
    inputs = {}
    for index, modality in enumerate(spec.modalities):
        means = torch.randn(NUM_CLASSES, *modality.shape, generator=generator)
        noise = torch.randn(num_samples, *modality.shape, generator=generator)
        inputs[modality.name] = means[labels] + (0.3 + 0.7 * index) * noise
    return Batch(inputs, labels, sample_ids=[f"s{i}" for i in range(num_samples)])


def make_loader(spec: DatasetSpec, batch_size: int, num_train: int, rank: int = 0, world_size: int = 1) -> TensorLoader:
    """Serves `num_train` training samples, and 30 each for validation and test."""
    total = num_train + 60
    data = make_data(spec, total)
    columns = {name: pa.array(data.sample_ids) for name in ("sample_id", "group", "source")}
    index = pa.table({**columns, "label": pa.array(data.labels.numpy())})
    rows = np.arange(total)
    assignment = Assignment(rows[:num_train], rows[num_train:-30], rows[-30:], "holdout", "holdout")
    return TensorLoader(data, index, assignment, batch_size, rank=rank, world_size=world_size)


def make_config(method: str, spec: DatasetSpec, **values: object) -> RunConfig:
    """Returns a configuration of tiny encoders; `values` are paths with "." written as "__".

    Every epoch leaves a resume point: of epochs of milliseconds the product would leave some out.
    """
    settings = dict(next(iter(METHODS.get(method).rows(spec.modality_names).values())))
    sections = {modality.name: {"name": "tiny"} for modality in spec.modalities}
    base = {
        "dataset": {"name": "digits"},
        "method": {"name": method, **settings},
        "model": {"encoders": sections},
        "optimizer": {"lr": 0.02},
        "trainer": {"max_epochs": 4, "batch_size": 16, "device": "cpu", "checkpoint_every": 1},
    }
    return with_values(parse_config(base), {path.replace("__", "."): value for path, value in values.items()})


def make_trainer(
    config: RunConfig,
    spec: DatasetSpec,
    run_dir: object = None,
    num_train: int = 80,
    rank: int = 0,
    world_size: int = 1,
    teachers: Mapping[str, Teacher] | None = None,
) -> Trainer:
    """Returns a trainer; teachers, where nobody gives any and the method needs them, were never trained."""
    torch.set_num_threads(1)
    if teachers is None:
        teachers = untrained_teachers(config, spec)
    loader = make_loader(spec, config.trainer.batch_size, num_train, rank, world_size)
    method: Method = build_method(config, spec, teachers=teachers)
    return Trainer(config, method, loader, build_transforms(spec, {}), run_dir=run_dir)
