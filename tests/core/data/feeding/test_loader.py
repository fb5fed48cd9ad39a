from __future__ import annotations

from pathlib import Path
from typing import Any

import data_sources
import numpy as np
import pytest
import torch

from mmcore.batch import NUM_UNIFORMS, Batch
from mmcore.config.schema import ProtocolConfig
from mmcore.data.feeding.loader import TensorLoader, shard_bounds
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.splits import Assignment

TRAIN = 102  # of 170 samples: with 16 a step, the seventh and last step has 6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    data_sources.register()
    return prepare("toy", {"num_samples": 170}, None, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def assignment(prepared: PreparedDataset) -> Assignment:
    return prepared.assign(ProtocolConfig(name="holdout"))


@pytest.fixture(scope="module")
def make(prepared: PreparedDataset, assignment: Assignment) -> Any:
    data = to_batch(prepared.read_table(), prepared.spec)

    def make_loader(batch_size: int = 16, **options: Any) -> TensorLoader:
        return TensorLoader(data, prepared.index, assignment, batch_size, **options)

    return make_loader


def ids(batches: list[Batch]) -> list[str]:
    return [sample_id for batch in batches if not batch.is_placeholder for sample_id in batch.sample_ids]


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.sample_ids == second.sample_ids
    for name in first.inputs:
        assert torch.equal(first.inputs[name], second.inputs[name])
    assert torch.equal(first.labels, second.labels)
    assert first.uniforms is not None
    assert second.uniforms is not None
    assert torch.equal(first.uniforms, second.uniforms)


def test_every_training_sample_once_an_epoch(make: Any, prepared: PreparedDataset, assignment: Assignment) -> None:
    loader = make()
    batches = list(loader.train_batches(0))
    assert (loader.num_steps, loader.num_samples("train"), len(batches)) == (7, TRAIN, 7)
    assert [batch.num_samples for batch in batches] == [16] * 6 + [6]
    train = prepared.index["sample_id"].to_numpy()[assignment.train]
    assert sorted(ids(batches)) == sorted(train)


def test_samples_keep_their_own_columns(make: Any) -> None:
    for batch in make().train_batches(3):
        numbers = torch.tensor([int(sample_id[-3:]) for sample_id in batch.sample_ids])
        assert torch.equal(batch.inputs["features"][:, 0], numbers.float())
        assert torch.equal(batch.inputs["sound"][:, 0].long(), numbers)
        assert torch.equal(batch.labels, numbers % 3)
        assert torch.equal(batch.lengths["sound"], 1 + numbers % 5)
        assert torch.equal(batch.present["features"], numbers % 4 != 0)


def test_order_is_a_function_of_seed_and_epoch(make: Any) -> None:
    order = ids(list(make(seed=3).train_batches(2)))
    assert order == ids(list(make(seed=3).train_batches(2)))
    assert order != ids(list(make(seed=3).train_batches(1)))
    assert order != ids(list(make(seed=4).train_batches(2)))
    assert order != sorted(order)


def test_order_is_the_same_on_every_machine(make: Any) -> None:
    assert ids(list(make(seed=0).train_batches(0)))[:4] == ["sample-145", "sample-012", "sample-026", "sample-075"]


@pytest.mark.parametrize("start_step", [1, 4, 6, 7])
def test_start_step_gives_exactly_the_rest(make: Any, start_step: int) -> None:
    whole = list(make().train_batches(5))
    rest = list(make().train_batches(5, start_step))
    assert len(rest) == 7 - start_step
    for expected, batch in zip(whole[start_step:], rest, strict=True):
        assert_equal(expected, batch)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_workers_cut_each_global_batch(make: Any, world_size: int) -> None:
    whole = list(make().train_batches(1))
    parts = [list(make(rank=rank, world_size=world_size).train_batches(1)) for rank in range(world_size)]
    for step, expected in enumerate(whole):
        shards = [part[step] for part in parts]
        assert ids(shards) == expected.sample_ids
        sizes = [shard.num_samples for shard in shards]
        assert max(sizes) - min(sizes) <= 1
        assert expected.uniforms is not None
        joined = torch.cat([shard.uniforms for shard in shards if not shard.is_placeholder])
        assert torch.equal(joined, expected.uniforms)


def test_an_empty_shard_is_a_placeholder_of_one_sample(make: Any) -> None:
    last = [list(make(rank=rank, world_size=8).train_batches(0))[-1] for rank in range(8)]
    assert [batch.num_samples for batch in last] == [1] * 6 + [0, 0]
    assert [batch.is_placeholder for batch in last] == [False] * 6 + [True, True]
    assert last[7].inputs["sound"].shape == (1, 5)
    assert last[7].uniforms is not None
    assert last[7].uniforms.shape == (1, NUM_UNIFORMS)


def test_uniforms_are_uniform_and_differ_by_step_epoch_and_seed(make: Any) -> None:
    first = [batch.uniforms for batch in make(seed=1).train_batches(0)]
    drawn = torch.cat(first)
    assert drawn.dtype == torch.float32
    assert drawn.shape == (TRAIN, NUM_UNIFORMS)
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.05)
    assert len(drawn.unique()) > 0.99 * drawn.numel()
    other_epoch = torch.cat([batch.uniforms for batch in make(seed=1).train_batches(1)])
    other_seed = torch.cat([batch.uniforms for batch in make(seed=2).train_batches(0)])
    assert not torch.equal(drawn, other_epoch)
    assert not torch.equal(drawn, other_seed)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_drops_and_repeats_nothing(make: Any, world_size: int) -> None:
    for split in ("val", "test"):
        shares = [
            list(make(eval_batch_size=5, rank=rank, world_size=world_size).eval_batches(split))
            for rank in range(world_size)
        ]
        assert ids([batch for share in shares for batch in share]) == make().rows(split).sample_ids.tolist()
        assert all(batch.uniforms is None and not batch.is_placeholder for share in shares for batch in share)
        assert all(batch.num_samples == 5 for share in shares for batch in share[:-1])


