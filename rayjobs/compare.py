"""`python -m rayjobs.compare`: which method is best for your modalities, with which certainty."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click
from rich.console import Console

from mmcore.errors import UsageError
from rayjobs.cli.flag_types import (
    CPUS,
    DEVICE_SECONDS,
    EPOCHS,
    FOLDS,
    GPUS,
    MEBIBYTES,
    MINUTES,
    RETRIES,
    SEED,
    SEEDS,
    TRIALS,
    VIEWS,
    WORKERS,
    FolderName,
    Location,
    folder,
)
from rayjobs.cli.options import friendly_errors, print_json
from rayjobs.commands.comparing.flags import AddFlags, NewFlags, RunFlags, changed, command_line, study_of
from rayjobs.storage.addresses import fetched

if TYPE_CHECKING:
    from rayjobs.study.document import StudyDocument

OUTPUT = click.option("--output", type=Location(), default=Path("results"), show_default=True,
                      help="Where studies lie: a folder, or s3://BUCKET/PREFIX.")  # fmt: skip
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
NAME = click.argument("study", type=FolderName())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Find out which method is best for your modalities: fairly compared, with the certainty of each statement.

    A study is methods x data sets x folds x seeds under one protocol. NEW writes down what is wanted, RUN trains it
    (and goes on after anything), ADD extends it, REPORT says what it found.
    """


@main.command()
@NAME
@click.option("--dataset", "datasets", multiple=True, help="A data set, or FILE.yaml; repeatable.  [default: digits]")
@click.option("--method", "methods", multiple=True, help="A method, or a variant: iprm-linear; repeatable.  "
              "[default: iprm, aug]")  # fmt: skip
@click.option("--reference", default="ensemble-tuned", show_default=True,
              help="What they are compared with first of all.")  # fmt: skip
@click.option("--reference-only", is_flag=True, help="Without ensemble, unimodal and joint beside it.")
@click.option("--margin", "margins", multiple=True, metavar="POINTS", help="Points of accuracy that do not matter to "
              "you; DATA_SET=POINTS for one data set; repeatable.  [default: 1.0]")  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0, 0.2, min_open=True), default=0.05, show_default=True,
              help="How often one of a family of statements may be wrong.")  # fmt: skip
@click.option("--protocol", default="cv", show_default=True, help="How samples are split: cv, group or holdout.")
@click.option("--cv-folds", type=FOLDS, help="Number of folds of cv.  [default: the data set's]")
@click.option("--folds", metavar="LIST", help="The folds to train: 0,1 or 0-5.  [default: all]")
@click.option("--split-seed", type=SEED, help="Seed of the splits a protocol draws.  [default: 0]")
@click.option("--trials", type=TRIALS, help="Trials of each method on each fold.  [default: the space's]")
@click.option("--seeds", type=SEEDS, default=3, show_default=True, help="Final models of each method on each fold.")
@click.option("--max-epochs", type=EPOCHS, help="Epochs of a trial not stopped early.  [default: the space's]")
@click.option("--search", "algorithm", type=click.Choice(["hyperopt", "random", "grid"]), default="hyperopt",
              show_default=True, help="How trials are chosen.")  # fmt: skip
@click.option("--scheduler", type=click.Choice(["asha", "fifo"]), default="asha", show_default=True,
              help="asha stops weak trials early, fifo none.")  # fmt: skip
@click.option("--seed", type=SEED, default=0, show_default=True, help="Studies of one seed share their cells.")
@click.option("--race", is_flag=True, help="Leave a method out of later folds once it cannot win any more.")
@click.option("--use", multiple=True, type=folder(), help="Another study, whose cells are taken where they are the "
              "same; repeatable.")  # fmt: skip
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the data set; repeatable.")
@click.option("--demo", is_flag=True, help="Small raw files the data set writes itself, and tiny encoders.")
@click.option("--encode", "encoders", multiple=True, metavar="MODALITY=ENCODER,...",
              help="Search on stored features of frozen encoders; repeatable.")  # fmt: skip
@click.option("--views", type=VIEWS, help="Augmented views of each sample that --encode stores.")
@click.option("--set", "values", multiple=True, metavar="PATH=VALUE", help="Fix a setting for all trials; repeatable.")
@click.option("--space", type=click.Path(path_type=Path), help="A search-space file.  [default: the data set's]")
@click.option("--workers", type=WORKERS, default=1, show_default=True, help="Workers of a trial.")
@click.option("--gpus-per-worker", type=GPUS, help="May be a fraction.  [default: 1 where there are GPUs]")
@click.option("--data-dir", type=folder(), default=Path("data"), show_default=True, help="Prepared data.")
@click.option("--raw-dir", type=folder(), help="Raw files, where the data is not prepared yet.")
@click.option("--vocab", type=click.Path(path_type=Path), help="Vocabulary of its texts.  [default: RAW/vocab.txt]")
@click.option("--pilot", is_flag=True, help="Measure how much folds differ, by two methods at default settings, and "
              "say what the study can show. Reads no test.")  # fmt: skip
