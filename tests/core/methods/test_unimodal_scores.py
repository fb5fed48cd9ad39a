"""What modalities do inside a joint head: slices, scores, ratios, windows, each against a naive loop."""

from __future__ import annotations

import math

import pytest
import torch
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods.fusion import build_fusion
from mmcore.methods.unimodal_scores import score_ratios, score_totals, slice_logits, window
from mmcore.seeding import generator

SIZES = {"a": 3, "b": 2, "c": 4}


def features_of(num_samples: int = 5) -> dict[str, Tensor]:
    draw = generator(0, "features")
    return {m: torch.randn(num_samples, size, generator=draw, dtype=torch.float64) for m, size in SIZES.items()}


@pytest.mark.parametrize("name", ["concat", "sum"])
def test_the_parts_of_a_joint_head_are_those_of_a_naive_loop_and_sum_to_it(name: str) -> None:
    fusion, features = build_fusion(name, SIZES, 4).double(), features_of()
    parts = slice_logits(fusion, features)
    torch.testing.assert_close(sum(parts.values()), fusion(features), rtol=1e-12, atol=1e-12)
    start = 0
    for modality, values in features.items():
        for i in range(5):
            for k in range(4):
                if name == "sum":
                    head = fusion.heads[modality]
                    weights, bias = head.weight[k], head.bias[k].item()
                else:
                    weights, bias = fusion.head.weight[k, start:], fusion.head.bias[k].item() / 3
                expected = bias + sum(weights[d].item() * values[i, d].item() for d in range(SIZES[modality]))
                assert parts[modality][i, k].item() == pytest.approx(expected, rel=1e-12)
        start += SIZES[modality]
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("name", ["film", "gated", "weight"])
def test_other_fusion_heads_are_refused(name: str) -> None:
    fusion = build_fusion(name, dict.fromkeys(SIZES, 3), 4)
    with pytest.raises(TypeError, match="cannot be taken apart by modality: use the concat or sum fusion"):
        slice_logits(fusion, {m: torch.zeros(2, 3) for m in SIZES})


def naive_scores(logits: dict[str, Tensor], labels: list[int], kept: list[int]) -> list[float]:
    scores = []
    for values in logits.values():
        rows = [[math.exp(value) for value in values[i].tolist()] for i in kept]
        scores.append(sum(row[labels[i]] / sum(row) for i, row in zip(kept, rows, strict=True)))
    return scores


@pytest.mark.parametrize("is_missing", [False, True])
def test_scores_are_of_the_samples_that_have_every_modality(is_missing: bool) -> None:
    spec = make_spec(2)
    engine = make_trainer(make_config("joint", spec), spec).engine
    engine._num_samples = 5
    logits, labels = features_of(), [0, 1, 1, 0, 1]
    present = {"a": torch.tensor([1, 0, 1, 1, 1]).bool(), "c": torch.tensor([1, 1, 1, 0, 1]).bool()}
    batch = Batch({}, torch.tensor(labels), present=present if is_missing else {})
    totals = score_totals(logits, batch, engine)
    kept = [0, 2, 4] if is_missing else [0, 1, 2, 3, 4]
    torch.testing.assert_close(totals.tolist(), [*naive_scores(logits, labels, kept), float(len(kept))])
    expected = naive_scores(logits, labels, kept)
    for index, ratio in enumerate(score_ratios(totals).tolist()):
        others = [score for other, score in enumerate(expected) if other != index]
        assert ratio == pytest.approx(expected[index] / (sum(others) / 2), rel=1e-9)


def test_two_modalities_ratios_are_each_others_inverse_and_do_not_see_the_scale() -> None:
    totals = torch.tensor([3.0, 1.5, 8.0], dtype=torch.float64)
    assert score_ratios(totals).tolist() == [2.0, 0.5]
    assert score_ratios(totals * torch.tensor([2.0, 2.0, 1.0])).tolist() == [2.0, 0.5]
    assert score_ratios(totals[[1, 0, 2]]).tolist() == [0.5, 2.0]


def test_ratios_stay_finite_and_are_1_where_nothing_was_scored() -> None:
    assert score_ratios(torch.tensor([4.0, 0.0, 4.0])).tolist() == pytest.approx([1e8, 0.0])
    assert score_ratios(torch.zeros(4)).tolist() == [1.0, 1.0, 1.0]


def test_a_window_is_scaled_with_the_run() -> None:
    assert window(0, 50, 100, 100) == (0, 50)
    assert window(0, 50, 100, 30) == (0, 15)
    assert window(20, 50, 100, 10) == (2, 5)


@pytest.mark.parametrize(
    "method", ["ogm", "opm", "mmpareto", "agm", "amss", "iprm", "pmr", "lfm", "gblending", "inforeg", "g2d", "mslr"]
)
def test_one_modality_alone_is_refused(method: str) -> None:
    spec = make_spec(1)
    with pytest.raises(
        ConfigError, match=f"method.name = {method} compares modalities and needs at least two, got loud"
    ):
        make_trainer(make_config(method, spec), spec)
