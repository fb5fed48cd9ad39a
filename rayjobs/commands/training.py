"""The body of `train`: one configuration, trained once per seed and fold, tested once per model.

    results/<name>/train.json             what was asked for
    results/<name>/seed-0/                a run: metrics, curves, checkpoints, result, predictions on test
    results/<name>/fold-0/seed-0/         the same, of a cross-validation

One worker without a GPU trains in this very process; anything else is a Ray Train worker group.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmcore.assembly.config import build_source, complete_config, parse_config, with_values
from mmcore.assembly.objects import build_method
from mmcore.config.plain import Settings
from mmcore.config.schema import RunConfig
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import TrainingError, UsageError
from mmcore.features.encoded_set import check_encoding
from mmcore.metric_names import VAL_ACCURACY
from mmcore.training.run_log import PlainReporter, read_readings, read_rows
from rayjobs.cluster import resources, session
from rayjobs.experiment.train_folder import Folds, of_fold, run_folder, run_title
from rayjobs.experiment.unimodal_references import alone_accuracies
from rayjobs.feeding.handle import DataHandle, open_data
from rayjobs.results_layout import CHECKPOINTS, RESULT_FILE
from rayjobs.runs.extra_tests import NOTHING_MORE, Extra
from rayjobs.runs.job import Job
from rayjobs.runs.result import RunResult, read_result
from rayjobs.runs.worker import run
from rayjobs.storage.follower import Follower, following
from rayjobs.storage.mirror import NO_MIRROR, Mirror
from rayjobs.trials.worker_group import run_group

POLL_S = 0.5
State = tuple[str, str, int]
"""Key of a reading: its kind, its modality and the epoch since which it holds."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What a `train` command asks for.

    Attributes:
        config: Complete, but for the seed and the fold.
        seeds: One run each.
        folds: Each with all seeds; (None,): the one split of the configuration.
        workers: None: in this process, unless GPUs are asked for.
        gpus_per_worker: None: one where there are GPUs.
        address: None: a local Ray, if one is needed at all.
        cache_bytes: Data sets up to this size are held in the object store.
        verbose: Show Ray's own log.
        command: For the ledger.
        extra: What is tested beside the data as they are.
        alone: Fold -> modality -> validation accuracy of a reference trained on it alone, as far as known.
        mirror: Where the folder of the runs has its twin.
    """

    config: RunConfig
    seeds: Sequence[int]
    folds: Folds = (None,)
    workers: int | None = None
    gpus_per_worker: float | None = None
    address: str | None = None
    cache_bytes: int = 2**30
    verbose: bool = False
    command: str = ""
    extra: Extra = NOTHING_MORE
    alone: Mapping[int | None, Mapping[str, float]] = field(default_factory=dict)
    mirror: Mirror = NO_MIRROR

    @property
    def runs(self) -> list[tuple[int | None, int]]:
        """Fold and seed of each run, in their order."""
        return list(itertools.product(self.folds, self.seeds))

    @property
    def configs(self) -> dict[str, RunConfig]:
        """Title and configuration of each run."""
        return {run_title(*run): of_run(self.config, *run) for run in self.runs}


def base_config(values: Settings, prepared: PreparedDataset) -> RunConfig:
    """Returns a complete configuration, having built its model once, so that what cannot work fails here.

    Raises:
        ConfigError: Lists every problem.
    """
    config = complete_config(parse_config(values))
    check_encoding(config.dataset, prepared, build_source(config).spec())
    prepared.assign(config.protocol)
    build_method(config, prepared.spec)
    return config


def alone_by_fold(
    references: Sequence[Path], config: RunConfig, prepared: PreparedDataset, folds: Folds
) -> dict[int | None, dict[str, float]]:
    """Returns fold -> modality -> what it reaches alone in the references' runs on that fold.

    Raises:
        UsageError: A reference has no finished run there, or one that cannot be compared; or lacks a seed on a fold.
    """
    for reference in references if len(folds) > 1 else ():
        _check_complete(reference, folds)
    return {
        fold: alone_accuracies([run_folder(path, fold) for path in references], of_fold(config, fold), prepared)
        for fold in folds
    }


def _check_complete(reference: Path, folds: Folds) -> None:
    """Raises a UsageError where a reference has other seeds on one fold than on another: its folds are not alike."""
    found = {
        fold: {path.parent.name for path in run_folder(reference, fold).glob(f"*/{RESULT_FILE}")} for fold in folds
    }
    every = set().union(*found.values())
    lacking = [f"fold {fold} lacks {name}" for fold, own in found.items() if own for name in sorted(every - own)]
    if lacking:
        raise UsageError(
            f"--reference {reference}: {', '.join(lacking)}; finish its runs by the same command with --resume"
        )


def of_run(config: RunConfig, fold: int | None, seed: int) -> RunConfig:
    """Returns the configuration of one run."""
    return with_values(of_fold(config, fold), {"seed": seed})


def train_all(request: TrainRequest, prepared: PreparedDataset, folder: Path) -> list[RunResult]:
    """Trains and tests one model per fold and seed; returns their results. Finished ones are read, not trained again.

    Raises:
        EquipoiseError: A run failed; the others before it are kept.
        UsageError: More is asked for than there is.
    """
    fits = prepared.num_bytes <= request.cache_bytes
    if request.address is None:
        shape = _shape(request, resources.visible_gpus())
        if request.workers is None and not shape.gpus_per_worker and fits:
            data = DataHandle(str(prepared.directory.resolve()), in_process=True)
            return [_train_here(request, data, folder, *run) for run in request.runs]
        resources.concurrent_trials(shape, [resources.local_node()])  # refused before Ray is started
    with session.start(request.address, verbose=request.verbose, needs_dashboard=True) as nodes:
        shape = _shape(request, sum(node.gpus for node in nodes))
        resources.concurrent_trials(shape, nodes)
        data = open_data(prepared, request.cache_bytes)
        return [_train_group(request, data, folder, fold=fold, seed=seed, shape=shape) for fold, seed in request.runs]


def _shape(request: TrainRequest, gpus: float) -> resources.TrialShape:
    """Returns what a run asks for where there are so many GPUs."""
    trainer = request.config.trainer
    each = request.gpus_per_worker
    if each is None:
        each = 1.0 if gpus and trainer.device != "cpu" else 0.0
    return resources.TrialShape(request.workers or 1, trainer.threads, each)


def _job(request: TrainRequest, data: DataHandle, folder: Path, fold: int | None, seed: int) -> Job:
    config = of_run(request.config, fold, seed).to_dict()
    run_dir = str((run_folder(folder, fold) / f"seed-{seed}").resolve())
    return Job(
        config,
        data,
        run_dir,
        home=str(folder.resolve()),
        test=True,
        command=request.command,
        extra=request.extra,
        alone=request.alone.get(fold, {}),
        mirror=request.mirror,
    )


class _PushingReporter(PlainReporter):
    """Sends each epoch to storage, where the run has a twin."""

    def __init__(self, follower: Follower):
        super().__init__()
        self._follower = follower

    def report(self, metrics: dict[str, float]) -> float:
        """Sends what the epoch left, then keeps its row; returns the seconds of the former."""
        seconds = self._follower.push()
        super().report(metrics)
        return seconds


def _train_here(request: TrainRequest, data: DataHandle, folder: Path, fold: int | None, seed: int) -> RunResult:
    job = _job(request, data, folder, fold, seed)
    with _progress(job, run_title(fold, seed)), following(job.mirror, Path(job.run_dir)) as follower:
        return run(job, _PushingReporter(follower))


def _train_group(
    request: TrainRequest, data: DataHandle, folder: Path, *, fold: int | None, seed: int, shape: resources.TrialShape
) -> RunResult:
    job = _job(request, data, folder, fold, seed)
    job.make_folder()
    with _progress(job, run_title(fold, seed)):
        run_group(job, shape, run)
    job.mirror.pull(Path(job.run_dir), without=(CHECKPOINTS,))
    result = read_result(Path(job.run_dir))
    if result is None:
        raise TrainingError(f"{job.run_dir} holds no result, though its workers ended: do all nodes see that folder?")
    return result


def new_readings(run_dir: Path, told: set[State]) -> list[tuple[int, dict[str, Any]]]:
    """Returns what the epochs of a run say (epoch, reading), each state once; adds it to what was `told`."""
    found = []
    for epoch, readings in read_readings(run_dir).items():
        for reading in readings:
            state = (reading["kind"], reading["modality"], reading["since"])
            if state not in told:
                told.add(state)
                found.append((epoch, reading))
    return found


@contextmanager
def _progress(job: Job, title: str) -> Iterator[None]:
    """Shows epochs as they are logged in the run's folder, wherever its workers run."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    total = job.max_epochs
    ended = threading.Event()
    told: set[State] = set()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def show() -> None:
            rows = read_rows(Path(job.run_dir))
            if rows:
                last = rows[-1]
                bar.update(task, completed=last["epoch"], description=f"{title}, val {last[VAL_ACCURACY]:.3f}")
            for epoch, reading in new_readings(Path(job.run_dir), told):
                console.print(f"{title}, epoch {epoch}: {reading['text']}", style="yellow", soft_wrap=True)

        def follow() -> None:
            while not ended.wait(POLL_S):
                show()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            show()
