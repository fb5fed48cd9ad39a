"""What earlier searches tell of the time a command takes, and budgets that are too small by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mmcore.errors import UsageError
from rayjobs.experiment.paces import check_budget, known_pace
from rayjobs.experiment.search_result import SearchResult
from rayjobs.pool.budget import Budget
from rayjobs.search.outcome import Outcome
from rayjobs.search.searches import Search, SearchOptions, build_searches
from rayjobs.search.spaces import load_space, space_file
from rayjobs.tune import main

METHODS = ("iprm", "aug")


def searches() -> list[Search]:
    space = load_space(space_file("digits", None))
    options = SearchOptions(trials=4, max_epochs=24)
    return build_searches(
        space, {"name": "digits", "options": {}}, "digits", ("image", "audio"), METHODS, options=options
    )


def store(output: Path, experiment: str, seconds: float) -> None:
    """Writes earlier searches, each of one trial of ten epochs."""
    for method in (*METHODS, "ensemble"):
        folder = output / experiment / f"digits-{method}"
        folder.mkdir(parents=True)
        outcome = Outcome("trial-001", {}, "done", 10, 0.5, 0.1, 10 * seconds)
        result = SearchResult(label=method, trials=[outcome], best=outcome, config=None)
        (folder / "search.json").write_text(json.dumps(result.to_dict()))


def test_the_newest_search_of_the_name_tells_the_pace(tmp_path: Path) -> None:
    search = searches()[0]
    assert known_pace(search, tmp_path) is None
    store(tmp_path, "old", 1.0)
    store(tmp_path, "new", 3.0)
    (tmp_path / "broken" / "digits-iprm").mkdir(parents=True)
    (tmp_path / "broken" / "digits-iprm" / "search.json").write_text("[1]")
    pace = known_pace(search, tmp_path)
    assert pace
    assert (pace.device_s, pace.experiment) == (3.0, "new")


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            Budget(device_s=41),
            r"--cost-budget: a trial of each of the 2 .* about 42 device-seconds .* 1 of them",
        ),
        (Budget(time_s=20), r"--time-budget: .* takes about 21 s .* 1 of them fit"),
        (Budget(device_s=42), ""),
        (Budget(time_s=21), ""),
        (Budget(), ""),
    ],
)
def test_a_budget_without_a_trial_for_each_search_is_refused(budget: Budget, message: str, tmp_path: Path) -> None:
    """A trial of 7 epochs, 3 seconds each, of each of two searches."""
    check_budget(budget, searches(), tmp_path, places=2, workers=1)  # nothing is known yet
    store(tmp_path, "before", 3.0)
    if message:
        with pytest.raises(UsageError, match=message):
            check_budget(budget, searches(), tmp_path, places=2, workers=1)
    else:
        check_budget(budget, searches(), tmp_path, places=2, workers=1)


def test_a_dry_run_tells_how_long_all_of_it_takes_at_most(tmp_path: Path) -> None:
    arguments = ["--dry-run", "--trials", "4", "--max-epochs", "24", "--cpus", "2", "--output", str(tmp_path)]
    assert "all of it" not in CliRunner().invoke(main, arguments).output
    store(tmp_path, "before", 1.0)
    # Three searches of four trials and three final models, 24 seconds each, two at a time.
    assert "all of it: at most 4 m 12 s where 2 runs fit at once" in CliRunner().invoke(main, arguments).output
