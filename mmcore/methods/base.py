"""The interface of a balancing method.

A method owns its heads and its fusion, and holds the model whose encoders feed them. Its state is kept in buffers,
so that checkpoints contain it. It never touches device, rank, precision or the optimizer: those belong to the engine,
of which it sees a `Step`.

Shape legend: B samples of this rank's shard, K classes, D features, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.data.epoch_plan import EpochPlan
from mmcore.errors import ConfigError
from mmcore.layers.precision import full_precision
from mmcore.metric_names import FUSED as FUSED
from mmcore.registry import Registry

if TYPE_CHECKING:
    from mmcore.methods.step import Step, Teacher
    from mmcore.model import MultimodalModel


class Need(Enum):
    """What a method requires of its model."""

    EQUAL_FEATURES = auto()
    """Features of all modalities have the same size D; they are projected where the encoders' sizes differ."""
    TEACHERS = auto()
    """A frozen model of each modality, trained alone on the same training samples: `Context.teachers`."""


@dataclass(frozen=True)
class Context:
    """What a method may know of the run.

    Attributes:
        modalities: Names of the modalities, in their fixed order.
        num_classes: K.
        max_epochs: Length of the run.
        teachers: Modality -> its teacher, for a method with `Need.TEACHERS`, where the run trains; a model that only
            predicts is built without them. For `losses` and `begin_epoch`, then, and not for the constructor.
    """

    modalities: tuple[str, ...]
    num_classes: int
    max_epochs: int
    teachers: Mapping[str, Teacher] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochStats:
    """What a method learns at the end of an epoch, after evaluation.

    Attributes:
        epoch: Index from 0.
        metrics: The epoch's row, for example `val/fused/accuracy`.
    """

    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)


