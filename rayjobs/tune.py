"""`python -m rayjobs.tune`: searches each method's settings on each data set, with equal trials, and ranks them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mmcore.errors import UsageError
from rayjobs.addresses import Location, is_address, open_mirror, working_folder
from rayjobs.cli import friendly_errors, parse_duration, parse_overrides, parse_workers, print_json


@click.command()
@click.option("--dataset", "datasets", multiple=True, help="A data set, or FILE.yaml; repeatable.  [default: digits]")
@click.option("--method", "methods", multiple=True, help="A method, or a variant: iprm-linear, aug-released; "
              "repeatable.  [default: iprm, aug]")  # fmt: skip
@click.option("--ablations", is_flag=True, help="Also every ablation and control of the methods asked for.")
@click.option("--reference", default="ensemble", show_default=True, help="What they are compared with, or 'none'.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the data set; repeatable.")
@click.option("--demo", is_flag=True, help="Small raw files the data set writes itself, and tiny encoders.")
@click.option("--encode", "encoders", multiple=True, metavar="MODALITY=ENCODER,...",
              help="Search on stored features of frozen encoders; repeatable.")  # fmt: skip
@click.option("--views", type=click.IntRange(0), help="Of --encode: augmented views stored of each sample.")
@click.option("--protocol", default="default", show_default=True, help="How samples are split: group, holdout or cv.")
@click.option("--split-seed", type=click.IntRange(0), help="Of the splits a protocol draws.  [default: 0]")
@click.option("--folds", type=click.IntRange(3), help="Of --protocol cv.  [default: the data set's]")
@click.option("--search-once", is_flag=True, help="Of --protocol cv: search on fold 0 alone, for all folds.")
@click.option("--search", "algorithm", type=click.Choice(["hyperopt", "random", "grid"]), default="hyperopt",
              show_default=True,
              help="How trials are chosen; grid: all combinations of the space's choices, to their end.")  # fmt: skip
@click.option("--scheduler", type=click.Choice(["asha", "fifo", "pbt"]), default="asha", show_default=True,
              help="asha stops weak trials early, fifo none; pbt lets them go on from strong ones' weights with "
              "changed settings.")  # fmt: skip
@click.option("--time-budget", metavar="TIME", help="For all searches together: 90m, 8h, 2d; shared out evenly. "
              "Trials that run then count as stopped early.")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), help="Trials of each method.  [default: the space's]")
@click.option(
    "--max-epochs", type=click.IntRange(1), help="Epochs of a trial not stopped early.  [default: the space's]"
)
@click.option(
    "--final-seeds", type=click.IntRange(0), default=3, show_default=True, help="Final models of each method."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the search.")
@click.option("--set", "values", multiple=True, metavar="PATH=VALUE", help="Fix a setting for all trials; repeatable.")
@click.option("--space", type=click.Path(path_type=Path), help="A search-space file.  [default: the data set's]")
@click.option("--workers", default="1", show_default=True, metavar="N|MIN:MAX",
              help="Workers of a trial; MIN:MAX: it goes on with fewer when a node is lost.")  # fmt: skip
@click.option(
    "--gpus-per-worker", type=click.FloatRange(0), help="May be a fraction.  [default: 1 where there are GPUs]"
)
@click.option("--concurrent", type=click.IntRange(1), help="Most trials at once; with --address also what machines are "
              "waited for.  [default: as many as fit]")  # fmt: skip
@click.option("--cpus", type=click.IntRange(1), help="CPUs of a local Ray.  [default: all]")
@click.option("--max-failures", type=click.IntRange(0), default=2, show_default=True, help="Retries of a lost process.")
@click.option("--hang-timeout", type=click.FloatRange(0), default=10, show_default=True, metavar="MINUTES",
              help="A trial that does no batch for so long is ended and tried again; 0: never.")  # fmt: skip
@click.option("--cache", type=click.Choice(["auto", "off"]), default="auto", show_default=True,
              help="Hold the data in the object store, or stream it.")  # fmt: skip
@click.option(
    "--cache-budget",
    type=click.IntRange(1),
    metavar="MIB",
    help="Most the cache holds.  [default: 40 % of the object store]",
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Prepared data."
)
@click.option("--raw-dir", type=click.Path(path_type=Path), help="Raw files, where the data is not prepared yet.")
@click.option("--vocab", type=click.Path(path_type=Path), help="Vocabulary of its texts.  [default: RAW/vocab.txt]")
@click.option("--output", type=Location(), default=Path("results"), show_default=True,
              help="Results: a folder, or s3://BUCKET/PREFIX.")  # fmt: skip
@click.option("--name", help="Of the experiment.  [default: made of what is searched]")
@click.option("--resume", is_flag=False, flag_value="", metavar="[NAME]",
              help="Go on with an interrupted experiment: with the same command, or its name alone.")  # fmt: skip
@click.option("--address", help="A Ray cluster: auto or HOST:PORT to join it, http://HEAD:8265 to submit this command "
              "as a job.  [default: a local Ray]")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be searched, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
@click.option("--verbose", is_flag=True, help="Show Ray's own log.")
@friendly_errors
def main(**flags: Any) -> None:
    """Tune methods on data sets and rank them: the same number of trials each, final models on fresh seeds."""
    from rayjobs.cluster import check_address
    from rayjobs.submit import submit_instead
    from rayjobs.tuning import Interrupted, run_tuning

    if flags["dry_run"]:
        _dry_run(flags)
        return
    if submit_instead("tune", flags["address"]):
        return
    check_address(flags["address"])
    machine = _machine(flags)
    experiment = _experiment(flags, machine)
    notes = Console(stderr=True, highlight=False, markup=False)
    notes.print(f"experiment {experiment.name} in {experiment.mirror.address_of(experiment.folder)}", soft_wrap=True)
    try:
        ranking = run_tuning(experiment, machine, resume=flags["resume"] is not None)
    except Interrupted as interrupted:
        notes.print(str(interrupted), soft_wrap=True)
        sys.exit(interrupted.exit_code)
    if flags["as_json"]:
        print_json(ranking)
    else:
        from rayjobs.rendering import print_ranking

        print_ranking(ranking)


def _request(flags: dict[str, Any]) -> Any:
    """Returns the checked request of a command line."""
    from rayjobs.datasets import check_demo, resolve_dataset
    from rayjobs.request import Request
    from rayjobs.search import ablations_of

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
        dataset=_encoding(flags, values),
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
        **{key: flags[key] for key in ("trials", "max_epochs", "final_seeds", "seed", "gpus_per_worker")},
        **{key: flags[key] for key in ("algorithm", "scheduler", "search_once")},
    )
    request.check()
    if request.scheduler == "pbt" and is_address(flags["output"]):
        raise UsageError("--scheduler pbt is not for results on object storage: trials go on from each other's "
                         "checkpoints, so --output must be a folder that all nodes see")  # fmt: skip
    if request.algorithm == "grid":
        if request.scheduler == "pbt":
            raise UsageError("--scheduler pbt is not for --search grid: a population's settings change as it trains")
        for option in ("trials", "time_budget"):
            if flags[option]:
                raise UsageError(f"--{option.replace('_', '-')} is not for --search grid, whose trials are all "
                                 "combinations of the space's choices")  # fmt: skip
    return request


def _protocol(flags: dict[str, Any]) -> dict[str, Any]:
    """Returns the run's `protocol` section, for all searches alike."""
    if flags["folds"] and flags["protocol"] != "cv":
        raise UsageError(f"--folds is for --protocol cv, got --protocol {flags['protocol']}")
    name = None if flags["protocol"] == "default" else flags["protocol"]
    given = {"name": name, "seed": flags["split_seed"], "folds": flags["folds"]}
    return {key: value for key, value in given.items() if value is not None}