def test_rows_describe_the_evaluation_order(make: Any) -> None:
    rows = make().rows("test")
    numbers = [int(sample_id[-3:]) for sample_id in rows.sample_ids]
    assert numbers == sorted(numbers)
    assert rows.labels.tolist() == [number % 3 for number in numbers]
    assert rows.groups.tolist() == [f"group-{number % 6}" for number in numbers]
    assert rows.sources.tolist() == [f"source-{number:03d}" for number in numbers]


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_sample_has_the_same_row_in_every_epoch_evaluation_and_part(make: Any, world_size: int) -> None:
    for rank in range(world_size):
        loader = make(rank=rank, world_size=world_size)
        for split in ("train", "val"):
            ids = loader.rows(split).sample_ids
            served = [*loader.eval_batches(split), *loader.part_batches(split, np.arange(0, len(ids), 3))]
            if split == "train":
                served += [*loader.train_batches(0), *loader.train_batches(1, 2)]
            for batch in served:
                assert ids[batch.rows.numpy()].tolist() == batch.sample_ids
                assert ids[batch.select(0, 1).rows.numpy()].tolist() == batch.sample_ids[:1]


def test_batches_are_copies(make: Any) -> None:
    loader = make()
    batch = next(loader.eval_batches("val"))
    expected = batch.inputs["features"].clone()
    batch.inputs["features"].zero_()
    assert torch.equal(next(loader.eval_batches("val")).inputs["features"], expected)


def test_from_prepared(make: Any, prepared: PreparedDataset, assignment: Assignment, tmp_path: Path) -> None:
    loader = TensorLoader.from_prepared(prepared, assignment, 16, seed=9)
    assert_equal(next(loader.train_batches(0)), next(make(seed=9).train_batches(0)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_memory(make: Any) -> None:
    assert next(make(pin_memory=True).train_batches(0)).inputs["sound"].is_pinned()


@pytest.mark.parametrize(("num_samples", "world_size"), [(10, 3), (2, 4), (0, 2), (64, 1)])
def test_shard_bounds_cover_everything_once(num_samples: int, world_size: int) -> None:
    parts = [np.arange(num_samples)[slice(*shard_bounds(num_samples, rank, world_size))] for rank in range(world_size)]
    assert np.concatenate(parts).tolist() == list(range(num_samples))
    assert num_samples == 0 or len(parts[0]) > 0
