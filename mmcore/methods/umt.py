"""UMT: joint training whose encoders are drawn to the features of models that learnt each modality alone.

In short: Each modality is first learnt by a model of its own, whose encoder has no one to lean on. Then all are trained
jointly, and each encoder is asked to have the features that its modality's teacher has.

Paper: "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning", ICML 2023.

Step by step: L = CE(z) + w Σ_m MSE(f_m, t_m), with t_m the features of modality m's teacher, which is frozen and
answers as in evaluation; MSE is the mean over all entries.

Cost: that of `joint` and a forward pass of M teachers; before it, one run of `unimodal` for each modality.

Rulings and deviations (each with a test in tests/core/methods/test_umt.py):
  1. The error is of the samples that have the modality: their mean over the mean of a sample's entries.
  2. w is 10, as in a toolkit; the authors' own was not at hand.
  3. Teachers are the final models of `unimodal` on the same samples and with the same encoders. One whose features have
     another size, as where this run projects features and the teacher's did not, is refused.
  4. At w = 0 no teacher is asked for, and it is `joint`.

Shape legend: B samples, K classes, D_m features of modality m, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import TrainingError
from mmcore.layers.precision import full_precision
from mmcore.methods.base import FUSED, METHODS, Need, cross_entropy
from mmcore.methods.fusion import fusion_needs
from mmcore.methods.joint import Joint, JointConfig

if TYPE_CHECKING:
    from mmcore.methods.step import Answer, Step, Teacher


class UmtConfig(JointConfig):
    """Settings of UMT.

    Attributes:
        weight: w, weight of the distance to the teachers' features; 0: joint training.
    """

    weight: Annotated[float, Ge(0)] = 10.0


def feature_errors(features: Tensor, taught: Tensor) -> Tensor:
    """Returns each sample's mean squared distance to its teacher's features, (B,), at least float32.

    Args:
        features: (B, D).
        taught: The teacher's, (B, D); without gradient.
    """
    return (full_precision(features) - full_precision(taught)).square().mean(dim=1)


def require_sizes(sizes: Mapping[str, int], teachers: Mapping[str, Teacher]) -> None:
    """Raises a TrainingError where a teacher's features have another size than the modality's own."""
    wrong = [f"{name} {size} (the teacher's {teachers[name].num_features})" for name, size in sizes.items()
             if name in teachers and teachers[name].num_features != size]  # fmt: skip
    if wrong:
        raise TrainingError(f"features must be of the teachers' sizes; they are of {', '.join(wrong)}: choose a "
                            "method.fusion that needs no equal sizes, or the encoders the teachers had")  # fmt: skip


def feature_terms(
    features: Mapping[str, Tensor], answers: Mapping[str, Answer], batch: Batch, engine: Step, weight: float
) -> dict[str, Tensor]:
    """Returns each modality's distance to its teacher's features, times its weight, over the samples that have it."""
    errors = {name: feature_errors(values, answers[name].features) for name, values in features.items()}
    means = engine.means(errors, {name: batch.has(name) for name in errors})
    return {f"teacher/{name}": weight * value for name, value in means.items()}


@METHODS.register("umt")
class Umt(Joint):
    """Trains the fused cross-entropy, over all samples, and each encoder's distance to its teacher's features.

    A missing modality is features of zero to the fusion head, and has no part in the distance.
    """

    Config = UmtConfig

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        """Returns teachers, unless they have no weight, and equal feature sizes for the fusion heads that add up."""
        return fusion_needs(config.fusion) | ({Need.TEACHERS} if config.weight else set())

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns none: without the teachers it is `joint`."""
        return {}

    def begin_epoch(self, engine: Step) -> None:
        """Looks whether the teachers fit.

        Raises:
            TrainingError: One's features have another size.
        """
        require_sizes(self.model.num_features, self.context.teachers)

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy and each modality's distance to its teacher, times w."""
        features = self.model.encode(batch)
        terms = {FUSED: cross_entropy(self.fusion(features), batch.labels, engine)}
        if not self.config.weight:
            return terms
        answers = {name: teacher(batch) for name, teacher in self.context.teachers.items()}
        return {**terms, **feature_terms(features, answers, batch, engine, self.config.weight)}