@click.option("--cpus", type=CPUS, help="CPUs of a local Ray, for --pilot.  [default: all]")
@click.option("--dry-run", is_flag=True, help="Print what would be trained and what it can show, and end.")
@OUTPUT
@AS_JSON
@friendly_errors
def new(**flags: Unpack[NewFlags]) -> None:
    """Write down a study: what is compared, with what, and which difference matters."""
    from rayjobs.commands.comparing.beginning import begin, preview, print_preview
    from rayjobs.commands.comparing.power import lines_of, measured, outlooks
    from rayjobs.commands.comparing.reuse import check_use
    from rayjobs.experiment.machine import Machine
    from rayjobs.results_layout import STUDY_FILE
    from rayjobs.storage.addresses import open_mirror

    if flags["pilot"] and flags["dry_run"]:
        raise UsageError("--pilot trains, which --dry-run does not: leave out one of them")
    study = study_of(flags)
    check_use(study.use)
    mirror = open_mirror(flags["output"])
    place = mirror.root / flags["study"]
    machine = Machine(cpus=flags["cpus"])
    plan = preview(study, place, machine)
    if not flags["dry_run"]:
        mirror.pull_index((STUDY_FILE,))
        begin(study, place)
        mirror.push([place / STUDY_FILE])
    deviations = measured(study, place, machine) if flags["pilot"] else {}
    plan = preview(study, place, machine) if flags["pilot"] else plan  # the pilot tells the pace, too
    outlook = outlooks(study, plan, place, deviations)
    if flags["as_json"]:
        print_json({**plan.to_dict(), "power": [entry.to_dict() for entry in outlook], "begun": not flags["dry_run"]})
        return
    print_preview(plan, study, lines_of(outlook, plan))
    if flags["dry_run"]:
        click.echo("dry run: nothing is written")
    else:
        click.echo(f"written to {place}; to train it:\n  {_command('run', flags['study'], flags['output'])}")


@main.command()
@NAME
@click.option("--time-budget", metavar="TIME", help="For all searches together: 90m, 8h, 2d; shared out evenly.")
@click.option("--cost-budget", type=DEVICE_SECONDS, metavar="DEVICE_SECONDS", help="The same, in device-seconds.")
@click.option("--concurrent", type=TRIALS, help="Most runs at once; with --address also what machines are waited "
              "for.  [default: as many as fit]")  # fmt: skip
@click.option("--cpus", type=CPUS, help="CPUs of a local Ray.  [default: all]")
@click.option("--max-failures", type=RETRIES, default=2, show_default=True, help="Retries of a lost process.")
@click.option("--hang-timeout", type=MINUTES, default=10, show_default=True, metavar="MINUTES",
              help="A run that does no batch for so long is ended and tried again; 0: never.")  # fmt: skip
@click.option("--cache", type=click.Choice(["auto", "off"]), default="auto", show_default=True,
              help="Hold the data in the object store, or stream it.")  # fmt: skip
@click.option("--cache-budget", type=MEBIBYTES, metavar="MIB",
              help="Most the cache holds.  [default: 40 % of the object store]")  # fmt: skip
@click.option("--keep", type=click.Choice(["best", "finals", "all"]), default="finals", show_default=True,
              help="Checkpoints that stay when a search has ended, beside the final models': its best trial's, none, "
              "all.")  # fmt: skip
@click.option("--address", help="A Ray cluster: auto or HOST:PORT to join it, http://HEAD:8265 to submit this command "
              "as a job.  [default: a local Ray]")  # fmt: skip
@click.option("--verbose", is_flag=True, help="Show Ray's own log.")
@OUTPUT
@AS_JSON
@friendly_errors
def run(**flags: Unpack[RunFlags]) -> None:
    """Train what is left of a study, and say what it found; the same command goes on after anything."""
    from rayjobs.commands.submitting import submit_instead

    if submit_instead("compare", flags["address"]):
        return
    from rayjobs.commands.comparing.running import meet_study, run_study
    from rayjobs.commands.comparing.telling import write_results
    from rayjobs.commands.tune_flags import machine_of
    from rayjobs.commands.tuning import Interrupted
    from rayjobs.storage.addresses import open_mirror
    from rayjobs.storage.lease import holding, lease_of_folder

    mirror = open_mirror(flags["output"])
    place = mirror.root / flags["study"]
    location = mirror.address_of(place)
    notes = Console(stderr=True, highlight=False, markup=False)
    with holding(lease_of_folder(location), location):
        notes.print(f"study {flags['study']} in {location}", soft_wrap=True)
        try:
            meet_study(place, mirror)
            run_study(place, machine_of(flags, per_search=1), command_line(), mirror, flags["keep"])
        except Interrupted as interrupted:
            notes.print(str(interrupted), soft_wrap=True)
            sys.exit(interrupted.exit_code)
        document = write_results(place, mirror)
    _say(document, place, as_json=flags["as_json"])


