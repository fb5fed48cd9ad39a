"""How far resume points lie apart, and that nothing else depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from synthetic import make_config, make_spec, make_trainer

from mmcore.assembly.config import parse_config
from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.training.checkpoint import MOST_EPOCHS_APART, CheckpointFolder, Spacing
from mmcore.training.run_log import PlainReporter, Row, read_rows
from mmcore.training.trainer import Trainer


class Clock:
    """Tells the time it is set to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def written(every: int | str, *, epoch_s: float, write_s: float, best_s: float = 0.0, epochs: int = 40) -> list[int]:
    """Returns the epochs after which a run whose epochs and writes take so long leaves resume points."""
    clock = Clock()
    spacing, found = Spacing(every, clock=clock), []
    for epoch in range(1, epochs + 1):
        clock.now += epoch_s
        spacing.trained(epoch_s)
        with spacing.writing():
            clock.now += best_s
        if spacing.is_due(epoch):
            with spacing.writing():
                clock.now += write_s
            spacing.written(epoch)
            found.append(epoch)
    return found


def test_a_number_of_epochs_is_kept_to_whatever_it_costs() -> None:
    assert written(3, epoch_s=1, write_s=100, epochs=10) == [3, 6, 9]


def test_minutes_are_counted_from_the_last_one_to_the_end_of_an_epoch() -> None:
    assert written("10m", epoch_s=240, write_s=1, epochs=9) == [3, 6, 9]
    assert written("10m", epoch_s=700, write_s=1, epochs=3) == [1, 2, 3]


def test_by_default_every_epoch_is_kept_where_that_is_cheap() -> None:
    assert written("auto", epoch_s=100, write_s=2, best_s=2) == list(range(1, 41))


@pytest.mark.parametrize(("write_s", "best_s"), [(10, 0), (20, 1), (30, 0)])
def test_by_default_all_writing_stays_under_a_twentieth(write_s: float, best_s: float) -> None:
    found = written("auto", epoch_s=100, write_s=write_s, best_s=best_s, epochs=200)
    spent = len(found) * write_s + 200 * best_s
    assert spent <= 0.05 * 200 * 100 + write_s
    assert spent >= 0.04 * 200 * 100, "it leaves out more than it must"
    assert found[0] == 1, "the first is written before anything is known of its cost"


def test_by_default_slow_storage_costs_a_kill_ten_epochs_at_most() -> None:
    found = written("auto", epoch_s=1, write_s=50, best_s=5)
    assert found == [MOST_EPOCHS_APART, 2 * MOST_EPOCHS_APART, 3 * MOST_EPOCHS_APART, 4 * MOST_EPOCHS_APART]


def test_what_another_trial_continues_from_is_always_kept() -> None:
    spacing = Spacing(50, always_every=4)
    assert [epoch for epoch in range(1, 13) if spacing.is_due(epoch)] == [4, 8, 12]


@pytest.mark.parametrize("value", [0, -1, "m", "0m", "10", "10s", "1.5m", "often", "١m", [1], None])
def test_other_values_are_refused_in_words(value: object) -> None:
    values = {"dataset": {"name": "digits"}, "method": {"name": "joint"}, "trainer": {"checkpoint_every": value}}
    if value == "10":  # as a shell hands it over
        assert parse_config(values).trainer.checkpoint_every == 10
        return
    with pytest.raises(ConfigError, match=r"trainer\.checkpoint_every must be 'auto', or .*minutes such as '10m'"):
        parse_config(values)


# In a run


def trainer_of(run_dir: Path, every: int | str, epochs: int = 7, reporter: PlainReporter | None = None) -> Trainer:
    spec = make_spec(2)
    values = {"trainer__checkpoint_every": every, "trainer__max_epochs": epochs}
    trainer = make_trainer(make_config("aug", spec, **values), spec, run_dir)
    trainer.reporter = reporter or trainer.reporter
    return trainer


def at_clock(trainer: Trainer, epoch_s: float) -> Clock:
    """Gives a run's epochs a length, as far as the spacing of its resume points goes."""
    clock = Clock()
    trainer._spacing = Spacing(trainer.config.trainer.checkpoint_every, clock=clock)
    end_epoch = trainer.end_epoch

    def slow(start: float) -> None:
        clock.now += epoch_s
        trainer._spacing.trained(epoch_s)
        end_epoch(start)

    trainer.end_epoch = slow  # type: ignore[method-assign]
    return clock


