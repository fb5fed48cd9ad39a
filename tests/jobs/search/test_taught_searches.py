"""In a pool: who learns from teachers waits for the final models of `unimodal` on its fold, and says what it lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stub_body
from distilling import distilling

from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import UsageError
from rayjobs.cluster.resources import TrialShape
from rayjobs.experiment.experiment import Experiment, new_experiment
from rayjobs.experiment.folder import keep_plan
from rayjobs.experiment.plan import Plan, plan_searches
from rayjobs.experiment.request import Request
from rayjobs.experiment.stages import Planned, make_stages
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.budget import Budget
from rayjobs.pool.pool import Pool
from rayjobs.reporting.ranking import build_ranking
from rayjobs.trials.ticket import Ticket

FOLDS = {"name": "cv", "folds": 3}
UNIMODAL = ("digits-unimodal-image", "digits-unimodal-audio")


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with distilling():
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare("digits", None, None, tmp_path_factory.mktemp("data"))


class Command:
    """An experiment's pool, whose runs are done here, in no time."""

    def __init__(self, prepared: PreparedDataset, experiment: Experiment, *, resume: bool = False, **options: Any):
        request = experiment.request
        names, rules = prepared.spec.modality_names, prepared.rules
        searches = plan_searches(request, "digits", "digits", names, rules)
        self.plan = Plan(prepared, tuple(searches), rules.folds_of(request.protocol))
        keep_plan(self.plan, experiment)
        planned = Planned(self.plan, DataHandle(str(prepared.directory)), TrialShape())
        self.experiment = experiment
        self.said: list[str] = []
        self.dealt: list[Ticket] = []
        stages = make_stages([planned], experiment, self.said.append, resume=resume)
        self.pool = Pool(stages, lambda shape: 2, **options)

    def run(self, failing: frozenset[str] = frozenset()) -> None:
        """Does all runs, one after another; those of a stage in `failing` fail."""
        while ticket := self.pool.deal():
            self.dealt.append(ticket)
            self.pool.started(ticket)
            ticket.run_dir.mkdir(parents=True, exist_ok=True)
            if ticket.stage in failing:
                (ticket.run_dir / "failure.json").write_text(json.dumps({"reason": "no good"}))
                self.pool.end(ticket, "no good")
                continue
            row = {"epoch": ticket.job.max_epochs, "val/fused/accuracy": 0.5, "val/fused/loss": 1.0}
            self.pool.report(ticket, {**row, "objective": 0.5, "objective_loss": 1.0, "device_seconds": 1.0})
            if ticket.job.test:
                stub_body.write_result(ticket.job, ticket.run_dir, row)
            self.pool.end(ticket)
        assert self.pool.is_over

    def order(self) -> list[str]:
        return [ticket.stage for ticket in self.dealt]


def experiment_of(tmp_path: Path, *methods: str, **values: Any) -> Experiment:
    methods = methods or ("distilling", "unimodal")
    settings = {"trials": 1, "max_epochs": 2, "final_seeds": 1, **values}
    request = Request(datasets=("digits",), methods=methods, **settings)
    return new_experiment(request, tmp_path, "here", "tune")


def test_a_search_waits_for_its_teachers_and_is_given_them(prepared: PreparedDataset, tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, protocol=FOLDS)
    command = Command(prepared, experiment)
    command.run()
    order = command.order()
    for fold in range(3):
        finals = [order.index(f"{name}/fold-{fold} final models") for name in UNIMODAL]
        assert max(finals) < order.index(f"digits-distilling/fold-{fold}")
    for ticket in command.dealt:
        fold = ticket.stage.partition("/")[2].split(" ")[0]
        folders = {name: str(tmp_path.resolve() / f"here/digits-unimodal-{name}/{fold}/final-1") for name in
                   ("image", "audio")}  # fmt: skip
        assert ticket.job.teachers == (folders if "distilling" in ticket.stage else {})
    assert len(command.dealt) == 3 * 3 * 2
    assert command.said == []
    (table,) = build_ranking(experiment, [command.plan]).rankings
    said = [note for note in table.chance_notes if "learns from" in note]
    assert said == [
        "distilling learns from the final models of unimodal on audio, image: what those cost stands in their rows "
        "alone"
    ]


def test_where_fold_0_alone_is_searched_each_fold_has_its_own_teachers(
    prepared: PreparedDataset, tmp_path: Path
) -> None:
    command = Command(prepared, experiment_of(tmp_path, protocol=FOLDS, search_once=True))
    command.run()
    for fold in range(3):
        (final,) = [each for each in command.dealt if each.stage == f"digits-distilling/fold-{fold} final models"]
        assert final.job.teachers["image"].endswith(f"digits-unimodal-image/fold-{fold}/final-1")
        assert command.order().index(f"digits-unimodal-image/fold-{fold} final models") < command.dealt.index(final)


def test_a_teacher_that_fails_is_said_once_and_a_later_command_goes_on(
    prepared: PreparedDataset, tmp_path: Path
) -> None:
    experiment = experiment_of(tmp_path)
    command = Command(prepared, experiment)
    command.run(frozenset({"digits-unimodal-audio final models"}))
    assert not any("distilling" in stage for stage in command.order())
    lacks = "it learns from a model of audio alone, and digits-unimodal-audio/final-1 was not trained: no good"
    assert command.said == [f"digits-distilling: {lacks}"]
    (table,) = build_ranking(experiment, [command.plan]).rankings
    row = next(row for row in table.rows if row.method == "distilling")
    assert row.failed_because == f"1 of 1 final models are missing ({lacks})"
    assert not any("the time was over" in note for note in table.chance_notes)

    again = Command(prepared, experiment, resume=True)
    again.run()
    assert again.order() == [
        "digits-unimodal-audio final models",
        "digits-distilling",
        "digits-distilling final models",
    ]
    assert again.said == []


def test_a_search_without_a_result_has_no_teacher_to_give(prepared: PreparedDataset, tmp_path: Path) -> None:
    command = Command(prepared, experiment_of(tmp_path))
    command.run(frozenset({"digits-unimodal-image"}))
    (said,) = command.said
    assert said.endswith("digits-unimodal-image/final-1 was not trained: it was never begun")


def test_with_a_budget_the_teachers_do_not_wait_for_all_searches(prepared: PreparedDataset, tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, "joint", "distilling", "unimodal", trials=3)
    command = Command(prepared, experiment, budget=Budget(device_s=1000.0))
    command.run()
    order = command.order()
    first = order.index("digits-unimodal-image final models")
    assert "digits-joint final models" not in order[:first]
    assert order[first:].count("digits-distilling") == 3
    assert order.index("digits-joint final models") > max(
        i for i, name in enumerate(order) if name == "digits-distilling"
    )


@pytest.mark.parametrize(
    ("methods", "values", "message"),
    [
        (("distilling",), {}, r"there is none of image, audio: add --method unimodal"),
        (("distilling", "unimodal-audio"), {}, r"there is none of image: add --method unimodal"),
        (("distilling", "ensemble-tuned"), {"trials": 2}, r"there is none of image, audio"),
        (("distilling", "unimodal"), {"final_seeds": 0}, r"the final models of unimodal: --final-seeds 1 or more"),
    ],
)
def test_what_could_not_be_taught_is_refused_before_anything_is_run(
    methods: tuple[str, ...], values: dict[str, Any], message: str, prepared: PreparedDataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        Command(prepared, experiment_of(tmp_path, *methods, **values))
    fixed = {**values, "values": {"method.weight": 0.0}}
    Command(prepared, experiment_of(tmp_path / "without", *methods, **fixed))
