from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import data_sources
import driving
import numpy as np
import pytest
import ray
import torch

from mmcore.batch import Batch
from mmcore.config.schema import ProtocolConfig
from mmcore.data.epoch_plan import EpochPlan
from mmcore.data.feeding.loader import TensorLoader, Uniforms
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.splits import Assignment
from mmcore.errors import DataError, TrainingError
from rayjobs.feeding import cached, streaming
from rayjobs.feeding.cached import CachedData, materialise
from rayjobs.feeding.streaming import StreamLoader


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    # No stream outlives its loader: a Ray that ends under one breaks off its threads.
    driving.wait_for(lambda: not executors(), timeout_s=60)
    ray.shutdown()


def executors() -> list[threading.Thread]:
    """Returns Ray Data's threads in this process."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """500 samples; train in 13 files of 24 rows, the last of 12, so that blocks are of uneven size."""
    with pytest.MonkeyPatch.context() as patch:
        return data_sources.prepare_in_many_files(patch, tmp_path_factory.mktemp("data"), 500, rows_per_file=24)


@pytest.fixture(scope="module")
def assignment(prepared: PreparedDataset) -> Assignment:
    return prepared.assign(ProtocolConfig(name="group"))


def ids(batches: list[Batch]) -> list[str]:
    return [sample_id for batch in batches if not batch.is_placeholder for sample_id in batch.sample_ids]


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.sample_ids == second.sample_ids
    for field in ("inputs", "lengths", "present"):
        mine, other = getattr(first, field), getattr(second, field)
        assert list(mine) == list(other)
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.rows, second.rows)
    assert (first.uniforms is None) == (second.uniforms is None)
    assert first.uniforms is None or torch.equal(first.uniforms, second.uniforms)


def assert_columns(batch: Batch) -> None:
    numbers = torch.tensor([int(sample_id[-3:]) for sample_id in batch.sample_ids])
    assert torch.equal(batch.inputs["features"][:, 0], numbers.float())
    assert torch.equal(batch.inputs["sound"][:, 0].long(), numbers)
    assert torch.equal(batch.lengths["sound"], 1 + numbers % 5)
    assert torch.equal(batch.present["features"], numbers % 4 != 0)
    assert torch.equal(batch.labels, numbers % 3)


@pytest.mark.ray
@pytest.mark.slow
class TestMaterialise:
    def test_a_trial_sees_what_memory_gives(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment
    ) -> None:
        @ray.remote
        def trial(cached: CachedData, assignment: Assignment) -> tuple[list[Batch], list[Batch], bool]:
            loader = cached.loader(assignment, 32, seed=5)
            again = cached.loader(assignment, 32, seed=5)
            shared = loader._data.inputs["sound"].data_ptr() == again._data.inputs["sound"].data_ptr()
            return list(loader.train_batches(1)), list(loader.eval_batches("test")), shared

        cached = materialise(prepared, budget_bytes=prepared.num_bytes)
        assert cached is not None
        train, test, shared = ray.get(trial.remote(cached, assignment))
        memory = TensorLoader.from_prepared(prepared, assignment, 32, seed=5)
        for mine, expected in zip(
            [*train, *test], [*memory.train_batches(1), *memory.eval_batches("test")], strict=True
        ):
            assert_equal(mine, expected)
        assert shared

    def test_trials_read_the_store_without_a_copy(self, local_ray: None, prepared: PreparedDataset) -> None:
        held = materialise(prepared)
        assert held is not None
        table, _ = ray.get(held.content)
        cached._resident.clear()
        loader = held.loader(prepared.assign(ProtocolConfig(name="group")), 32)
        address = table.column("sound").chunk(0).buffers()[1].address
        assert loader._data.inputs["sound"].data_ptr() == address

    def test_what_does_not_fit_is_not_cached(self, local_ray: None, prepared: PreparedDataset) -> None:
        assert materialise(prepared, budget_bytes=prepared.num_bytes - 1) is None

    def test_a_damaged_file_is_named(self, local_ray: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        prepared = data_sources.prepare_in_many_files(monkeypatch, tmp_path, 50, rows_per_file=8)
        flip_byte(prepared.files("train")[1])
        with pytest.raises(DataError, match=r"train/part-00001.parquet is damaged"):
            materialise(prepared)


@pytest.mark.ray
@pytest.mark.slow
class TestStream:
    def test_every_sample_once_with_its_own_columns_in_a_drawn_order(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment
    ) -> None:
        loader = StreamLoader(prepared, assignment, 32, num_epochs=2, seed=4)
        epochs = [list(loader.train_batches(epoch)) for epoch in range(2)]
        expected = prepared.index["sample_id"].to_numpy()[assignment.train]
        for epoch, batches in enumerate(epochs):
            assert sorted(ids(batches)) == sorted(expected)
            assert [batch.num_samples for batch in batches[:-1]] == [32] * (loader.num_steps - 1)
            for step, batch in enumerate(batches):
                assert_columns(batch)
                assert expected[batch.rows.numpy()].tolist() == batch.sample_ids
                assert batch.uniforms is not None
                assert torch.equal(batch.uniforms, Uniforms(4, epoch, 32 * step).draw(batch.num_samples))
        other_seed = ids(list(StreamLoader(prepared, assignment, 32, num_epochs=1, seed=5).train_batches(0)))
        orders = [expected.tolist(), ids(epochs[0]), ids(epochs[1]), other_seed]
        assert all(orders[i] != orders[j] for i in range(4) for j in range(i))

    def test_order_repeats_and_start_step_gives_the_rest(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment
    ) -> None:
        # Windows of 64 samples, so that the order of the files shows through.
        options: dict[str, Any] = {"seed": 1, "shuffle_bytes": 64 * 18, "num_epochs": 4}
        whole = list(StreamLoader(prepared, assignment, 16, **options).train_batches(3))
        rest = list(StreamLoader(prepared, assignment, 16, **options).train_batches(3, start_step=5))
        for expected, batch in zip(whole[5:], rest, strict=True):
            assert_equal(expected, batch)

    def test_workers_cut_each_global_batch(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment
    ) -> None:
        def batches(rank: int, world_size: int) -> list[Batch]:
            loader = StreamLoader(prepared, assignment, 30, rank=rank, world_size=world_size, num_epochs=1)
            return list(loader.train_batches(0))

        whole, parts = batches(0, 1), [batches(rank, 31) for rank in (1, 30)]
        for step, expected in enumerate(whole):
            assert parts[0][step].sample_ids == expected.sample_ids[1:2]
            assert expected.uniforms is not None
            assert torch.equal(parts[0][step].uniforms, expected.uniforms[1:2])
            assert parts[1][step].is_placeholder

    def test_a_planned_epoch_gives_its_entries_without_what_they_lack(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment
    ) -> None:
        number = len(assignment.train)
        rows = torch.cat([torch.arange(number), torch.arange(40, 60).repeat(3), torch.full((30,), 7)])
        copies = torch.arange(len(rows)) >= number
        dropped = {"sound": copies, "features": torch.arange(len(rows)) == 5}
        plan = EpochPlan(rows=rows, dropped=dropped, parts=copies.long(), mixed=False)
        options: dict[str, Any] = {"seed": 1, "shuffle_bytes": 64 * 18, "num_epochs": 2}
        loader = StreamLoader(prepared, assignment, 32, **options)
        whole = list(loader.train_batches(1, 0, plan))
        assert [batch.num_samples for batch in whole] == [*[32] * (number // 32), number % 32, 32, 32, 26]
        names = prepared.index["sample_id"].to_numpy()[assignment.train]
        had = {name: int(name[-3:]) % 4 != 0 for name in names}
        given = []
        for batch in whole:
            assert batch.sample_ids == names[batch.rows.numpy()].tolist()
            assert torch.equal(batch.labels, torch.tensor([int(name[-3:]) for name in batch.sample_ids]) % 3)
            given += zip(
                *(v.tolist() for v in (batch.rows, *map(batch.present.get, ("sound", "features")))), strict=True
            )
        expected = [
            (int(row), not copies[entry], bool(entry != 5 and had[names[row]])) for entry, row in enumerate(rows)
        ]
        assert sorted(given) == sorted(expected)
        assert given[:number] != expected[:number]  # mixed
        uniforms = torch.cat([batch.uniforms for batch in whole])
        assert torch.equal(uniforms, Uniforms(1, 1).draw(len(rows)))
        for mine, other in zip(loader.train_batches(1, 4, plan), whole[4:], strict=True):
            assert_equal(mine, other)
        parts = [StreamLoader(prepared, assignment, 32, rank=rank, world_size=3, **options) for rank in range(3)]
        for batch, *shares in zip(whole, *(part.train_batches(1, 0, plan) for part in parts), strict=True):
            assert ids(shares) == batch.sample_ids
            assert torch.equal(torch.cat([share.present["sound"] for share in shares]), batch.present["sound"])

    def test_a_stream_started_ahead_is_ended_where_the_epoch_is_planned(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment
    ) -> None:
        loader = StreamLoader(prepared, assignment, 64, num_epochs=4)
        list(loader.train_batches(0))
        assert ("train", 1) in loader._ready
        plan = EpochPlan(rows=torch.arange(70))
        assert sorted(torch.cat([batch.rows for batch in loader.train_batches(1, 0, plan)]).tolist()) == list(range(70))
        assert set(loader._ready) == {("val", streaming.EVALUATION)}  # the next epoch may be planned too
        loader.close()

    def test_evaluation_is_in_order_and_drops_nothing(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment
    ) -> None:
        memory = TensorLoader.from_prepared(prepared, assignment, 32, eval_batch_size=20)
        whole = StreamLoader(prepared, assignment, 32, eval_batch_size=20)
        for mine, expected in zip(whole.eval_batches("val"), memory.eval_batches("val"), strict=True):
            assert_equal(mine, expected)
        shares = []
        for rank in range(3):
            loader = StreamLoader(prepared, assignment, 32, eval_batch_size=20, rank=rank, world_size=3)
            shares += list(loader.eval_batches("test"))
        assert ids(shares) == memory.rows("test").sample_ids.tolist() == whole.rows("test").sample_ids.tolist()

    def test_training_is_evaluated_in_shares_too(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment
    ) -> None:
        for rank in range(2):
            options: dict[str, Any] = {"eval_batch_size": 100, "rank": rank, "world_size": 2}
            memory = TensorLoader.from_prepared(prepared, assignment, 32, **options)
            stream = StreamLoader(prepared, assignment, 32, **options)
            for mine, expected in zip(stream.eval_batches("train"), memory.eval_batches("train"), strict=True):
                assert_equal(mine, expected)

    @pytest.mark.parametrize("world_size", [1, 3])
    def test_a_part_of_a_split_is_that_which_memory_gives(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment, world_size: int
    ) -> None:
        for split, places in (("train", np.array([0, 1, 5, 40, 41, 77, 90])), ("val", np.arange(3))):
            for rank in range(world_size):
                options = {"rank": rank, "world_size": world_size}
                memory = TensorLoader.from_prepared(prepared, assignment, 5, **options)
                stream = StreamLoader(prepared, assignment, 5, **options)
                found, expected = list(stream.part_batches(split, places)), list(memory.part_batches(split, places))
                assert len(found) == -(-len(places) // 5)
                for mine, other in zip(found, expected, strict=True):
                    assert_equal(mine, other)
                    assert mine.is_placeholder == other.is_placeholder

    def test_the_next_streams_start_before_the_epoch_ends(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment
    ) -> None:
        loader = StreamLoader(prepared, assignment, 16, num_epochs=2)
        for step, _ in enumerate(loader.train_batches(0)):
            if step == loader.num_steps - 2:
                assert set(loader._ready) == {("train", 1), ("val", streaming.EVALUATION)}
        list(loader.train_batches(1))
        assert set(loader._ready) == {("val", streaming.EVALUATION)}  # no third epoch
        loader.close()
        assert not loader._ready

    def test_a_damaged_file_is_named(self, local_ray: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        prepared = data_sources.prepare_in_many_files(monkeypatch, tmp_path, 50, rows_per_file=8)
        assignment = prepared.assign(ProtocolConfig(name="holdout"))
        prepared.index  # noqa: B018 (read before the damage)
        path = prepared.files("train")[1]
        path.write_bytes(b"x" * path.stat().st_size)
        with pytest.raises(DataError, match=r"train/part-00001.parquet is damaged"):
            list(StreamLoader(prepared, assignment, 16).train_batches(0))

    def test_readers_without_a_cpu_are_an_error_and_not_a_wait(
        self, local_ray: None, prepared: PreparedDataset, assignment: Assignment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @ray.remote(num_cpus=2)
        class Greedy:
            def ready(self) -> bool:
                return True

        monkeypatch.setattr(streaming, "PATIENCE_S", 1.0)
        greedy = Greedy.remote()
        ray.get(greedy.ready.remote())
        loader = StreamLoader(prepared, assignment, 16)
        with pytest.raises(TrainingError, match="read tasks wait for a CPU: all 2 are taken by trials"):
            next(loader.train_batches(0))
        ray.kill(greedy)


def test_a_plan_that_mixes_batches_of_parts_is_refused(prepared: PreparedDataset, assignment: Assignment) -> None:
    plan = EpochPlan(rows=torch.arange(4), parts=torch.arange(4) % 2)
    with pytest.raises(TrainingError, match="Let the parts follow each other, or hold the data in memory"):
        next(StreamLoader(prepared, assignment, 2).train_batches(0, 0, plan))


def test_a_loader_that_is_closed_waits_for_its_streams_to_start_and_end(
    prepared: PreparedDataset, assignment: Assignment
) -> None:
    may_start, events = threading.Event(), []

    def batches() -> Generator[Any]:
        may_start.wait(60)
        try:
            yield "first"
        finally:
            events.append("ended")

    loader = StreamLoader(prepared, assignment, 16)
    loader._ready["val", streaming.EVALUATION] = streaming._Stream(batches)
    closing = threading.Thread(target=loader.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    may_start.set()
    closing.join(60)
    assert events == ["ended"]
    assert not closing.is_alive()


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_only_the_files_with_wanted_rows_are_read(prepared: PreparedDataset, assignment: Assignment) -> None:
    files = StreamLoader(prepared, assignment, 16)._files(np.array([0, 23, 48, 50]))
    assert [file.path.relative_to(prepared.directory).as_posix() for file in files] == [
        "train/part-00000.parquet",
        "train/part-00002.parquet",
    ]
    assert [(file.rows.tolist(), file.first) for file in files] == [([0, 23], 0), ([0, 2], 2)]
