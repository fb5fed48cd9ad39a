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


def derive_seed(seed: int, *purpose: object) -> int:
    """Returns a seed in [0, 2^63) for one purpose: equal arguments give equal seeds, others unrelated ones."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Returns a CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


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
