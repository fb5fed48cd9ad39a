"""Diagnosing & Re-learning: each equation against a naive loop, each ruling, and where the method is joint training."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from stepping import assert_equal_runs, trainer_of
from torch import Tensor

from mmcore.assembly.config import variant_settings
from mmcore.methods.k_means import first_centres, k_means, purity
from mmcore.methods.relearning import cluster_purity, diagnosis_epochs, scaled, set_back
from mmcore.methods.step import Place
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

SOON = {"method__every_epochs": 1, "method__times": 1, "method__schedule_epochs": 4}
"""In a run of four epochs: one diagnosis, before the third."""


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "relearning", *shape), dtype=torch.float64)


def blobs(num_clusters: int, size: int, distance: float) -> tuple[Tensor, Tensor]:
    """Points about as many centres, and which centre each belongs to."""
    labels = torch.arange(num_clusters * size) % num_clusters
    return drawn(len(labels), 3) + distance * drawn(num_clusters, 3)[labels], labels


# Equations


def test_each_dimension_is_scaled_to_minus_one_to_one() -> None:
    features = torch.cat([5 * drawn(6, 3) + 2, torch.full((6, 1), 7.0)], dim=1)
    found = scaled(features)
    for d in range(3):
        column = features[:, d].tolist()
        low, high = min(column), max(column)
        expected = [2 * (value - low) / (high - low) - 1 for value in column]
        assert found[:, d].tolist() == pytest.approx(expected, rel=1e-12)
    assert found[:, 3].tolist() == [-1] * 6  # constant


@pytest.mark.parametrize("num_classes", [1, 3])
def test_purity_is_that_of_a_loop(num_classes: int) -> None:
    clusters, labels = torch.tensor([0, 0, 4, 4, 4, 2, 0]), torch.tensor([1, 2, 0, 0, 1, 2, 2]) % num_classes
    members: dict[int, list[int]] = {}
    for cluster, label in zip(clusters.tolist(), labels.tolist(), strict=True):
        members.setdefault(cluster, []).append(label)
    expected = sum(max(Counter(found).values()) for found in members.values()) / 7
    assert purity(clusters, labels) == pytest.approx(expected)


def test_clusters_that_are_the_classes_are_pure_and_their_names_do_not_matter() -> None:
    labels = torch.tensor([0, 1, 2, 1, 0])
    assert purity(torch.tensor([2, 0, 1, 0, 2]), labels) == 1
    assert purity(torch.zeros(5, dtype=torch.int64), labels) == 0.4
    assert purity(torch.zeros(0, dtype=torch.int64), labels[:0]) == 0


def spread(points: Tensor, clusters: tuple[int, ...]) -> float:
    total = 0.0
    for cluster in set(clusters):
        rows = [points[i].tolist() for i in range(len(points)) if clusters[i] == cluster]
        centre = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        total += sum(math.dist(row, centre) ** 2 for row in rows)
    return total


def test_clusters_have_the_least_spread_there_is() -> None:
    points = drawn(8, 2)
    best = min(spread(points, clusters) for clusters in itertools.product(range(3), repeat=8))
    assert spread(points, tuple(k_means(points, 3, generator(0, "test")).tolist())) == pytest.approx(best, rel=1e-12)


def test_clusters_that_lie_apart_are_found_the_same_each_time() -> None:
    points, labels = blobs(4, 20, 20.0)
    first, second = (k_means(points, 4, generator(0, "test")) for _ in range(2))
    assert torch.equal(first, second)
    assert purity(first, labels) == 1
    assert len(first.unique()) == 4


def test_first_centres_are_drawn_far_from_one_another() -> None:
    points, labels = blobs(4, 20, 1000.0)
    for seed in range(5):
        centres = first_centres(points, 4, generator(seed, "test"))
        owners = [labels[int((points == centre).all(dim=1).nonzero())].item() for centre in centres]
        assert sorted(owners) == [0, 1, 2, 3]


@pytest.mark.parametrize("points", [torch.ones(6, 2), drawn(2, 2)], ids=["equal", "few"])
def test_fewer_different_points_than_clusters_are_taken(points: Tensor) -> None:
    clusters = k_means(points, 4, generator(0, "test"))
    assert len(clusters) == len(points)
    assert 0 <= clusters.min() <= clusters.max() < 4
    assert len(clusters.unique()) == len(points.unique(dim=0))


def test_what_is_set_back_is_tanh_of_the_gap() -> None:
    purities = torch.tensor([[0.9, 0.5, 0.4, 0.0], [0.6, 0.5, 0.9, 0.7]], dtype=torch.float64)
    expected = [math.tanh(3 * 0.3), 0.0, math.tanh(3 * 0.5), 0.0]  # the last has no sample in one of the splits
    assert set_back(purities, 3.0).tolist() == pytest.approx(expected, rel=1e-12)
    assert set_back(purities, 0.0).tolist() == [0, 0, 0, 0]


# When


def test_diagnoses_follow_epochs_20_and_40_of_the_authors_50() -> None:
    assert diagnosis_epochs(20, 3, 50, 50) == {21, 41}
    assert diagnosis_epochs(20, 3, 50, 100) == {41, 81}
    assert diagnosis_epochs(10, 3, 50, 50) == {11, 21, 31}  # three times at most
    assert diagnosis_epochs(20, 3, 50, 2) == frozenset()  # it would come after the last epoch
    assert diagnosis_epochs(1, 3, 50, 10) == {2}  # never after the first epoch


def test_a_run_is_diagnosed_when_it_is_due_and_then_alone() -> None:
    trainer = trainer_of("relearning", **{**SOON, "method__times": 2, "trainer__max_epochs": 4})
    asked = []
    passes = trainer.engine.passes

    def recording(split: str, **options: object) -> object:
        asked.append((trainer.engine.place.epoch, split, options))
        return passes(split, **options)

    trainer.engine.passes = recording
    trainer.fit()
    assert asked == [(epoch, split, {"most": 5000}) for epoch in (2, 3) for split in ("train", "val")]
    before = [row["method/purity_train/loud"] for row in trainer.reporter.rows]
    assert before[:2] == [0, 0]
    assert 0 < before[2] <= 1


# The method


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("off", [{"method__strength": 0.0}, {"method__times": 0}], ids=["strength", "times"])
def test_switched_off_it_is_joint_bit_for_bit(off: dict[str, object], count: int) -> None:
    own = trainer_of("relearning", count, trainer__precision="float32", **{**SOON, **off})
    assert_equal_runs(own, trainer_of("joint", count, trainer__precision="float32"))


def due(count: int = 2, **values: object) -> Trainer:
    """A trainer of which two epochs are done, before the third is diagnosed."""
    trainer = trainer_of("relearning", count, **{**SOON, **values})
    trainer.fit(until=2)
    trainer.method.eval()
    return trainer


def diagnosed(trainer: Trainer) -> None:
    trainer.engine.place = Place(2, 0, 5)
    trainer.method.begin_epoch(trainer.engine)


def naive_purity(trainer: Trainer, name: str, first: int, last: int) -> float:
    """Of the samples in [first, last), from the data itself."""
    batch = trainer.transforms(trainer.loader._data.select(first, last), training=False)
    features, labels = trainer.method.model.encode(batch)[name].detach(), batch.labels
    mask = batch.has(name)
    if mask is not None:
        features, labels = features[mask], labels[mask]
    clusters = k_means(scaled(features), 3, generator(0, "k-means"))
    return purity(clusters, labels)


@pytest.mark.parametrize("count", [2, 4])
def test_encoders_go_part_of_the_way_back_and_nothing_else_moves(count: int) -> None:
    trainer = due(count)
    method = trainer.method
    initial = {name: value.clone() for name, value in trainer_of("relearning", count).method.named_parameters()}
    before = {name: value.clone() for name, value in method.state_dict().items()}
    momentum = {p: dict(state) for p, state in trainer.engine.optimizer.state.items()}
    expected = {
        name: math.tanh(3 * abs(naive_purity(trainer, name, 0, 80) - naive_purity(trainer, name, 80, 110)))
        for name in method.context.modalities
    }
    diagnosed(trainer)
    assert dict(zip(expected, method.shares.tolist(), strict=True)) == pytest.approx(expected, rel=1e-12)
    assert max(expected.values()) > 0.01
    for name, value in method.named_parameters():
        modality = name.split(".")[2] if name.startswith("model.encoders.") else None
        share = expected.get(modality, 0.0)
        torch.testing.assert_close(value, share * initial[name] + (1 - share) * before[name], rtol=1e-12, atol=1e-14)
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    encoders = {f"model.encoders.{name}.layer.{part}" for name in expected for part in ("weight", "bias")}
    assert changed <= {"purities", "shares", *encoders}
    assert momentum == {p: dict(state) for p, state in trainer.engine.optimizer.state.items()}


def test_statistics_of_batch_norms_stay() -> None:
    values = {f"model__encoders__{name}__batch_norm": True for name in ("loud", "quiet")}
    trainer = due(**values)
    before = {name: value.clone() for name, value in trainer.method.state_dict().items() if "running" in name}
    weights = {name: value.clone() for name, value in trainer.method.named_parameters()}
    diagnosed(trainer)
    assert before
    assert all(torch.equal(value, trainer.method.state_dict()[name]) for name, value in before.items())
    moved = {name for name, value in trainer.method.named_parameters() if not torch.equal(value, weights[name])}
    assert any("norm.weight" in name for name in moved)  # its weights are the encoder's


def test_equal_purities_change_nothing_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = due()
    monkeypatch.setattr("mmcore.methods.relearning.cluster_purity", lambda *_: 0.625)
    before = {name: value.clone() for name, value in trainer.method.named_parameters()}
    diagnosed(trainer)
    assert trainer.method.shares.tolist() == [0, 0]
    assert all(torch.equal(value, before[name]) for name, value in trainer.method.named_parameters())


def test_what_does_not_train_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = due()
    purities = iter([0.9, 0.5, 0.6, 0.5])  # loud and quiet, of train and of validation
    monkeypatch.setattr("mmcore.methods.relearning.cluster_purity", lambda *_: next(purities))
    frozen = trainer.method.model.encoders["loud"].layer.weight.requires_grad_(False)
    before = frozen.clone()
    diagnosed(trainer)
    assert trainer.method.shares.tolist() == pytest.approx([math.tanh(3 * 0.3), 0])
    assert torch.equal(frozen, before)


def test_initial_weights_outlive_a_checkpoint(tmp_path: object) -> None:
    whole = trainer_of("relearning", 2, tmp_path, **SOON)
    initial = whole.method.initial_loud.clone()
    whole.fit(until=1)
    resumed = trainer_of("relearning", 2, tmp_path, seed=0, **SOON)
    resumed.method.initial_loud.zero_()
    assert resumed.resume()
    assert torch.equal(resumed.method.initial_loud, initial)
    assert not torch.equal(resumed.method.model.encoders["loud"].layer.weight.flatten(), initial[:24])


def test_samples_that_lack_a_modality_are_not_clustered() -> None:
    trainer = due()
    has = torch.arange(140) % 4 > 0
    trainer.loader._data.present = {"quiet": has}
    expected = [naive_purity(trainer, "quiet", *ends) for ends in ((0, 80), (80, 110))]
    diagnosed(trainer)
    assert trainer.method.purities[:, 1].tolist() == pytest.approx(expected)


def test_a_modality_that_no_sample_of_validation_has_is_left_alone() -> None:
    trainer = due()
    trainer.loader._data.present = {"quiet": torch.arange(140) < 80}
    weight = trainer.method.model.encoders["quiet"].layer.weight.clone()
    diagnosed(trainer)
    assert trainer.method.shares[1] == 0
    assert torch.equal(trainer.method.model.encoders["quiet"].layer.weight, weight)


def test_no_more_than_so_many_samples_are_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = due()
    seen = []
    monkeypatch.setattr("mmcore.methods.relearning.MOST_SAMPLES", 20)
    monkeypatch.setattr("mmcore.methods.relearning.cluster_purity", lambda x, *_: seen.append(len(x)) or 0.5)
    diagnosed(trainer)
    assert seen == [20, 20, 20, 20]


def test_the_released_codes_rate_stays() -> None:
    assert variant_settings("relearning", "released", ("audio", "image")) == {"schedule.name": "constant"}


def test_clusters_of_no_sample_have_no_purity() -> None:
    assert cluster_purity(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 3) == 0