def _encoding(flags: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Returns what is encoded, and takes the values that decide it out of those fixed for all trials."""
    from rayjobs.encoding import encoding_of

    named = {pair.partition("=")[0].strip() for text in flags["encoders"] for pair in text.split(",")}
    named |= {path.split(".")[2] for path in values if path.startswith("dataset.encode.")}
    paths = ("dataset.encode.", "dataset.views", *(f"dataset.transforms.{name}." for name in named))
    own = {path: values.pop(path) for path in list(values) if path.startswith(paths)}
    return encoding_of(flags["encoders"], flags["views"], own)


def _experiment(flags: dict[str, Any], machine: Any) -> Any:
    """Returns the experiment to run: a new one, or the one to go on with."""
    from rayjobs.request import EXPERIMENT_FILE, RANKING_FILE, at_address

    mirror = open_mirror(flags["output"])
    mirror.pull_index((EXPERIMENT_FILE, RANKING_FILE))
    experiment = _experiment_in(mirror.root, flags, machine)
    return at_address(experiment, mirror) if mirror else experiment


def _experiment_in(output: Path, flags: dict[str, Any], machine: Any) -> Any:
    from rayjobs.plans import check_request
    from rayjobs.request import find_experiment, new_experiment, resume_experiment, unfinished_twins

    name = flags["name"]
    if flags["resume"]:
        if flags["name"] and flags["name"] != flags["resume"]:
            raise UsageError(f"--resume {flags['resume']} and --name {flags['name']} name two experiments")
        return find_experiment(output, flags["resume"])
    request = _request(flags)
    if flags["resume"] is not None:
        return resume_experiment(request, output, name)
    check_request(request, machine)  # before a folder is made for it
    experiment = new_experiment(request, output, name, shlex.join(["python", "-m", "rayjobs.tune", *sys.argv[1:]]))
    for twin in unfinished_twins(experiment):
        click.echo(f"note: {twin} is unfinished; --resume {twin} goes on with it", err=True)
    return experiment


def _machine(flags: dict[str, Any]) -> Any:
    from rayjobs.plans import Machine

    budget = flags["cache_budget"] * 2**20 if flags["cache_budget"] else None
    return Machine(
        address=flags["address"],
        cpus=flags["cpus"],
        cache_bytes=0 if flags["cache"] == "off" else budget,
        hang_limit_s=60 * flags["hang_timeout"],
        budget_s=parse_duration(flags["time_budget"], "--time-budget") if flags["time_budget"] else None,
        **{key: flags[key] for key in ("concurrent", "max_failures", "verbose")},
    )


def _dry_run(flags: dict[str, Any]) -> None:
    from rayjobs.preview import preview, print_preview

    output = flags["output"]
    output = output if isinstance(output, Path) else working_folder(output)
    document = preview(_request(flags), _machine(flags), output)
    if flags["as_json"]:
        print_json(document)
    else:
        print_preview(document)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


if __name__ == "__main__":
    # The module's own name, so that nothing pickled into a search's state lives in `__main__`.
    from rayjobs.tune import main as command

    command()
