"""`python -m rayjobs.train`: trains one configuration, once per seed (and fold), and tests each model once."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from mmcore.config.plain import Plain
from mmcore.config.schema import RunConfig
from mmcore.config.sections import get_path, set_path
from mmcore.errors import ConfigError, UsageError
from rayjobs.cli.flag_types import EPOCHS, FOLDS, GPUS, SEED, SEEDS, VIEWS, WORKERS, FolderName, Location, folder
from rayjobs.cli.options import friendly_errors, print_json
from rayjobs.commands.train_flags import TrainFlags, configuration, protocols
from rayjobs.storage.addresses import open_mirror

if TYPE_CHECKING:
    from mmcore.data.prepared.store import PreparedDataset
    from rayjobs.experiment.papers import Paper
    from rayjobs.reporting.train_results import Difference
    from rayjobs.runs.extra_tests import Extra
    from rayjobs.runs.result import RunResult


@click.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="A configuration, as tune writes it.")
@click.option("--dataset", help="Name of the data set; default: the configuration's, else digits.")
@click.option("--method", help="Name of the method; default: the configuration's, else iprm.")
@click.option("--variant", help="A variant of the method: released (the authors' code), or an ablation.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the data set; repeatable.")
@click.option("--set", "values", multiple=True, metavar="PATH=VALUE", help="A key of the configuration; repeatable.")
@click.option("--encode", "encoders", multiple=True, metavar="MODALITY=ENCODER,...",
              help="Train on stored features of frozen encoders; repeatable.")  # fmt: skip
@click.option("--views", type=VIEWS, help="Augmented views of each sample that --encode stores.")
@click.option("--paper", "as_paper", is_flag=True, help="The paper's settings for this data set and method, printed "
              "with where each stands; --set goes before them.")  # fmt: skip
@click.option("--protocol", metavar="NAME,...", help="How samples are split: group, holdout, cv or paper; several are "
              "trained one after another, each with a table of its own.")  # fmt: skip
@click.option("--split-seed", type=SEED, help="Seed of the splits a protocol draws.  [default: 0]")
@click.option("--folds", type=FOLDS, help="Number of folds of --protocol cv.  [default: the data set's]")
@click.option("--max-epochs", type=EPOCHS, help="Length of each run.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="The first seed.")
@click.option("--seeds", type=SEEDS, default=1, show_default=True, help="Number of seeds, one run each.")
@click.option("--workers", type=WORKERS, help="Ray Train workers; default: this process, or one per GPU run.")
@click.option("--gpus-per-worker", type=GPUS, help="GPUs each worker claims; default: 1 if there are any.")
@click.option("--cache", type=click.Choice(["auto", "off"]), default="auto", show_default=True,
              help="auto: hold a data set that fits in shared memory; off: stream it.")  # fmt: skip
@click.option("--missing", metavar="SHARES", help="Test also with shares of the samples lacking a modality: 0,0.2,0.5.")
@click.option("--noise", "noises", multiple=True, metavar="MODALITY=STD,...",
              help="Test also with noise on the encoder's input, of about deviation 1; repeatable.")  # fmt: skip
@click.option("--shapley", is_flag=True, help="Test also each modality's contribution (exact Shapley values).")
@click.option("--reference", "references", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="Runs of unimodal or ensemble: what a modality reaches alone; repeatable.")  # fmt: skip
@click.option("--raw-dir", type=folder(), help="Raw files of a data set not prepared yet.")
@click.option("--vocab", type=click.Path(path_type=Path), help="Vocabulary of its texts.  [default: RAW/vocab.txt]")
@click.option("--data-dir", type=folder(), default=Path("data"), show_default=True)
@click.option("--output", type=Location(), default=Path("results"), show_default=True,
              help="Results: a folder, or s3://BUCKET/PREFIX.")  # fmt: skip
@click.option("--name", type=FolderName(), help="Folder of the runs in --output.")
@click.option("--resume", is_flag=True, help="Go on with the runs an interrupted command left.")
@click.option("--address", help="A Ray cluster to join: auto or HOST:PORT.")
@click.option("--verbose", is_flag=True, help="Show Ray's own log.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@friendly_errors
def main(**flags: Unpack[TrainFlags]) -> None:
    """Train one configuration, once per seed (by cv: on every fold), and test each model once."""
    from rayjobs.commands.submitting import submit_instead

    if submit_instead("train", flags["address"]):
        return
    from rayjobs.experiment.papers import print_paper, published_line
    from rayjobs.reporting.train_results import print_results

    ready = [_ready({**flags, "protocol": protocol}) for protocol in protocols(flags)]  # all faults before any training
    if ready[0].paper and not flags["as_json"]:
        print_paper(ready[0].paper)
    documents = []
    for each in ready:
        trained = _train(each, suffix=each.flags["protocol"] or "" if len(ready) > 1 else "")
        documents.append(trained.to_dict())
        if not flags["as_json"]:
            click.echo()
            published = published_line(each.paper)
            print_results(trained.results, trained.path, each.prepared, trained.differences, published)
    if flags["as_json"]:
        print_json(documents if len(documents) > 1 else documents[0])


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A checked command on its data.

    Attributes:
        flags: The command line's, of one protocol.
        config: Complete, but for the seed and the fold.
        prepared: The data.
        folds: (None,): the one split of the configuration.
        alone: What a reference reaches by one modality, by fold.
        extra: What is tested beside the data as they are.
        paper: The paper's settings, where they were asked for.
    """

    flags: TrainFlags
    config: RunConfig
    prepared: PreparedDataset
    folds: tuple[int | None, ...]
    alone: dict[int | None, dict[str, float]]
    extra: Extra
    paper: Paper | None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a command on one protocol.

    Attributes:
        path: The folder of its runs on this machine.
        address: Where they lie for good: the folder, or its twin's address.
        results: Results of each fold and seed.
        differences: Differences from the references, in a cross-validation.
        paper: The paper's settings, where they were asked for.
    """

    path: Path
    address: str
    results: list[RunResult]
    differences: list[Difference]
    paper: Paper | None

    def to_dict(self) -> dict[str, Plain]:
        """Returns it as plain values, for `--json`."""
        return {
            "folder": self.address,
            "results": [result.to_dict() for result in self.results],
            "differences": [difference.to_dict() for difference in self.differences],
            **({"paper": self.paper.to_dict()} if self.paper else {}),
        }


def _ready(flags: TrainFlags) -> Ready:
    """Checks a command as far as it can be without its data, then prepares the data and checks the rest."""
    from mmcore.assembly.config import complete_config, parse_config, with_named_encoders
    from mmcore.assembly.objects import used_modalities
    from mmcore.assembly.weights import missing_weights
    from mmcore.data.prepared.prepare import HowToPrepare
    from rayjobs.commands.training import alone_by_fold, base_config
    from rayjobs.experiment.papers import describe_paper
    from rayjobs.preparing.datasets import encode_one, prepare_one
    from rayjobs.preparing.encode_tasks import RayEncoders
    from rayjobs.preparing.raw_tasks import RayParts
    from rayjobs.runs.extra_tests import Extra, parse_conditions

    values = with_named_encoders(configuration(flags))
    extra = Extra(parse_conditions(flags["missing"], flags["noises"]), flags["shapley"])
    complete = complete_config(parse_config(values))
    asked, chosen = flags["protocol"], complete.protocol.name
    if asked not in {None, chosen}:
        raise UsageError(f"--protocol {asked} and --set protocol.name={chosen} name two protocols: leave out one")
    if flags["folds"] and chosen != "cv":
        raise UsageError(f"--folds is for --protocol cv, got protocol {chosen}")
    absent = missing_weights(complete)  # every problem, before any data is touched
    if absent:
        raise ConfigError(absent)
    paper = describe_paper(complete, flags["variant"]) if flags["as_paper"] else None
    run = RayParts(address=flags["address"], verbose=flags["verbose"])
    prepared = prepare_one(
        str(get_path(values, "dataset.name")),
        get_path(values, "dataset.options") or {},
        flags["raw_dir"],
        flags["data_dir"],
        HowToPrepare(vocab=flags["vocab"], run=run),
    )
    encoders = RayEncoders(address=flags["address"], verbose=flags["verbose"])
    prepared = encode_one(prepared, get_path(values, "dataset"), encoders)
    set_path(values, "dataset.encoder_sha256", prepared.weights_sha256)
    config = base_config(values, prepared)
    extra.check(prepared.spec, used_modalities(config, prepared.spec))
    folds = prepared.rules.folds_of(get_path(values, "protocol") or {})
    alone = alone_by_fold(flags["references"], config, prepared, folds)
    return Ready(flags=flags, config=config, prepared=prepared, folds=folds, alone=alone, extra=extra, paper=paper)


def _train(ready: Ready, suffix: str) -> Trained:
    """Trains and tests what is ready, in a folder of its own."""
    from rayjobs.commands.training import TrainRequest, train_all
    from rayjobs.experiment.train_folder import begin_in, choose_folder
    from rayjobs.reporting.train_results import compare_folds
    from rayjobs.runs.test_ledger import tested_before
    from rayjobs.storage.lease import holding, lease_of_folder

    flags, config, folds = ready.flags, ready.config, ready.folds
    command = shlex.join(["python", "-m", "rayjobs.train", *sys.argv[1:]])
    mirror = open_mirror(flags["output"])
    folder = choose_folder(mirror, flags["name"], config, resume=flags["resume"], suffix=suffix)
    request = TrainRequest(
        config=config,
        seeds=range(config.seed, config.seed + flags["seeds"]),
        folds=folds,
        workers=flags["workers"],
        gpus_per_worker=flags["gpus_per_worker"],
        address=flags["address"],
        cache_bytes=0 if flags["cache"] == "off" else 2**30,
        verbose=flags["verbose"],
        command=command,
        extra=ready.extra,
        alone=ready.alone,
        mirror=mirror,
    )
    address = mirror.address_of(folder)
    with holding(lease_of_folder(address), address):
        begin_in(mirror, folder, config, folds, command)
        known = {} if mirror else tested_before(mirror.root, request.configs, ready.prepared.fingerprint, folder)
        for name, run_dir in known.items():
            click.echo(f"note: {name} of this configuration was tested before ({run_dir}): training it again gives the "
                       "same model, which adds nothing; --seed N begins with another", err=True)  # fmt: skip
        try:
            results = train_all(request, ready.prepared, folder)
        except KeyboardInterrupt:
            click.echo(f"interrupted; the same command with --resume continues ({address})", err=True)
            sys.exit(130)
    references = flags["references"] if len(folds) > 1 else ()
    differences = [compare_folds(results, reference, folds) for reference in references]
    return Trained(path=folder, address=address, results=results, differences=differences, paper=ready.paper)


if __name__ == "__main__":
    main()
