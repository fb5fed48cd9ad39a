"""Searches and single runs in one pool, as `tune` runs those of an experiment: what benchmarks of trials share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayjobs.cluster.resources import TrialShape
from rayjobs.experiment.stages import is_settled
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.pool import Pool
from rayjobs.pool.stage import GivenStage, Place, SearchStage, Stage
from rayjobs.pool.tune_run import Execution, run_pool
from rayjobs.runs.job import Job
from rayjobs.search.outcome import Outcome
from rayjobs.search.record import SearchRecord
from rayjobs.search.searches import Search


@dataclass(frozen=True)
class Ground:
    """What runs run on.

    Attributes:
        data: Handle of the samples.
        folder: Everything is written below it.
        places: Most runs at once.
        shape: What a run asks for.
        execution: How runs are run.
    """

    data: DataHandle
    folder: Path
    places: int
    shape: TrialShape = field(default_factory=TrialShape)
    execution: Execution = field(default_factory=Execution)

    def run(self, stages: Sequence[Stage]) -> Pool:
        """Runs stages to their end; returns the pool they were dealt from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pool = Pool(stages, lambda shape: self.places)
        run_pool(pool, {self.data.directory: self.data}, self.folder, self.execution)
        return pool

    def searched(self, searches: Sequence[Search], at_once: int | None = 1) -> list[list[Outcome]]:
        """Runs searches in one pool, each with so many trials at once; returns what became of the trials of each."""
        stages = [self.search_stage(search, Place(0, number, search.name), at_once) for number, search in
                  enumerate(searches)]  # fmt: skip
        self.run(stages)
        return [stage.record.outcomes() for stage in stages]

    def search_stage(self, search: Search, place: Place, at_once: int | None = 1) -> SearchStage:
        """Returns the stage of a search, in a folder of its name."""
        folder = self.folder / search.name
        job = Job(search.config.to_dict(), self.data, str(folder), command="a benchmark")
        return SearchStage(SearchRecord(search, folder, at_once), job, self.shape, place, lambda record: None)

    def given_stage(
        self, name: str, jobs: Sequence[Job], place: Place, after: frozenset[str] = frozenset(),
        is_done: Callable[[Job], bool] = is_settled,
    ) -> GivenStage:  # fmt: skip
        """Returns the stage of runs that are given, each trained to its end; at least one."""
        return GivenStage(name, lambda: jobs, len(jobs), jobs[0].max_epochs, self.shape, place, after, is_done)
