"""`clean`, and what a search drops at its end: the checkpoints of trials that nothing needs any more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stored_records import outcome

from mmcore.errors import UsageError
from rayjobs.clean import main
from rayjobs.commands.cleaning import clean_experiment
from rayjobs.experiment.search_result import SearchResult, drop_checkpoints
from rayjobs.storage.lease import holding, lease_of_folder
from rayjobs.storage.mirror import NO_MIRROR, Mirror

SIZE = 1_000_000


def write_run(run_dir: Path) -> None:
    for name in ("best-000002", "epoch-000003"):
        folder = run_dir / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_bytes(b"0" * (SIZE // 2))
    (run_dir / "metrics.jsonl").write_text('{"epoch": 1}\n')


def write_search(folder: Path, *, ended: bool) -> SearchResult:
    for number in (1, 2, 3):
        write_run(folder / f"trial-00{number}")
    write_run(folder / "final-1")
    trials = [outcome(name=f"trial-00{number}") for number in (1, 2, 3)]
    stored = {"label": "iprm", "trials": trials, "best": trials[1], "config": {}}
    (folder / "plan.json").write_text("{}")
    if ended:
        (folder / "search.json").write_text(json.dumps(stored))
    return SearchResult.from_dict(stored)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text("{}")
    write_search(folder / "digits-iprm", ended=True)
    write_search(folder / "digits-aug" / "fold-0", ended=False)
    return folder


def having_checkpoints(folder: Path) -> list[str]:
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("checkpoints"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


UNTOUCHED = [f"digits-aug/fold-0/{name}" for name in ("final-1", "trial-001", "trial-002", "trial-003")]


def test_the_best_trial_the_finals_and_what_goes_on_stay(experiment: Path) -> None:
    told = run(experiment, "--dry-run")
    assert told.exit_code == 0, told.output
    assert "2 MB would be given back" in told.stdout
    assert len(having_checkpoints(experiment)) == 8
    done = run(experiment)
    assert "digits-iprm: 2 MB" in done.stdout
    assert "digits-aug/fold-0: has not ended: nothing is removed" in done.stdout
    assert having_checkpoints(experiment) == [*UNTOUCHED, "digits-iprm/final-1", "digits-iprm/trial-002"]
    assert len(list(experiment.rglob("metrics.jsonl"))) == 8
    again = json.loads(run(experiment, "--json").stdout)
    assert [one["freed"] for one in again["searches"]] == [0, 0]
    run(experiment, "--keep", "finals")
    assert having_checkpoints(experiment) == [*UNTOUCHED, "digits-iprm/final-1"]


def test_an_experiment_in_use_and_another_folder_are_refused(experiment: Path, tmp_path: Path) -> None:
    with holding(lease_of_folder(str(experiment)), experiment):
        refused = run(experiment)
    assert refused.exit_code == 2
    assert "is in use by" in refused.stderr
    assert len(having_checkpoints(experiment)) == 8
    wrong = run(tmp_path)
    assert wrong.exit_code == 2
    assert "holds no experiment" in wrong.stderr
    (experiment / "digits-iprm" / "search.json").write_text("[]")  # to be ended again, by its trials' checkpoints
    assert "digits-iprm: has not ended" in run(experiment).stdout


def test_at_an_address_the_twins_go(experiment: Path) -> None:
    cleaned = clean_experiment(f"file://{experiment}", "best")
    assert [one.freed for one in cleaned] == [0, 2 * SIZE]
    assert having_checkpoints(experiment) == [*UNTOUCHED, "digits-iprm/final-1", "digits-iprm/trial-002"]
    with pytest.raises(UsageError, match="nothing lies at"):
        clean_experiment(f"file://{experiment}-no", "best")


@pytest.mark.parametrize(("keep", "left"), [("all", 4), ("best", 2), ("finals", 1)])
def test_a_search_that_ends_drops_what_it_is_told(tmp_path: Path, keep: str, left: int) -> None:
    result = write_search(tmp_path / "digits-iprm", ended=True)
    freed = drop_checkpoints(tmp_path / "digits-iprm", result, keep, NO_MIRROR)
    assert freed == (4 - left) * SIZE
    assert len(having_checkpoints(tmp_path)) == left


def test_the_working_copy_goes_with_its_twin(tmp_path: Path) -> None:
    twin, here = tmp_path / "bucket", tmp_path / "here"
    for place in (twin, here):
        result = write_search(place / "digits-iprm", ended=True)
    drop_checkpoints(here / "digits-iprm", result, "best", Mirror(here, f"file://{twin}"))
    assert having_checkpoints(here) == having_checkpoints(twin) == ["digits-iprm/final-1", "digits-iprm/trial-002"]
