"""Samples for what a method does between epochs: parts of train and validation, and epochs trained ahead.

Shape legend: B samples of this rank's shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from mmcore import distributed, seeding
from mmcore.batch import Batch
from mmcore.config.schema import RunConfig
from mmcore.data.feeding.loader import Loader, drawn_places


class Preparation(Protocol):
    """What is done to each batch before a method is given it."""

    def __call__(self, batch: Batch, *, training: bool) -> Batch:
        """Returns the batch on the device, transformed as in training or in evaluation."""


class Feed:
    """Gives this rank's batches; every rank gets as many.

    Args:
        config: The run.
        loader: Source of this rank's batches.
        prepare: Puts a batch on the device, and transforms it.
        beat: Called after each batch, so that a long pass does not look like a run that hangs.
    """

    def __init__(self, config: RunConfig, loader: Loader, prepare: Preparation, beat: Callable[[], None]):
        self._config = config
        self._loader = loader
        self._prepare = prepare
        self._beat = beat

    def part(self, split: str, fraction: float, epoch: int, most: int | None = None) -> Iterator[Batch]:
        """Yields a drawn share of a split, transformed as in evaluation; at least one batch's samples.

        Args:
            split: "train" or "val".
            fraction: Share of the split's samples, in [0, 1].
            epoch: The epoch that begins, from 0; each draws anew.
            most: Most samples, unless that is less than a batch; None: as many as the share has.
        """
        total = self._loader.num_samples(split)
        num_drawn = round(fraction * total) if most is None else min(most, round(fraction * total))
        num_drawn = max(num_drawn, min(total, self._config.trainer.batch_size))
        places = drawn_places(total, num_drawn, split, self._config.seed, epoch)
        for batch in self._loader.part_batches(split, places):
            yield self._prepare(batch, training=False)
            self._beat()

    def ahead(self, epoch: int, num_epochs: int) -> Iterator[Batch]:
        """Yields the training batches of epochs from `epoch` on, as those epochs themselves will have them."""
        for number in range(epoch, epoch + num_epochs):
            seeding.seed_process(self._config.seed, "ahead", number, distributed.rank())
            for batch in self._loader.train_batches(number):
                yield self._prepare(batch, training=True)
                self._beat()
