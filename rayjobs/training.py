"""The body of `train`: one configuration, trained once per seed, tested once per model.

    results/<name>/train.json             what was asked for
    results/<name>/seed-0/                a run: metrics, curves, checkpoints, result, predictions on test

One worker without a GPU trains in this very process; anything else is a Ray Train worker group.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mmcore.build import build_method, complete_config
from mmcore.config import RunConfig
from mmcore.data.store import PreparedDataset
from mmcore.errors import CheckpointError, UsageError
from mmcore.reporting import PlainReporter, read_readings, read_rows
from mmcore.statistics import MIN_SEEDS, mean_interval
from rayjobs import cluster
from rayjobs.datasets import open_data
from rayjobs.evaluations import NOTHING_MORE, Extra, print_extra
from rayjobs.files import read_json, write_json
from rayjobs.groups import run_group
from rayjobs.ledger import open_ledger
from rayjobs.worker import DataHandle, Job, run

RUN_FILE = "train.json"
POLL_S = 0.5


@dataclass(frozen=True)
class TrainRequest:
    """What a `train` command asks for.

    Attributes:
        config: Complete, but for the seed.
        seeds: One run each.
        workers: None: in this process, unless GPUs are asked for.
        gpus_per_worker: None: one where there are GPUs.
        address: None: a local Ray, if one is needed at all.
        cache_bytes: Data sets up to this size are held in the object store.
        verbose: Show Ray's own log.
        command: For the ledger.
        extra: What is tested beside the data as they are.
        alone: Modality -> validation accuracy of a reference trained on it alone, as far as known.
    """

    config: RunConfig
    seeds: Sequence[int]
    workers: int | None = None
    gpus_per_worker: float | None = None
    address: str | None = None
    cache_bytes: int = 2**30
    verbose: bool = False
    command: str = ""
    extra: Extra = NOTHING_MORE
    alone: Mapping[str, float] = field(default_factory=dict)


def base_config(values: dict[str, Any], prepared: PreparedDataset) -> RunConfig:
    """Returns a complete configuration, having built its model once, so that what cannot work fails here.

    Raises:
        ConfigError: Lists every problem.
    """
    config = complete_config(RunConfig.parse(values))
    prepared.assign(config.protocol)
    build_method(config, prepared.spec)
    return config


def open_folder(output: Path, name: str | None, config: RunConfig, resume: bool, command: str) -> Path:
    """Returns the folder of the runs: a new one, or that of the command that is gone on with.

    A name made from the configuration is numbered (`-2`, `-3`) where it is taken; a given one is not.

    Raises:
        UsageError: There is nothing to resume, or the given name is taken.
        CheckpointError: The folder's runs are of another configuration.
    """
    default = f"train-{config.dataset.name}-{config.method['name']}"
    folder = output / (name or default)
    number = 1
    if not resume:
        if name and (folder / RUN_FILE).exists():
            raise UsageError(f"{folder} is there already: pass --resume to go on with it, or choose another --name")
        while (folder / RUN_FILE).exists():
            number += 1
            folder = output / f"{default}-{number}"
    else:
        while not name and (output / f"{default}-{number + 1}" / RUN_FILE).exists():
            number += 1
            folder = output / f"{default}-{number}"
        if not (folder / RUN_FILE).exists():
            raise UsageError(f"there is no run in {folder} to go on with; leave out --resume")
        if read_json(folder / RUN_FILE)["config"] != config.to_dict():
            raise CheckpointError(
                f"{folder} holds runs of another configuration: repeat the command that made them "
                f"({read_json(folder / RUN_FILE)['command']}), or leave out --resume"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN_FILE, {"config": config.to_dict(), "command": command})
    open_ledger(output)
    return folder


def train_seeds(request: TrainRequest, prepared: PreparedDataset, folder: Path) -> list[dict[str, Any]]:
    """Trains and tests one model per seed; returns their results. Finished ones are read, not trained again.

    Raises:
        EquipoiseError: A run failed; the others before it are kept.
        UsageError: More is asked for than there is.
    """
    gpus = request.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if request.config.trainer.device != "cpu" and _sees_gpus(request) else 0.0
    shape = cluster.TrialShape(request.workers or 1, request.config.trainer.threads, gpus)
    fits = prepared.num_bytes <= request.cache_bytes
    if request.workers is None and not gpus and request.address is None and fits:
        data = DataHandle(str(prepared.directory.resolve()), in_process=True)
        return [_train_here(request, data, folder, seed) for seed in request.seeds]
    if request.address is None:
        cluster.concurrent_trials(shape, [cluster.local_node()])  # refused before Ray is started
    with cluster.start(request.address, verbose=request.verbose, needs_dashboard=True) as nodes:
        cluster.concurrent_trials(shape, nodes)
        data = open_data(prepared, request.cache_bytes)
        return [_train_group(request, data, folder, seed, shape) for seed in request.seeds]


def print_results(results: Sequence[dict[str, Any]], folder: Path, prepared: PreparedDataset) -> None:
    """Prints each metric on test: every seed's value and, from three seeds on, the mean's 95 % interval."""
    console = Console(highlight=False)
    seeds = [result["config"]["seed"] for result in results]
    variants = f" ({', '.join(results[0]['variants'])})" if results[0]["variants"] else ""
    title = f"{results[0]['config']['method']['name']}{variants} on {prepared.directory.name}: test, in percent"
    table = Table(title=title)
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("95 %", justify="right")
    table.add_column("seeds " + ", ".join(map(str, seeds)) if len(seeds) > 1 else f"seed {seeds[0]}")
    for name, key in _metrics(results[0]["test"]).items():
        values = [100 * result["test"][key] for result in results]
        mean, half_width = mean_interval(values)
        interval = "" if half_width is None else f"± {half_width:.1f}"
        table.add_row(name, f"{mean:.1f}", interval, "  ".join(f"{value:.1f}" for value in values))
    epochs = [f"{result['test']['epoch']:.0f}" for result in results]
    table.add_row("tested epoch", "", "", "  ".join(epochs))
    console.print(table)
    print_extra(results, console)
    for result in results:
        for reading in result["readings"]:
            console.print(f"seed {result['config']['seed']}: {reading['text']}", style="yellow")
    console.print(f"protocol {results[0]['protocol']}; {prepared.card}")
    if results[0]["selects_on_test"]:
        console.print("PAPER PROTOCOL: the epoch was picked on the test split, as the papers did; not a fair result")
    if len(results) < MIN_SEEDS:
        console.print(f"no interval with fewer than {MIN_SEEDS} seeds (--seeds)")
    console.print(f"results: {folder}\ncurves:  tensorboard --logdir {folder}", soft_wrap=True)


def _metrics(test: dict[str, float]) -> dict[str, str]:
    """Returns heading -> metric: the fused ones, then each modality's accuracy by its own head and by a probe."""
    names = {"accuracy": "fused/accuracy", "macro-F1": "fused/macro_f1", "mAP": "fused/map"}
    names["calibration error"] = "fused/ece"
    for key in test:
        head, _, metric = key.rpartition("/")
        if metric == "accuracy" and head != "fused" and "/" not in head:
            names[f"{head} alone, own head"] = key
        elif metric == "probe_accuracy":
            names[f"{head} alone, probe"] = key
    return {name: key for name, key in names.items() if key in test}


