"""What 2,000 steps of every method leave behind in memory: nothing.

Counted exactly, not seen from outside: the bytes that C allocations hold, and Python's own blocks. A kept scalar tensor
is some 400 bytes and a block a step, a kept graph many thousand. An epoch leaves some 70 blocks (its row in the log),
G-Blending 200.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from statistics import mean

import pytest
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.methods import METHODS
from mmcore.training.trainer import Trainer

STEPS, PART, EVERY, BATCH, EPOCHS = 2000, 500, 100, 8, 4
MOST_BYTES, MOST_BLOCKS, MOST_RATIO = 100, 0.6, 1.005
"""Of growth for each step; and of the bytes held in the last 500 steps ÷ those in the first 500."""
SETTINGS = {
    # The rules with a window act in every step, and AUG has the classifiers it will have from the start.
    "ogm": {"method__end_epoch": 100},
    "opm": {"method__warmup_epochs": 0, "method__rate_gradient": True},
    "agm": {"method__end_epoch": 100},
    "gblending": {"method__super_epoch": 1},
    "g2d": {"method__end_epoch": 300},
    "pmr": {"method__end_epoch": 150},
    "aug": {"method__initial_classifiers": 2, "method__max_classifiers": 2},
}


class Mallinfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd",
                     "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def allocated() -> Callable[[], int]:
    """Returns a function that tells how many bytes C's allocations of this thread hold."""
    try:
        tell = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("needs glibc 2.33, which counts what is allocated")
    tell.restype = Mallinfo

    def count() -> int:
        found = tell()
        return int(found.uordblks + found.hblkhd)

    return count


def grown(trainer: Trainer) -> tuple[float, float, float]:
    """Trains 2,000 steps; returns the growth of bytes and of blocks a step, and the bytes' ratio: last 500 ÷ first."""
    held, step, seen = allocated(), trainer.train_step, []
    taken = 0

    def counting(batch: object) -> None:
        nonlocal taken
        step(batch)
        taken += 1
        if taken % EVERY == 0:
            gc.collect()
            seen.append((held(), sys.getallocatedblocks()))

    trainer.train_step = counting  # type: ignore[method-assign]
    gc.freeze()  # what is there already need not be looked through each time
    trainer.fit()
    gc.unfreeze()
    assert taken == STEPS
    count = PART // EVERY
    (first, first_blocks), (last, last_blocks) = (
        [mean(values) for values in zip(*part, strict=True)] for part in (seen[:count], seen[-count:])
    )
    between = STEPS - PART
    return (last - first) / between, (last_blocks - first_blocks) / between, last / first


def trainer_of(method: str, epochs: int, steps: int) -> Trainer:
    """A trainer of some epochs of `steps` steps."""
    spec = make_spec(2)
    values = {"trainer__max_epochs": epochs, "trainer__batch_size": BATCH, **SETTINGS.get(method, {})}
    return make_trainer(make_config(method, spec, **values), spec, num_train=steps * BATCH)


def long_trainer(method: str) -> Trainer:
    """A trainer of 2,000 steps, after a short run: what libraries make in a process's first epochs is no growth."""
    trainer_of(method, 2, 5).fit()
    return trainer_of(method, EPOCHS, STEPS // EPOCHS)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
def test_two_thousand_steps_leave_nothing_in_memory(method: str) -> None:
    bytes_grown, blocks_grown, ratio = grown(long_trainer(method))
    assert bytes_grown < MOST_BYTES
    assert blocks_grown < MOST_BLOCKS
    assert ratio < MOST_RATIO


@pytest.mark.slow
@pytest.mark.parametrize("keeps_graph", [True, False])
def test_a_kept_tensor_or_graph_would_be_seen(keeps_graph: bool) -> None:
    trainer = long_trainer("joint")
    kept: list[Tensor] = []
    losses = trainer.method.losses

    def leaking(*arguments: object) -> dict[str, Tensor]:
        terms = losses(*arguments)
        (term,) = terms.values()
        kept.append(term if keeps_graph else term.detach().clone())
        return terms

    trainer.method.losses = leaking  # type: ignore[method-assign]
    bytes_grown, blocks_grown, _ = grown(trainer)
    assert len(kept) == STEPS
    assert bytes_grown > 3 * MOST_BYTES
    assert blocks_grown > 1.5 * MOST_BLOCKS
