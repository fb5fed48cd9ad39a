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
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from mmcore.errors import ConfigError, UsageError, suggest


class Section(BaseModel):
    """A part of the configuration: unknown keys and infinite numbers are refused, values do not change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetConfig(Section):
    """Which data set, with which of its options, and what is done to a batch on the device."""

    name: str
    options: dict[str, Any] = {}
    transforms: dict[str, dict[str, Any]] = Field(
        default={},
        description="modality -> keys that replace the data set's own transform settings; before a frozen encoder, too",
    )
    encode: dict[str, dict[str, Any]] = Field(
        default={}, description="modality -> frozen encoder whose features are stored and trained on"
    )
    views: Annotated[int, Ge(0)] = Field(
        default=0, description="augmented views whose features are stored, too, of the modalities that are augmented"
    )
    encoder_sha256: dict[str, str] = Field(
        default={}, description="modality -> checksum of its frozen encoder's weights; filled in, others are refused"
    )


class ProtocolConfig(Section):
    """How samples are assigned to train, val and test. Results of different protocols are never ranked together."""

    name: Literal["default", "group", "holdout", "cv", "paper"] = "default"
    seed: Annotated[int, Ge(0)] = 0
    folds: Annotated[int, Ge(3)] | None = Field(default=None, description="of cv; none: the data set's own number")
    fold: Annotated[int, Ge(0)] = 0

    @field_validator("fold")
    @classmethod
    def _one_of_the_folds(cls, fold: int, info: ValidationInfo) -> int:
        if fold >= (info.data.get("folds") or fold + 1):
            raise ValueError(f"less than folds ({info.data['folds']})")
        return fold


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
    min_lr: Annotated[float, Ge(0)] = Field(
        default=0.0, description="the learning rate falls no lower; at most optimizer.lr"
    )


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
    diagnostics: bool = Field(
        default=True,
        description="log gradient norms, the cosine of each encoder's joint and own gradient, and how far "
        "what a method adds has moved",
    )
    log_every_steps: Annotated[int, Ge(1)] = 20
    checkpoint_every_steps: Annotated[int, Ge(1)] | None = None
    keep_checkpoints: Annotated[int, Ge(1)] = 2
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Gt(0)], ...] = Field(
        default="none", description="of samples in training losses: balanced, or a weight per class (ratios matter)"
    )
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
                unknown data set, method or encoder, values JSON cannot hold.
        """
        if not isinstance(data, Mapping):
            raise ConfigError([f"a configuration must be a mapping, got {data!r}"])
        filled = json.loads(json.dumps(dict(data), default=_plain))
        problems = _fill_plugins(filled)
        try:
            config = cls.model_validate(filled)
        except ValidationError as error:
            problems = describe_problems(error, cls) + problems
        else:
            problems += _unreachable_floor(config)
        if problems:
            raise ConfigError(problems)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as plain JSON values; `RunConfig.parse` takes it back."""
        return self.model_dump(mode="json")

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """Returns this configuration with `values` (path -> value, as in `optimizer.lr`) set in it.

        Raises:
            ConfigError: Lists every problem of the result.
        """
        data = self.to_dict()
        for path, value in values.items():
            set_path(data, path, value)
        return RunConfig.parse(data)

    def fingerprint(self) -> str:
        """Returns 12 hexadecimal digits that are equal exactly for equal configurations."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def parse_dataset(data: Mapping[str, Any]) -> DatasetConfig:
    """Validates a `dataset` section alone and fills in every default, the plug-ins' own included.

    Raises:
        ConfigError: Lists every problem.
    """
    return RunConfig.parse({"dataset": dict(data), "method": {"name": "joint"}}).dataset


def set_path(data: dict[str, Any], path: str, value: Any) -> None:
    """Sets `data["a"]["b"] = value` for the path "a.b", making the mappings on the way.

    Raises:
        ConfigError: Something on the way is a value, not a mapping.
    """
    *parents, last = path.split(".")
    for index, key in enumerate(parents):
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError([f"cannot set '{path}': {'.'.join(parents[: index + 1])} is {data!r}, not a mapping"])
    data[last] = value


def get_path(data: Mapping[str, Any], path: str) -> Any:
    """Returns `data["a"]["b"]` for the path "a.b"; None where there is no such entry."""
    value: Any = data
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


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
    sentences: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    for details in error.errors():
        location = _without_union_members(model, [str(part) for part in details["loc"]])
        key = ".".join([*([path] if path else []), *location])
        if details["type"] == "extra_forbidden":
            sentences[key] = _unknown_key(key, model, location)
        elif details["type"] == "missing":
            sentences[key] = f"{key} is required"
        else:
            # A field that may be one thing or another yields a problem for each; they make one sentence.
            rules.setdefault(key, []).append(_rule(details, model, location))
            alternatives = ", or ".join(dict.fromkeys(rules[key]))
            sentences[key] = f"{key} must be {alternatives}, got {details['input']!r}"
    return list(sentences.values())


