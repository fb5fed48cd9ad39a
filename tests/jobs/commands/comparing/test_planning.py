"""A study's cells: the same for one content, other ones for another, and taken only where they are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcore.config.schema import LARGEST_SEED
from mmcore.errors import CheckpointError, UsageError
from rayjobs.commands.comparing.planning import StudyPlan, plan_study, search_seed
from rayjobs.commands.comparing.reuse import extend_searches
from rayjobs.experiment.folder import keep_plan
from rayjobs.experiment.machine import Machine
from rayjobs.results_layout import SEARCH_FILE
from rayjobs.storage.mirror import Mirror
from rayjobs.study.cell import Cell
from rayjobs.study.lock import fix_terms, read_lock
from rayjobs.study.study import Study


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def plan_of(data_dir: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    def plan(**changes: object) -> StudyPlan:
        given: dict[str, object] = {
            "created": "2026-11-29T10:00:00+00:00",
            "command": "new",
            "datasets": [{"name": "digits"}],
            "methods": ["iprm"],
            "references": ["unimodal"],
            "trials": 4,
            "folds": [0, 2],
            "data_dir": str(data_dir),
        }
        return plan_study(Study(**(given | changes)), tmp_path / "results" / "mine", Machine())  # type: ignore[arg-type]

    return plan


def by_name(plan: StudyPlan) -> dict[str, Cell]:
    return {cell.row_name: cell for cell in plan.cells}


def test_a_study_has_a_cell_for_each_row_and_fold_that_is_wanted(plan_of) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of()
    labels = ["iprm", "ensemble-tuned", "unimodal-image", "unimodal-audio"]
    assert list(by_name(plan)) == [f"digits-{label}/fold-{fold}" for label in labels for fold in (0, 2)]
    tuned = by_name(plan)["digits-ensemble-tuned/fold-0"]
    assert tuned.parts == ["image", "audio"]
    assert tuned.trials == 4  # both parts together
    assert (tuned.folds, tuned.by_group, tuned.groups) == (5, False, None)
    assert tuned.num_train + tuned.num_val + tuned.num_test == 1797
    assert 0.05 < tuned.chance < 0.2  # ten classes


def test_all_methods_of_a_fold_have_one_search_seed_and_folds_have_others(plan_of) -> None:  # type: ignore[no-untyped-def]
    cells = plan_of().cells
    seeds = {fold: {cell.search_seed for cell in cells if cell.fold == fold} for fold in (0, 2)}
    assert [len(found) for found in seeds.values()] == [1, 1]
    assert seeds[0] != seeds[2]
    assert 0 <= search_seed(5, "data", None) < LARGEST_SEED
    assert search_seed(0, "data", 1) != search_seed(1, "data", 1) != search_seed(1, "other", 1)


def test_what_is_added_leaves_the_other_cells_as_they_are(plan_of) -> None:  # type: ignore[no-untyped-def]
    before, after = by_name(plan_of()), by_name(plan_of(methods=["iprm", "aug"], folds=[0, 1, 2], margin=3.0))
    assert {name: after[name] for name in before} == before
    assert "digits-aug/fold-1" in after


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 5},
        {"max_epochs": 7},
        {"scheduler": "fifo"},
        {"algorithm": "random"},
        {"seed": 1},
        {"protocol": {"name": "cv", "seed": 1}},
        {"values": {"trainer.batch_size": 32}},
        {"values": {"optimizer.lr": 0.01}},
        {"datasets": [{"name": "digits", "options": {"image_noise": 0.1}}]},
    ],
)
def test_what_decides_a_result_decides_its_cell(plan_of, changes: dict[str, object]) -> None:  # type: ignore[no-untyped-def]
    few = {"folds": [0], "references": [], "reference": "joint"}
    before, after = plan_of(**few), plan_of(**(few | changes))
    assert not {cell.identity for cell in before.cells} & {cell.identity for cell in after.cells}


def test_another_version_of_a_method_is_another_cell(plan_of, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from mmcore.methods import METHODS

    before = by_name(plan_of())
    monkeypatch.setattr(METHODS.get("iprm"), "version", 2)
    after = by_name(plan_of())
    changed = {name for name in before if before[name].identity != after[name].identity}
    assert changed == {"digits-iprm/fold-0", "digits-iprm/fold-2"}


def test_one_data_set_twice_and_a_margin_of_none_are_refused(plan_of) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="a data set is named twice"):
        plan_of(datasets=[{"name": "digits"}, {"name": "digits"}])
    with pytest.raises(UsageError, match="margins: there is no data set sarcasm in this study"):
        plan_of(margins={"sarcasm": 1.0})


def test_the_terms_name_rows_and_a_later_change_is_entered(plan_of) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of()
    plan.folder.mkdir(parents=True)
    fix_terms(plan.folder, plan.study, plan.cells)
    lock = read_lock(plan.folder)
    assert lock is not None
    assert lock.terms.families == {
        "ensemble-tuned": ["iprm"], "unimodal-image": ["iprm"], "unimodal-audio": ["iprm"]
    }  # fmt: skip
    assert (lock.terms.folds, lock.terms.trials) == ({"digits": [0, 2]}, {"digits": 4})
    fix_terms(plan.folder, plan.study, plan.cells)
    assert read_lock(plan.folder) == lock  # nothing changed
    (plan.folder.parent / "ledger.jsonl").write_text(f'{{"run_dir": "{plan.folder.resolve()}/cells/x/final-1"}}\n')
    fix_terms(plan.folder, plan.study.model_copy(update={"margin": 2.0}), plan.cells)
    changed = read_lock(plan.folder)
    assert changed is not None
    assert [(entry.key, entry.before, entry.after, entry.readings) for entry in changed.changes] == [
        ("margins", "digits: 1.0", "digits: 2.0", 1)
    ]
    assert (changed.when, changed.terms) == (lock.when, lock.terms)


def test_more_trials_go_on_and_fewer_are_refused(plan_of) -> None:  # type: ignore[no-untyped-def]
    plan = plan_of()
    experiment = plan.experiment("run")
    keep_plan(plan.plans[0], experiment)
    done = experiment.folder / "digits-iprm/fold-0" / SEARCH_FILE
    done.write_text("{}")
    more = plan_of(trials=6)
    extend_searches(more.plans, experiment.folder)
    assert not done.exists()  # to be ended anew
    keep_plan(more.plans[0], experiment)
    with pytest.raises(UsageError, match="on object storage a search cannot go on to 9"):
        extend_searches(plan_of(trials=9).plans, experiment.folder, Mirror(plan.folder.parent, "s3://bucket/here"))
    extend_searches(plan.plans, experiment.folder)
    with pytest.raises(CheckpointError, match="was started with another trials"):
        keep_plan(plan.plans[0], experiment)
    other = plan_of(trials=8, max_epochs=3)
    extend_searches(other.plans, experiment.folder)
    with pytest.raises(CheckpointError, match="was started with another"):
        keep_plan(other.plans[0], experiment)
