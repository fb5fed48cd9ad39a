"""One optimizer update: backward, average over ranks, clip, step, mixed precision, growth.

The contract: k workers, each on its share of a batch, make the same update as one worker on the whole batch.

Gradients are averaged here. A wrapper around the model (DistributedDataParallel) would not do: it assumes one
backward pass per step over a fixed set of parameters, and methods alternate phases, ask for second gradients and add
modules while they train.

How the average is made: each rank's loss is a mean over its own samples, and each rank's gradient counts by its number
of samples. So a rank with an empty shard (a placeholder batch, weight 0) adds zeros and still takes part.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmcore import distributed
from mmcore.batch import Batch
from mmcore.config.schema import RunConfig
from mmcore.data.feeding.loader import shard_bounds
from mmcore.errors import TrainingError
from mmcore.methods.base import Method
from mmcore.methods.step import Place
from mmcore.seeding import draw_seed
from mmcore.seeding import generator as seeded_generator
from mmcore.training.feed import Feed
from mmcore.training.growth import Growth
from mmcore.training.loss_watch import LossWatch, check_finite
from mmcore.training.lr_schedule import Schedule
from mmcore.training.sample_tables import SampleTables
from mmcore.training.update.gradient_buckets import GradientAverager
from mmcore.training.update.gradient_cosines import CosineMeter
from mmcore.training.update.optimizer import (
    PRECISIONS,
    build_optimizer,
    clip_groups,
    gradient_norms,
    resolve_precision,
    restore_optimizer,
)


class Engine:
    """Updates a method's parameters.

    Args:
        method: The method; already on `device`.
        config: The run.
        device: Where the step runs.

    Attributes:
        step_index: Number of finished steps; all phases of one batch are one step.
        gradient_norms: Group -> norm of its gradient in the last step that logged them, on the device.
        log_step: Whether this step measures the gradient norms.
        cosine_step: Whether this step measures the cosines.
        growth: How far the modules that the method added have moved; empty where diagnostics are off.
        cosines: Cosine between the joint gradient and each modality's own, from the last step that measured it.
        class_weights: (K,) weight of a sample of each class (`mmcore.methods.base.cross_entropy`); None: all 1.
        term_samples: Loss term -> this rank's samples behind it in the running step (the trainer clears it).
        place: The running epoch and step; the trainer sets it, also on resume, so no checkpoint holds it.
        feed: Gives this rank's batches between epochs; None: there is no loader.
        samples: What the method remembers of each training sample; the trainer gives it its size.
        is_first_part: Whether the running micro-batch is the step's first, where per-step state moves on.
    """

    def __init__(self, method: Method, config: RunConfig, device: torch.device):
        self.method = method
        self.config = config
        self.device = device
        self.step_index = 0
        self.place = Place(0, 0, 1)
        self.feed: Feed | None = None
        self.samples = SampleTables(0, device, torch.float32)
        self.log_step = self.cosine_step = False
        self.gradient_norms: dict[str, Tensor] = {}
        self.cosines = CosineMeter()
        self.growth = Growth()
        self.class_weights: Tensor | None = None
        self.term_samples: dict[str, int] = {}
        precision = resolve_precision(config.trainer.precision, device)
        self._autocast_dtype = PRECISIONS[precision]
        self._scaler = torch.amp.GradScaler(device.type) if precision == "float16" else None
        self._groups = method.parameter_groups()
        self._phases: dict[str, list[nn.Parameter]] = {}
        self._rate_factors: dict[str, float] = {}
        self.optimizer = build_optimizer(config, self._groups, self._rate_factors)
        self.schedule = Schedule(config.schedule, config.trainer.max_epochs)
        self._generators: dict[str, torch.Generator] = {}
        # Gradients are weighted by samples ÷ a rank's usual share, not by samples: so losses keep their usual size.
        self._nominal = config.trainer.batch_size / distributed.world_size()
        self._weighted = distributed.is_distributed() or config.trainer.accumulate > 1
        self._averager = GradientAverager() if distributed.is_distributed() else None
        self._num_samples = self._step_samples = 1  # `micro_batches` sets both; a loss outside a step has weight 1
        self.is_first_part = self._is_last_part = True
        self._has_stale_gradients = False
        self._losses = LossWatch()

    # What a method uses

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context in which a method's losses are computed."""
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast_dtype)

    def micro_batches(self, batch: Batch) -> Iterator[Batch]:
        """Yields the parts of a batch whose gradients add up to one step (without accumulation: the batch itself).

        Batch statistics, such as batch norm's, are each part's own. Every rank yields the same number of parts, since
        a part may call collectives: a rank with fewer samples than parts ends with placeholders.
        """
        self._step_samples = self._num_samples = batch.num_samples
        parts = self.config.trainer.accumulate
        if parts == 1:
            yield batch
            return
        for index in range(parts):
            self.is_first_part, self._is_last_part = index == 0, index == parts - 1
            start, stop = shard_bounds(batch.num_samples, index, parts)
            self._num_samples = stop - start
            if stop > start:
                yield batch.select(start, stop)
            elif distributed.is_distributed():
                # One real sample of weight 0: the others' collectives would wait for ever for a rank that skips.
                yield replace(batch.select(0, 1), is_placeholder=True)
        self.is_first_part = True

    def backward(self, terms: dict[str, Tensor], phase: str | None = None) -> dict[str, Tensor]:
        """Adds the gradient of the terms' sum to `grad`.

        Args:
            terms: Name -> scalar, a mean over this rank's samples.
            phase: Name of the phase, in the last backward pass before `reduce_gradients(phase)`; None in any earlier
                one. Knowing it is the last, the engine averages gradients over ranks while backward still runs.

        Returns:
            The terms, detached, each times the micro-batch's share of the step: over the step they add up to a mean.
        """
        if self.cosine_step:
            self.cosines.add(terms, self._encoders(), self.gradients)
        loss = functools.reduce(torch.add, terms.values())
        detached = {name: term.detach() for name, term in terms.items()}
        self._losses.add(self.step_index, detached)
        for name in terms:
            self.term_samples[name] = self.term_samples.get(name, 0) + self._num_samples
        if self._weighted:
            loss = loss * (self._num_samples / self._nominal)
        if self.config.trainer.accumulate > 1:
            share = self._num_samples / max(1, self._step_samples)
            detached = {name: term * share for name, term in detached.items()}
        self._clear_stale_gradients()
        if self._averager and phase is not None and self._is_last_part:
            self._averager.begin(phase, self._phase_parameters(phase), self._step_samples / self._nominal)
        torch.autograd.backward(self._scaler.scale(loss) if self._scaler else loss)
        return detached

    def reduce_gradients(self, phase: str) -> None:
        """Averages the gradients of the phase's parameters over all samples of all ranks.

        Every parameter of the phase then has a gradient (zeros where none came), every other one has none.
        """
        parameters = self._phase_parameters(phase)
        if self._averager:
            self._averager.finish(phase, parameters, self._step_samples / self._nominal)
        else:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            if self._weighted:
                self._average([parameter.grad for parameter in parameters if parameter.grad is not None])
        if len(parameters) < sum(map(len, self._groups.values())):
            # The optimizer skips a parameter without a gradient; zeros would still move it by momentum and decay.
            wanted = {id(parameter) for parameter in parameters}
            for parameter in self.method.parameters():
                if id(parameter) not in wanted:
                    parameter.grad = None
        if self._scaler:
            self._scaler.unscale_(self.optimizer)  # before clipping and `adjust_gradients`, which need true lengths
        if self.cosine_step:
            self.cosines.finish(self._encoders())

    def step(self) -> None:
        """Clips each modality's gradients by their own norm, if asked for, and updates the parameters."""
        if self.log_step:
            self.gradient_norms |= gradient_norms(self._groups)
        if self.config.optimizer.clip_norm is not None:
            for parameters in clip_groups(self._groups):
                torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm)
        if self._scaler:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            self.optimizer.step()
        self._has_stale_gradients = True  # kept until the next backward: see `_clear_stale_gradients`

    def gradients(self, loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Returns a loss's gradients, averaged over all ranks' samples, without touching `grad`.

        The graph is kept, so further gradients of the same forward pass can follow.

        Args:
            loss: Scalar, a mean over this rank's samples.
            parameters: What to differentiate by; one the loss does not depend on gets zeros.
        """
        if self._weighted:
            loss = loss * (self._num_samples / self._nominal)
        if self._scaler:  # float16 would round small gradients to 0
            loss = self._scaler.scale(loss)
        self._clear_stale_gradients()
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        gradients = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, found, strict=True)
        ]
        if self._scaler:
            torch._foreach_div_(gradients, self._scaler.get_scale())
        if self._weighted:
            self._average(gradients)
        return gradients

    def mean(self, statistic: Tensor) -> Tensor:
        """Returns a batch statistic (a mean over this rank's samples, any shape) averaged over all ranks' samples."""
        if not distributed.is_distributed():
            return statistic
        total, num_samples = self.total(statistic)
        # A small batch's last micro-batches may be empty on every rank: 0 / 1 then, not 0 / 0.
        return total / num_samples.clamp(min=1)

    def means(self, values: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """Returns each name's loss term: the mean of its per-sample values over the samples in its mask.

        One rank: exactly that mean. Several ranks: this rank's part of it, made so that the average which `backward`
        and `mean` take over ranks is the mean over all ranks' masked samples, however unevenly they are spread. A term
        is 0 where no rank has a masked sample.

        Args:
            values: Name -> (B,).
            masks: Name -> (B,) bool; None: all samples.
        """
        # All shares in one message: a collective per modality would cost more than the losses.
        shares = [mask.to(values[name].dtype).mean() for name, mask in masks.items() if mask is not None]
        averaged = iter(self.mean(torch.stack(shares)) if shares else ())
        terms = {}
        for name, mask in masks.items():
            if mask is None:
                terms[name] = values[name].mean()
            else:
                share = next(averaged)
                # Divided by the share over all ranks, not this rank's: else few samples here would count too much.
                terms[name] = torch.where(mask, values[name], 0).mean() / torch.where(share > 0, share, 1)
        return terms

    def total(self, statistic: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the sum over all ranks' samples behind a mean over this rank's, and their number (a scalar)."""
        weighted = statistic.detach() * self._num_samples
        if not distributed.is_distributed():
            return weighted, weighted.new_full((), self._num_samples)
        packed = torch.cat([weighted.flatten(), weighted.new_full((1,), self._num_samples)])
        distributed.all_reduce_sum([packed])
        return packed[:-1].reshape(statistic.shape), packed[-1]

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over all ranks of what each summed up over its own samples, in any number of batches."""
        if distributed.is_distributed():
            values = values.clone()
            distributed.all_reduce_sum([values])
        return values

    def gather(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the values (B, ...) of all ranks' samples, in the order of their common batch; see `Step`."""
        if not distributed.is_distributed():
            return values, torch.ones(len(values), dtype=torch.bool, device=values.device)
        room = math.ceil(self._nominal)
        own = values.new_zeros((room, *values.shape[1:]))
        own[: self._num_samples] = values[: self._num_samples]
        parts = distributed.all_gather(own.detach())
        counts = distributed.all_gather(torch.tensor([self._num_samples], device=values.device))
        is_sample = (torch.arange(room, device=values.device) < counts).flatten()
        rank = distributed.rank()  # this rank's own are put back, since a collective passes no gradient on
        return torch.cat([*parts[:rank], own, *parts[rank + 1 :]]), is_sample

    def passes(self, split: str, fraction: float = 1.0, most: int | None = None) -> Iterator[Batch]:
        """Yields this rank's batches of a part of a split, as evaluated; statistics of them are over all ranks."""
        self.method.eval()
        for batch in self._fed().part(split, fraction, self.place.epoch, most):
            self._step_samples = self._num_samples = batch.num_samples
            yield batch

    def ahead(self, num_epochs: int) -> Iterator[Batch]:
        """Yields the training batches of the epochs from the running one on; for a `rehearsal`."""
        self.method.train()
        return self._fed().ahead(self.place.epoch, num_epochs)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """A context at whose end everything a step changes is put back: weights, statistics, optimizer, generators."""
        weights = {name: value.clone() for name, value in self.method.state_dict().items()}
        state = copy.deepcopy(self.state_dict())
        self.log_step = self.cosine_step = False
        try:
            yield
        finally:
            self.method.load_state_dict(weights)
            self._generators = {name: self._generators[name] for name in state["generators"]}
            self.load_state_dict(state)
            self.term_samples.clear()

    def generator(self, name: str) -> torch.Generator:
        """Returns the CPU generator of that name; it draws the same on every rank and is part of the checkpoint."""
        if name not in self._generators:
            self._generators[name] = seeded_generator(self.config.seed, "engine", name)
        return self._generators[name]

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Returns standard normal numbers of a tensor's shape and type, the same on every rank, drawn on its device.

        Each call seeds a generator on the device from the CPU one of that name: drawing on the CPU and copying would
        take longer than the step where a whole encoder's gradient is disturbed.
        """
        seed = draw_seed(self.generator(name))
        if like.device.type == "meta":
            return torch.empty_like(like)
        return torch.empty_like(like).normal_(generator=torch.Generator(like.device).manual_seed(seed))

    def grow(self, module: nn.Module, group: str) -> None:
        """Adds a new module to training, with rank 0's values on every rank and the current learning rate.

        Args:
            module: The module, already a part of the method.
            group: Parameter group that its parameters join, for example `head/<modality>`.
        """
        module.to(self.device)
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        distributed.broadcast_(list(module.state_dict().values()))
        self._groups.setdefault(group, []).extend(parameters)
        self._rebuild_optimizer()
        if self.config.trainer.diagnostics:
            self.growth.add(group, parameters)
        self._forget_phases()
        self.schedule.forget_best()  # a new module raises the loss by itself, which is no plateau

    def set_rate_factors(self, factors: Mapping[str, float]) -> None:
        """Multiplies the learning rate of some parameter groups from now on.

        Raises:
            TrainingError: A factor is for a group that the method does not have.
        """
        if unknown := sorted(set(factors) - set(self._groups)):
            raise TrainingError(f"rate factors are for {', '.join(self._groups)}; got one for {', '.join(unknown)}")
        self._rate_factors = dict(factors)
        self._rebuild_optimizer()

    # What the trainer uses

    @property
    def learning_rate(self) -> float:
        """The current learning rate, where its factor is 1."""
        return self.schedule.rate(self.config.optimizer.lr)

    def end_epoch(self, epoch: int, val_loss: float) -> None:
        """Sets the next epoch's learning rate, given the finished epoch (from 0) and its fused validation loss."""
        self.schedule.after_epoch(epoch, val_loss)
        self._set_rate()

    def check_finite(self) -> None:
        """Raises a TrainingError on every rank where a loss since the last call, or a weight, is not finite."""
        parameters = list(self.method.parameters())
        check_finite(self._losses, parameters, self.step_index, self.learning_rate, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything a resumed run needs besides the weights: optimizer, schedule, scaler, generators, ..."""
        # By name, not by place as torch stores it: a grown module would shift the places of those behind it.
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.method.named_parameters()}
        return {
            "step": self.step_index,
            "lr": self.learning_rate,
            "rate_factors": self._rate_factors,
            "optimizer": {names[parameter]: dict(state) for parameter, state in self.optimizer.state.items()},
            "schedule": self.schedule.state_dict(),
            "scaler": self._scaler.state_dict() if self._scaler else {},
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "gradient_norms": self.gradient_norms,
            "cosines": self.cosines.values,
            "growth": self.growth.state(names),
            "samples": self.samples.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; the method must already have the checkpoint's structure.

        Raises:
            CheckpointError: The state names parameters that the method does not have.
        """
        self._groups = self.method.parameter_groups()
        self._rate_factors = dict(state.get("rate_factors", {}))
        self.optimizer = build_optimizer(self.config, self._groups, self._rate_factors)
        self._forget_phases()
        parameters = dict(self.method.named_parameters())
        restore_optimizer(self.optimizer, state["optimizer"], parameters)
        self.step_index, self.gradient_norms = state["step"], state["gradient_norms"]
        self.cosines.values = state["cosines"]
        self.growth.load(state.get("growth"), parameters)
        self.schedule.load_state_dict(state["schedule"])
        self.samples.load_state_dict(state.get("samples"))
        self._set_rate()  # from this run's optimizer.lr: population search may have changed it since the checkpoint
        if self._scaler:
            self._scaler.load_state_dict(state["scaler"])
        for name, generator_state in state["generators"].items():
            self.generator(name).set_state(generator_state.cpu())

    # Parts

    def _fed(self) -> Feed:
        if self.feed is None:
            raise TrainingError("samples between epochs need a loader: let a Trainer build the engine")
        return self.feed

    def _set_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * self.learning_rate

    def _rebuild_optimizer(self) -> None:
        state = self.optimizer.state
        self.optimizer = build_optimizer(self.config, self._groups, self._rate_factors)
        self.optimizer.state.update(state)
        self._set_rate()

    def _clear_stale_gradients(self) -> None:
        """Frees the last step's gradients just before the next need the memory: earlier costs a tenth of a step."""
        if self._has_stale_gradients:
            self._has_stale_gradients = False
            for group in self._groups.values():
                for parameter in group:
                    parameter.grad = None

    def _encoders(self) -> dict[str, list[nn.Parameter]]:
        prefix = "encoder/"
        return {name.removeprefix(prefix): group for name, group in self._groups.items() if name.startswith(prefix)}

    def _phase_parameters(self, phase: str) -> list[nn.Parameter]:
        if phase not in self._phases:
            self._phases[phase] = self.method.phase_parameters(phase)
        return self._phases[phase]

    def _forget_phases(self) -> None:
        self._phases.clear()
        if self._averager:
            self._averager.forget()

    def _average(self, gradients: list[Tensor]) -> None:
        """Turns sums weighted by (samples / nominal) into means over all samples of all ranks, in place."""
        # torch.full, since torch.tensor would wait for the device.
        count = torch.full((1,), self._step_samples / self._nominal, device=self.device, dtype=gradients[0].dtype)
        distributed.all_reduce_sum([*gradients, count])
        for gradient in gradients:
            gradient.div_(count)
