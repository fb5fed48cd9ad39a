"""The configuration of one training run: every key, its range and its meaning.

A run is described by one mapping, validated once with every problem listed, and written beside every
checkpoint. A search space names its keys by path: `optimizer.lr`, `method.alpha`.

Sections that name a plug-in (`dataset`, `method` and each of `model.encoders`) take `name` and, next to it,
the keys of the plug-in's own `Config`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field, ValidationInfo, field_validator

from mmcore.config.sections import Minutes, Section

LARGEST_SEED = 2 * 10**9
MOST_EPOCHS = 10**6
MOST_SAMPLES = 10**6
"""Of one step, or of one step of evaluation."""


class DatasetConfig(Section):
    """Which data set, with which of its options, and what is done to a batch on the device."""

    name: str
    options: dict[str, Any] = Field(default={}, description="of the data set; another value is other data")
    transforms: dict[str, dict[str, Any]] = Field(
        default={},
        description="modality -> keys that replace the data set's own transform settings; before a frozen encoder, too",
    )
    encode: dict[str, dict[str, Any]] = Field(
        default={}, description="modality -> frozen encoder whose features are stored and trained on"
    )
    views: Annotated[int, Ge(0), Le(1000)] = Field(
        default=0, description="augmented views whose features are stored, too, of the modalities that are augmented"
    )
    encoder_sha256: dict[str, str] = Field(
        default={}, description="modality -> checksum of its frozen encoder's weights; filled in, others are refused"
    )


class ProtocolConfig(Section):
    """How samples are assigned to train, val and test. Results of different protocols are never ranked together."""

    name: Literal["default", "group", "holdout", "cv", "paper"] = "default"
    seed: Annotated[int, Ge(0), Le(LARGEST_SEED)] = 0
    folds: Annotated[int, Ge(3), Le(1000)] | None = Field(
        default=None, description="of cv; none: the data set's own number"
    )
    fold: Annotated[int, Ge(0), Le(1000)] = 0

    @field_validator("fold")
    @classmethod
    def _one_of_the_folds(cls, fold: int, info: ValidationInfo) -> int:
        if fold >= (info.data.get("folds") or fold + 1):
            raise ValueError(f"less than folds ({info.data['folds']})")
        return fold


class ModelConfig(Section):
    """Encoders by modality; those not named are the data set's own choice."""

    encoders: dict[str, dict[str, Any]] = Field(default={}, description="modality -> `name` and its settings")
    projection_dim: Annotated[int, Ge(1), Le(65_536)] | None = Field(
        default=None, description="common feature size where a method needs one; default: the smallest of the encoders'"
    )
    batch_norm: Literal["per_worker", "synchronised"] = "per_worker"


class OptimizerConfig(Section):
    """The optimizer of encoders, heads and fusion."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Gt(0), Le(10)] = 0.01
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0), Le(1)] = 1e-4
    clip_norm: Annotated[float, Gt(0)] | None = Field(
        default=None, description="largest gradient norm of each modality's group; none: no clipping"
    )


class ScheduleConfig(Section):
    """How the learning rate falls. `plateau` divides when the fused validation loss saturates (ruling C17)."""

    name: Literal["plateau", "step", "cosine", "constant"] = "plateau"
    factor: Annotated[float, Gt(0), Lt(1)] = 0.1
    patience_epochs: Annotated[int, Ge(0), Le(MOST_EPOCHS)] = 5
    threshold: Annotated[float, Ge(0), Lt(1)] = 1e-3
    step_epochs: Annotated[int, Ge(1), Le(MOST_EPOCHS)] = 70
    min_lr: Annotated[float, Ge(0)] = Field(
        default=0.0, description="the learning rate falls no lower; at most optimizer.lr"
    )


class TrainerConfig(Section):
    """The loop: length, batch, numbers' format, what is logged and kept."""

    max_epochs: Annotated[int, Ge(1), Le(MOST_EPOCHS)] = 30
    batch_size: Annotated[int, Ge(1), Le(MOST_SAMPLES)] = Field(
        default=64, description="samples of one step over all workers"
    )
    accumulate: Annotated[int, Ge(1), Le(MOST_SAMPLES)] = Field(
        default=1, description="micro-batches a step is cut into"
    )
    eval_batch_size: Annotated[int, Ge(1), Le(MOST_SAMPLES)] = 256
    precision: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Ge(1), Le(1024)] = Field(
        default=1, description="CPU threads of a worker; results depend on it"
    )
    probes: bool = Field(default=True, description="train a linear probe per modality beside the model")
    diagnostics: bool = Field(
        default=True,
        description="log gradient norms, the cosine of each encoder's joint and own gradient, and how far "
        "what a method adds has moved",
    )
    log_every_steps: Annotated[int, Ge(1), Le(10**9)] = 20
    checkpoint_every: Literal["auto"] | Annotated[int, Ge(1), Le(MOST_EPOCHS)] | Minutes = Field(
        default="auto",
        description="epochs (`3`) or minutes (`10m`) between the states a run resumes from, which a kill then repeats; "
        "auto: every epoch while writing takes less than 5 % of training, else at least every tenth",
    )
    checkpoint_every_steps: Annotated[int, Ge(1), Le(10**9)] | None = None
    keep_checkpoints: Annotated[int, Ge(1), Le(10**9)] = 2
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Gt(0)], ...] = Field(
        default="none", description="of samples in training losses: balanced, or a weight per class (ratios matter)"
    )
    select: Literal["best", "last"] = Field(default="best", description="the epoch that is tested (ruling C19)")


class RunConfig(Section):
    """One training run. Build it with `parse_config`, which lists every problem at once."""

    dataset: DatasetConfig
    method: dict[str, Any]
    protocol: ProtocolConfig = ProtocolConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    trainer: TrainerConfig = TrainerConfig()
    seed: Annotated[int, Ge(0), Le(LARGEST_SEED)] = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as plain JSON values; `parse_config` takes it back."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """Returns 12 hexadecimal digits that are equal exactly for equal configurations."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def unreachable_floor(config: RunConfig) -> list[str]:
    """Returns what is wrong with a rate that is to fall no lower than something above where it starts."""
    lr, min_lr = config.optimizer.lr, config.schedule.min_lr
    return [] if min_lr <= lr else [f"schedule.min_lr must be at most optimizer.lr ({lr:g}), got {min_lr:g}"]
