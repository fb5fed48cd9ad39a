from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcore.data.spec import Modality
from mmcore.encoders import build_encoder
from mmcore.errors import ConfigError, UsageError


def _features(*shape: int, variable_length: bool = False) -> Modality:
    return Modality("image", "features", shape, "float16", variable_length=variable_length)


def _encoder(name: str, modality: Modality, **settings: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder({"name": name, **settings}, modality)


def test_identity_hands_features_on_and_trains_nothing() -> None:
    encoder = _encoder("identity", _features(7))
    x = torch.randn(3, 7)
    assert encoder(x) is x
    assert encoder.num_features == 7
    assert not list(encoder.parameters())


def test_identity_averages_the_valid_steps() -> None:
    x = torch.randn(3, 4, 7, dtype=torch.float64)
    features = _encoder("identity", _features(4, 7))(x, torch.tensor([4, 2, 0]))
    expected = torch.stack([x[0].mean(dim=0), x[1, :2].mean(dim=0), x[2, 0]])
    torch.testing.assert_close(features, expected)


def test_what_stands_behind_the_length_does_not_matter_to_the_transformer() -> None:
    encoder = _encoder("temporal", _features(5, 6), features=16, heads=2).double()
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    lengths = torch.tensor([5, 3, 1])
    features = encoder(x, lengths)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(encoder(x[row : row + 1, :length])[0], features[row])
    x[1, 3:] = float("inf")
    changed = encoder(x, lengths)
    torch.testing.assert_close(changed, features)
    changed.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_the_transformer_is_the_one_written_out() -> None:
    encoder = _encoder("temporal", _features(3, 6), features=8, layers=1, heads=2).double()
    x = torch.randn(1, 3, 6, dtype=torch.float64)
    state = {key.removeprefix("layers.0."): value for key, value in encoder.state_dict().items()}
    rates = 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    angles = torch.arange(3, dtype=torch.float64)[:, None] * rates
    hidden = F.linear(_normalised(x[0], state, "input.0"), state["input.1.weight"], state["input.1.bias"])
    hidden = hidden + torch.cat([angles.sin(), angles.cos()], dim=1).float()
    projected = F.linear(
        _normalised(hidden, state, "norm1"), state["self_attn.in_proj_weight"], state["self_attn.in_proj_bias"]
    )
    q, k, v = projected.view(3, 3, 2, 4).permute(1, 2, 0, 3)  # (3 of q, k and v; heads; steps; features of a head)
    mixed = (q @ k.transpose(1, 2) / 2).softmax(dim=2) @ v
    out = state["self_attn.out_proj.weight"], state["self_attn.out_proj.bias"]
    hidden = hidden + F.linear(mixed.permute(1, 0, 2).flatten(1), *out)
    wide = F.gelu(F.linear(_normalised(hidden, state, "norm2"), state["linear1.weight"], state["linear1.bias"]))
    hidden = hidden + F.linear(wide, state["linear2.weight"], state["linear2.bias"])
    torch.testing.assert_close(encoder(x)[0], _normalised(hidden, state, "output").mean(dim=0))


@pytest.mark.parametrize("training", [True, False])
def test_the_transformer_on_the_meta_device(training: bool) -> None:
    encoder = _encoder("temporal", _features(5, 6)).to("meta").train(training)
    lengths = torch.ones(4, dtype=torch.int64, device="meta")
    assert encoder(torch.empty(4, 5, 6, device="meta"), lengths).shape == (4, encoder.num_features)


def test_shapes_and_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'temporal' takes features \(T, D\), 'image' is \(6,\)"):
        _encoder("temporal", _features(6))
    with pytest.raises(UsageError, match="'identity' takes features"):
        _encoder("identity", _features(2, 3, 4))
    with pytest.raises(ConfigError, match=r"model.encoders.image.features must be a multiple of 8"):
        _encoder("temporal", _features(5, 6), features=20)


def _normalised(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    deviation = (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]