def _unreachable_floor(config: RunConfig) -> list[str]:
    """Returns what is wrong with a rate that is to fall no lower than something above where it starts."""
    lr, min_lr = config.optimizer.lr, config.schedule.min_lr
    return [] if min_lr <= lr else [f"schedule.min_lr must be at most optimizer.lr ({lr:g}), got {min_lr:g}"]


def _plain(value: Any) -> Any:
    """Turns NumPy's and torch's numbers, which searches hand over, into Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise ConfigError([f"a configuration holds numbers, texts, lists and mappings, got {value!r}"])


def _fill_plugins(data: dict[str, Any]) -> list[str]:
    """Completes the plug-ins' sections of `data` in place; returns the problems found there."""
    from mmcore.data import DATASETS
    from mmcore.encoders import ENCODERS
    from mmcore.methods import METHODS

    problems: list[str] = []

    def fill(section: Any, registry: Any, path: str, options_key: str | None = None) -> None:
        if not isinstance(section, dict) or (options_key and not isinstance(section.get("name"), str)):
            return  # described with the run's own keys
        if not isinstance(section.get("name"), str):
            problems.append(f"{path}.name must be the name of a known {registry.kind}, got {section.get('name')!r}")
            return
        try:
            plugin = registry.get(section["name"])
            if options_key is None:
                values = {key: value for key, value in section.items() if key != "name"}
                section.update(parse_section(plugin.Config, values, path).model_dump(mode="json"))
            elif isinstance(section.setdefault(options_key, {}), dict):
                filled = parse_section(plugin.Config, section[options_key], f"{path}.{options_key}")
                section[options_key] = filled.model_dump(mode="json")
        except ConfigError as error:
            problems.extend(error.problems)
        except UsageError as error:
            problems.append(f"{path}.name: {error}")

    if "dataset" in data:
        fill(data["dataset"], DATASETS, "dataset", options_key="options")
    if "method" in data:
        fill(data["method"], METHODS, "method")
    dataset = data.get("dataset")
    frozen = dataset.get("encode") if isinstance(dataset, dict) else None
    for modality, section in (frozen if isinstance(frozen, dict) else {}).items():
        fill(section, ENCODERS, f"dataset.encode.{modality}")
    model = data.get("model")
    encoders = model.get("encoders") if isinstance(model, dict) else None
    for modality, section in (encoders if isinstance(encoders, dict) else {}).items():
        fill(section, ENCODERS, f"model.encoders.{modality}")
    return problems


def _without_union_members(model: type[BaseModel], location: list[str]) -> list[str]:
    """Cuts what pydantic adds to the place of a problem to tell the members of a union apart."""
    for depth in range(1, len(location)):
        parent = _model_at(model, location[: depth - 1])
        field = parent.model_fields.get(location[depth - 1]) if parent else None
        if field is None or get_origin(field.annotation) not in {Union, UnionType}:
            continue
        if len(set(get_args(field.annotation)) - {type(None)}) > 1:
            return location[:depth]
    return location


def _unknown_key(key: str, model: type[BaseModel], location: list[str]) -> str:
    parent = _model_at(model, location[:-1])
    if parent is None or not parent.model_fields:
        return f"unknown key '{key}': nothing can be set here"
    return f"unknown key '{key}'{suggest(location[-1], parent.model_fields)}"


def _rule(details: ErrorDetails, model: type[BaseModel], location: list[str]) -> str:
    """Returns what a value must be, to follow the words "must be"."""
    kind = details["type"]
    if kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        bounds = _range_rule(model, location)
        if bounds:
            return bounds
    if kind in {"dict_type", "model_type"}:
        return "a mapping"
    message = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    # Without the reason why a number or a truth value could not be read: the value itself follows.
    return message.split(", ")[0] if message.startswith("a valid ") else message


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model


def _range_rule(model: type[BaseModel], location: list[str]) -> str | None:
    """Returns the range of a field as words, `in [0, 1]` or `at least 1`, or None if it has none."""
    parent = _model_at(model, location[:-1])
    field = parent.model_fields.get(location[-1]) if parent else None
    if field is None:
        return None
    bounds = list(field.metadata)
    for argument in get_args(field.annotation):
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
