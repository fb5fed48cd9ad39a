"""Linear probes: how well each modality's features alone tell the classes inside a joint model.

One linear classifier per modality, on detached features, with its own optimizer: no effect on the model. For methods
without unimodal heads this is the only view of a modality's own accuracy; for the others it is the comparable one.

Shape legend: B samples, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mmcore import distributed
from mmcore.batch import Batch

LEARNING_RATE = 0.01


class Probes(nn.Module):
    """Listens to a model's features: learns from them in training, predicts from them in evaluation.

    Args:
        num_features: Modality -> D.
        num_classes: K.
        dtype: Of the probes' weights.
    """

    def __init__(self, num_features: Mapping[str, int], num_classes: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.weights = nn.ParameterDict(
            {name: torch.zeros(num_classes, size + 1, dtype=dtype) for name, size in num_features.items()}
        )
        self.logits: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._optimizer: torch.optim.Adam | None = None

    @torch.no_grad()
    def observe(self, features: Mapping[str, Tensor], batch: Batch) -> None:
        """Takes features (B, D) of some modalities.

        In training it adds up the cross-entropy's gradients for `step`, in evaluation it leaves `logits` (B, K).
        """
        with _full_precision(batch.labels.device):
            for name, values in features.items():
                weight = self.weights[name]
                inputs = values.detach().to(weight.dtype)
                logits = torch.addmm(weight[:, -1], inputs, weight[:, :-1].T)
                if not self.training:
                    self.logits[name] = logits
                elif batch.num_samples:
                    self._add_gradient(name, inputs, logits, batch.labels)

    def step(self) -> None:
        """Updates the probes with the gradients averaged over all samples of all ranks since the last step."""
        for name, weight in self.weights.items():
            weight.grad = self._gradients.get(name, torch.zeros_like(weight))
        self._gradients = {}
        if distributed.is_distributed():
            gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
            distributed.all_reduce_sum(gradients)
        self.optimizer.step()

    @property
    def optimizer(self) -> torch.optim.Adam:
        """The probes' own optimizer, made when the weights are where they stay."""
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(list(self.weights.values()), lr=LEARNING_RATE)
        return self._optimizer

    def full_state(self) -> dict[str, Any]:
        """Returns weights and optimizer state."""
        return {"weights": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_full_state(self, state: dict[str, Any]) -> None:
        """Restores what `full_state` returned."""
        self.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _add_gradient(self, name: str, inputs: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds the gradient of the summed cross-entropy: (softmax - onehot)ᵀ [features, 1]."""
        error = logits.softmax(dim=1)
        error.scatter_add_(1, labels[:, None], torch.full_like(error[:, :1], -1.0))
        gradient = torch.cat([error.T @ inputs, error.sum(dim=0)[:, None]], dim=1)
        self._gradients[name] = self._gradients[name] + gradient if name in self._gradients else gradient


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context without autocast (which not every kind of device has)."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
