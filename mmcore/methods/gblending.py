"""G-Blending: the losses' weights follow how much each head, trained alone for a while, gains against overfitting.

In short: Every few epochs each head is trained on trial by itself, then everything is put back. A head that learnt much
for validation, and little that holds for training alone, gets a large weight in the epochs that follow.

Paper: "What Makes Training Multi-Modal Classification Networks Hard?", CVPR 2020.

Step by step: L = Σ_k w_k CE_k over the modalities' heads and the joint one. At the start of every super-epoch of n
epochs, for each k: from the same state, n epochs on CE_k alone; G = fall of the validation loss, O = rise of
(validation loss - training loss); w_k ∝ G_k / O_k², and the weights sum to 1. Then n epochs with these weights.

Cost: a step is that of `joint_unimodal`; with the trials, about three epochs for one, for any M: one of each encoder
alone, one of all for the joint head, and the epoch itself. Each trial also passes over train and validation.

Rulings and deviations (each with a test in tests/core/methods/test_gblending.py):
  1. Weights come from changes of the losses, as the paper's; the authors' code has fixed tables alone, and a toolkit's
     default takes levels.
  2. A head that got worse on validation has weight 0. Two toolkits take the size of the change, so that a head that got
     much worse weighs much: `gain: absolute`. Where no head gained, all weigh the same.
  3. O² is at least 1e-6 (nats²).
  4. Losses are means over samples in evaluation mode, before and after, over all of train and of validation.
  5. A trial of a modality's head trains its encoder and head alone, one of the joint head all encoders and that head;
     nothing else moves by momentum or decay. The rate is that of the super-epoch's start, and the optimizer's state
     goes on from the run's.
  6. A trial is no longer than what is left of the run. A run that is interrupted in one begins it again.
  7. `mode: offline`: one trial, over the whole run, at its start.

Shape legend: B samples, K classes, H heads (the joint one first, then the M modalities').
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.methods.base import FUSED, METHODS, Context, cross_entropy
from mmcore.methods.joint_unimodal import JointUnimodal, JointUnimodalConfig

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

MIN_SQUARE = 1e-6


class GBlendingConfig(JointUnimodalConfig):
    """Settings of G-Blending.

    Attributes:
        super_epoch: Epochs of a trial, and of training with the weights it gave.
        mode: Weights anew for each super-epoch (`online`), or once, from a trial over the whole run (`offline`).
        gain: A fall of the validation loss counts (`positive`), or any change (`absolute`).
    """

    super_epoch: Annotated[int, Ge(1)] = 10
    mode: Literal["online", "offline"] = "online"
    gain: Literal["positive", "absolute"] = "positive"


def blend_weights(before: Tensor, after: Tensor, gain: str) -> Tensor:
    """Returns the heads' weights G / O², scaled to sum to 1, (H,); equal ones where no head gained.

    Args:
        before: (2, H): the losses on train and on validation before the trials.
        after: (2, H): those of each head after its own trial.
        gain: `positive` or `absolute`.
    """
    change = before[1] - after[1]
    gained = change.clamp(min=0) if gain == "positive" else change.abs()
    overfitting = (after[1] - after[0]) - (before[1] - before[0])
    weights = gained / overfitting.square().clamp(min=MIN_SQUARE)
    total = weights.sum()
    return torch.where(total > 0, weights / torch.where(total > 0, total, 1), 1 / len(weights))


@METHODS.register("gblending")
class GBlending(JointUnimodal):
    """Sums the fused and the unimodal cross-entropies, each times its weight.

    A missing modality is features of zero to the fusion head; its own loss, also a trial's, is of the samples that have
    it, and its own logits are left out of a predicted `sum`.

    State (buffer): the weights.
    """

    Config = GBlendingConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: GBlendingConfig, context: Context):
        super().__init__(model, config, context)
        self.names = (FUSED, *context.modalities)
        self.weights: Tensor
        self.register_buffer("weights", torch.full((len(self.names),), 1 / len(self.names)))

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the weights of one trial over the whole run, and the toolkits' reading of a gain."""
        return {"offline": {"method.mode": "offline"}, "absolute": {"method.gain": "absolute"}}

    def begin_epoch(self, engine: Step) -> None:
        """At the start of a super-epoch: tries each head alone, and sets the weights."""
        max_epochs, epoch = self.context.max_epochs, engine.place.epoch
        length = max_epochs if self.config.mode == "offline" else self.config.super_epoch
        if epoch % length:
            return
        before = self._measured(self.names, engine)
        after = [self._tried(name, min(length, max_epochs - epoch), engine) for name in self.names]
        self.weights.copy_(blend_weights(before, torch.cat(after, dim=1), self.config.gain))

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Returns all parameters or, where the phase is a head's name, those that its trial trains."""
        if phase not in self.names:
            return super().phase_parameters(phase)
        head: nn.Module = self.fusion if phase == FUSED else self.heads[phase]
        groups = self.model.parameter_groups()
        parameters = [p for name in self._modalities([phase]) for p in groups[f"encoder/{name}"]]
        return [parameter for parameter in [*parameters, *head.parameters()] if parameter.requires_grad]

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy and each modality's, each times its weight."""
        terms = super().losses(batch, phase, engine)
        return {name: self.weights[index] * terms[name] for index, name in enumerate(self.names)}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns the losses' weights."""
        return {f"weight/{name}": self.weights[index] for index, name in enumerate(self.names)}

    def _tried(self, name: str, num_epochs: int, engine: Step) -> Tensor:
        """Returns a head's losses (2, 1) after some epochs of its own; the method is as before then."""
        with engine.rehearsal():
            for batch in engine.ahead(num_epochs):
                for micro_batch in engine.micro_batches(batch):
                    with engine.autocast():
                        values, masks = self._sample_losses(micro_batch, [name], engine)
                    engine.backward(engine.means(values, masks), name)
                engine.reduce_gradients(name)
                engine.step()
            return self._measured([name], engine)

    @torch.no_grad()
    def _measured(self, names: Sequence[str], engine: Step) -> Tensor:
        """Returns some heads' mean losses on all of train and of validation, over all ranks, (2, H)."""
        rows = []
        for split in ("train", "val"):
            sums = torch.zeros(2, len(names), dtype=self.weights.dtype, device=self.weights.device)
            for batch in engine.passes(split):
                if batch.is_placeholder:
                    continue
                with engine.autocast():
                    values, masks = self._sample_losses(batch, names, engine)
                for index, name in enumerate(names):
                    mask = masks[name]
                    kept = torch.ones_like(values[name]) if mask is None else mask.to(values[name].dtype)
                    sums[:, index] += torch.stack([(values[name] * kept).sum(), kept.sum()])
            total, count = engine.sum(sums)
            rows.append(total / count.clamp(min=1))
        return torch.stack(rows)

    def _sample_losses(
        self, batch: Batch, names: Sequence[str], engine: Step
    ) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        """Returns some heads' cross-entropies (B,), and of which samples each is (B,); None: of all."""
        features = self.model.encode(batch, self._modalities(names))
        logits = {name: self.fusion(features) if name == FUSED else self.heads[name](features[name]) for name in names}
        values = {name: cross_entropy(x, batch.labels, engine, average=False) for name, x in logits.items()}
        return values, {name: None if name == FUSED else batch.has(name) for name in names}

    def _modalities(self, names: Sequence[str]) -> Sequence[str]:
        """Returns the modalities that some heads see."""
        return self.context.modalities if FUSED in names else names
