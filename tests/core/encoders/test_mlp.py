"""Encoders of plain numbers: scale, padding, shapes."""

from __future__ import annotations

import pytest
import torch

from mmcore.data.spec import Modality
from mmcore.encoders import build_encoder
from mmcore.errors import UsageError


def test_padding_does_not_matter_to_a_series() -> None:
    torch.manual_seed(0)
    network = build_encoder({"name": "series"}, Modality("s", "features", (9, 2), "float32")).eval()
    x = torch.randn(4, 9, 2)
    lengths = torch.tensor([9, 4, 1, 0])
    other = x.clone()
    other[1, 4:], other[2, 1:] = 100, -3
    with torch.no_grad():
        torch.testing.assert_close(network(x, lengths), network(other, lengths))
        torch.testing.assert_close(network(x, lengths)[1:2], network(x[1:2, :4]))
    assert network(x).shape == (4, 64)


@pytest.mark.parametrize(("name", "shape"), [("mlp", (3,)), ("series", (9, 2))])
def test_scale_and_offset_of_the_numbers_do_not_matter(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_encoder({"name": name}, Modality("s", "features", shape, "float32")).double()
    x = torch.randn(16, *shape, dtype=torch.float64)
    torch.testing.assert_close(network(x), network(1e3 * x + 5e4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "shape"), [("mlp", (3,)), ("series", (9, 2))])
def test_on_the_meta_device_with_every_gradient(name: str, shape: tuple[int, ...]) -> None:
    network = build_encoder({"name": name}, Modality("s", "features", shape, "float32")).to("meta")
    features = network(torch.empty(4, *shape, device="meta"), torch.ones(4, dtype=torch.int64, device="meta"))
    features.sum().backward()
    assert features.device.type == "meta"
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_other_axes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'mlp' takes features \(N,\), 's' is \(9, 2\)"):
        build_encoder({"name": "mlp"}, Modality("s", "features", (9, 2), "float32"))
    with pytest.raises(UsageError, match=r"'series' takes features \(T, C\), 's' is \(3,\)"):
        build_encoder({"name": "series"}, Modality("s", "features", (3,), "float32"))
