"""Where a worker's samples come from: a small handle that every process can open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcore import distributed
from mmcore.config.schema import RunConfig
from mmcore.data.feeding.loader import Loader, TensorLoader
from mmcore.data.prepared.store import PreparedDataset

if TYPE_CHECKING:
    from rayjobs.feeding.cached import CachedData


def open_data(prepared: PreparedDataset, cache_bytes: int | None) -> DataHandle:
    """Returns the handle trials read by: shared in the object store where the data fits the budget, else streamed."""
    from rayjobs.feeding.cached import materialise

    return DataHandle(str(prepared.directory.resolve()), materialise(prepared, cache_bytes))


@dataclass(frozen=True)
class DataHandle:
    """Where a worker's samples come from; small, and picklable.

    Attributes:
        directory: The prepared data set.
        cached: Its rows in the object store, shared by all trials of a node; None: they are streamed.
        in_process: Read the files into this process instead; needs no Ray.
    """

    directory: str
    cached: CachedData | None = None
    in_process: bool = False

    def prepared(self) -> PreparedDataset:
        """Opens the prepared data set."""
        return PreparedDataset.open(self.directory)

    def loader(self, config: RunConfig, prepared: PreparedDataset, *, pin_memory: bool) -> Loader:
        """Returns this rank's loader."""
        assignment = prepared.assign(config.protocol)
        options: dict[str, Any] = {
            "eval_batch_size": config.trainer.eval_batch_size,
            "seed": config.seed,
            "rank": distributed.rank(),
            "world_size": distributed.world_size(),
            "pin_memory": pin_memory,
        }
        batch_size = config.trainer.batch_size
        if self.in_process:
            return TensorLoader.from_prepared(prepared, assignment, batch_size, **options)
        from rayjobs.feeding.streaming import StreamLoader

        if self.cached is not None:
            return self.cached.loader(assignment, batch_size, **options)
        return StreamLoader(prepared, assignment, batch_size, num_epochs=config.trainer.max_epochs, **options)
