"""InfoReg: while a modality's encoder still takes in much, the one that does better is held near the epoch's start.

In short: How much an encoder is learning is read off the squares of its gradients, and as long as they grow it counts
as being in its prime. In that time the modality that answers better is pulled back to where the epoch began, so that
the others learn meanwhile.

Paper: "Adaptive Unimodal Regulation for Balanced Multimodal Information Acquisition", CVPR 2025.

Step by step: L = CE(z) + Σ_m CE(z_m), z_m the parts of the joint logits. T_m of an epoch is the mean square of the
gradient's entries, summed over the steps and over the encoder's weights; k_m = 1 - mean of the n values before the
last ÷ mean of the last n (1 at first). Where k_m is above the threshold and s_m - r_m > 0, with s the mean probability
of the label and r_m the mean of the others' s: g_m <- g_m + β exp(tanh(c (s_m - r_m))) (θ_m - θ_m at the epoch's
start).

Cost: that of `joint` and of M parts of its head; some passes over the encoders' weights, of which there is one copy
more.

Rulings and deviations (each with a test in tests/core/methods/test_inforeg.py):
  1. Each modality is judged by its own trace; the released code takes the first one's for all (`trace: first`).
  2. The released code takes the difference of scores summed over the batch, which depends on the batch's size. Ours is
     of the means, times `gap_scale`: 64 is what the authors' batches of 64 amount to.
  3. Any number of modalities: each is compared with the mean of the others, and several may be held; equal ones are
     not.
  4. Values of T before the first epoch are 0, as released, so that k is the newest T's share of all in the first n
     epochs: mostly a prime. Where all of the last n are 0, so is k.
  5. The window n is in the authors' epochs and scaled with the run's length; it is at least one epoch.
  6. T is of the gradients after the pull, as released, of the tensors named `weight` in the whole encoder. A step whose
     gradient is not finite, which float16 skips, is left out of it.
  7. Scores are of the samples that have all modalities; a step without any holds none. Each part's own cross-entropy is
     of the samples that have the modality.
  8. In an epoch's first step nothing has moved, so nothing is pulled.

Shape legend: B samples, K classes, M modalities, n epochs of the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.methods.base import FUSED, METHODS, Context, Method, cross_entropy, require_weights, unimodal_losses
from mmcore.methods.fusion import build_fusion
from mmcore.methods.unimodal_scores import joint_parts, score_leads, score_totals

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

RELEASED_BETAS = {"audio": 0.95, "image": 0.1}
"""The released code's β where these two are the modalities."""


class InfoRegConfig(Section):
    """Settings of InfoReg; defaults are the authors'.

    Attributes:
        beta: β, how strongly a leading modality is held at the epoch's start; 0: not at all.
        betas: Modality -> its own β, in place of `beta`, for each modality. None: `beta` for all.
        threshold: A modality is in its prime while the share k by which its trace grew is above it.
        window: n, epochs over which traces are averaged, in epochs of `schedule_epochs`.
        schedule_epochs: Length of the authors' run, to which the window belongs.
        trace: Whose trace tells a modality's prime: its `own`, or the `first` modality's for all (released).
        gap_scale: c, factor on the difference of the mean scores, a probability in [0, 1].
        fusion: `concat` or `sum`: heads that can be taken apart by modality.
    """

    beta: Annotated[float, Ge(0)] = 0.95
    betas: dict[str, Annotated[float, Ge(0)]] | None = None
    threshold: float = 0.05
    window: Annotated[int, Ge(1)] = 10
    schedule_epochs: Annotated[int, Ge(1)] = 50
    trace: Literal["own", "first"] = "own"
    gap_scale: Annotated[float, Ge(0)] = 64.0
    fusion: Literal["concat", "sum"] = "concat"


def trace_growth(traces: Tensor) -> Tensor:
    """Returns k = (mean of the last n - mean of the n before the last) / mean of the last n, (M,); 0 where that is 0.

    Args:
        traces: T of the last n + 1 epochs, the newest last, (M, n + 1).
    """
    now, before = traces[:, 1:].mean(dim=1), traces[:, :-1].mean(dim=1)
    return torch.where(now > 0, (now - before) / torch.where(now > 0, now, 1), 0)


def pull_strengths(leads: Tensor, growth: Tensor, betas: Tensor, threshold: float, gap_scale: float) -> Tensor:
    """Returns β exp(tanh(c · lead)) where the lead is above 0 and k above the threshold, else 0, (M,).

    Args:
        leads: s_m - mean of the others' s, (M,).
        growth: k, (M,).
        betas: β, (M,).
        threshold: What k must be above.
        gap_scale: c.
    """
    is_held = (leads > 0) & (growth > threshold)
    return torch.where(is_held, betas * torch.exp(torch.tanh(gap_scale * leads)), 0)


def squared_entries(gradients: Sequence[Tensor]) -> Tensor:
    """Returns the sum over tensors of the mean of their squared entries, a scalar; 0 where it is not finite."""
    norms = torch._foreach_norm(list(gradients))
    torch._foreach_div_(norms, [math.sqrt(gradient.numel()) for gradient in gradients])
    return torch.stack(norms).square().sum().nan_to_num(0, 0)


