"""`compare run`: trains what is left of a study, then says what it found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmcore.errors import TrainingError
from mmcore.storage import patiently
from rayjobs.commands.comparing.planning import StudyPlan, plan_study
from rayjobs.commands.comparing.racing import Racing
from rayjobs.commands.comparing.reuse import extend_searches, supersede, take_cells
from rayjobs.commands.tuning import Interrupted, run_plans
from rayjobs.experiment.experiment import Experiment
from rayjobs.experiment.folder import is_finished, keep_plan, share
from rayjobs.experiment.machine import Machine
from rayjobs.experiment.search_result import Keep
from rayjobs.experiment.stages import Hooks
from rayjobs.results_layout import CELL_FILE, CELLS, FINALS_FILE, LOCK_FILE, RACE_FILE, STUDY_FILE
from rayjobs.runs.job import Job
from rayjobs.runs.test_ledger import open_ledger
from rayjobs.storage.addresses import reaching
from rayjobs.storage.mirror import NO_MIRROR, Mirror
from rayjobs.study.lock import fix_terms, terms_of
from rayjobs.study.results import StudyResults, load_study, note_failures
from rayjobs.study.study import read_study


def run_study(
    folder: Path, machine: Machine, command: str, mirror: Mirror = NO_MIRROR, keep: Keep = "finals"
) -> StudyResults:
    """Trains every cell of a study that is not done, and returns the study as it stands then.

    Args:
        folder: The study's.
        machine: Where to run it.
        command: What was typed.
        mirror: Where the folder has its twin.
        keep: Whose checkpoints stay beside the final models'.

    Raises:
        UsageError: There is no study, or it asks for something that is not there.
        Interrupted: Ctrl-C or SIGTERM; the state is kept.
        TrainingError: No final model of any method could be trained.
    """
    plan = plan_study(read_study(folder), folder, machine, mirror)
    try:
        _run(plan, machine, replace(plan.experiment(command), keep=keep))
    except KeyboardInterrupt:
        output = mirror.address or str(folder.parent)
        place = "" if output == "results" else f" --output {shlex.quote(output)}"
        again = f"python -m rayjobs.compare run {shlex.quote(folder.name)}{place}"
        raise Interrupted(f"interrupted; every finished cell is kept. To go on:\n  {again}") from None
    results = load_study(folder)
    if results.cells and all(each.status == "failed" for each in results.cells):
        reasons = dict.fromkeys(f"{each.cell.row_name}: {each.reason}" for each in results.cells)
        raise TrainingError("every cell failed:\n" + "\n".join(f"  - {reason}" for reason in reasons))
    return results


def meet_study(folder: Path, mirror: Mirror) -> None:
    """Makes a study's folder what its twin is, where it has one; to be called by who holds it."""
    if mirror:
        with reaching(mirror.address):
            mirror.reach()
        mirror.renew(folder)


def _run(plan: StudyPlan, machine: Machine, experiment: Experiment) -> None:
    experiment.folder.mkdir(parents=True, exist_ok=True)
    take_cells(plan)
    extend_searches(plan.plans, experiment.folder, plan.mirror)
    for cell in plan.cells:
        cell.write(plan.folder)
    for each in plan.plans:
        keep_plan(each, experiment)
    if not plan.mirror:  # of runs on several nodes, each keeps its own
        open_ledger(plan.folder.parent)
    share_study(plan)
    has_read = (plan.folder / LOCK_FILE).exists()
    if has_read:
        fix_terms(plan.folder, plan.study, plan.cells)

    def before_finals(jobs: Sequence[Job]) -> None:
        supersede(jobs)
        fix_terms(plan.folder, plan.study, plan.cells)
        share_study(plan)

    def after_finals(folder: Path, failures: Mapping[str, str]) -> None:
        note_failures(folder, failures)
        share_study(plan)

    hooks = Hooks(before_finals, after_finals, gate=_race_of(plan).gate if plan.study.race else None)
    finished = [is_finished(each, experiment) for each in plan.plans]  # all are read: each says what is damaged
    if not all(finished):
        run_plans(plan.plans, experiment, machine, resume=True, hooks=hooks)
    share(experiment)


def _race_of(plan: StudyPlan) -> Racing:
    terms = terms_of(plan.study, plan.cells)
    return Racing(plan, terms.families[terms.reference])


def share_study(plan: StudyPlan) -> None:
    """Sends what the command itself wrote of a study to its twin, if there is one."""
    if not plan.mirror:
        return
    share(plan.experiment(""))
    folder = plan.folder
    files = [folder / name for name in (STUDY_FILE, LOCK_FILE, RACE_FILE)]
    for name in (CELL_FILE, FINALS_FILE):
        files += [*(folder / CELLS).glob(f"*/{name}"), *(folder / CELLS).glob(f"*/fold-*/{name}")]
    there = [file for file in files if file.is_file()]
    patiently(lambda: plan.mirror.push(there))
