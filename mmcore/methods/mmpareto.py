"""MMPareto: each encoder follows a direction that hurts neither the joint nor its own loss.

In short: An encoder is pulled by the joint loss and by its own modality's, and the two may disagree. Where they do, it
follows a direction that makes neither worse, and everywhere it moves by as much as the plain sum would, times γ.

Paper: "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024.

Step by step: a and u are an encoder's gradients of the joint and of its own loss. ⟨a, u⟩ > 0: k = (½, ½); else k is
that of the least norm of k_0 a + k_1 u. h = 2 k_0 a + 2 k_1 u; g <- γ·max(1, ‖a + u‖/‖h‖)·h. Without conflict the
method is `joint_unimodal` with the encoders' gradient times γ, so γ is a learning-rate factor and must be compared as
one.

Cost: one forward and two backward passes, for any M: (F + 2B)/(F + B) of `joint`'s.

Rulings and deviations (each with a test in tests/core/methods/test_mmpareto.py):
  1. Lengths are divided safely: where the weighted sum is 0, so is the gradient (released: NaN in places).
  2. Lengths are compared per tensor (released), or over the encoder (`rescale: encoder`).
  3. The released code builds a step schedule and never steps it: variant `released` has a constant rate.
  4. A modality no sample of the step has: the encoder's joint gradient as it is, without γ.
  5. Two backward passes for any M, not M + 1: encoders share no parameters, so that the unimodal losses' sum has
     each encoder's own gradient, and the joint gradient is that of the sum of all losses less it.

Shape legend: B samples, K classes, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.methods.base import METHODS, Context
from mmcore.methods.joint_unimodal import JointUnimodal, JointUnimodalConfig

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

PHASE = "joint"


class MMParetoConfig(JointUnimodalConfig):
    """Settings of MMPareto.

    Attributes:
        gamma: γ, factor on the encoders' gradients.
        rescale: Whether the length of the plain sum is restored per `tensor` (released) or per `encoder`.
    """

    gamma: Annotated[float, Ge(0)] = 1.5
    rescale: Literal["tensor", "encoder"] = "tensor"


def pareto_weights(joint_square: Tensor, own_square: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """Returns k of the joint and of the own gradient; they sum to 1.

    (½, ½) where the gradients agree, else the weights of the point of least norm between them. A gradient of 0 gets
    .999, as in the authors' solver, so that the other one's direction is left.

    Args:
        joint_square: ⟨a, a⟩.
        own_square: ⟨u, u⟩.
        product: ⟨a, u⟩.
    """
    width = joint_square + own_square - 2 * product
    least = (own_square - product) / torch.where(width > 0, width, 1)
    least = torch.where(product >= own_square, 0.001, least)
    least = torch.where(product >= joint_square, 0.999, least)
    weight = torch.where(product > 0, 0.5, least)
    return weight, 1 - weight


def stretch(plain_norm: Tensor, weighted_norm: Tensor) -> Tensor:
    """Returns max(1, ‖a + u‖ / ‖h‖); 1 where ‖h‖ is 0."""
    ratio = plain_norm / torch.where(weighted_norm > 0, weighted_norm, 1)
    return torch.where(weighted_norm > 0, ratio.clamp(min=1), 1)


def pareto_gradients_(
    total: list[Tensor], own: list[Tensor], gamma: float, rescale: str, is_present: Tensor | None = None
) -> Tensor:
    """Puts the rule's result in the place of one encoder's gradients of all losses; returns k of the joint loss.

    h = 2 k_0 a + 2 k_1 u is written as 2 k_0 (a + u) + 2 (k_1 - k_0) u, so that without conflict it is a + u bit for
    bit. In place, since new memory for gradients costs as much time as the arithmetic.

    Args:
        total: a + u, of the sum of all losses; overwritten.
        own: u, of the modality's own loss.
        gamma: γ.
        rescale: `tensor` or `encoder`.
        is_present: Whether any sample has the modality, (), bool; where none has, k is 1 and `total` stays. None: yes.
    """
    joint = list(torch._foreach_sub(total, own))
    joint_square, own_square = (_square(gradients) for gradients in (joint, own))
    torch._foreach_mul_(joint, own)
    product = torch.stack([values.sum() for values in joint]).sum()
    first, second = pareto_weights(joint_square, own_square, product)
    torch._foreach_copy_(joint, own)
    torch._foreach_mul_(joint, _where(is_present, 2 * (second - first), 0))
    plain_norms = torch.stack(torch._foreach_norm(total))
    torch._foreach_mul_(total, _where(is_present, 2 * first, 1))
    torch._foreach_add_(total, joint)
    norms = [plain_norms, torch.stack(torch._foreach_norm(total))]
    if rescale == "encoder":
        norms = [torch.linalg.vector_norm(values).expand(len(own)) for values in norms]
    torch._foreach_mul_(total, list(_where(is_present, gamma * stretch(*norms), 1).unbind()))
    return _where(is_present, first, 1)


def _where(condition: Tensor | None, values: Tensor, other: float) -> Tensor:
    return values if condition is None else torch.where(condition, values, other)


def _square(gradients: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(gradients)).square().sum()


@METHODS.register("mmpareto")
class MMPareto(JointUnimodal):
    """Sums the fused and the unimodal cross-entropies, and weighs their gradients in each encoder.

    A missing modality is features of zero to the fusion head; its own cross-entropy is a mean over the samples that
    have it. Heads learn from their plain gradients.

    State (buffer): k of the joint loss, by modality, of the newest step.
    """

    Config = MMParetoConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: MMParetoConfig, context: Context):
        super().__init__(model, config, context)
        self.joint_weights: Tensor
        self.register_buffer("joint_weights", torch.full((len(context.modalities),), 0.5))

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released schedule, lengths restored per encoder, and the rule without its factor."""
        return {
            "released": {"schedule.name": "constant"},
            "per_encoder": {"method.rescale": "encoder"},
            "no_factor": {"method.gamma": 1.0},
        }

    def train_step(self, batch: Batch, engine: Step) -> dict[str, Tensor]:
        """Does one step from one forward pass: the own gradients, those of all losses, then the rule."""
        encoders = self._encoders()
        parameters = [parameter for group in encoders.values() for parameter in group]
        logged: dict[str, Tensor] = {}
        own: list[Tensor] = []
        counts = torch.zeros_like(self.joint_weights)
        for micro_batch in engine.micro_batches(batch):
            with engine.autocast():
                terms = self.losses(micro_batch, PHASE, engine)
            unimodal = torch.stack([terms[name] for name in self.context.modalities]).sum()
            if parameters:
                found = engine.gradients(unimodal, parameters)
                own = list(torch._foreach_add(own, found)) if own else found
            counts = counts + self._present(micro_batch, engine)
            for name, term in engine.backward(terms, PHASE).items():
                logged[name] = logged[name] + term if name in logged else term
        engine.reduce_gradients(PHASE)
        self._weigh(encoders, own, counts)
        engine.step()
        return logged

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns k of the joint loss for each modality's encoder: ½ without conflict."""
        pairs = zip(self.context.modalities, self.joint_weights.unbind(), strict=True)
        return {f"joint_weight/{name}": value for name, value in pairs}

    def _encoders(self) -> dict[str, list[nn.Parameter]]:
        groups = self.model.parameter_groups()
        names = self.context.modalities
        return {name: [p for p in groups[f"encoder/{name}"] if p.requires_grad] for name in names}

    def _present(self, batch: Batch, engine: Step) -> Tensor:
        """Returns how many samples of all ranks have each modality, (M,)."""
        masks = [batch.has(name) for name in self.context.modalities]
        everywhere = torch.ones_like(batch.labels, dtype=torch.bool)
        present = torch.stack([everywhere if mask is None else mask for mask in masks])
        total, _ = engine.total(present.to(self.joint_weights.dtype).mean(dim=1))
        return total

    @torch.no_grad()
    def _weigh(self, encoders: dict[str, list[nn.Parameter]], own: list[Tensor], counts: Tensor) -> None:
        start = 0
        for index, group in enumerate(encoders.values()):
            gradients = [parameter.grad for parameter in group if parameter.grad is not None]
            if not gradients:
                continue
            part, start = own[start : start + len(group)], start + len(group)
            self.joint_weights[index] = pareto_gradients_(
                gradients, part, self.config.gamma, self.config.rescale, counts[index] > 0
            )
