"""Randomness that can be stored, restored and derived from names.

Everything random in a run comes from (seed, purpose): the order of the data from (seed, epoch), a new head from
the engine's named generator, dropout from the process's own state, which is set anew for each epoch and rank.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB
"""2^64 over the golden ratio, as a signed number: steps of it are spread evenly."""


def derive_seed(seed: int, *purpose: object) -> int:
    """Returns a seed in [0, 2^63) for one purpose: equal arguments give equal seeds, others unrelated ones."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Returns a CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def draw_seed(source: torch.Generator) -> int:
    """Returns a seed in [0, 2^63) drawn from a CPU generator, for numbers that are made on another device."""
    return int(torch.randint(2**63 - 1, (), generator=source, device="cpu"))


def row_uniforms(rows: Tensor, seed: int, count: int) -> Tensor:
    """Returns `count` uniform random numbers for each row number, (count, B) float32 in [0, 1), on the rows' device.

    A number is a function of seed, row and its place among the `count` alone, so that it is the same however rows are
    cut into batches. The bits are mixed as in SplitMix64; products overflow, which is meant.

    Args:
        rows: (B,) int64.
        seed: In [0, 2^63).
        count: How many for each row.
    """
    columns = torch.arange(count, device=rows.device)[:, None]
    bits = _mixed(_mixed(rows + seed) + (columns + 1) * GOLDEN)
    return _shifted(bits, 40).to(torch.float32) / 2**24


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ _shifted(bits, 27)) * -0x6B2FB644ECCEEE15
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Returns the bits moved right, with zeros where they were, as an unsigned number's would be."""
    shifted: Tensor = (bits >> places) & (2 ** (64 - places) - 1)
    return shifted


def seed_process(seed: int, *purpose: object) -> None:
    """Sets the global state of torch (every device), NumPy and Python for one purpose."""
    derived = derive_seed(seed, *purpose)
    torch.manual_seed(derived)
    np.random.seed(derived % 2**32)  # noqa: NPY002 - libraries that methods use read the global state
    random.seed(derived)


def capture_state() -> dict[str, Tensor]:
    """Returns the global random state as tensors, so that `weights_only` loading takes it."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    python_state = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy_key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy_rest": torch.tensor(
            [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]], dtype=torch.float64
        ),
        "python": torch.tensor(python_state[1], dtype=torch.int64),
        "python_gauss": torch.tensor([] if python_state[2] is None else [python_state[2]], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_state(state: dict[str, Tensor]) -> None:
    """Sets the global random state to what `capture_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    position, has_gauss, gauss = state["numpy_rest"].tolist()
    np.random.set_state(  # noqa: NPY002
        ("MT19937", state["numpy_key"].numpy().astype(np.uint32), int(position), int(has_gauss), gauss)
    )
    python_gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), python_gauss[0] if python_gauss else None))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
