"""What each modality reaches alone, from finished runs of `unimodal` or `ensemble`: the measure of being held back.

Accuracies on validation, by the modality's own head, in the epoch that run would be tested on; never of test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmcore.config.schema import RunConfig
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import UsageError
from mmcore.metric_names import own_accuracies
from mmcore.training.run_log import read_rows
from mmcore.training.trainer import MONITOR
from rayjobs.experiment.search_result import read_search
from rayjobs.runs.result import RunResult, read_results

if TYPE_CHECKING:
    from rayjobs.experiment.experiment import Experiment
    from rayjobs.experiment.plan import Plan

METHODS_ALONE = ("unimodal", "ensemble")
"""Methods in which no modality's encoder learns from another's loss; of both, `unimodal` counts."""


def alone_accuracies(folders: Sequence[Path], config: RunConfig, prepared: PreparedDataset) -> dict[str, float]:
    """Returns modality -> mean accuracy over the runs in the folders of `train` commands.

    Args:
        folders: Each with runs in it.
        config: Configuration of the run that is to be compared.
        prepared: Its data.

    Raises:
        UsageError: There is no finished run, or one of another method, data set or protocol.
    """
    found: dict[str, list[float]] = {}
    for folder in folders:
        results = read_results(folder)
        if not results:
            raise UsageError(f"--reference {folder}: there is no finished run in it")
        for result in results:
            _check(folder, result, prepared.fingerprint, prepared.assign(config.protocol).line)
            for name, value in own_accuracies(result.best, probes=False).items():
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def searched_accuracies(plan: Plan, experiment: Experiment, fold: int | None = None) -> dict[str, float]:
    """Returns modality -> accuracy in the best trial of an experiment's finished searches of these methods.

    Only searches on that very fold count: another fold's validation samples are no measure of a run on this one.
    """
    found: dict[str, float] = {}
    for method in reversed(METHODS_ALONE):
        for search in [search for search in plan.searches if search.fold == fold]:
            folder = experiment.folder / search.name
            stored = read_search(folder) if search.config.method["name"] == method else None
            if stored and stored.best:
                rows = read_rows(folder / stored.best.name)
                found |= own_accuracies(max(rows, key=lambda row: row[MONITOR], default={}), probes=False)
    return found


def _check(folder: Path, result: RunResult, fingerprint: str, protocol: str) -> None:
    if result.method not in METHODS_ALONE:
        raise UsageError(
            f"--reference {folder} holds runs of {result.method}; what a modality reaches alone is known from "
            f"{' or '.join(METHODS_ALONE)}"
        )
    if (result.data_fingerprint, result.protocol) != (fingerprint, protocol):
        raise UsageError(f"--reference {folder} holds runs on other data or by another protocol ({result.protocol})")
