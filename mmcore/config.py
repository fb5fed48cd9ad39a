"""The configuration of one training run: every key, its range and its meaning.

A run is described by one mapping, validated once with every problem listed, and written beside every
checkpoint. A search space names its keys by path: `optimizer.lr`, `method.alpha`.

Sections that name a plug-in (`dataset`, `method` and each of `model.encoders`) take `name` and, next to it,
the keys of the plug-in's own `Config`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from mmcore.errors import ConfigError, UsageError, suggest


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are not changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetConfig(Section):
    """Which data set, with which of its options, and what is done to a batch on the device."""

    name: str
    options: dict[str, Any] = {}
    transforms: dict[str, dict[str, Any]] = Field(
        default={}, description="modality -> keys that replace the data set's own transform settings"
    )


class ProtocolConfig(Section):
    """How samples are assigned to train, val and test. Results of different protocols are never ranked together."""

    name: Literal["default", "group", "holdout", "cv", "paper"] = "default"
    seed: Annotated[int, Ge(0)] = 0
    folds: Annotated[int, Ge(3)] = 5
    fold: Annotated[int, Ge(0)] = 0


class ModelConfig(Section):
    """Encoders by modality; those not named are the data set's own choice."""

    encoders: dict[str, dict[str, Any]] = {}
    projection_dim: Annotated[int, Ge(1)] | None = Field(
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
    patience_epochs: Annotated[int, Ge(0)] = 5
    threshold: Annotated[float, Ge(0), Lt(1)] = 1e-3
    step_epochs: Annotated[int, Ge(1)] = 70


class TrainerConfig(Section):
    """The loop: length, batch, numbers' format, what is logged and kept."""

    max_epochs: Annotated[int, Ge(1)] = 30
    batch_size: Annotated[int, Ge(1)] = Field(default=64, description="samples of one step over all workers")
    accumulate: Annotated[int, Ge(1)] = Field(default=1, description="micro-batches a step is cut into")
    eval_batch_size: Annotated[int, Ge(1)] = 256
    precision: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Ge(1)] = Field(default=1, description="CPU threads of a worker; results depend on it")
    probes: bool = Field(default=True, description="train a linear probe per modality beside the model")
    log_every_steps: Annotated[int, Ge(1)] = 20
    checkpoint_every_steps: Annotated[int, Ge(1)] | None = None
    keep_checkpoints: Annotated[int, Ge(1)] = 2
    select: Literal["best", "last"] = Field(default="best", description="the epoch that is tested (ruling C19)")


class RunConfig(Section):
    """One training run. Build it with `RunConfig.parse`, which lists every problem at once."""

    dataset: DatasetConfig
    method: dict[str, Any]
    protocol: ProtocolConfig = ProtocolConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    trainer: TrainerConfig = TrainerConfig()
    seed: Annotated[int, Ge(0)] = 0

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> RunConfig:
        """Validates a mapping and fills in every default, the plug-ins' own included.

        Raises:
            ConfigError: Lists all problems: unknown keys with the nearest known one, values out of range,
                unknown data set, method or encoder.
        """
        filled = json.loads(json.dumps(dict(data)))
        problems = _fill_plugins(filled)
        try:
            config = cls.model_validate(filled)
        except ValidationError as error:
            problems = describe_problems(error, cls) + problems
        if problems:
            raise ConfigError(problems)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as plain JSON values; `RunConfig.parse` takes it back."""
        return self.model_dump(mode="json")

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """Returns this configuration with `values` (path -> value, as in `optimizer.lr`) set in it."""
        data = self.to_dict()
        for path, value in values.items():
            set_path(data, path, value)
        return RunConfig.parse(data)

    def fingerprint(self) -> str:
        """Returns 12 hexadecimal digits that are equal exactly for equal configurations."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def set_path(data: dict[str, Any], path: str, value: Any) -> None:
    """Sets `data["a"]["b"] = value` for the path "a.b", making the mappings on the way."""
    *parents, last = path.split(".")
    for key in parents:
        data = data.setdefault(key, {})
    data[last] = value