class Method(nn.Module):
    """Base of all methods.

    Class attributes:
        Config: The method's own settings; their names are keys of the run's `method` section.
        min_modalities: With fewer there is nothing to do for it.
        version: Raised whenever the method comes to other results, so that a study takes no older ones for them.
    """

    Config: ClassVar[type[BaseModel]] = Section
    min_modalities: ClassVar[int] = 1
    version: ClassVar[int] = 1

    def __init__(self, model: MultimodalModel, config: Any, context: Context):
        super().__init__()
        self.model = model
        self.config = config
        self.context = context

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        """Returns what the model must provide with these settings."""
        return frozenset()

    @classmethod
    def used_modalities(cls, config: Any, modalities: Sequence[str]) -> tuple[str, ...]:
        """Returns the modalities the model must encode with these settings: all, unless a method overrides it.

        Raises:
            ConfigError: `config` names a modality the data set does not have, or it has too few for the method.
        """
        if len(modalities) < cls.min_modalities:
            name = next((name for name in METHODS.names() if METHODS.get(name) is cls), cls.__name__)
            raise ConfigError([f"method.name = {name} compares modalities and needs at least two, got "
                               f"{', '.join(modalities)}: use unimodal"])  # fmt: skip
        return tuple(modalities)

    @classmethod
    def rows(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the rows a comparison has for this method: suffix of the row's name -> settings of `Config`."""
        return {"": {}}

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the method's named variants: name -> what it sets, by path of the run's configuration.

        `released` is the authors' code where it differs from their paper; the others are ablations and controls.
        """
        return {}

    def begin_epoch(self, engine: Step) -> None:
        """Prepares an epoch, before its first step: `engine.passes` gives samples, `engine.place` the epoch.

        The method is in evaluation mode. It is not called where a run resumes inside the epoch, so that all it finds
        out must be buffers.
        """

    def plan_epoch(self, engine: Step) -> EpochPlan | None:
        """Returns which training samples the epoch gives, and without which modalities; None: all of them, once.

        Called after `begin_epoch`, once what that added to `engine.samples` is taken up, in evaluation mode, and not
        where a run resumes inside the epoch: checkpoints hold the plan. It must be equal on every rank, so it is made
        of what is: `engine.samples.values`, `engine.sum`, `engine.generator`, `engine.place`, and the method's state.
        The epoch has as many steps as its plan needs (`engine.place.num_steps`); rates are set by the epoch.
        """
        return None

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the phase's loss terms, each a mean over this rank's samples; the engine adds them up."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns logits (B, K) by name: `FUSED`, and each modality that has a head of its own.

        Where `batch.present` says that a sample lacks a modality, the fused logits must not depend on the values
        stored for it; each method's docstring says how. Two kinds of logits are never evaluated (see
        `Trainer.evaluate`) but must be finite: a missing modality's own, and the fused ones of a sample that has none
        of the method's modalities.
        """
        raise NotImplementedError

    def phases(self) -> tuple[str, ...]:
        """Returns the phases of one step, each with its own backward pass and optimizer step."""
        return ("joint",)

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Returns the parameters a phase updates; each has a gradient on every rank, zeros if the loss gave none."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def adjust_gradients(self, batch: Batch, phase: str, engine: Step) -> None:
        """Changes gradients before clipping and the step; they are averaged over ranks and unscaled."""

    def train_step(self, batch: Batch, engine: Step) -> dict[str, Tensor]:
        """Does one step; returns the loss terms, detached, on the device.

        A method that overrides this and lets several backward passes make one gradient gives `engine.backward` the
        phase in the last pass only.
        """
        logged: dict[str, Tensor] = {}
        for phase in self.phases():
            for micro_batch in engine.micro_batches(batch):
                with engine.autocast():
                    terms = self.losses(micro_batch, phase, engine)
                for name, term in engine.backward(terms, phase).items():
                    logged[name] = logged[name] + term if name in logged else term
            engine.reduce_gradients(phase)
            self.adjust_gradients(batch, phase, engine)
            engine.step()
        return logged

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns scalars of the method's state to log, on the device: λ, scores, counts."""
        return {}

    def end_epoch(self, stats: EpochStats, engine: Step) -> None:
        """Updates what changes from epoch to epoch; `engine.grow(module, group)` adds parameters."""

    def structure(self) -> dict[str, Any]:
        """Returns, as JSON values, which modules were added since the start; a checkpoint keeps it for `rebuild`."""
        return {}

    def rebuild(self, structure: dict[str, Any]) -> None:
        """Builds the modules that a checkpoint's `structure` lists; its weights are loaded into them afterwards."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Returns every trainable parameter of model and method by group.

        Groups are `encoder/<modality>`, `head/<modality>` and `fusion`; parameters of modules listed in
        `head_modules` belong to their modality, all others of the method to `fusion`.
        """
        groups = dict(self.model.parameter_groups())
        heads = {modality: list(module.parameters()) for modality, module in self.head_modules().items()}
        groups |= {f"head/{modality}": parameters for modality, parameters in heads.items()}
        # By identity: a parameter's == compares values, element by element.
        taken = {id(parameter) for parameters in groups.values() for parameter in parameters}
        groups["fusion"] = [parameter for parameter in self.parameters() if id(parameter) not in taken]
        trainable = {name: [p for p in parameters if p.requires_grad] for name, parameters in groups.items()}
        return {name: parameters for name, parameters in trainable.items() if parameters}

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns modality -> the module that is its own head (none by default)."""
        return {}


METHODS: Registry[Method] = Registry("method", "equipoise.methods", "mmcore.methods")


def linear_heads(model: MultimodalModel, modalities: Sequence[str], num_classes: int) -> nn.ModuleDict:
    """Returns one linear head (D_m -> K) per modality."""
    return nn.ModuleDict({name: nn.Linear(model.num_features[name], num_classes) for name in modalities})


def unimodal_losses(logits: Mapping[str, Tensor], batch: Batch, engine: Step) -> dict[str, Tensor]:
    """Returns the cross-entropy of each modality's logits (B, K), a mean over the samples that have the modality."""
    return cross_entropies(logits, batch.labels, {name: batch.has(name) for name in logits}, engine)


def cross_entropies(
    logits: Mapping[str, Tensor], labels: Tensor, masks: Mapping[str, Tensor | None], engine: Step
) -> dict[str, Tensor]:
    """Returns name -> cross-entropy of its logits (B, K), a mean over the samples of its mask (B,); None: over all."""
    if all(mask is None for mask in masks.values()):
        return {name: cross_entropy(values, labels, engine) for name, values in logits.items()}
    losses = {name: cross_entropy(values, labels, engine, average=False) for name, values in logits.items()}
    return engine.means(losses, masks)


def cross_entropy(logits: Tensor, labels: Tensor, engine: Step, *, average: bool = True) -> Tensor:
    """Returns the samples' cross-entropies of logits (B, K), each times its class's weight: their mean, or (B,).

    Every training loss goes through here, so this is where `trainer.class_weights` enters
    (`mmcore.training.class_weights`). The mean divides by B, not by the sum of weights: with the latter a sample's
    loss would depend on the other samples of its batch.
    """
    if engine.class_weights is None:
        return F.cross_entropy(logits, labels, reduction="mean" if average else "none")
    losses = engine.class_weights.index_select(0, labels) * F.cross_entropy(logits, labels, reduction="none")
    return losses.mean() if average else losses


def mean_logits(logits: Mapping[str, Tensor], batch: Batch, weights: Mapping[str, float] | None = None) -> Tensor:
    """Returns the mean of the modalities' logits (B, K) over those each sample has, (B, K), at least float32.

    Args:
        logits: Modality -> (B, K).
        batch: Tells which samples have which modalities.
        weights: Modality -> weight, not negative; those of the modalities a sample has are scaled to sum to 1 (where
            they sum to 0, the logits are 0). None: equal ones.
    """
    if weights is None and not any(name in batch.present for name in logits):
        return _stacked(logits).mean(dim=0)
    return (_stacked(logits) * modality_shares(logits, batch, weights)).sum(dim=0)


def require_weights(key: str, weights: Mapping[str, float] | None, modalities: Sequence[str]) -> None:
    """Raises a ConfigError where weights for `mean_logits` lack a modality, name another, or are all 0."""
    if weights is not None and set(weights) != set(modalities):
        raise ConfigError([f"{key} must have a weight for each of {', '.join(modalities)}, got {sorted(weights)}"])
    if weights is not None and not sum(weights.values()):
        raise ConfigError([f"{key} must not all be 0, got {dict(weights)}"])


def modality_shares(logits: Mapping[str, Tensor], batch: Batch, weights: Mapping[str, float] | None = None) -> Tensor:
    """Returns each modality's part in a mean over the modalities a sample has, (M, B, 1); see `mean_logits`."""
    parts = []
    for name, values in logits.items():
        present = batch.has(name)
        weight = full_precision(values).new_full((len(values), 1), 1.0 if weights is None else weights[name])
        parts.append(weight if present is None else torch.where(present[:, None], weight, 0))
    shares = torch.stack(parts)
    total = shares.sum(dim=0)
    return shares / torch.where(total > 0, total, 1)


def sum_logits(logits: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Returns the sum of the modalities' logits (B, K) over those each sample has, (B, K), at least float32."""
    parts = []
    for name, values in logits.items():
        present = batch.has(name)
        parts.append(values if present is None else torch.where(present[:, None], values, 0))
    return torch.stack([full_precision(part) for part in parts]).sum(dim=0)


def _stacked(logits: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([full_precision(values) for values in logits.values()])
