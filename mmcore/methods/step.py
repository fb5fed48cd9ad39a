"""What a method may ask of the engine within one step; methods see nothing else of it.

Shape legend: B samples of this rank's shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mmcore.batch import Batch


class Place(NamedTuple):
    """Where in the run a step is.

    Attributes:
        epoch: The running epoch, from 0.
        step: The step within the epoch, from 0; all phases of one batch are one step.
        num_steps: Steps of this epoch; in `begin_epoch` and `plan_epoch` those of one without a plan.
    """

    epoch: int
    step: int
    num_steps: int


class Answer(NamedTuple):
    """What a teacher says of a batch.

    Attributes:
        logits: (B, K).
        features: (B, D), of its encoder; its own D (`Teacher.num_features`).
    """

    logits: Tensor
    features: Tensor


class Teacher(Protocol):
    """A model of one modality that was trained alone, and that learns no more.

    It belongs to no method's parameters or state. Of a sample that lacks the modality it says nothing of use.
    """

    @property
    def num_features(self) -> int:
        """D of its features."""

    @property
    def checksum(self) -> str:
        """What two teachers with different weights differ in."""

    def __call__(self, batch: Batch) -> Answer:
        """Returns what it says of a transformed batch, as in evaluation; no gradient leads there."""


class Samples(Protocol):
    """Tables of a number for each training sample, which checkpoints hold."""

    def values(self, name: str) -> Tensor:
        """Returns what was added up until the epoch began, (N,), by `Batch.rows`; 0 at first.

        Within the epoch it stays as it is, so that all ranks read what one would.
        """

    def add(self, name: str, batch: Batch, values: Tensor) -> None:
        """Adds values (B,) to the samples' numbers; every rank calls it for each batch, a placeholder too."""

    def forget(self, name: str) -> None:
        """Sets a table to 0, what was added and not yet taken up included; every rank calls it."""


class Step(Protocol):
    """The engine as methods see it: backward passes, statistics over all ranks, growth.

    It keeps rank, device, precision and optimizer to itself; `mmcore.training.engine.Engine` is the one that trains.
    """

    @property
    def class_weights(self) -> Tensor | None:
        """Weight of each class in training losses, (K,); None: all count alike."""

    @property
    def is_first_part(self) -> bool:
        """Whether this micro-batch is the first of its optimizer step."""

    @property
    def place(self) -> Place:
        """The running epoch and step: plain numbers, the same on every rank."""

    @property
    def samples(self) -> Samples:
        """What is remembered of each training sample."""

    @property
    def learning_rate(self) -> float:
        """The current learning rate, where its factor is 1."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context in which forward passes run at the configured precision."""

    def micro_batches(self, batch: Batch) -> Iterator[Batch]:
        """Yields the parts a step's batch is cut into."""

    def backward(self, terms: dict[str, Tensor], phase: str | None = None) -> dict[str, Tensor]:
        """Adds the gradient of the terms' sum; returns the terms, detached, weighted by their part of the step.

        Args:
            terms: Name -> scalar, a mean over this rank's samples.
            phase: Given where the micro-batch has no further pass before `reduce_gradients(phase)`.
        """

    def reduce_gradients(self, phase: str) -> None:
        """Averages the gradients of the phase's parameters over all samples of all ranks."""

    def step(self) -> None:
        """Clips if asked for, and updates the parameters."""

    def gradients(self, loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Returns the gradients of a mean over this rank's samples, averaged over all; `grad` is left alone."""

    def mean(self, statistic: Tensor) -> Tensor:
        """Returns a batch statistic (a mean over this rank's samples, any shape) averaged over all ranks' samples."""

    def means(self, values: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """Returns name -> the mean of per-sample values (B,) over the samples in its mask (B,), as a loss term."""

    def total(self, statistic: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the sum over all ranks' samples behind a batch mean, and the number of those samples (a scalar)."""

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over all ranks of what each summed up over its own samples, in any number of batches."""

    def gather(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the values (B, ...) of all ranks' samples, in the order of the batch the ranks share.

        No step waits for it, so the ranks' parts are padded. Gradients lead to this rank's own values alone.

        Returns:
            (S, ...), S the same on every rank, and which of them belong to a sample, (S,) bool.
        """

    def passes(self, split: str, fraction: float = 1.0, most: int | None = None) -> Iterator[Batch]:
        """Yields this rank's part of batches of a share of a split, on the device, transformed as in evaluation.

        For `begin_epoch`; puts the method in evaluation mode. The samples are drawn anew for each epoch, the same on
        every rank, at least one batch of them. Every rank gets as many batches; an empty part is a placeholder, whose
        samples sums must leave out.

        Args:
            split: "train" or "val": test teaches nothing.
            fraction: Share of the split's samples, in [0, 1]; 0: one batch.
            most: Most samples, unless that is less than a batch; None: as many as the share has.
        """

    def ahead(self, num_epochs: int) -> Iterator[Batch]:
        """Yields the training batches of as many epochs from the running one on, as they themselves will have them.

        Without what `plan_epoch` says of them, which is asked later.

        For steps within a `rehearsal` in `begin_epoch`; puts the method in training mode.
        """

    def rehearsal(self) -> AbstractContextManager[None]:
        """Returns a context at whose end all that its steps changed is put back: weights, optimizer, generators.

        What was found out in it is to be kept outside the method's buffers until then.
        """

    def generator(self, name: str) -> torch.Generator:
        """Returns a CPU generator that draws the same numbers on every rank, at this place of the run."""

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Returns standard normal numbers of a tensor's shape and type, the same on every rank, drawn on its device."""

    def grow(self, module: nn.Module, group: str) -> None:
        """Takes a new module's parameters into the optimizer: equal values on all ranks, the current learning rate."""

    def set_rate_factors(self, factors: Mapping[str, float]) -> None:
        """Multiplies the learning rate of some parameter groups (`Method.parameter_groups`) from now on.

        The others' factor is 1; checkpoints hold the factors. Weight decay, as a part of the step, is multiplied too.
        """
