"""What `train` can test beside the data as they are: missing and noisy modalities, and each modality's contribution.

Each evaluation reads test once more, and each is entered in the ledger under its condition's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmcore.data.spec import DatasetSpec
from mmcore.errors import ConfigError
from mmcore.evaluation.conditions import Condition, check_conditions
from mmcore.evaluation.shapley import shapley_values, subsets
from mmcore.metric_names import FUSED_ACCURACY
from mmcore.training.trainer import Trainer
from rayjobs.runs.result import RunResult, Shapley
from rayjobs.runs.test_ledger import Entry

AS_STORED = Condition().name


@dataclass(frozen=True)
class Extra:
    """What is to be tested beside the data as they are.

    Attributes:
        conditions: Missing and noisy modalities.
        shapley: Whether each modality's contribution is wanted, which takes an evaluation for each subset of them.
    """

    conditions: tuple[Condition, ...] = ()
    shapley: bool = False

    def check(self, spec: DatasetSpec, modalities: Sequence[str]) -> None:
        """Checks it against a data set and the modalities of the method.

        Raises:
            ConfigError: Lists shares and deviations out of range, modalities unknown or without noise.
            UsageError: Contributions of too many modalities.
        """
        check_conditions(self.conditions, spec)
        self.needed(modalities)

    def needed(self, modalities: Sequence[str]) -> list[Condition]:
        """Returns the conditions to test under, each once; the data as they are among them only if asked for."""
        wanted = list(self.conditions)
        if self.shapley:
            proper = [subset for subset in subsets(modalities) if 0 < len(subset) < len(modalities)]
            wanted += [Condition(only=subset) for subset in proper]
        return list({condition.name: condition for condition in wanted}.values())

    def unread(self, result: RunResult, modalities: Sequence[str]) -> list[Condition]:
        """Returns the conditions that a run's result does not have yet."""
        return [condition for condition in self.needed(modalities) if condition.name not in result.conditions]

    def is_read(self, result: RunResult, modalities: Sequence[str]) -> bool:
        """Tells whether a run's result has all that is asked for."""
        return not self.unread(result, modalities) and not (self.shapley and result.shapley is None)


NOTHING_MORE = Extra()


def parse_conditions(missing: str | None, noise: Sequence[str]) -> tuple[Condition, ...]:
    """Returns the conditions a command line asks for.

    Args:
        missing: Shares, `0,0.2,0.5`; one condition each.
        noise: Deviations, `image=0.2,audio=0.5`; one condition each, its noises added together.

    Raises:
        ConfigError: Lists what is no number, or lacks its modality.
    """
    problems: list[str] = []
    conditions = []
    for text in missing.split(",") if missing is not None else ():
        share = _number(text, f"--missing must be shares in [0, 1], as in 0,0.2,0.5, got {text.strip()!r}", problems)
        conditions.append(Condition(missing=share))
    for option in noise:
        levels: dict[str, float] = {}
        for part in option.split(","):
            name, _, text = part.partition("=")
            rule = f"--noise must be MODALITY=DEVIATION, as in image=0.2,audio=0.5, got {part.strip()!r}"
            levels[name.strip()] = _number(text, rule, problems)
        conditions.append(Condition(noise=levels))
    if problems:
        raise ConfigError(problems)
    return tuple(conditions)


def add_conditions(trainer: Trainer, extra: Extra, result: RunResult, entry: Entry) -> RunResult:
    """Reads test under every condition a result does not have, and returns the result with them; on every rank.

    Args:
        trainer: With the weights to be tested.
        extra: What is asked for.
        result: With the metrics on the data as they are; `conditions` and `shapley` are added to.
        entry: Enters a reading in the ledger.
    """
    modalities = trainer.method.model.modalities
    found = dict(result.conditions)
    found.setdefault(AS_STORED, {name: value for name, value in result.tested.items() if name != "epoch"})
    for condition in extra.unread(replace(result, conditions=found), modalities):
        entry.record(condition.name)
        found[condition.name] = trainer.evaluate("test", condition=condition).metrics
    shapley = result.shapley
    if extra.shapley:
        worth = {subset: found[Condition(only=subset).name][FUSED_ACCURACY]
                 for subset in subsets(modalities) if 0 < len(subset) < len(modalities)}  # fmt: skip
        worth[()] = trainer.prior_accuracy("test")
        worth[tuple(modalities)] = found[AS_STORED][FUSED_ACCURACY]
        contributions = shapley_values(worth, modalities)
        shapley = Shapley(contributions=contributions, none=worth[()], all=worth[tuple(modalities)])
    return replace(result, conditions=found, shapley=shapley)


def _number(text: str, rule: str, problems: list[str]) -> float:
    try:
        return float(text)
    except ValueError:
        problems.append(rule)
        return 0.0