@main.command()
@NAME
@click.option("--method", "methods", multiple=True, help="One more method, or one that left a race; repeatable.")
@click.option("--dataset", "datasets", multiple=True, help="One more data set, or FILE.yaml; repeatable.")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the data set that is added."
)
@click.option("--demo", is_flag=True, help="The data set that is added: small raw files of its own.")
@click.option("--folds", metavar="LIST", help="More folds: 2 or 2-5.")
@click.option("--seeds", type=SEEDS, help="As many final models in all.")
@click.option("--trials", type=TRIALS, help="As many trials in all, of every method: what was tried stays.")
@click.option("--margin", "margins", multiple=True, metavar="POINTS", help="Another margin; the checklist will say so.")
@OUTPUT
@AS_JSON
@friendly_errors
def add(**flags: Unpack[AddFlags]) -> None:
    """Extend a study: only what is new will be trained."""
    from rayjobs.commands.comparing.beginning import extend, preview, print_preview
    from rayjobs.commands.comparing.running import meet_study
    from rayjobs.experiment.machine import Machine
    from rayjobs.results_layout import RACE_FILE, STUDY_FILE
    from rayjobs.storage.addresses import open_mirror
    from rayjobs.storage.lease import holding, lease_of_folder
    from rayjobs.study.race import read_race, taken_in
    from rayjobs.study.study import read_study

    mirror = open_mirror(flags["output"])
    place = mirror.root / flags["study"]
    location = mirror.address_of(place)
    with holding(lease_of_folder(location), location):
        meet_study(place, mirror)
        race = read_race(place)
        study = changed(read_study(place), flags, [each.label for each in race.leavers if not each.taken_in])
        plan = preview(study, place, Machine())
        read = extend(study, place, taken_in(race, flags["methods"]))
        mirror.push([place / name for name in (STUDY_FILE, RACE_FILE) if (place / name).exists()])
    if flags["as_json"]:
        print_json({**plan.to_dict(), "readings": read})
        return
    print_preview(plan, study)
    if read:
        click.echo(f"note: the study has read test {read} times; its checklist will say what was changed after that")
    click.echo(f"to train it:\n  {_command('run', flags['study'], flags['output'])}")


@main.command()
@NAME
@click.option("--tables", metavar="latex,csv", help="Write these tables as well.")
@click.option("--out", type=folder(), help="Folder to write to.  [default: the study's own]")
@OUTPUT
@AS_JSON
@friendly_errors
def report(study: str, tables: str | None, out: Path | None, output: Path | str, *, as_json: bool) -> None:
    """Say what a study has found so far; reads only, and may be run at any time."""
    from rayjobs.results_layout import CHECKPOINTS
    from rayjobs.study.build import document_of
    from rayjobs.study.showing.report import write_report

    kinds = [kind.strip() for kind in (tables or "").split(",") if kind.strip()]
    unknown = sorted(set(kinds) - {"latex", "csv"})
    if unknown:
        raise UsageError(f"--tables must be latex, csv or both, got {', '.join(unknown)}")
    if out is None and not isinstance(output, Path):
        raise UsageError("of a study at an address the report needs a folder of its own: --out FOLDER")
    location = output / study if isinstance(output, Path) else f"{output}/{study}"
    with fetched(location, without=(CHECKPOINTS,)) as place:
        document = document_of(place)
        write_report(document, out or place, kinds)
    _say(document, out or Path(location), as_json=as_json)


def _say(document: StudyDocument, place: Path, *, as_json: bool) -> None:
    if as_json:
        from rayjobs.study.showing.report import document_json

        print_json(document_json(document))
    else:
        from rayjobs.study.showing.terminal import print_study

        print_study(document)
        click.echo(f"the whole of it: {place / 'report.html'}")


def _command(verb: str, study: str, output: Path | str) -> str:
    place = "" if str(output) == "results" else f" --output {shlex.quote(str(output))}"
    return f"python -m rayjobs.compare {verb} {shlex.quote(study)}{place}"


if __name__ == "__main__":
    main()
