"""The balancing methods of other papers, and what they stand on, as plain loops: one step of each, by its rule.

As in `plain.py`, whose base and encoders they use: two modalities, nothing of a `Method`, the `Engine` or the
transforms of the package. Each does what a person who knows the rule would: no pass twice, no graph kept longer than
needed.

Shape legend: B samples, K classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from plain import NUM_CLASSES, Plain, PlainAug, PlainIprm, PlainJoint
from torch import Tensor, nn

from mmcore.seeding import generator as seeded_generator

SMALL = 1e-8


class PlainEnsemble(Plain):
    """The cross-entropies of two networks side by side."""

    def __init__(self, *parts) -> None:
        super().__init__(*parts)
        self.first_head = nn.Linear(self.num_features, NUM_CLASSES)
        self.second_head = nn.Linear(self.num_features, NUM_CLASSES)

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.first_head(first), labels) + F.cross_entropy(self.second_head(second), labels)


class PlainJointUnimodal(PlainJoint):
    """The joint cross-entropy, and that of a linear head of each modality."""

    def __init__(self, *parts) -> None:
        super().__init__(*parts)
        self.first_head = nn.Linear(self.num_features, NUM_CLASSES)
        self.second_head = nn.Linear(self.num_features, NUM_CLASSES)

    def losses(self, first: Tensor, second: Tensor, labels: Tensor) -> list[Tensor]:
        logits = (self.fused(first, second), self.first_head(first), self.second_head(second))
        return [F.cross_entropy(values, labels) for values in logits]

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        return sum(self.losses(first, second, labels))


class PlainMslr(PlainEnsemble):
    """MSLR in its first epochs: the cross-entropy of the heads' sum, each modality's gradients multiplied by 1."""

    def step(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            first, second = self.preprocess(inputs)
        loss = F.cross_entropy(self.first_head(self.first(first)) + self.second_head(self.second(second)), labels)
        self.optimizer.zero_grad()
        loss.backward()
        for modules in ((self.first, self.first_head), (self.second, self.second_head)):
            for parameter in (p for module in modules for p in module.parameters()):
                parameter.grad *= 1.0
        self.optimizer.step()
        return loss.detach()


class PlainQmf(PlainEnsemble):
    """QMF in its first epoch, when no sample has cost anything: fused by confidence, which is ranked without effect."""

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        logits = [self.first_head(first), self.second_head(second)]
        confidences = [values.logsumexp(dim=1) / 10 for values in logits]
        fused = sum(c.detach()[:, None] * values for c, values in zip(confidences, logits, strict=True))
        loss = F.cross_entropy(fused, labels) + sum(F.cross_entropy(values, labels) for values in logits)
        history = torch.zeros(len(labels), dtype=first.dtype, device=first.device)
        return loss + 0.1 * sum(self.ranking(c, history) for c in confidences)

    def ranking(self, confidences: Tensor, history: Tensor) -> Tensor:
        gap = history - history.roll(-1)
        return (gap.sign() * (confidences - confidences.roll(-1)) - gap.abs()).relu().mean()


class PlainOgm(PlainJoint):
    """OGM: the encoder of the modality that answers better has its gradient damped; GE adds noise of its size."""

    def __init__(self, *parts, alpha: float = 0.8, noise: bool = False):
        super().__init__(*parts)
        self.alpha, self.noise = alpha, noise

    def step(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            first, second = self.preprocess(inputs)
        first, second = self.first(first), self.second(second)
        loss = F.cross_entropy(self.fused(first, second), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.modulate(first, second, labels)
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def modulate(self, first: Tensor, second: Tensor, labels: Tensor) -> None:
        columns = self.head.weight.chunk(2, dim=1)
        scores = [
            F.linear(features, part, self.head.bias / 2).softmax(dim=1).gather(1, labels[:, None]).mean()
            for features, part in zip((first, second), columns, strict=True)
        ]
        for encoder, own, other in ((self.first, *scores), (self.second, *reversed(scores))):
            ratio = own / other.clamp(min=SMALL)
            damping = torch.where(ratio > 1, 1 - torch.tanh(self.alpha * ratio), 1)
            for parameter in encoder.parameters():
                gradient = parameter.grad
                noise = torch.randn_like(gradient) * (gradient.std() + SMALL) if self.noise else None
                gradient.mul_(damping)
                if noise is not None:
                    gradient.add_(noise)


class PlainAmss(PlainOgm):
    """AMSS: of each layer only the units learn that are drawn by their gradients, or that have the longest ones."""

    def __init__(self, *parts, temperature: float = 0.2, top: bool = False):
        super().__init__(*parts)
        self.temperature, self.top = temperature, top

    @torch.no_grad()
    def modulate(self, first: Tensor, second: Tensor, labels: Tensor) -> None:
        frequencies = labels.bincount(minlength=NUM_CLASSES) / len(labels)
        entropy, known, utilities = -torch.xlogy(frequencies, frequencies).sum(), [], []
        for features, part in zip((first, second), self.head.weight.chunk(2, dim=1), strict=True):
            known.append(entropy + 0.5 - F.cross_entropy(F.linear(features, part, self.head.bias / 2), labels))
            own = -(features.softmax(dim=1) * features.log_softmax(dim=1)).sum(dim=1).mean()
            utilities.append(known[-1] / own)
        shares = (-torch.stack(utilities) / self.temperature).softmax(dim=0).clamp(0.1, 0.9).tolist()
        for encoder, share in zip((self.first, self.second), shares if min(known) > 0 else (0.5, 0.5), strict=True):
            for gradient in (p.grad for p in encoder.parameters() if p.dim() > 1):
                importance = gradient.flatten(1).square().sum(dim=1)
                number = math.ceil(share * len(gradient) - 1e-6)
                kept = importance.topk(number).indices if self.top else importance.multinomial(number)
                gradient[torch.ones(len(gradient), dtype=torch.bool).index_fill(0, kept, False)] = 0


class PlainInfoReg(PlainJoint):
    """InfoReg in a run's first epoch: the encoder that answers better is pulled back to where the epoch began."""

    def __init__(self, *parts, beta: float = 0.95, gap_scale: float = 64.0):
        super().__init__(*parts)
        self.beta, self.gap_scale = beta, gap_scale
        self.starts: list[list[Tensor]] = []
        self.traces = torch.zeros(2)

    def step(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            first, second = self.preprocess(inputs)
        first, second = self.first(first), self.second(second)
        parts = [
            F.linear(x, w, self.head.bias / 2)
            for x, w in zip((first, second), self.head.weight.chunk(2, dim=1), strict=True)
        ]
        loss = sum(F.cross_entropy(z, labels) for z in (self.fused(first, second), *parts))
        self.optimizer.zero_grad()
        loss.backward()
        self.pull([z.detach().softmax(dim=1).gather(1, labels[:, None]).mean() for z in parts])
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def pull(self, scores: list[Tensor]) -> None:
        encoders = [list(encoder.parameters()) for encoder in (self.first, self.second)]
        self.starts = self.starts or [[p.clone() for p in parameters] for parameters in encoders]
        lead = scores[0] - scores[1]
        for index, own in enumerate((lead, -lead)):
            strength = torch.where(own > 0, self.beta * torch.exp(torch.tanh(self.gap_scale * own)), 0)
            for parameter, start in zip(encoders[index], self.starts[index], strict=True):
                parameter.grad.add_((parameter - start) * strength)
                self.traces[index] += parameter.grad.square().mean()


class PlainMMPareto(PlainJointUnimodal):
    """MMPareto: an encoder's joint and own gradient are weighed where they conflict, and made as long as their sum."""

    def __init__(self, *parts, gamma: float = 1.5):
        super().__init__(*parts)
        self.gamma = gamma

    def step(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            first, second = self.preprocess(inputs)
        joint, *own = self.losses(self.first(first), self.second(second), labels)
        self.optimizer.zero_grad()
        joint.backward(retain_graph=True)
        for encoder, head, loss in zip(
            (self.first, self.second), (self.first_head, self.second_head), own, strict=True
        ):
            parameters = [*encoder.parameters(), *head.parameters()]
            gradients = torch.autograd.grad(loss, parameters)
            encoder_gradients, head_gradients = gradients[:-2], gradients[-2:]
            for parameter, gradient in zip(head.parameters(), head_gradients, strict=True):
                parameter.grad = gradient
            self.weigh(list(encoder.parameters()), encoder_gradients)
        self.optimizer.step()
        return (joint + sum(own)).detach()

    @torch.no_grad()
    def weigh(self, parameters: list[nn.Parameter], own: tuple[Tensor, ...]) -> None:
        joint = [parameter.grad for parameter in parameters]
        product = sum((a * u).sum() for a, u in zip(joint, own, strict=True))
        joint_square, own_square = (sum(g.square().sum() for g in gradients) for gradients in (joint, own))
        least = (own_square - product) / (joint_square + own_square - 2 * product)
        share = torch.where(product > 0, 0.5, least)
        for parameter, a, u in zip(parameters, joint, own, strict=True):
            weighted = 2 * share * a + 2 * (1 - share) * u
            length = weighted.norm()
            stretch = torch.where(length > 0, (a + u).norm() / torch.where(length > 0, length, 1), 1)
            parameter.grad = self.gamma * stretch.clamp(min=1) * weighted


class PlainAgm(PlainJoint):
    """AGM: each modality's Shapley share of the joint logits has its gradient scaled, by how well it does just now."""

    def __init__(self, *parts, alpha: float = 1.5, cap: float = 10.0):
        super().__init__(*parts)
        self.alpha, self.cap = alpha, cap
        self.means = torch.zeros(2)
        self.num_steps = 0

    def step(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            first, second = self.preprocess(inputs)
        together = self.fused(self.first(first), self.second(second))
        only_first, only_second = self.alone(first, second)
        first_share = (only_first + together - only_second) / 2
        second_share = (only_second + together - only_first) / 2
        scales = self.scales(first_share, second_share, labels)
        for share, scale in zip((first_share, second_share), scales, strict=True):
            share.register_hook(lambda gradient, scale=scale: gradient * scale)
        loss = F.cross_entropy(first_share + second_share, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def alone(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with the other input at zero, as in evaluation; of zeros one sample is enough."""
        self.eval()
        features = self.first(first), self.second(second)
        blank = [
            encoder(torch.zeros_like(x[:1])).expand(len(x), -1)
            for encoder, x in ((self.first, first), (self.second, second))
        ]
        self.train()
        return self.fused(features[0], blank[1]), self.fused(blank[0], features[1])

    @torch.no_grad()
    def scales(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        costs = torch.stack(
            [
                -share.softmax(dim=1).gather(1, labels[:, None]).clamp(min=SMALL).log().mean()
                for share in (first, second)
            ]
        )
        reference, current = (torch.exp(2 * (values.mean() - values)) for values in (self.means.to(costs.dtype), costs))
        self.num_steps += 1
        self.means = self.means + (costs - self.means) / self.num_steps
        return torch.exp(self.alpha * (reference - current).clamp(max=self.cap))


def unit(vectors: Tensor) -> Tensor:
    """Vectors along the last axis at length 1, with a finite gradient at zero."""
    return vectors * (vectors.square().sum(dim=-1, keepdim=True) + 1e-12).rsqrt()


class PlainMMCosine(Plain):
    """MMCosine: the sum of the modalities' cosine logits."""

    def __init__(self, *parts, scale: float = 10.0):
        super().__init__(*parts)
        self.first_head = nn.Linear(self.num_features, NUM_CLASSES, bias=False)
        self.second_head = nn.Linear(self.num_features, NUM_CLASSES, bias=False)
        self.scale = scale

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        logits = [
            self.scale * F.linear(unit(features), unit(head.weight))
            for features, head in ((first, self.first_head), (second, self.second_head))
        ]
        return F.cross_entropy(logits[0] + logits[1], labels)


class Tokens(nn.Module):
    """A class token and one of each modality through a post-norm transformer."""

    def __init__(self, num_features: int, width: int, layers: int, hidden: int, heads: int):
        super().__init__()
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.projections = nn.ModuleList([nn.Linear(num_features, width) for _ in range(2)])
        self.positions = nn.ParameterList([torch.randn(width) * 0.02 for _ in range(3)])
        self.layers = nn.ModuleList(
            [nn.TransformerEncoderLayer(width, heads, hidden, 0.0, batch_first=True) for _ in range(layers)]
        )
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        features = [project(x) for project, x in zip(self.projections, (first, second), strict=True)]
        tokens = [self.start.expand_as(features[0]), *features]
        sequence = torch.stack([token + place for token, place in zip(tokens, self.positions, strict=True)], dim=1)
        for layer in self.layers:
            sequence = layer(sequence)
        return self.head(sequence[:, 0])


class PlainSimBaMM(Plain):
    """SimBaMM: the cross-entropy of what the transformer reads off the class token."""

    def __init__(self, *parts) -> None:
        super().__init__(*parts)
        self.tokens = Tokens(self.num_features, width=256, layers=2, hidden=512, heads=4)

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.tokens(first, second), labels)


class PlainGBlending(PlainJointUnimodal):
    """G-Blending within a super-epoch: the joint loss and the modalities', each times its weight, at first equal."""

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        return sum(self.losses(first, second, labels)) / 3


class PlainArl(PlainJoint):
    """ARL past its start: the head also answers with one modality, and the encoders' gradients are enlarged."""

    def __init__(self, *parts, gamma: float = 4.0, temperature: float = 8.0, floor: float = 0.3):
        super().__init__(*parts)
        self.gamma, self.temperature, self.floor = gamma, temperature, floor

    def step(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            first, second = self.preprocess(inputs)
        first, second = self.first(first), self.second(second)
        columns = self.head.weight.chunk(2, dim=1)
        own = [F.linear(x, part, self.head.bias) for x, part in zip((first, second), columns, strict=True)]
        alone = sum(F.cross_entropy(logits, labels) for logits in own)
        loss = F.cross_entropy(self.fused(first, second), labels) + self.gamma * alone
        self.optimizer.zero_grad()
        loss.backward()
        self.enlarge(torch.stack(own))
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def enlarge(self, own: Tensor) -> None:
        sizes, logs = own.abs().sum(dim=2).mean(dim=1), own.log_softmax(dim=2)
        entropy = -(logs.exp() * logs).sum(dim=2).mean(dim=1)
        inverse = 1 / (entropy / entropy.sum()).clamp(min=self.floor)
        leaning = (sizes / sizes.sum()).flip(0)
        weights = torch.softmax(self.temperature * leaning * inverse / inverse.sum(), dim=0)
        for encoder, weight in zip((self.first, self.second), weights, strict=True):
            for parameter in encoder.parameters():
                parameter.grad.mul_(1 + weight)


class PlainCml(PlainJoint):
    """CML: the head answers with both and, by turns at random, one modality; that one may not be the surer."""

    def __init__(self, *parts, weight: float = 0.1):
        super().__init__(*parts)
        self.weight = weight
        self.draws = seeded_generator(0, "engine", "chain")

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        keeps_first = torch.randperm(2, generator=self.draws)[1] == 0
        kept = (first, torch.zeros_like(second)) if keeps_first else (torch.zeros_like(first), second)
        both, one = self.fused(first, second), self.fused(*kept)
        before, after = both.softmax(dim=1).max(dim=1), one.softmax(dim=1).max(dim=1)
        is_excused = (after.indices == labels) & (before.indices != labels)
        rise = torch.where(is_excused, 0, (after.values - before.values).relu()).mean()
        return (F.cross_entropy(both, labels) + F.cross_entropy(one, labels)) / 2 + self.weight * rise


class PlainDgl(PlainJoint):
    """DGL: the head learns from the joint loss alone, each encoder from the head's answer to its features alone."""

    def __init__(self, *parts, alpha: float = 4.0):
        super().__init__(*parts)
        self.alpha = alpha

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        joint = F.cross_entropy(self.fused(first.detach(), second.detach()), labels)
        columns, bias = self.head.weight.detach().chunk(2, dim=1), self.head.bias.detach()
        own = [F.linear(x, part, bias) for x, part in zip((first, second), columns, strict=True)]
        return joint + self.alpha * sum(F.cross_entropy(logits, labels) for logits in own)


class PlainLfm(PlainEnsemble):
    """LFM within an epoch: the cross-entropy of the mean logits, and how far the modalities' answers are apart."""

    def __init__(self, *parts, alignment_weight: float = 0.95):
        super().__init__(*parts)
        self.alignment_weight = alignment_weight

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        logits = torch.stack([self.first_head(first), self.second_head(second)])
        logs = logits.log_softmax(dim=2)
        middle = logs.logsumexp(dim=0) - math.log(2)
        apart = (logs.exp() * (logs - middle)).sum(dim=(0, 2)).mean() / 2
        classify = F.cross_entropy(logits.mean(dim=0), labels)
        return 2 * (1 - self.alignment_weight) * classify + 2 * self.alignment_weight * apart


class PlainMla(Plain):
    """MLA: each modality in its turn learns through one head, whose gradient is projected by what it was fed before."""

    def __init__(self, *parts, alpha: float = 0.1):
        super().__init__(*parts)
        self.head = nn.Linear(self.num_features, NUM_CLASSES)
        self.register_buffer("projector", torch.eye(self.num_features))
        self.alpha = alpha  # at an epoch's first step, where the benchmark stays
        self.num_turns = 0

    def step(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            batches = self.preprocess(inputs)
        total = torch.zeros(())
        for encoder, x in zip((self.first, self.second), batches, strict=True):
            features = encoder(x)
            loss = F.cross_entropy(self.head(features), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.project(features.detach().mean(dim=0))
            self.optimizer.step()
            total = total + loss.detach()
        return total

    @torch.no_grad()
    def project(self, mean: Tensor) -> None:
        if self.num_turns > 0:
            direction = self.projector @ mean
            change = torch.outer(direction, direction) / (self.alpha + mean @ direction)
            self.projector = self.projector - change
            self.projector /= self.projector.norm()
            self.head.weight.grad = self.head.weight.grad @ self.projector.T
        self.num_turns += 1


LOOPS: dict[str, Callable[..., Plain]] = {
    "joint": PlainJoint,
    "joint_unimodal": PlainJointUnimodal,
    "ensemble": PlainEnsemble,
    "iprm": PlainIprm,
    "aug": PlainAug,
    "aug-2": partial(PlainAug, num_classifiers=2),
    "aug-5": partial(PlainAug, num_classifiers=5),
    "ogm": PlainOgm,
    "ogm-ge": partial(PlainOgm, noise=True),
    "amss": PlainAmss,
    "amss-top": partial(PlainAmss, top=True),
    "inforeg": PlainInfoReg,
    "mmpareto": PlainMMPareto,
    "agm": PlainAgm,
    "mmcosine": PlainMMCosine,
    "simbamm": PlainSimBaMM,
    "arl-from_start": PlainArl,
    "cml": PlainCml,
    "dgl": PlainDgl,
    "gblending": PlainGBlending,
    "lfm": PlainLfm,
    "mla": PlainMla,
    "mslr": PlainMslr,
    "qmf": PlainQmf,
    "relearning": PlainJoint,
}
"""Case -> what builds its plain loop from the arguments of `Plain`; `aug-2` has two classifiers of each modality."""