@METHODS.register("inforeg")
class InfoReg(Method):
    """Trains the fused cross-entropy, over all samples, and each part's, over the samples that have its modality.

    A missing modality is features of zero to the fusion head.

    State (buffers): the encoders' weights at the epoch's start, the traces of the last epochs and of the running one, k
    of the epoch and the pull of the newest step.
    """

    Config = InfoRegConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: InfoRegConfig, context: Context):
        super().__init__(model, config, context)
        names, betas = context.modalities, config.betas
        require_weights("method.betas", betas, names)
        self.fusion = build_fusion(config.fusion, model.num_features, context.num_classes)
        window = max(1, round(config.window * context.max_epochs / config.schedule_epochs))
        strengths = [betas[name] if betas else config.beta for name in names]
        # In no checkpoint: a resumed run, or one of a population, has its own.
        self.register_buffer("betas", torch.tensor(strengths, dtype=torch.float64), persistent=False)
        for name, values in {
            "traces": torch.zeros(len(names), window + 1),
            "running_trace": torch.zeros(len(names)),
            "growth": torch.ones(len(names)),
            "pulls": torch.zeros(len(names)),
        }.items():
            self.register_buffer(name, values)
        for name in names:
            for index, parameter in enumerate(self._trained(name)):
                self.register_buffer(f"start_{name}_{index}", parameter.detach().clone())
        self.betas: Tensor
        self.traces: Tensor
        self.running_trace: Tensor
        self.growth: Tensor
        self.pulls: Tensor
        self._totals: Tensor

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code's trace and β, the trace alone, and the parts' losses alone."""
        released: dict[str, Any] = {"method.trace": "first"}
        if set(modalities) == set(RELEASED_BETAS):
            released["method.betas"] = dict(RELEASED_BETAS)
        return {"released": released, "first": {"method.trace": "first"}, "parts_only": {"method.beta": 0.0}}

    @torch.no_grad()
    def begin_epoch(self, engine: Step) -> None:
        """Takes up the finished epoch's trace, and notes where the encoders are."""
        if engine.place.epoch:
            self.traces.copy_(torch.cat([self.traces[:, 1:], self.running_trace[:, None]], dim=1))
            growth = trace_growth(self.traces)
            self.growth.copy_(growth if self.config.trace == "own" else growth[:1].expand_as(growth))
        self.running_trace.zero_()
        for name in self.context.modalities:
            if parameters := self._trained(name):
                torch._foreach_copy_(self._starts(name), parameters)

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy and each part's; scores the modalities beside it, from the same features."""
        features = self.model.encode(batch)
        parts = joint_parts(self.fusion, features)
        totals = score_totals(parts, batch, engine)
        self._totals = totals if engine.is_first_part else self._totals + totals
        fused = cross_entropy(self.fusion(features), batch.labels, engine)
        return {FUSED: fused, **unimodal_losses(parts, batch, engine)}

    @torch.no_grad()
    def adjust_gradients(self, batch: Batch, phase: str, engine: Step) -> None:
        """Pulls the leading modalities back, and adds up the traces."""
        config, leads = self.config, score_leads(self._totals)
        self.pulls.copy_(pull_strengths(leads, self.growth, self.betas, config.threshold, config.gap_scale))
        for name, pull, trace in zip(
            self.context.modalities, self.pulls.unbind(), self.running_trace.unbind(), strict=True
        ):
            if not (parameters := self._trained(name)):
                continue
            gradients = [p.grad for p in parameters if p.grad is not None]
            moved = torch._foreach_sub(parameters, self._starts(name))
            torch._foreach_mul_(moved, pull.to(moved[0].dtype))
            torch._foreach_add_(gradients, moved)
            if weights := [p.grad for p in self._weights(name) if p.grad is not None]:
                trace.add_(squared_entries(weights))

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the fusion head's logits (B, K)."""
        return {FUSED: self.fusion(self.model.encode(batch))}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns each modality's k in the epoch, and its pull in the newest step."""
        names = self.context.modalities
        return {
            **{f"growth/{name}": value for name, value in zip(names, self.growth.unbind(), strict=True)},
            **{f"pull/{name}": value for name, value in zip(names, self.pulls.unbind(), strict=True)},
        }

    def _trained(self, name: str) -> list[Tensor]:
        """Returns the parameters of a modality's encoder that are trained."""
        return [p for p in self.model.parameter_groups()[f"encoder/{name}"] if p.requires_grad]

    def _starts(self, name: str) -> list[Tensor]:
        """Returns what they were at the epoch's start."""
        return [self.get_buffer(f"start_{name}_{index}") for index in range(len(self._trained(name)))]

    def _weights(self, name: str) -> list[nn.Parameter]:
        """Returns those of which the trace is."""
        trained = {id(parameter) for parameter in self._trained(name)}
        return [p for path, p in self.model.named_parameters() if path.endswith("weight") and id(p) in trained]
