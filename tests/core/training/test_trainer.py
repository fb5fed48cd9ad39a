"""The loop: what is selected and on what, what happens to a NaN, what a resumed run finds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from synthetic import Tiny, make_config, make_spec, make_trainer
from torch import Tensor

from mmcore import distributed
from mmcore.batch import Batch
from mmcore.encoders import ENCODERS
from mmcore.errors import CheckpointError, TrainingError
from mmcore.methods import METHODS
from mmcore.training.checkpoint import CheckpointFolder, is_valid, load_checkpoint
from mmcore.training.run_log import read_rows
from mmcore.training.trainer import MONITOR, Evaluation, Trainer
from mmcore.training.update import gradient_buckets


def trainer_of(method: str = "ensemble", run_dir: Path | None = None, num_train: int = 80, **values: object) -> Trainer:
    spec = make_spec(2)
    return make_trainer(make_config(method, spec, **values), spec, run_dir, num_train=num_train)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    probes = trainer.probes.full_state()["weights"]
    state = {**trainer.method.state_dict(), **{f"probes/{name}": value for name, value in probes.items()}}
    return {name: value.clone() for name, value in state.items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


class Scripted(Trainer):
    """Its validation accuracies are given; remembers the weights each epoch was judged by."""

    def script(self, accuracies: list[float]) -> None:
        self.accuracies, self.judged = list(accuracies), []

    def evaluate(self, split: str, *, full: bool = True) -> Evaluation:
        assert split == "val"
        evaluation = super().evaluate(split, full=full)
        self.judged.append(weights(self))
        metrics = {**evaluation.metrics, "fused/accuracy": self.accuracies[len(self.judged) - 1]}
        return Evaluation({**metrics, "quiet/accuracy": 1.0}, evaluation.logits, evaluation.labels)


@pytest.mark.parametrize(("select", "epoch"), [("best", 2), ("last", 4)])
def test_the_epoch_that_is_tested(select: str, epoch: int, tmp_path: Path) -> None:
    trainer = trainer_of(run_dir=tmp_path, trainer__select=select)
    trainer.__class__ = Scripted
    trainer.script([0.5, 0.8, 0.8, 0.6])  # of equals the first
    progress = trainer.fit()
    assert (progress.best_row["epoch"], progress.best_row[MONITOR]) == (2, 0.8)
    assert (progress.last_row["epoch"], progress.last_row[MONITOR]) == (4, 0.6)
    fresh = trainer_of(run_dir=tmp_path, trainer__select=select, trainer__keep_checkpoints=2)
    assert fresh.load_selected() == epoch
    assert_equal(weights(fresh), trainer.judged[epoch - 1])


def test_nothing_can_be_tested_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="keeps no checkpoints"):
        trainer_of().load_selected()
    with pytest.raises(CheckpointError, match="no best model"):
        trainer_of(run_dir=tmp_path).load_selected()
    with pytest.raises(CheckpointError, match="there is no checkpoint yet"):
        trainer_of(run_dir=tmp_path, trainer__select="last").load_selected()


@pytest.mark.parametrize("method", METHODS.names())
def test_fit_never_touches_test(method: str, tmp_path: Path) -> None:
    trainer = trainer_of(method, tmp_path, trainer__max_epochs=2)
    loader, asked = trainer.loader, []

    def guard(function: str) -> None:
        original = getattr(loader, function)

        def guarded(split: str, *rest: object) -> object:
            asked.append(split)
            assert split != "test"
            return original(split, *rest)

        setattr(loader, function, guarded)

    for function in ("eval_batches", "rows", "num_samples"):
        guard(function)
    trainer.fit()
    assert "val" in asked


# Evaluation


def test_evaluation_counts_every_sample_once_in_order() -> None:
    trainer = trainer_of("joint_unimodal")
    whole = trainer.evaluate("val")
    trainer.loader.eval_batch_size = 7  # 30 samples: the last batch has two
    seen: list[str] = []
    original = trainer.loader.eval_batches

    def recording(split: str) -> Iterator[Batch]:
        for batch in original(split):
            seen.extend(batch.sample_ids)
            yield batch

    trainer.loader.eval_batches = recording
    parts = trainer.evaluate("val")
    rows = trainer.loader.rows("val")
    assert seen == list(rows.sample_ids)
    assert parts.labels.tolist() == rows.labels.tolist()
    for name, logits in whole.logits.items():
        torch.testing.assert_close(parts.logits[name], logits)
    right = (parts.logits["fused"].argmax(dim=1) == parts.labels).sum().item()
    assert parts.metrics["fused/accuracy"] == pytest.approx(right / 30)
    assert parts.metrics["fused/loss"] == pytest.approx(F.cross_entropy(parts.logits["fused"], parts.labels).item())
    probe = (parts.logits["quiet/probe"].argmax(dim=1) == parts.labels).double().mean().item()
    assert parts.metrics["quiet/probe_accuracy"] == pytest.approx(probe)


def test_evaluation_changes_nothing() -> None:
    trainer = trainer_of("aug")
    trainer.train_epoch()
    before, generator = weights(trainer), torch.get_rng_state()
    trainer.evaluate("val")
    assert_equal(weights(trainer), before)
    assert torch.equal(torch.get_rng_state(), generator)


def test_training_losses_are_means_over_samples_not_over_batches() -> None:
    trainer = trainer_of("ensemble", num_train=37, trainer__max_epochs=1)  # 16, 16 and 5 samples
    totals, step = {"loud": 0.0, "quiet": 0.0}, trainer.method.train_step

    def recording(batch: Batch, engine: object) -> dict[str, Tensor]:
        terms = step(batch, engine)
        for name, term in terms.items():
            totals[name] += term.item() * len(batch.labels)
        return terms

    trainer.method.train_step = recording
    row = trainer.fit().last_row
    for name, total in totals.items():
        assert row[f"train/{name}/loss"] == pytest.approx(total / 37, rel=1e-6)
    assert row["train/total/loss"] == pytest.approx(sum(totals.values()) / 37, rel=1e-6)
    assert row["train/lr"] == 0.02


def test_accumulation_logs_the_loss_of_the_whole_step() -> None:
    rows = []
    for parts in (1, 3):
        trainer = trainer_of("ensemble", trainer__accumulate=parts, trainer__max_epochs=1, trainer__precision="float64")
        rows.append(trainer.fit().last_row)
    for name in ("train/loud/loss", "train/quiet/loss", "train/total/loss", "val/fused/loss"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-9)


def test_schedule_and_growth_hear_of_validation() -> None:
    trainer, heard = trainer_of(trainer__max_epochs=2), []
    trainer.engine.end_epoch = lambda epoch, loss: heard.append((epoch, loss))
    trainer.method.end_epoch = lambda stats, engine: heard.append((stats.epoch, stats.metrics["val/fused/loss"]))
    trainer.fit()
    losses = [row["val/fused/loss"] for row in trainer.reporter.rows]
    assert heard == [(epoch, loss) for epoch, loss in enumerate(losses) for _ in range(2)]


def collectives(rank: int, method: str, run_dir: Path) -> list[object]:
    """What one of two ranks asks of the others in a whole run, if each of them answers with its own."""
    calls: list[object] = []

    def record(name: str, answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(value: Any) -> Any:
            tensors = value if isinstance(value, list) else [value]
            calls.append((name, [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in tensors]))
            return answer(value)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: 2)
        patch.setattr(distributed, "rank", lambda: rank)
        patch.setattr(distributed, "all_reduce_sum", record("sum", lambda tensors: None))
        started = record("bucket", lambda tensor: SimpleNamespace(wait=lambda: None))
        patch.setattr(gradient_buckets.dist, "all_reduce", lambda tensor, group=None, async_op=False: started(tensor))
        patch.setattr(gradient_buckets.dist, "new_group", lambda: None)
        patch.setattr(distributed, "broadcast_", record("broadcast", lambda tensors: None))
        patch.setattr(distributed, "gather_rows", record("rows", lambda tensor: tensor))
        patch.setattr(distributed, "gather_objects", record("gather", lambda value: [value, value]))
        patch.setattr(distributed, "broadcast_object", record("object", lambda value: value))
        trainer_of(method, run_dir, trainer__max_epochs=3, trainer__checkpoint_every_steps=2).fit()
    return calls


@pytest.mark.parametrize("method", ["aug", "iprm", "joint"])
def test_every_rank_asks_the_others_for_the_same_in_the_same_order(method: str, tmp_path: Path) -> None:
    first, second = (collectives(rank, method, tmp_path / str(rank)) for rank in (0, 1))
    assert first == second  # else a run of two would wait for ever
    assert len(first) > 3 * 5
    assert (tmp_path / "0" / "checkpoints").is_dir()
    assert not (tmp_path / "1").exists()


# NaN


def poison(trainer: Trainer, step: int) -> None:
    """Makes one loss term NaN at one step."""
    losses = trainer.method.losses

    def poisoned(batch: Batch, phase: str, engine: object) -> dict[str, Tensor]:
        terms = losses(batch, phase, engine)
        return {**terms, "quiet": terms["quiet"] * torch.nan} if trainer.engine.step_index == step else terms

    trainer.method.losses = poisoned


def test_a_nan_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    whole = trainer_of(run_dir=tmp_path / "whole")
    whole.fit()
    threads = threading.active_count()
    broken = trainer_of(run_dir=tmp_path / "cut", trainer__checkpoint_every_steps=2)
    poison(broken, 7)  # the third step of the second epoch
    with pytest.raises(TrainingError, match=r"not finite at step 7 \(loud = [0-9.]+, quiet = nan\).*now 0.02"):
        broken.fit()
    assert threading.active_count() == threads
    checkpoints = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["best-000001", "epoch-000001", "epoch-000001-step-000000007"]
    for path in checkpoints:
        assert is_valid(path)
        assert all(torch.isfinite(value).all() for value in load_checkpoint(path)["method"].values())
    assert [row["epoch"] for row in read_rows(tmp_path / "cut")] == [1]
    mended = trainer_of(run_dir=tmp_path / "cut", trainer__checkpoint_every_steps=2)
    mended.fit()
    assert_equal(weights(mended), weights(whole))


def test_a_nan_in_an_epochs_last_step_is_found_before_anything_is_saved(tmp_path: Path) -> None:
    trainer = trainer_of(run_dir=tmp_path)
    poison(trainer, 9)
    trainer.evaluate = lambda split, full: (
        pytest.fail("evaluated") if trainer.progress.epoch else evaluate(split, full=full)
    )
    evaluate = type(trainer).evaluate.__get__(trainer)
    with pytest.raises(TrainingError, match="step 9"):
        trainer.fit()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best-000001", "epoch-000001"]


def test_a_nan_is_found_at_the_next_logging_interval() -> None:
    trainer = trainer_of(trainer__log_every_steps=3)
    poison(trainer, 6)
    with pytest.raises(TrainingError, match="step 6"):
        trainer.fit()
    assert trainer.engine.step_index == 8  # the third step of the epoch, of five


# Resume


@ENCODERS.register("tiny_dropout")
class TinyDropout(Tiny):
    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return F.dropout(super().forward(x, lengths), 0.5, self.training)


class Stop(Exception):
    """Stands for the end of the process."""


def die_at(trainer: Trainer, step: int) -> None:
    train_step = trainer.train_step

    def dying(batch: Batch) -> None:
        if trainer.engine.step_index == step:
            raise Stop
        train_step(batch)

    trainer.train_step = dying


@pytest.mark.parametrize("step", [7, 9, 10, 13])
def test_dropout_goes_on_where_it_was_inside_an_epoch(step: int, tmp_path: Path) -> None:
    encoders = {name: {"name": "tiny_dropout"} for name in ("loud", "quiet")}
    values = {"model__encoders": encoders, "trainer__max_epochs": 3, "trainer__checkpoint_every_steps": 2}
    whole = trainer_of(run_dir=tmp_path / "whole", **values)
    whole.fit()
    cut = trainer_of(run_dir=tmp_path / "cut", **values)
    die_at(cut, step)
    with pytest.raises(Stop):
        cut.fit()
    torch.manual_seed(77)
    resumed = trainer_of(run_dir=tmp_path / "cut", **values)
    resumed.fit()
    assert_equal(weights(resumed), weights(whole))


def test_a_run_goes_back_to_an_older_checkpoint_and_says_so(tmp_path: Path) -> None:
    whole, cut = (trainer_of("aug", tmp_path / name) for name in ("whole", "cut"))
    whole.fit()
    die_at(cut, 16)  # in the fourth epoch
    with pytest.raises(Stop):
        cut.fit()
    newest = tmp_path / "cut" / "checkpoints" / "epoch-000003" / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    resumed = trainer_of("aug", tmp_path / "cut")
    resumed.fit()
    assert [("epoch-000003" in notice, "older one" in notice) for notice in resumed.notices] == [(True, True)]
    assert_equal(weights(resumed), weights(whole))
    assert [row["epoch"] for row in read_rows(tmp_path / "cut")] == [1, 2, 3, 4]


def test_a_run_without_any_valid_checkpoint_starts_anew(tmp_path: Path) -> None:
    trainer_of(run_dir=tmp_path, trainer__max_epochs=1).fit()
    (tmp_path / "checkpoints" / "epoch-000001" / "manifest.json").unlink()
    again = trainer_of(run_dir=tmp_path, trainer__max_epochs=1)
    assert not again.resume()
    assert len(again.notices) == 1
    assert again.fit().epoch == 1


def test_a_finished_run_is_reported_again_and_not_trained(tmp_path: Path) -> None:
    first = trainer_of(run_dir=tmp_path)
    rows = first.fit().last_row
    again = trainer_of(run_dir=tmp_path)
    die_at(again, 20)
    assert again.fit().last_row == rows
    assert again.reporter.rows == [rows]
    assert len(read_rows(tmp_path)) == 4


def test_as_many_checkpoints_as_asked_for_are_kept(tmp_path: Path) -> None:
    trainer_of(run_dir=tmp_path, trainer__keep_checkpoints=1).fit()
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert len(list(folder.path.glob("epoch-*"))) == 1
    assert folder.best()["epoch"] >= 1


def test_workers_that_found_different_checkpoints_stop(tmp_path: Path, monkeypatch) -> None:
    trainer_of(run_dir=tmp_path, trainer__max_epochs=1).fit()
    trainer = trainer_of(run_dir=tmp_path, trainer__max_epochs=1)
    monkeypatch.setattr("mmcore.distributed.gather_objects", lambda value: [value, -1])
    with pytest.raises(CheckpointError, match=r"steps \[5, -1\].*must be a folder that every worker sees"):
        trainer.fit()
