"""The same trainings as plain PyTorch loops, written from the papers' equations: the other side of the ratios.

What a person writes in one file for one method and one pair of encoders: no configuration, no logging, no probes, no
checkpoints, one process. Nothing here calls a `Method`, the `Engine` or the transforms of the package.

Shape legend: B samples, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcore.config.schema import RunConfig
from mmcore.transforms.spectrogram import mel_filters

NUM_CLASSES = 10
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4


def small_conv(channels: int, width: int, features: int, depth: int) -> nn.Module:
    """Blocks of convolution with stride 2, batch norm and ReLU, then the mean over the picture."""
    sizes = [channels, *(min(width * 2**block, features) for block in range(depth - 1)), features]
    layers: list[nn.Module] = []
    for inside, outside in pairwise(sizes):
        layers += [nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet18(channels: int) -> nn.Module:
    """ResNet-18 of torchvision without its last layer: D = 512."""
    from torchvision.models import resnet18 as build

    network = build()
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    network.fc = nn.Identity()
    return network


class Digits(nn.Module):
    """The `digits` set's input: pixels scaled, the waveform's standardised log-mel spectrogram.

    Args:
        mean: Mean of the pixels, subtracted.
        std: Standard deviation of the pixels, divided by.
        n_fft: Length of a window.
        hop_length: Samples from one window to the next.
        filters: (number of mel filters, n_fft // 2 + 1).
    """

    def __init__(self, mean: float, std: float, n_fft: int, hop_length: int, filters: Tensor):
        super().__init__()
        self.mean, self.std, self.hop_length = mean, std, hop_length
        self.register_buffer("filters", filters)
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        image = (inputs["image"].to(self.window.dtype) / 255 - self.mean) / self.std
        wave = inputs["audio"].to(self.window.dtype) / 32768
        n_fft = len(self.window)
        spectrum = torch.stft(
            wave, n_fft, self.hop_length, window=self.window, pad_mode="constant", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        spectrogram = (self.filters @ power + 1e-7).log()
        std, mean = torch.std_mean(spectrogram, dim=(1, 2), correction=0, keepdim=True)
        audio = ((spectrogram - mean) / std)[:, None]
        return image.to(memory_format=torch.channels_last), audio.to(memory_format=torch.channels_last)


class Pictures(nn.Module):
    """Two pictures of bytes, scaled."""

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.mean, self.std = mean, std
        self.register_buffer("one", torch.ones(()))

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        first, second = ((x.to(self.one.dtype) / 255 - self.mean) / self.std for x in inputs.values())
        return first.to(memory_format=torch.channels_last), second.to(memory_format=torch.channels_last)


class Plain(nn.Module):
    """Two encoders and an optimizer; a subclass adds heads and the loss."""

    def __init__(self, preprocess: Digits | Pictures, first: nn.Module, second: nn.Module, num_features: int):
        super().__init__()
        self.preprocess = preprocess
        self.first = first.to(memory_format=torch.channels_last)
        self.second = second.to(memory_format=torch.channels_last)
        self.num_features = num_features

    def start(self, lr: float = LR) -> None:
        self.optimizer = torch.optim.SGD(self.parameters(), lr, MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            first, second = self.preprocess(inputs)
        loss = self.loss(self.first(first), self.second(second), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError


class PlainJoint(Plain):
    """Cross-entropy of a linear head on both feature vectors."""

    def __init__(self, *parts) -> None:
        super().__init__(*parts)
        self.head = nn.Linear(2 * self.num_features, NUM_CLASSES)

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.fused(first, second), labels)

    def fused(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head(torch.cat([first, second], dim=1))


def unit(x: Tensor) -> Tensor:
    """Features (B, D) at norm 1, with a bounded gradient at zero."""
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()


def slerp(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    """Equation (1) of IPRM, made safe: the point at `share` of the great circle from y to x.

    The angle by atan2; nearly equal vectors are mixed linearly; between opposite ones the way goes through a
    direction orthogonal to x. (By arccos of the product, as a first draft would have it, the loss can become NaN.)
    """
    apart, together = (x - y).norm(dim=1, keepdim=True), (x + y).norm(dim=1, keepdim=True)
    angle = 2 * torch.atan2(apart, together)
    flat = angle.sin() < 1e-4
    angle = torch.where(flat, torch.pi / 2, angle)
    x_share = torch.where(flat, share, torch.sin(share * angle) / angle.sin())
    y_share = torch.where(flat, 1 - share, torch.sin((1 - share) * angle) / angle.sin())
    with torch.no_grad():
        side = F.one_hot(x.abs().argmin(dim=1), x.shape[1]).to(x.dtype)
        side = F.normalize(side - (side * x).sum(dim=1, keepdim=True) * x)
    around = torch.cos((1 - share) * torch.pi) * x + torch.sin((1 - share) * torch.pi) * side
    return torch.where(flat & (apart > together), around, x_share * x + y_share * y)


def divergence(logits: Tensor, mixed: Tensor) -> Tensor:
    """KL(p ‖ p̄), mean over samples, not under 0."""
    mean = F.kl_div(mixed.log_softmax(dim=1), logits.log_softmax(dim=1), reduction="batchmean", log_target=True)
    return mean.clamp(min=0)


class PlainIprm(Plain):
    """IPRM, Algorithm 1: a probing pass through the mixed head gives the share, a second pass is learned from."""

    def __init__(self, *parts, alpha: float = 0.8):
        super().__init__(*parts)
        self.first_head = nn.Linear(self.num_features, NUM_CLASSES)
        self.second_head = nn.Linear(self.num_features, NUM_CLASSES)
        self.mixed_head = nn.Linear(self.num_features, NUM_CLASSES)
        self.alpha = alpha
        self.running = torch.tensor(0.5)
        self.probed = self.running

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        first_logits, second_logits = self.first_head(first), self.second_head(second)
        x, y = unit(first), unit(second)
        with torch.no_grad():
            mixed = self.mixed_head(slerp(x, y, self.running))
            first_kl, second_kl = divergence(first_logits, mixed), divergence(second_logits, mixed)
            total = first_kl + second_kl
            share = torch.where(total < 1e-7, 0.5, second_kl / total).clamp(0, 1)
            self.probed = self.running
            self.running = self.alpha * self.running + (1 - self.alpha) * share
        mixed = self.mixed_head(slerp(x, y, share))
        terms = [F.cross_entropy(logits, labels) for logits in (first_logits, second_logits, mixed)]
        return torch.stack(terms).sum()

    def fused(self, first: Tensor, second: Tensor) -> Tensor:
        mixed = self.mixed_head(slerp(unit(first), unit(second), self.probed))
        return self.first_head(first) + self.second_head(second) + mixed


class PlainAug(Plain):
    """AUG, equations (2) to (6), with a fixed number of classifiers of each modality."""

    def __init__(self, *parts, num_classifiers: int = 1, residual_weight: float = 0.5, hidden: int = 256):
        super().__init__(*parts)
        sizes = [(self.num_features, hidden)] * num_classifiers
        self.first_layers = nn.ModuleList([nn.Linear(*size) for size in sizes])
        self.second_layers = nn.ModuleList([nn.Linear(*size) for size in sizes])
        self.shared = nn.Linear(hidden, NUM_CLASSES)
        self.residual_weight = residual_weight
        self.scores = torch.zeros(2)
        self.num_scored = 0

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        first_loss, first_score = self.modality_loss(self.first_layers, first, labels)
        second_loss, second_score = self.modality_loss(self.second_layers, second, labels)
        self.scores += torch.stack([first_score, second_score])
        self.num_scored += len(labels)
        return first_loss + second_loss

    def modality_loss(self, layers: nn.ModuleList, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        each = [self.shared(F.relu(layer(features))) for layer in layers]
        previous = sum(each[:-1]) if len(each) > 1 else None
        total = each[-1] if previous is None else previous + each[-1]
        loss = F.cross_entropy(total, labels)
        if previous is not None:
            with torch.no_grad():
                known = previous.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
            newest = F.cross_entropy(each[-1], labels, reduction="none")
            loss = loss + ((1 - self.residual_weight * known) * newest).mean() + F.cross_entropy(previous, labels)
        with torch.no_grad():
            score = total.softmax(dim=1).gather(1, labels[:, None]).sum()
        return loss, score

    def fused(self, first: Tensor, second: Tensor) -> Tensor:
        logits = [
            torch.stack([self.shared(F.relu(layer(features))) for layer in layers]).sum(dim=0)
            for layers, features in ((self.first_layers, first), (self.second_layers, second))
        ]
        return torch.stack(logits).mean(dim=0)


def digits_parts(config: RunConfig) -> tuple:
    """Returns preprocessing and encoders as the configuration of a run on `digits` describes them."""
    image, audio = (config.dataset.transforms[name] for name in ("image", "audio"))
    encoder = config.model.encoders["image"]
    # A constant, which every spectrogram library has a function for.
    filters = mel_filters(audio["n_mels"], audio["n_fft"], 8000)
    preprocess = Digits(image["mean"], image["std"], audio["n_fft"], audio["hop_length"], filters)
    sizes = {key: encoder[key] for key in ("width", "features", "depth")}
    return preprocess, small_conv(1, **sizes), small_conv(1, **sizes), sizes["features"]
