"""Averages gradients over ranks in buckets that are sent while backward still runs.

A gradient that is complete is copied into its bucket, a flat tensor, and `grad` is a view of it from then on, so that
nothing is copied back. A full bucket is summed over ranks in the background.

What keeps the ranks together: which gradients a bucket holds, and the order in which buckets are sent, follow from the
phase's declared parameters alone. A bucket that is full early waits for those before it; a gradient that never came is
sent as zeros, after backward. The messages have a process group of their own, since collectives inside backward
(synchronised batch norm) may come between them in another order on another rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmcore import distributed
from mmcore.errors import TrainingError


@dataclass
class _Bucket:
    """Some parameters' gradients in one tensor.

    Attributes:
        parameters: Parameters in the order of `flat`.
        flat: What is sent: the gradients, one after another, and in a phase's first bucket the weight.
        views: Parts of `flat` in the shapes and strides of the parameters.
        missing: Indices of the gradients that have not come yet.
        work: The running sum over ranks; None: not sent.
    """

    parameters: list[nn.Parameter]
    flat: Tensor
    views: list[Tensor]
    missing: set[int] = field(default_factory=set)
    work: Any = None


@dataclass
class _Plan:
    """The buckets of one phase, in the order in which they are sent, and the hooks that fill them."""

    buckets: list[_Bucket]
    num_sent: int = 0
    hooks: list[RemovableHandle] = field(default_factory=list)


class GradientAverager:
    """Turns gradients of sums weighted by a rank into means over all ranks' weights.

    Every rank must make it, and call `begin`, `finish` and `forget`, in the same order.
    """

    def __init__(self) -> None:
        # A group of its own: batch norm's collectives may come between ours in another order on another rank.
        self._group = cast(dist.ProcessGroup, dist.new_group())
        self._plans: dict[str, _Plan] = {}
        self._running: str | None = None

    def begin(self, phase: str, parameters: Sequence[nn.Parameter], weight: float) -> None:
        """Sends, from now on, every bucket whose gradients are complete: just before a phase's last backward pass.

        Args:
            phase: Names the parameters; they may change only after `forget`.
            parameters: Parameters that have a gradient when the phase ends.
            weight: This rank's weight; the gradients are divided by its sum over ranks.
        """
        if phase not in self._plans:
            self._plans[phase] = self._plan(phase, parameters)
        plan = self._plans[phase]
        plan.num_sent = 0
        for bucket in plan.buckets:
            bucket.missing = set(range(len(bucket.parameters)))
        # The weight travels with the gradients: a message of its own would cost one more round trip.
        plan.buckets[0].flat[-1:].fill_(weight)
        self._running = phase

    @torch.no_grad()
    def finish(self, phase: str, parameters: Sequence[nn.Parameter], weight: float) -> None:
        """Waits until each parameter's `grad` is the average; without a `begin` before, nothing has overlapped.

        Raises:
            TrainingError: `begin` was told another phase.
        """
        if self._running is None:
            self.begin(phase, parameters, weight)
        if self._running != phase:
            raise TrainingError(f"backward was told phase {self._running!r}, but reduce_gradients {phase!r}")
        plan = self._plans[phase]
        for bucket in plan.buckets:
            # A rank whose samples did not reach a parameter sends zeros: the others wait for its bucket.
            for index in sorted(bucket.missing):
                _take(bucket, index)
        self._send_full(plan)
        self._running = None
        # A view: it holds the sum over ranks only after the first bucket's `wait` below.
        total = plan.buckets[0].flat[-1:]
        for bucket in plan.buckets:
            bucket.work.wait()  # on a GPU the stream waits, not this process
            gradients = bucket.flat[:-1] if bucket is plan.buckets[0] else bucket.flat
            gradients.div_(total)  # in place, since each `grad` is a view of `flat`
            bucket.work = None

    def forget(self) -> None:
        """Drops what is known of the phases: after parameters were added or replaced."""
        for plan in self._plans.values():
            for hook in plan.hooks:
                hook.remove()
        self._plans.clear()

    def _plan(self, phase: str, parameters: Sequence[nn.Parameter]) -> _Plan:
        # Reversed, as backward comes by them about in that order.
        cut = distributed.buckets(list(reversed(parameters)))
        plan = _Plan([_bucket(part, extra=index == 0) for index, part in enumerate(cut)])
        for bucket in plan.buckets:
            for index, parameter in enumerate(bucket.parameters):
                if parameter.requires_grad:
                    hook = partial(self._arrived, phase, bucket, index)
                    handle = parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
                    plan.hooks.append(handle)
        return plan

    @torch.no_grad()
    def _arrived(self, phase: str, bucket: _Bucket, index: int, parameter: Tensor) -> None:
        """Called by backward as soon as a gradient is complete."""
        if self._running != phase:
            return
        if index not in bucket.missing:
            raise TrainingError(f"a gradient came after it was sent: give engine.backward the phase ({phase!r}) "
                                "in the last pass before reduce_gradients alone")  # fmt: skip
        _take(bucket, index)
        if not bucket.missing:
            self._send_full(self._plans[phase])

    def _send_full(self, plan: _Plan) -> None:
        """Sends the next buckets, as many as are full without a gap."""
        # In order, without a gap: ranks that sent in the order of arrival would sum unlike buckets.
        while plan.num_sent < len(plan.buckets) and not plan.buckets[plan.num_sent].missing:
            bucket = plan.buckets[plan.num_sent]
            bucket.work = dist.all_reduce(bucket.flat, group=self._group, async_op=True)
            plan.num_sent += 1


def _bucket(parameters: list[nn.Parameter], *, extra: bool) -> _Bucket:
    """Returns an empty bucket; `extra` leaves room for one more number at its end."""
    flat = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters) + extra, requires_grad=False)
    views, start = [], 0
    for parameter in parameters:
        # A dense tensor's own strides: other layouts than the parameter's make copy and update slow.
        strides = torch.empty_like(parameter).stride()
        views.append(flat.as_strided(parameter.shape, strides, start))
        start += parameter.numel()
    return _Bucket(parameters, flat, views)


def _take(bucket: _Bucket, index: int) -> None:
    """Puts a parameter's gradient, zeros if it has none, into its bucket."""
    parameter, view = bucket.parameters[index], bucket.views[index]
    if parameter.grad is None:
        view.zero_()  # the last step's gradient is still in it
    else:
        view.copy_(parameter.grad)
    parameter.grad = view
    bucket.missing.discard(index)
