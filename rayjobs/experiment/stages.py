"""From plans to the stages of a pool: each search, then the final models of its row on each fold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rayjobs.cluster.resources import TrialShape
from rayjobs.experiment.experiment import Experiment
from rayjobs.experiment.folder import final_jobs, lacking_teacher, save_search, share, teacher_dirs
from rayjobs.experiment.plan import Plan
from rayjobs.experiment.search_result import SearchResult, read_search
from rayjobs.experiment.unimodal_references import METHODS_ALONE
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.stage import Count, FinishedStage, GivenStage, Place, SearchStage, Stage
from rayjobs.runs.handover import drop_snapshots
from rayjobs.runs.job import Job
from rayjobs.runs.result import read_result
from rayjobs.search.outcome import succeeded
from rayjobs.search.record import SearchRecord
from rayjobs.search.searches import Search
from rayjobs.search.teachers import teachers_of


@dataclass(frozen=True)
class PlacedStage:
    """A stage, and the row and fold it is of."""

    stage: Stage
    label: str
    fold: int | None


@dataclass(frozen=True)
class Hooks:
    """What a command does beside running the stages of an experiment.

    Attributes:
        before_finals: Called with the jobs of a row's final models, before the first of them begins.
        after_finals: Called when all have ended, with the row's folder, and name -> reason of those that failed.
        gate: Returns the stages of one data set as they are to be run; some may be left out on conditions.
    """

    before_finals: Callable[[Sequence[Job]], None] | None = None
    after_finals: Callable[[Path, Mapping[str, str]], None] | None = None
    gate: Callable[[Plan, Sequence[PlacedStage]], list[Stage]] | None = None


NO_HOOKS = Hooks()
FINALS = " final models"
"""Ends the name of the stage in which a search's final models are trained."""


@dataclass(frozen=True)
class Planned:
    """A plan with what running it needs.

    Attributes:
        plan: What is to be done for a data set.
        data: Handle of its samples.
        shape: What a run asks for.
    """

    plan: Plan
    data: DataHandle
    shape: TrialShape


def make_stages(
    planned: Sequence[Planned],
    experiment: Experiment,
    notify: Callable[[str], None],
    *,
    resume: bool,
    hooks: Hooks = NO_HOOKS,
) -> list[Stage]:
    """Returns the stages of an experiment, in the order of its command; those finished before are among them.

    Args:
        planned: The data sets.
        experiment: Whose they are; says how many trials of a search run at a time.
        notify: Told, in words, what a resumed search had to mend.
        resume: Whether an earlier command may have finished some.
        hooks: What the command does beside.
    """
    numbers = itertools.count()
    stages: list[Stage] = []
    for each in planned:
        own: list[PlacedStage] = []
        for search in each.plan.searches:
            place = _place(each.plan, search.label, search.fold, next(numbers), search.part)
            stage = _search_stage(each, search, place, experiment, notify, resume=resume)
            own.append(PlacedStage(stage, search.label, search.fold))
        if experiment.request.final_seeds:
            for fold, label in itertools.product(each.plan.folds, each.plan.labels):
                place = _place(each.plan, label, fold, next(numbers))
                own.append(PlacedStage(_final_stage(each, (label, fold), place, experiment, hooks), label, fold))
        stages += hooks.gate(each.plan, own) if hooks.gate else [placed.stage for placed in own]
    return stages


