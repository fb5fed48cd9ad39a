"""What one trial of Tune's runs: a ticket, which names the run and is all that its process needs beside the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mmcore.config.plain import Settings
from rayjobs.cluster.resources import TrialShape
from rayjobs.runs.job import Job

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

KEY = "ticket"
"""Where a trial's configuration holds its ticket, alone."""


@dataclass(frozen=True)
class Ticket:
    """A run to be done, or a part of one: whoever is given it again continues the run from its newest checkpoint.

    Attributes:
        stage: Name of the search, or of the final models, that the run belongs to.
        name: The run's, within the stage: `trial-003`.
        shape: What it asks of the cluster.
        job: The run; of its data the directory alone.
        values: Its searched values, for a person.
    """

    stage: str
    name: str
    shape: TrialShape
    job: Job
    values: Settings = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        """Folder of everything the run writes."""
        return Path(self.job.run_dir)

    def __deepcopy__(self, memo: dict[int, Ticket]) -> Ticket:
        """Returns itself: it never changes, and Tune copies a trial's configuration three times."""
        return self

    def __str__(self) -> str:
        """Returns a short name: Tune makes tags of it."""
        return f"{self.stage} {self.name}"


def ticket_of(trial: Trial) -> Ticket:
    """Returns the ticket of a trial."""
    return cast(Ticket, (trial.config or {})[KEY])


def run_dir_of(trial: Trial) -> Path:
    """Returns the folder of a trial's run."""
    return ticket_of(trial).run_dir