class Stop(Exception):
    """Stands for the end of the process."""


def kill_at(trainer: Trainer, step: int) -> None:
    train_step = trainer.train_step

    def dying(batch: Batch) -> None:
        if trainer.engine.step_index == step:
            raise Stop
        train_step(batch)

    trainer.train_step = dying  # type: ignore[method-assign]


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    probes = trainer.probes.full_state()["weights"]
    return {**trainer.method.state_dict(), **{f"probes/{name}": value for name, value in probes.items()}}


def resume_points(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").glob("epoch-*"))


@pytest.mark.parametrize(("every", "goes_on_after"), [(1, 5), (3, 3), (100, 0), ("10m", 4), ("auto", 0)])
def test_a_run_that_is_killed_between_two_ends_as_if_it_had_not_been(
    every: int | str, goes_on_after: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in the sixth of seven epochs; those after the last resume point are trained, and reported, again."""
    whole = trainer_of(tmp_path / "whole", 1)
    whole.fit()
    cut = trainer_of(tmp_path / "cut", every)
    at_clock(cut, epoch_s=150 if every == "10m" else 1e-9)  # no writing is cheap beside such epochs
    if every == "auto":
        cut._spacing.spent(1.0)
    kill_at(cut, 5 * 5 + 2)
    with pytest.raises(Stop):
        cut.fit()
    stored, _ = CheckpointFolder(tmp_path / "cut" / "checkpoints").newest_resume_point()
    assert (stored["epoch"] if stored else 0) == goes_on_after
    best = max(cut.reporter.rows, key=lambda row: row["val/fused/accuracy"])  # type: ignore[attr-defined]
    assert CheckpointFolder(tmp_path / "cut" / "checkpoints").best()["epoch"] == best["epoch"]
    before = (tmp_path / "cut" / "metrics.jsonl").read_bytes()

    resumed = trainer_of(tmp_path / "cut", every)
    torch.manual_seed(77)
    resumed.fit()
    first, second = state_of(whole), state_of(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert timeless(resumed.progress.history) == timeless(whole.progress.history)
    assert resume_points(tmp_path / "cut")[-1] == "epoch-000007", "the last epoch's is always written"
    assert [row["epoch"] for row in read_rows(tmp_path / "cut")] == list(range(1, 8))
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes().startswith(before), "an epoch's row was written twice"
    assert [row["epoch"] for row in resumed.reporter.rows] == list(range(max(1, goes_on_after), 8))  # type: ignore[attr-defined]
    again = {5: "", 4: "; epoch 5 is trained again", 3: "; epochs 4 to 5 are trained again"}.get(goes_on_after, "")
    said = [f"goes on after epoch {goes_on_after}{again}"] if goes_on_after else []
    assert [record.message for record in caplog.records if "goes on" in record.message] == said


def timeless(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def test_the_end_of_a_part_of_a_run_is_kept(tmp_path: Path) -> None:
    """The next part, of a population's schedule, goes on from it."""
    trainer_of(tmp_path, 100).fit(until=2)
    assert resume_points(tmp_path) == ["epoch-000002"]
    resumed = trainer_of(tmp_path, 100)
    resumed.fit()
    assert [row["epoch"] for row in resumed.reporter.rows] == list(range(2, 8))  # type: ignore[attr-defined]
    assert resume_points(tmp_path) == ["epoch-000002", "epoch-000007"]


class Sending(PlainReporter):
    """Sends to storage that is slow."""

    def report(self, metrics: Row) -> float | None:
        super().report(metrics)
        return 60.0


@pytest.mark.parametrize(("reporter", "expected"), [(None, 5), (Sending(), 2)])
def test_what_sending_takes_counts_as_writing(reporter: PlainReporter | None, expected: int, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "auto", epochs=5, reporter=reporter)
    at_clock(trainer, epoch_s=100)
    saved = []
    save = trainer._save_resume_point
    trainer._save_resume_point = lambda **options: saved.append(save(**options))  # type: ignore[method-assign, func-returns-value]
    trainer.fit()
    assert len(saved) == expected
