"""Searches and single runs in one pool, as `tune` runs those of an experiment: what benchmarks of trials share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from rayjobs.cluster.resources import TrialShape
from rayjobs.experiment.plan import plan_searches
from rayjobs.experiment.request import Request
from rayjobs.experiment.stages import is_settled
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.pool import Pool
from rayjobs.pool.stage import GivenStage, Place, SearchStage, Stage
from rayjobs.pool.tune_run import Execution, run_pool
from rayjobs.runs.job import Job
from rayjobs.search.outcome import Outcome
from rayjobs.search.record import SearchRecord
from rayjobs.search.searches import Search

NOTHING_BEFORE: frozenset[str] = frozenset()


def digits_search(trials: int, epochs: int | None, data_dir: Path) -> tuple[Search, PreparedDataset]:
    """Returns IPRM's search on digits, which is prepared if need be; without `epochs`, of the search space's."""
    prepared = prepare("digits", None, None, data_dir)
    request = Request(datasets=("digits",), methods=("iprm",), trials=trials, max_epochs=epochs, data_dir=str(data_dir))
    (search,) = plan_searches(request, "digits", prepared.directory.name, prepared.spec.modality_names, prepared.rules)
    return search, prepared


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

    def run(self, stages: Sequence[Stage]) -> None:
        """Runs stages to their end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pool = Pool(stages, lambda shape: self.places)
        run_pool(pool, {self.data.directory: self.data}, self.folder, self.execution)

    def searched(self, searches: Sequence[Search], at_once: int | None = 1) -> list[list[Outcome]]:
        """Runs searches in one pool, each with so many trials at once; returns what became of the trials of each."""
        places = [Place(0, number, search.name) for number, search in enumerate(searches)]
        stages = [self.search_stage(search, place, at_once) for search, place in zip(searches, places, strict=True)]
        self.run(stages)
        return [stage.record.outcomes() for stage in stages]

    def search_stage(
        self, search: Search, place: Place, at_once: int | None = 1, after: frozenset[str] = NOTHING_BEFORE
    ) -> SearchStage:
        """Returns the stage of a search, in a folder of its name."""
        folder = self.folder / search.name
        folder.parent.mkdir(parents=True, exist_ok=True)  # a journal makes its own folder alone
        job = Job(search.config.to_dict(), self.data, str(folder), command="a benchmark")
        return SearchStage(SearchRecord(search, folder, at_once), job, self.shape, place, lambda record: None, after)

    def given_stage(
        self,
        name: str,
        jobs: Sequence[Job],
        place: Place,
        after: frozenset[str] = NOTHING_BEFORE,
        is_done: Callable[[Job], bool] = is_settled,
    ) -> GivenStage:
        """Returns the stage of runs that are given, at least one, each trained to its end."""
        return GivenStage(name, lambda: jobs, len(jobs), jobs[0].max_epochs, self.shape, place, after, is_done)
