"""From the flags of `tune` to a checked request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mmcore.config.plain import Plain
from mmcore.errors import UsageError
from rayjobs.cli.options import parse_duration, parse_overrides, parse_workers
from rayjobs.storage.addresses import is_address

if TYPE_CHECKING:
    from rayjobs.experiment.machine import Machine
    from rayjobs.experiment.request import Request
    from rayjobs.experiment.search_result import Keep


class MachineFlags(TypedDict):
    """The flags that say where and how fast something is computed."""

    time_budget: str | None
    cost_budget: float | None
    concurrent: int | None
    cpus: int | None
    max_failures: int
    hang_timeout: float
    cache: str
    cache_budget: int | None
    address: str | None
    verbose: bool


class TuneFlags(MachineFlags):
    """The flags of `tune`, by click's names for them; `python -m rayjobs.tune --help` says what each means."""

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    ablations: bool
    reference: str
    options: tuple[str, ...]
    demo: bool
    encoders: tuple[str, ...]
    views: int | None
    protocol: str
    split_seed: int | None
    folds: int | None
    search_once: bool
    algorithm: str
    scheduler: str
    per_search: int | None
    trials: int | None
    max_epochs: int | None
    final_seeds: int
    seed: int
    values: tuple[str, ...]
    space: Path | None
    workers: str
    gpus_per_worker: float | None
    data_dir: Path
    raw_dir: Path | None
    vocab: Path | None
    keep: Keep
    force: bool
    output: Path | str
    name: str | None
    resume: str | None
    dry_run: bool
    as_json: bool


def request_of(flags: TuneFlags) -> Request:
    """Returns the checked request of a command line."""
    from rayjobs.experiment.request import Request
    from rayjobs.preparing.datasets import check_demo, resolve_dataset
    from rayjobs.search.searches import ablations_of

    reference = None if flags["reference"] == "none" else flags["reference"]
    methods = dict.fromkeys(flags["methods"] or ("iprm", "aug"))
    if flags["ablations"]:
        methods |= dict.fromkeys(label for name in list(methods) for label in ablations_of(name))
    values = parse_overrides(flags["values"], "--set")
    options = parse_overrides(flags["options"])
    described = [resolve_dataset(given) for given in dict.fromkeys(flags["datasets"] or ("digits",))]
    datasets = tuple(name for name, _ in described)
    if len(datasets) > 1 and any(values for _, values in described):
        raise UsageError("--dataset FILE.yaml: tune one data set of your own at a time")
    options = {**described[0][1], **options}
    if flags["demo"]:
        for dataset in datasets:
            check_demo(dataset)
        options["demo"] = True
    min_workers, workers = parse_workers(flags["workers"])
    request = Request(
        workers=workers,
        min_workers=min_workers,
        dataset=encoding_from(flags["encoders"], flags["views"], values),
        datasets=datasets,
        methods=tuple(dict.fromkeys([*methods, *([reference] if reference else [])])),
        reference=reference,
        options=options,
        protocol=_protocol(flags),
        values=values,
        space=_text(flags["space"]),
        raw_dir=_text(flags["raw_dir"]),
        vocab=_text(flags["vocab"]),
        data_dir=str(flags["data_dir"].resolve()),  # --resume may be typed in another folder
        trials=flags["trials"],
        max_epochs=flags["max_epochs"],
        final_seeds=flags["final_seeds"],
        seed=flags["seed"],
        gpus_per_worker=flags["gpus_per_worker"],
        algorithm=flags["algorithm"],
        scheduler=flags["scheduler"],
        search_once=flags["search_once"],
    )
    request.check(at_address=is_address(flags["output"]), has_budget=bool(flags["time_budget"] or flags["cost_budget"]))
    return request


def _protocol(flags: TuneFlags) -> dict[str, Plain]:
    """Returns the run's `protocol` section, for all searches alike."""
    if flags["folds"] and flags["protocol"] != "cv":
        raise UsageError(f"--folds is for --protocol cv, got --protocol {flags['protocol']}")
    name = None if flags["protocol"] == "default" else flags["protocol"]
    given = {"name": name, "seed": flags["split_seed"], "folds": flags["folds"]}
    return {key: value for key, value in given.items() if value is not None}


def encoding_from(encoders: Sequence[str], views: int | None, values: dict[str, Plain]) -> dict[str, Plain]:
    """Returns what is encoded, and takes the values that decide it out of those fixed for all trials."""
    from rayjobs.cli.options import encoding_of

    named = {pair.partition("=")[0].strip() for text in encoders for pair in text.split(",")}
    named |= {path.split(".")[2] for path in values if path.startswith("dataset.encode.")}
    paths = ("dataset.encode.", "dataset.views", *(f"dataset.transforms.{name}." for name in named))
    own = {path: values.pop(path) for path in list(values) if path.startswith(paths)}
    return encoding_of(encoders, views, own)


def machine_of(flags: MachineFlags, per_search: int | None = None) -> Machine:
    """Returns where and how fast the command line wants it computed.

    Args:
        flags: The command line.
        per_search: Trials of each search at a time; None: what fills the machine.
    """
    from rayjobs.experiment.machine import Machine

    budget = flags["cache_budget"] * 2**20 if flags["cache_budget"] else None
    return Machine(
        address=flags["address"],
        cpus=flags["cpus"],
        cache_bytes=0 if flags["cache"] == "off" else budget,
        hang_limit_s=60 * flags["hang_timeout"],
        budget_s=parse_duration(flags["time_budget"], "--time-budget") if flags["time_budget"] else None,
        device_budget_s=flags["cost_budget"],
        per_search=per_search,
        concurrent=flags["concurrent"],
        max_failures=flags["max_failures"],
        verbose=flags["verbose"],
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