def _sees_gpus(request: TrainRequest) -> bool:
    return request.address is not None or cluster.visible_gpus() > 0


def _job(request: TrainRequest, data: DataHandle, folder: Path, seed: int) -> Job:
    config = request.config.with_values({"seed": seed}).to_dict()
    run_dir = str((folder / f"seed-{seed}").resolve())
    return Job(config, data, run_dir, test=True, command=request.command, extra=request.extra, alone=request.alone)


def _train_here(request: TrainRequest, data: DataHandle, folder: Path, seed: int) -> dict[str, Any]:
    job = _job(request, data, folder, seed)
    with _progress(job, f"seed {seed}"):
        return run(job, PlainReporter())


def _train_group(
    request: TrainRequest, data: DataHandle, folder: Path, seed: int, shape: cluster.TrialShape
) -> dict[str, Any]:
    job = _job(request, data, folder, seed)
    Path(job.run_dir).mkdir(parents=True, exist_ok=True)
    with _progress(job, f"seed {seed}"):
        run_group(job, shape, run)
    return read_json(Path(job.run_dir) / "result.json")


def new_readings(run_dir: Path, told: set[tuple[Any, ...]]) -> list[tuple[int, dict[str, Any]]]:
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
    total = job.config["trainer"]["max_epochs"]
    ended = threading.Event()
    told: set[tuple[Any, ...]] = set()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def show() -> None:
            rows = read_rows(Path(job.run_dir))
            if rows:
                last = rows[-1]
                bar.update(task, completed=last["epoch"], description=f"{title}, val {last['val/fused/accuracy']:.3f}")
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
