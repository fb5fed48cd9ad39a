"""A method that learns from teachers, and teachers that were never trained, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
from annotated_types import Ge
from torch import Tensor

from mmcore.assembly.config import with_values
from mmcore.assembly.objects import build_method, needs_teachers, used_modalities
from mmcore.assembly.teachers import FrozenTeacher, teacher_config
from mmcore.batch import Batch
from mmcore.config.schema import RunConfig
from mmcore.data.spec import DatasetSpec
from mmcore.methods import METHODS
from mmcore.methods.base import Need
from mmcore.methods.joint import Joint, JointConfig
from mmcore.methods.step import Step


class DistillingConfig(JointConfig):
    weight: Annotated[float, Ge(0)] = 0.5


class Distilling(Joint):
    """Joint training, with each encoder's features drawn to those of its modality's teacher."""

    Config = DistillingConfig

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        return frozenset({Need.TEACHERS}) if config.weight else frozenset()

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        terms = super().losses(batch, phase, engine)
        features = self.model.encode(batch)
        values, masks = {}, {}
        for name, teacher in self.context.teachers.items():
            answer = teacher(batch)
            values[name] = (features[name] - answer.features).square().mean(dim=1)
            values[name] = values[name] + answer.logits.softmax(dim=1).amax(dim=1)  # a number, and no gradient
            masks[name] = batch.has(name)
        means = engine.means(values, masks) if values else {}
        return {**terms, **{name: self.config.weight * value for name, value in means.items()}}


@contextmanager
def distilling() -> Iterator[None]:
    """A context in which the method `distilling` is registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS._entries, "distilling", Distilling)
        yield


def untrained_teachers(config: RunConfig, spec: DatasetSpec) -> dict[str, FrozenTeacher]:
    """Teachers with other initial weights than the run's, for a method that needs some; the same in every process."""
    if not needs_teachers(config):
        return {}
    other = with_values(config, {"seed": config.seed + 1000})
    names = used_modalities(config, spec)
    return {name: FrozenTeacher(build_method(teacher_config(other, name), spec), "untrained") for name in names}