def per_search_default(planned: Sequence[Planned], places: int) -> int:
    """Returns how many trials of each search at a time fill the places: 1 as soon as there are as many searches."""
    searches = [search for each in planned for search in each.plan.searches if search.depends_on_timing(None)]
    return max(1, -(-places // len(searches))) if searches else 1


def _place(plan: Plan, label: str, fold: int | None, number: int, part: str = "") -> Place:
    return Place(plan.folds.index(fold) if fold in plan.folds else 0, number, row_of(plan, label, part))


def row_of(plan: Plan, label: str, part: str = "") -> str:
    """Returns what runs that take equally long are called together: those of a row, or of its part, over all folds."""
    return f"{plan.prepared.directory.name}-{label}" + (f"/{part}" if part else "")


def _search_stage(
    planned: Planned,
    search: Search,
    place: Place,
    experiment: Experiment,
    notify: Callable[[str], None],
    *,
    resume: bool,
) -> Stage:
    plan = planned.plan
    folder = (experiment.folder / search.name).resolve()  # workers have other working directories
    stored = read_search(folder) if resume else None
    if stored:
        return FinishedStage(search.name, place, planned.shape, _count(stored))

    def finish(record: SearchRecord) -> None:
        drop_snapshots(folder)  # an interrupted search, which does not come here, needs them to resume
        save_search(folder, search, record.outcomes(), experiment)
        share(experiment)

    at_once = experiment.per_search if search.depends_on_timing(None) else None
    record = SearchRecord(
        search, folder, at_once, lambda message: notify(f"{search.name}: {message}"), experiment.mirror
    )
    job = Job(
        search.config.to_dict(),
        planned.data,
        str(folder),
        home=str(experiment.folder.resolve()),
        command=experiment.command,
        snapshot_every=search.grace_epochs if search.scheduler == "pbt" else 0,
        mirror=experiment.mirror,
        teachers={name: str(path) for name, path in teacher_dirs(search, search.fold, plan, experiment).items()},
    )
    return SearchStage(
        record,
        job,
        planned.shape,
        place,
        finish,
        after=_teaching(plan, search, search.fold),
        lacking=lambda: lacking_teacher(search, search.fold, plan, experiment),
    )


def _teaching(plan: Plan, search: Search, fold: int | None) -> frozenset[str]:
    """Returns the names of the stages in which the teachers of a search's runs on a fold are trained."""
    teachers = teachers_of(search, fold, plan.searches)
    return frozenset(teacher.row_name + FINALS for teacher in teachers.values())


def _count(stored: SearchResult) -> Count:
    outcomes = stored.trials
    return Count(
        total=len(outcomes),
        done=sum(outcome.status != "failed" for outcome in outcomes),
        failed=sum(outcome.status == "failed" for outcome in outcomes),
        best=max((outcome.objective for outcome in succeeded(outcomes) if outcome.objective is not None), default=None),
        epochs=sum(outcome.epochs for outcome in outcomes),
        device_seconds=sum(outcome.device_seconds for outcome in outcomes),
    )


def _final_stage(
    planned: Planned, row: tuple[str, int | None], place: Place, experiment: Experiment, hooks: Hooks
) -> Stage:
    """Returns the final models of a row on a fold: they wait for its search, for those that tell what each modality
    reaches alone on that fold, and for the teachers."""
    plan, (label, fold) = planned.plan, row
    searches = plan.searches_of(label, fold)
    alone = {each.name for each in plan.searches if each.fold == fold and each.config.method["name"] in METHODS_ALONE}
    row_name = replace(searches[0], fold=fold).row_name

    def make_jobs() -> list[Job]:
        jobs = final_jobs(plan, label, fold, planned.data, experiment)
        if jobs and hooks.before_finals is not None:
            hooks.before_finals(jobs)
        return jobs

    def end(failures: Mapping[str, str]) -> None:
        if hooks.after_finals is not None:
            hooks.after_finals(experiment.folder / row_name, failures)

    return GivenStage(
        name=row_name + FINALS,
        make_jobs=make_jobs,
        total=experiment.request.final_seeds,
        max_epochs=sum(search.max_epochs for search in searches),
        shape=planned.shape,
        place=place,
        after=frozenset({*(search.name for search in searches), *alone, *_teaching(plan, searches[0], fold)}),
        is_settled=is_settled,
        on_over=end,
    )


def is_settled(job: Job) -> bool:
    """Tells whether a run was finished by an earlier command."""
    return read_result(Path(job.run_dir)) is not None


def data_of(planned: Sequence[Planned]) -> Mapping[str, DataHandle]:
    """Returns directory -> handle."""
    return {each.data.directory: each.data for each in planned}