def parse_section(model: type[BaseModel], values: Mapping[str, Any], path: str) -> BaseModel:
    """Validates one section, for example a plug-in's own `Config`.

    Args:
        model: The section's class.
        values: Its keys and values.
        path: Where the section stands, for the messages: `method`, `model.encoders.image`.

    Raises:
        ConfigError: Lists every problem.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(describe_problems(error, model, path)) from None


def describe_problems(error: ValidationError, model: type[BaseModel], path: str = "") -> list[str]:
    """Returns one sentence for each problem pydantic found: key, rule, value received."""
    return [_describe(details, model, path) for details in error.errors()]


def _fill_plugins(data: dict[str, Any]) -> list[str]:
    """Completes the plug-ins' sections of `data` in place; returns the problems found there."""
    from mmcore.data import DATASETS
    from mmcore.encoders import ENCODERS
    from mmcore.methods import METHODS

    problems: list[str] = []

    def fill(section: Any, registry: Any, path: str, options_key: str | None = None) -> None:
        if not isinstance(section, dict) or not isinstance(section.get("name"), str):
            problems.append(f"{path} must be a mapping with a key 'name' (a {registry.kind}), got {section!r}")
            return
        try:
            plugin = registry.get(section["name"])
            if options_key is None:
                values = {key: value for key, value in section.items() if key != "name"}
                section.update(parse_section(plugin.Config, values, path).model_dump(mode="json"))
            else:
                values = section.get(options_key) or {}
                filled = parse_section(plugin.Config, values, f"{path}.{options_key}")
                section[options_key] = filled.model_dump(mode="json")
        except ConfigError as error:
            problems.extend(error.problems)
        except UsageError as error:
            problems.append(f"{path}.name: {error}")

    if "dataset" in data:
        fill(data["dataset"], DATASETS, "dataset", options_key="options")
    if "method" in data:
        fill(data["method"], METHODS, "method")
    model = data.get("model")
    encoders = model.get("encoders") if isinstance(model, dict) else None
    for modality, section in (encoders if isinstance(encoders, dict) else {}).items():
        fill(section, ENCODERS, f"model.encoders.{modality}")
    return problems


def _describe(details: ErrorDetails, model: type[BaseModel], path: str) -> str:
    location = [str(part) for part in details["loc"]]
    key = ".".join([*([path] if path else []), *location])
    value = details["input"]
    if details["type"] == "extra_forbidden":
        parent = _model_at(model, location[:-1])
        known = parent.model_fields if parent else []
        return f"unknown key '{key}'{suggest(location[-1], known)}"
    if details["type"] == "missing":
        return f"{key} is required"
    rule = _range_rule(model, location)
    if rule and details["type"] in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        return f"{key} must be {rule}, got {value!r}"
    message = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{key} must be {message}, got {value!r}"


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model


def _range_rule(model: type[BaseModel], location: list[str]) -> str | None:
    """Returns the range of a field as words, `in [0, 1]` or `at least 1`, or None if it has none."""
    parent = _model_at(model, location[:1] if len(location) > 1 else [])
    field = parent.model_fields.get(location[-1]) if parent else None
    if field is None:
        return None
    bounds = list(field.metadata)
    for argument in getattr(field.annotation, "__args__", ()):
        bounds += getattr(argument, "__metadata__", ())
    low = next((f"[{bound.ge:g}" if isinstance(bound, Ge) else f"({bound.gt:g}"
                for bound in bounds if isinstance(bound, (Ge, Gt))), None)  # fmt: skip
    high = next((f"{bound.le:g}]" if isinstance(bound, Le) else f"{bound.lt:g})"
                 for bound in bounds if isinstance(bound, (Le, Lt))), None)  # fmt: skip
    if low and high:
        return f"in {low}, {high}"
    if low:
        return f"{'at least' if low[0] == '[' else 'greater than'} {low[1:]}"
    return f"{'at most' if high[-1] == ']' else 'less than'} {high[:-1]}" if high else None
