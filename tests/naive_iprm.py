"""Algorithm 1 of IPRM's paper as a loop, and the trainer it can follow."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.methods.iprm import pair_key
from mmcore.training.trainer import Trainer

LR = 0.05


def iprm_trainer(num_modalities: int, **settings: object) -> Trainer:
    """Plain gradient descent in float64, so that a loop can follow it."""
    values = {
        "trainer__precision": "float64",
        "trainer__probes": False,
        "optimizer__lr": LR,
        "optimizer__momentum": 0.0,
        "optimizer__weight_decay": 0.0,
    }
    spec = make_spec(num_modalities)
    settings = {key if "__" in key else f"method__{key}": value for key, value in settings.items()}
    trainer = make_trainer(make_config("iprm", spec, **{**values, **settings}), spec)
    with torch.no_grad():  # apart enough that λ̂ is far from 1/2
        for head in trainer.method.mixed_heads.values():
            head.weight.mul_(6)
        trainer.method.heads["quiet"].weight.mul_(4)
    trainer.method.train()
    return trainer


def batches(trainer: Trainer, count: int) -> list[Batch]:
    found = [batch for epoch in range(2) for batch in trainer.loader.train_batches(epoch)][:count]
    return [batch.with_inputs({name: x.double() for name, x in batch.inputs.items()}) for batch in found]


class NaiveIprm:
    """Algorithm 1, sample by sample, with the paper's arccos; K classes, any number of modalities."""

    def __init__(self, trainer: Trainer, alpha: float = 0.8, mixing: str = "geodesic", passes: str = "two"):
        method = trainer.method
        self.parameters = {name: p.detach().clone().requires_grad_() for name, p in method.named_parameters()}
        self.names = method.context.modalities
        self.pairs = list(itertools.combinations(self.names, 2))
        self.alpha, self.mixing, self.passes = alpha, mixing, passes
        self.probed: dict[tuple[str, str], list[float]] = {pair: [] for pair in self.pairs}
        self.rebalanced: dict[tuple[str, str], list[float]] = {pair: [] for pair in self.pairs}

    def linear(self, path: str, x: Tensor) -> Tensor:
        return self.parameters[f"{path}.weight"] @ x + self.parameters[f"{path}.bias"]

    def mix(self, pair: tuple[str, str], z: dict[str, Tensor], weight: float) -> Tensor:
        first, second = (z[name] / z[name].norm() for name in pair)
        if self.mixing == "linear":
            mixed = weight * first + (1 - weight) * second
        else:
            theta = torch.acos(first @ second)
            shares = torch.sin(weight * theta) / torch.sin(theta), torch.sin((1 - weight) * theta) / torch.sin(theta)
            mixed = shares[0] * first + shares[1] * second
        return self.linear(f"mixed_heads.{pair_key(*pair)}", mixed)

    def features(self, batch: Batch) -> list[dict[str, Tensor]]:
        return [
            {
                name: torch.tanh(self.linear(f"model.encoders.{name}.layer", batch.inputs[name][i]))
                for name in self.names
            }
            for i in range(len(batch.labels))
        ]

    def divergences(self, pair: tuple[str, str], samples: list[dict[str, Tensor]], weight: float) -> dict[str, float]:
        """KL(P^o | P̄), summed over the samples, of both modalities."""
        divergence = dict.fromkeys(pair, 0.0)
        for z in samples:
            mixed = self.mix(pair, z, weight).softmax(dim=0)
            for name in pair:
                own = self.linear(f"heads.{name}", z[name]).softmax(dim=0)
                divergence[name] += (own * torch.log(own / mixed)).sum().item()
        return divergence

    def step(self, batch: Batch) -> dict[str, float]:
        samples = self.features(batch)
        terms: dict[str, Tensor] = {
            name: sum(
                F.cross_entropy(self.linear(f"heads.{name}", z[name]), label)
                for z, label in zip(samples, batch.labels, strict=True)
            )
            / len(samples)
            for name in self.names
        }
        for pair in self.pairs:
            probed, rebalanced = self.probed[pair], self.rebalanced[pair]
            probed.append(self.alpha * probed[-1] + (1 - self.alpha) * rebalanced[-1] if probed else 0.5)
            divergence = self.divergences(pair, samples, probed[-1])
            rebalanced.append(divergence[pair[1]] / (divergence[pair[0]] + divergence[pair[1]]))
            weight = rebalanced[-1] if self.passes == "two" else probed[-1]
            losses = [F.cross_entropy(self.mix(pair, z, weight), y) for z, y in zip(samples, batch.labels, strict=True)]
            terms[f"mixed/{pair_key(*pair)}"] = sum(losses) / len(losses)
        gradients = torch.autograd.grad(sum(terms.values()), list(self.parameters.values()))
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
                parameter -= LR * gradient
        return {name: term.item() for name, term in terms.items()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        rows = []
        for z in self.features(batch):
            own = sum(self.linear(f"heads.{name}", z[name]) for name in self.names)
            mixed = sum(self.mix(pair, z, self.probed[pair][-1]) for pair in self.pairs) / len(self.pairs)
            rows.append(own + mixed)
        return torch.stack(rows)


def naive_share(naive: NaiveIprm, pair: tuple[str, str], samples: list[dict[str, Tensor]], weight: float) -> float:
    divergence = naive.divergences(pair, samples, weight)
    return divergence[pair[1]] / (divergence[pair[0]] + divergence[pair[1]])
