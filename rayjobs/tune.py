"""`python -m rayjobs.tune`: searches each method's settings on each data set, with equal trials, and ranks them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Unpack

import click
from rich.console import Console

from rayjobs.cli.flag_types import (
    CPUS,
    DEVICE_SECONDS,
    EPOCHS,
    FINAL_SEEDS,
    FOLDS,
    GPUS,
    MEBIBYTES,
    MINUTES,
    RETRIES,
    SEED,
    TRIALS,
    VIEWS,
    FolderName,
    Location,
    ResumedName,
    folder,
)
from rayjobs.cli.options import friendly_errors, print_json
from rayjobs.commands.tune_flags import TuneFlags, machine_of, request_of
from rayjobs.storage.addresses import working_folder


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
@click.option("--views", type=VIEWS, help="Augmented views of each sample that --encode stores.")
@click.option("--protocol", default="default", show_default=True, help="How samples are split: group, holdout or cv.")
@click.option("--split-seed", type=SEED, help="Seed of the splits a protocol draws.  [default: 0]")
@click.option("--folds", type=FOLDS, help="Number of folds of --protocol cv.  [default: the data set's]")
@click.option("--search-once", is_flag=True, help="With --protocol cv: search on fold 0 alone, for all folds.")
@click.option("--search", "algorithm", type=click.Choice(["hyperopt", "random", "grid"]), default="hyperopt",
              show_default=True,
              help="How trials are chosen; grid: all combinations of the space's choices, to their end.")  # fmt: skip
@click.option("--scheduler", type=click.Choice(["asha", "fifo", "pbt"]), default="asha", show_default=True,
              help="asha stops weak trials early, fifo none; pbt lets them continue from strong ones' weights with "
              "changed settings.")  # fmt: skip
@click.option("--time-budget", metavar="TIME", help="For all searches together: 90m, 8h, 2d; shared out evenly. "
              "Trials that run then count as stopped early.")  # fmt: skip
@click.option("--cost-budget", type=DEVICE_SECONDS, metavar="DEVICE_SECONDS",
              help="For all searches together, as --time-budget.")  # fmt: skip
@click.option("--per-search", type=TRIALS, metavar="N", help="Trials of each search at a time. With 1 a "
              "search's outcome depends on its seed alone, not on the machine.  [default: what fills the "
              "machine]")  # fmt: skip
@click.option("--trials", type=TRIALS, help="Trials of each method.  [default: the space's]")
@click.option("--max-epochs", type=EPOCHS, help="Epochs of a trial not stopped early.  [default: the space's]")
@click.option("--final-seeds", type=FINAL_SEEDS, default=3, show_default=True, help="Final models of each method.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the search.")
@click.option("--set", "values", multiple=True, metavar="PATH=VALUE", help="Fix a setting for all trials; repeatable.")
@click.option("--space", type=click.Path(path_type=Path), help="A search-space file.  [default: the data set's]")
@click.option("--workers", default="1", show_default=True, metavar="N|MIN:MAX",
              help="Workers of a trial; MIN:MAX: it continues with fewer when a node is lost.")  # fmt: skip
@click.option("--gpus-per-worker", type=GPUS, help="May be a fraction.  [default: 1 where there are GPUs]")
@click.option("--concurrent", type=TRIALS, help="Most trials at once; with --address also what machines are "
              "waited for.  [default: as many as fit]")  # fmt: skip
@click.option("--cpus", type=CPUS, help="CPUs of a local Ray.  [default: all]")
@click.option("--max-failures", type=RETRIES, default=2, show_default=True, help="Retries of a lost process.")
@click.option("--hang-timeout", type=MINUTES, default=10, show_default=True, metavar="MINUTES",
              help="A trial that does no batch for so long is ended and tried again; 0: never.")  # fmt: skip
@click.option("--cache", type=click.Choice(["auto", "off"]), default="auto", show_default=True,
              help="Hold the data in the object store, or stream it.")  # fmt: skip
@click.option(
    "--cache-budget",
    type=MEBIBYTES,
    metavar="MIB",
    help="Most the cache holds.  [default: 40 % of the object store]",
)
@click.option("--data-dir", type=folder(), default=Path("data"), show_default=True, help="Prepared data.")
@click.option("--raw-dir", type=folder(), help="Raw files, where the data is not prepared yet.")
@click.option("--vocab", type=click.Path(path_type=Path), help="Vocabulary of its texts.  [default: RAW/vocab.txt]")
@click.option("--output", type=Location(), default=Path("results"), show_default=True,
              help="Results: a folder, or s3://BUCKET/PREFIX.")  # fmt: skip
@click.option("--keep", type=click.Choice(["best", "finals", "all"]), default="best", show_default=True,
              help="Checkpoints that stay when a search has ended, beside the final models': its best trial's, none, "
              "all.")  # fmt: skip
@click.option("--force", is_flag=True, help="Begin though the checkpoints will not fit on the disk.")
@click.option("--name", type=FolderName(), help="Name of the experiment.  [default: made of what is searched]")
@click.option("--resume", is_flag=False, type=ResumedName(), flag_value="", metavar="[NAME]",
              help="Resume an interrupted experiment: with the same command, or its name alone.")  # fmt: skip
@click.option("--address", help="A Ray cluster: auto or HOST:PORT to join it, http://HEAD:8265 to submit this command "
              "as a job.  [default: a local Ray]")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be searched, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
@click.option("--verbose", is_flag=True, help="Show Ray's own log.")
@friendly_errors
def main(**flags: Unpack[TuneFlags]) -> None:
    """Tune methods on data sets and rank them: the same number of trials each, final models on fresh seeds."""
    from rayjobs.commands.submitting import submit_instead

    if flags["dry_run"]:
        _dry_run(flags)
        return
    if submit_instead("tune", flags["address"]):
        return
    # Late: these bring Ray Tune and HyperOpt, which a dry run and a command sent elsewhere do without.
    from rayjobs.commands.begun import experiment_of
    from rayjobs.commands.tuning import Interrupted, run_tuning
    from rayjobs.experiment.experiment import meet_twin
    from rayjobs.storage.lease import holding, lease_of_folder

    machine = machine_of(flags, flags["per_search"])
    experiment = experiment_of(flags, machine)
    notes = Console(stderr=True, highlight=False, markup=False)
    with holding(lease_of_folder(experiment.location), experiment.location):
        notes.print(f"experiment {experiment.name} in {experiment.location}", soft_wrap=True)
        try:
            meet_twin(experiment)
            ranking = run_tuning(experiment, machine, resume=flags["resume"] is not None)
        except Interrupted as interrupted:
            notes.print(str(interrupted), soft_wrap=True)
            sys.exit(interrupted.exit_code)
    if flags["as_json"]:
        print_json(ranking.to_dict())
    else:
        from rayjobs.reporting.terminal import print_ranking

        print_ranking(ranking)


def _dry_run(flags: TuneFlags) -> None:
    from rayjobs.commands.begun import resumed_request
    from rayjobs.commands.dry_run import preview, print_preview

    output = flags["output"]
    output = output if isinstance(output, Path) else working_folder(output)
    request = resumed_request(output, flags) if flags["resume"] else request_of(flags)
    plan = preview(request, machine_of(flags), output, flags["keep"])
    if flags["as_json"]:
        print_json(plan.to_dict())
    else:
        print_preview(plan)


if __name__ == "__main__":
    # The module's own name, so that nothing pickled into a search's state lives in `__main__`.
    from rayjobs.tune import main as command

    command()
