"""The job of one training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmcore.config.plain import Plain
from mmcore.config.sections import get_path
from mmcore.storage import make_folder
from rayjobs.feeding.handle import DataHandle
from rayjobs.runs.extra_tests import NOTHING_MORE, Extra
from rayjobs.runs.handover import Schedule
from rayjobs.storage.mirror import NO_MIRROR, Mirror

if TYPE_CHECKING:
    from mmcore.training.run_log import Reporter

Body = Callable[["Job", "Reporter"], object]
"""`rayjobs.runs.worker.run`, or a stand-in of a test; what counts of it is the files it leaves."""


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        config: `RunConfig.to_dict()` of a complete configuration.
        data: Where the samples come from.
        run_dir: Folder of everything the run writes; seen by all workers, itself or by its twin.
        home: Folder above it that must be there, or its disk is away; "": the run's folder is made wherever it is.
        test: Read test once at the end, from the selected epoch. For final models only.
        command: What was typed, for the ledger.
        extra: What is tested beside the data as they are.
        alone: Modality -> validation accuracy of a reference trained on it alone, as far as known; for the readings.
        schedule: Searched values that change at some epochs, of population-based training; `config` has the last ones.
        snapshot_every: Epochs after which the run is kept for another trial to continue from; 0: never.
        elastic: The fewest and the most workers of a group whose size may change; None: it is fixed.
        mirror: Where the run's folder has its twin.
        parts: Modality -> configuration of the network that is trained on it alone, of a run made of several; their
            logits are summed. Empty for all other runs.
        teachers: Modality -> folder of the finished run of `unimodal` that its method learns from, if it learns from
            any; empty: they are trained first.
    """

    config: dict[str, Plain]
    data: DataHandle
    run_dir: str
    home: str = ""
    test: bool = False
    command: str = ""
    extra: Extra = NOTHING_MORE
    alone: Mapping[str, float] = field(default_factory=dict)
    schedule: Schedule = ()
    snapshot_every: int = 0
    elastic: tuple[int, int] | None = None
    mirror: Mirror = NO_MIRROR
    parts: Mapping[str, dict[str, Plain]] = field(default_factory=dict)
    teachers: Mapping[str, str] = field(default_factory=dict)

    def make_folder(self) -> None:
        """Makes the run's folder; waits where its disk is away, and makes no other in its place.

        Raises:
            OSError: It is still away after some minutes.
        """
        if self.home and not self.mirror:  # a copy of what lies elsewhere is made where it is needed
            make_folder(Path(self.run_dir), Path(self.home))
        else:
            Path(self.run_dir).mkdir(parents=True, exist_ok=True)

    @property
    def select(self) -> str:
        """Which epoch is tested: "best" or "last"."""
        return str(get_path(self.config, "trainer.select"))

    @property
    def max_epochs(self) -> int:
        """Epochs of a run that is not stopped early, of all its parts together."""
        return sum(int(get_path(config, "trainer.max_epochs")) for config in self.parts.values() or [self.config])
