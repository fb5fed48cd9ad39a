"""MSLR: each modality's gradients grow or shrink with how its validation accuracy compares with its last few.

In short: After each epoch every modality is asked alone on validation. One that does better than in its last epochs
takes larger steps in the next one, and one that does worse takes smaller ones.

Source: the baseline MSLR in AGM's released code (ICCV 2023), after "Modality-specific Learning Rates for Effective
Multimodal Additive Late-fusion" (ACL Findings 2022), whose text was not at hand.

Step by step: trained as `joint-sum`, ẑ = Σ_m z_m with a linear head of each modality. In epoch e, the gradients of
encoder and head m are multiplied by k_m = init_m · A_m / mean of the last 5 A_m, with A_m the modality's accuracy on
validation after the epoch before, counted among the 5; init_m alone in the first 5 epochs.

Cost: that of `joint`.

Rulings and deviations (each with a test in tests/core/methods/test_mslr.py):
  1. Accuracies are of validation; the released code takes those of its test set.
  2. init is 1. The released code's .9 for sound and 1.1 for pictures (.9, 1.4 and .7 with text) are tuned numbers:
     variant `released`, where the data set has these modalities.
  3. Gradients are multiplied, as in the released code. With momentum and weight decay that is not quite another
     learning rate: it reaches the weights through the momentum, and decay is not multiplied. `scale: rates` multiplies
     rates.
  4. The 5 accuracies are of 5 epochs however long the run is. Where they are all 0, or no sample of validation has the
     modality, k_m is init_m.
  5. Any number of modalities.

Shape legend: B samples, K classes, E epochs remembered, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from mmcore import metric_names
from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.methods.base import FUSED, METHODS, Context, EpochStats, Method, cross_entropy, require_weights
from mmcore.methods.fusion import Sum

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

OWN_RATES = ({"audio": 0.9, "image": 1.1}, {"audio": 0.9, "image": 1.4, "text": 0.7})
"""The released code's init for two and for three modalities; what is said of `image` holds for `video` too."""


class MslrConfig(Section):
    """Settings of MSLR; defaults are those of AGM's released code, but for its tuned `init`.

    Attributes:
        init: Modality -> constant factor of its gradients. None: 1 for each.
        memory: Epochs whose accuracies the newest is compared with, itself among them; 1: no comparison.
        scale: Whether `gradients` are multiplied (released), or learning `rates`, weight decay with them.
    """

    init: dict[str, Annotated[float, Ge(0)]] | None = None
    memory: Annotated[int, Ge(1), Le(10**4)] = 5
    scale: Literal["gradients", "rates"] = "gradients"


def accuracy_factors(accuracies: Tensor) -> Tensor:
    """Returns each modality's newest accuracy ÷ the mean of all of them, (M,); 1 where they are 0 or not known.

    Args:
        accuracies: (E, M), the newest last; NaN where no sample had the modality.
    """
    means = accuracies.mean(dim=0)
    return torch.where(means > 0, accuracies[-1] / torch.where(means > 0, means, 1), 1)


@METHODS.register("mslr")
class Mslr(Method):
    """Trains the cross-entropy of the heads' sum, over all samples. A missing modality is features of zero to its head.

    State (buffers): the newest accuracies, and the factors of the running epoch.
    """

    Config = MslrConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: MslrConfig, context: Context):
        super().__init__(model, config, context)
        require_weights("method.init", config.init, context.modalities)
        self.fusion = Sum(model.num_features, context.num_classes)
        init = [1.0 if config.init is None else config.init[name] for name in context.modalities]
        self.init: Tensor
        self.register_buffer("init", torch.tensor(init))
        self.factors: Tensor
        self.register_buffer("factors", self.init.clone())
        self.accuracies: Tensor
        self.register_buffer("accuracies", torch.zeros(config.memory, len(init)))

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code's factors, where it has some for these modalities, and learning rates' factors."""
        variants: dict[str, dict[str, Any]] = {"rates": {"method.scale": "rates"}}
        if released := _released_init(modalities):
            variants["released"] = {"method.init": released}
        return variants

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy."""
        return {FUSED: cross_entropy(self.fusion(self.model.encode(batch)), batch.labels, engine)}

    @torch.no_grad()
    def adjust_gradients(self, batch: Batch, phase: str, engine: Step) -> None:
        """Multiplies each modality's gradients, unless its rate is."""
        if self.config.scale == "rates":
            return
        groups = self.parameter_groups()
        for name, factor in self._by_name():
            parameters = [p for part in ("encoder", "head") for p in groups.get(f"{part}/{name}", [])]
            gradients = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns each modality's logits and their sum, (B, K)."""
        features = self.model.encode(batch)
        logits = {name: self.fusion.heads[name](values) for name, values in features.items()}
        return {FUSED: self.fusion(features), **logits}

    def end_epoch(self, stats: EpochStats, engine: Step) -> None:
        """Remembers the accuracies on validation, and sets the next epoch's factors."""
        keys = [metric_names.val(metric_names.of_head(name, "accuracy")) for name in self.context.modalities]
        newest = self.accuracies.new_tensor([stats.metrics.get(key, float("nan")) for key in keys])
        self.accuracies.copy_(torch.cat([self.accuracies[1:], newest[None]]))
        if stats.epoch + 1 >= self.config.memory:
            self.factors.copy_(self.init * accuracy_factors(self.accuracies))
        if self.config.scale == "rates":
            self._set_rates(engine)

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns the factors of the running epoch; after its end, of the next one."""
        return {f"factor/{name}": factor for name, factor in self._by_name()}

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns the modalities' heads."""
        return dict(self.fusion.heads.items())

    def begin_epoch(self, engine: Step) -> None:
        """Sets the rates of the first epoch."""
        if self.config.scale == "rates" and engine.place.epoch == 0:
            self._set_rates(engine)

    def _set_rates(self, engine: Step) -> None:
        factors = dict(zip(self.context.modalities, self.factors.tolist(), strict=True))
        groups = [group for group in self.parameter_groups() if group.startswith(("encoder/", "head/"))]
        engine.set_rate_factors({group: factors[group.partition("/")[2]] for group in groups})

    def _by_name(self) -> list[tuple[str, Tensor]]:
        return list(zip(self.context.modalities, self.factors.unbind(), strict=True))


def _released_init(modalities: Sequence[str]) -> dict[str, float]:
    """Returns the released code's init for these modalities; nothing where it has none."""
    known = {name: "image" if name == "video" else name for name in modalities}
    for init in OWN_RATES:
        if sorted(known.values()) == sorted(init):
            return {name: init[place] for name, place in known.items()}
    return {}
