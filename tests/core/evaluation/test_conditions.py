"""Missing and noisy modalities in evaluation: drawn by sample, the same however the data is cut."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from processes import run_processes
from synthetic import make_config, make_spec, make_trainer

from mmcore.batch import Batch
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.errors import ConfigError
from mmcore.evaluation.conditions import Condition, check_conditions
from mmcore.evaluation.predictions import Evaluation
from mmcore.training.trainer import Trainer

NAMES = ("loud", "quiet", "faint")


def batch_of(num_samples: int, **present: torch.Tensor) -> Batch:
    inputs = {name: torch.zeros(num_samples, 3) for name in NAMES}
    return Batch(inputs, torch.zeros(num_samples, dtype=torch.int64), present=present,
                 sample_ids=[f"s{number}" for number in range(num_samples)])  # fmt: skip


def trainer_of(rank: int = 0, world_size: int = 1) -> Trainer:
    spec = make_spec(3)
    return make_trainer(make_config("ensemble", spec), spec, rank=rank, world_size=world_size)


def lost(condition: Condition, batch: Batch) -> list[str | None]:
    """Which modality each sample has lost."""
    present = condition.remove(batch).present
    gone = [[name for name in NAMES if not present[name][row]] for row in range(len(batch.labels))]
    assert all(len(names) <= 1 for names in gone)
    return [names[0] if names else None for names in gone]


def test_the_stated_share_loses_one_modality_each_drawn_evenly() -> None:
    batch = batch_of(3000)
    for share in (0.2, 0.5, 1.0):
        counts = Counter(lost(Condition(missing=share), batch))
        assert counts[None] / 3000 == pytest.approx(1 - share, abs=0.03)
        for name in NAMES:
            assert counts[name] / 3000 == pytest.approx(share / 3, abs=0.03)
    assert Condition(missing=0.0).remove(batch) is batch


def test_who_loses_at_a_small_share_loses_the_same_at_a_larger_and_another_seed_draws_others() -> None:
    batch = batch_of(400)
    small, large = (lost(Condition(missing=share), batch) for share in (0.2, 0.5))
    assert all(few in (None, many) for few, many in zip(small, large, strict=True))
    assert lost(Condition(missing=0.2, seed=1), batch) != small


def test_a_sample_never_loses_its_last_modality_nor_one_it_has_not() -> None:
    draws = torch.rand(3, 500, generator=torch.Generator().manual_seed(0)) < 0.5
    draws[0] |= ~draws.any(dim=0)
    batch = batch_of(500, **dict(zip(NAMES, draws, strict=True)))
    before = {name: mask.clone() for name, mask in batch.present.items()}
    after = Condition(missing=1.0).remove(batch).present
    for row in range(500):
        had, has = ({name for name in NAMES if masks[name][row]} for masks in (before, after))
        assert has < had if len(had) > 1 else has == had
        assert len(has) == max(1, len(had) - 1)
    assert all(torch.equal(batch.present[name], before[name]) for name in NAMES)  # the loader's own is left alone


def test_only_leaves_the_named_ones_to_those_that_have_them() -> None:
    batch = batch_of(4, quiet=torch.tensor([True, False, True, False]))
    present = Condition(only=("loud", "quiet")).remove(batch).present
    assert present["loud"].all()
    assert present["quiet"].tolist() == [True, False, True, False]
    assert not present["faint"].any()


def test_noise_has_the_stated_deviation_is_the_samples_own_and_scales() -> None:
    batch = batch_of(2000)
    noisy = Condition(noise={"loud": 0.5}).disturb(batch)
    assert noisy.inputs["loud"].std().item() == pytest.approx(0.5, rel=0.03)
    assert noisy.inputs["loud"].mean().item() == pytest.approx(0, abs=0.02)
    assert noisy.inputs["quiet"] is batch.inputs["quiet"]
    assert not batch.inputs["loud"].any()
    part = batch.select(700, 710)
    again = Condition(noise={"loud": 1.0, "quiet": 0.5}).disturb(part)
    torch.testing.assert_close(again.inputs["loud"], 2 * noisy.inputs["loud"][700:710])
    assert not torch.equal(again.inputs["quiet"], noisy.inputs["loud"][700:710])  # each modality its own


def evaluations(rank: int, world_size: int) -> dict[str, Evaluation]:
    trainer = trainer_of(rank, world_size)
    trainer.loader.eval_batch_size = 256 if world_size == 1 else 4
    trainer.fit()
    conditions = (Condition(missing=0.5), Condition(noise={"loud": 0.7, "faint": 0.2}), Condition(only=("quiet",)))
    return {condition.name: trainer.evaluate("test", condition=condition) for condition in conditions}


def test_a_condition_does_not_depend_on_batch_size_or_number_of_workers() -> None:
    alone = evaluations(0, 1)
    assert list(alone) == ["missing 50 %", "noise loud 0.7, faint 0.2", "only quiet"]
    for rank in run_processes(evaluations, 2, 2):
        for name, expected in alone.items():
            assert torch.equal(rank[name].labels, expected.labels)
            for head, logits in expected.logits.items():
                torch.testing.assert_close(rank[name].logits[head], logits, rtol=1e-3, atol=1e-3)
            for modality, mask in expected.present.items():
                assert torch.equal(rank[name].present[modality], mask)
            assert rank[name].metrics["fused/accuracy"] == pytest.approx(expected.metrics["fused/accuracy"])
    assert len({evaluation.metrics["fused/loss"] for evaluation in alone.values()}) == 3


def test_a_condition_changes_what_is_predicted_and_none_does_not() -> None:
    trainer = trainer_of()
    trainer.fit()
    clean = trainer.evaluate("test")
    as_stored = trainer.evaluate("test", condition=Condition())
    assert torch.equal(clean.logits["fused"], as_stored.logits["fused"])
    only = trainer.evaluate("test", condition=Condition(only=("quiet",)))
    torch.testing.assert_close(only.logits["fused"], clean.logits["quiet"])
    assert "loud/accuracy" not in only.metrics  # nobody has it
    noisy = trainer.evaluate("test", condition=Condition(noise={"quiet": 1.0}))
    assert not torch.equal(noisy.logits["quiet"], clean.logits["quiet"])
    assert torch.equal(noisy.logits["loud"], clean.logits["loud"])


def test_all_problems_are_told_at_once() -> None:
    spec = DatasetSpec("d", ("a",), (Modality("text", "tokens", (4,), "int32"), Modality("image", "image", (1, 2, 2),
                                                                                        "uint8")))  # fmt: skip
    wrong = [Condition(missing=1.5), Condition(noise={"text": 1.0, "imge": 0.1}), Condition(noise={"image": -1.0})]
    with pytest.raises(ConfigError) as caught:
        check_conditions(wrong, spec)
    text = str(caught.value)
    assert "4 problems" in text
    for part in (
        "a share of missing modalities must be in [0, 1], got 1.5",
        "text are tokens, to which no noise can be added",
        "unknown modality 'imge': did you mean 'image'?",
        "noise on image must be a deviation of at least 0, got -1",
    ):
        assert part in text
    check_conditions([Condition(), Condition(missing=1.0), Condition(noise={"image": 0.0})], spec)
