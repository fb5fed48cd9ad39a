from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import run_processes
from torch import Tensor, nn

from mmcore.layers.batchnorm import Standardisation, SynchronisedBatchNorm, convert, without_statistics

CUTS = {"halves": (0, 5, 10), "uneven": (0, 3, 10), "one alone": (0, 9, 10)}


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 5), nn.BatchNorm2d(2, momentum=None)]
    return nn.Sequential(*layers, nn.Flatten(), nn.BatchNorm1d(2, affine=False)).double()


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 50 + torch.randn(10, 3, 7, 7, generator=generator, dtype=torch.float64)
    return x, torch.randn(10, 2, generator=generator, dtype=torch.float64)


def _two_steps(network: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Any]:
    """Two passes, the second with its gradients; the loss is a sum over samples, as over ranks."""
    network(x)
    x = x.clone().requires_grad_()
    y = network(x)
    (y * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {"y": y.detach(), "x": x.grad, "gradients": gradients, "state": network.state_dict()}


def _in_a_rank(rank: int) -> dict[str, Any]:
    x, weights = _data()
    results = {}
    for name, cut in CUTS.items():
        rows = slice(cut[rank], cut[rank + 1])
        results[name] = _two_steps(convert(_network()), x[rows], weights[rows])
    network = convert(_network())
    if rank == 1:
        with without_statistics(network, counted=False):
            results["stand-in"] = _two_steps(network, x[:1] * 1e3, weights[:1] * 0)
    else:
        results["stand-in"] = _two_steps(network, x, weights)
    network = convert(_network()[:-1])
    network(x)  # each rank all of it: any running statistics
    with without_statistics(network, counted=rank == 0):
        results["only one"] = _two_steps(network, x[:1], weights[:1] * (rank == 0))
    low = convert(nn.BatchNorm1d(3))(torch.randn(4, 3).bfloat16())
    results["bfloat16"] = low.dtype == torch.bfloat16
    return results


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return run_processes(_in_a_rank, 2)


def test_two_processes_equal_one(results) -> None:
    expected = _two_steps(_network(), *_data())
    for name in CUTS:
        parts = [result[name] for result in results]
        for key in ("y", "x"):
            torch.testing.assert_close(torch.cat([part[key] for part in parts]), expected[key], rtol=0, atol=1e-12)
        for key, gradient in expected["gradients"].items():
            total = sum(part["gradients"][key] for part in parts)
            torch.testing.assert_close(total, gradient, rtol=1e-11, atol=1e-11)
        for part in parts:
            torch.testing.assert_close(dict(part["state"]), dict(expected["state"]), rtol=1e-12, atol=1e-12)
    real, stand_in = (result["stand-in"] for result in results)
    torch.testing.assert_close(real["y"], expected["y"], rtol=0, atol=1e-12)
    torch.testing.assert_close(real["gradients"], expected["gradients"], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(dict(stand_in["state"]), dict(expected["state"]), rtol=1e-12, atol=1e-12)
    assert all(result["bfloat16"] for result in results)


def test_a_single_sample_over_all_ranks_is_treated_as_in_one_process(results) -> None:
    network, (x, weights) = _network()[:-1], _data()
    network(torch.cat([x, x]))
    with without_statistics(network, counted=True):
        expected = _two_steps(network, x[:1], weights[:1])
    for result in results:
        found = result["only one"]
        torch.testing.assert_close(found["y"], expected["y"], rtol=0, atol=1e-12)
        torch.testing.assert_close(dict(found["state"]), dict(expected["state"]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[0]["only one"]["gradients"], expected["gradients"], rtol=1e-11, atol=1e-11)
    assert not any(gradient.any() for gradient in results[1]["only one"]["gradients"].values())


def test_one_process_is_torchs_batch_norm() -> None:
    got, expected = _two_steps(convert(_network()), *_data()), _two_steps(_network(), *_data())
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_convert_keeps_parameters_names_and_mode() -> None:
    network = _network().eval()
    before = dict(network.state_dict(keep_vars=True))
    assert convert(network) is network
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    norms = [module for module in network if isinstance(module, SynchronisedBatchNorm)]
    assert [norm.training for norm in norms] == [False] * 3
    assert isinstance(convert(nn.BatchNorm2d(3)), SynchronisedBatchNorm)


@pytest.mark.parametrize("synchronised", [False, True])
def test_one_sample_alone_is_normalised_by_running_statistics(synchronised: bool) -> None:
    network = convert(_network()) if synchronised else _network()
    x, _ = _data()
    network(x)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="more than 1 value"):
        network(x[:1])
    network.load_state_dict(state)
    with without_statistics(network, counted=True):
        y = network(x[:1])
    assert network[1].training
    torch.testing.assert_close(dict(network.state_dict()), state, rtol=0, atol=0)
    torch.testing.assert_close(y, network.eval()(x[:1]), rtol=0, atol=0)


def test_standardised_inputs_are_by_the_average_of_all_batches_so_far() -> None:
    ours, torchs = Standardisation(3), nn.BatchNorm1d(3, momentum=None, affine=False)
    for seed in range(3):
        x = 0.01 * torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(seed)) + 0.02
        torch.testing.assert_close(ours(x), torchs(x))
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    for name, value in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    scaled = ours.eval()(x)
    assert 0.8 < scaled.std() < 1.2, "unlike torch's default, which has hardly left its first 1"
