"""`python -m rayjobs.train`: trains one configuration, once per seed (and fold), and tests each model once."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from mmcore.config import RunConfig, set_path
from mmcore.errors import ConfigError, UsageError, unknown_name
from rayjobs.addresses import Location, open_mirror
from rayjobs.cli import friendly_errors, parse_overrides, print_json

if TYPE_CHECKING:
    from mmcore.data.store import PreparedDataset
    from rayjobs.evaluations import Extra

PROTOCOLS = ("group", "holdout", "cv", "paper")


@click.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="A configuration, as tune writes it.")
@click.option("--dataset", help="Name of the data set; default: the configuration's, else digits.")
@click.option("--method", help="Name of the method; default: the configuration's, else iprm.")
@click.option("--variant", help="A variant of the method: released (the authors' code), or an ablation.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the data set; repeatable.")
@click.option("--set", "values", multiple=True, metavar="PATH=VALUE", help="A key of the configuration; repeatable.")
@click.option("--encode", "encoders", multiple=True, metavar="MODALITY=ENCODER,...",
              help="Train on stored features of frozen encoders; repeatable.")  # fmt: skip
@click.option("--views", type=click.IntRange(0), help="Of --encode: augmented views stored of each sample.")
@click.option("--paper", "as_paper", is_flag=True, help="The paper's settings for this data set and method, printed "
              "with where each stands; --set goes before them.")  # fmt: skip
@click.option("--protocol", metavar="NAME,...", help="How samples are split: group, holdout, cv or paper; several are "
              "trained one after another, each with a table of its own.")  # fmt: skip
@click.option("--split-seed", type=click.IntRange(0), help="Of the splits a protocol draws.  [default: 0]")
@click.option("--folds", type=click.IntRange(3), help="Of --protocol cv.  [default: the data set's]")
@click.option("--max-epochs", type=click.IntRange(1), help="Length of each run.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Number of seeds, one run each.")
@click.option("--workers", type=click.IntRange(1), help="Ray Train workers; default: this process, or one per GPU run.")
@click.option(
    "--gpus-per-worker", type=click.FloatRange(0), help="GPUs each worker claims; default: 1 if there are any."
)
@click.option("--cache", type=click.Choice(["auto", "off"]), default="auto", show_default=True,
              help="auto: hold a data set that fits in shared memory; off: stream it.")  # fmt: skip
@click.option("--missing", metavar="SHARES", help="Test also with shares of the samples lacking a modality: 0,0.2,0.5.")
@click.option("--noise", "noises", multiple=True, metavar="MODALITY=STD,...",
              help="Test also with noise on the encoder's input, of about deviation 1; repeatable.")  # fmt: skip
@click.option("--shapley", is_flag=True, help="Test also each modality's contribution (exact Shapley values).")
@click.option("--reference", "references", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="Runs of unimodal or ensemble: what a modality reaches alone; repeatable.")  # fmt: skip
@click.option("--raw-dir", type=click.Path(path_type=Path), help="Raw files of a data set not prepared yet.")
@click.option("--vocab", type=click.Path(path_type=Path), help="Vocabulary of its texts.  [default: RAW/vocab.txt]")
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--output", type=Location(), default=Path("results"), show_default=True,
              help="Results: a folder, or s3://BUCKET/PREFIX.")  # fmt: skip
@click.option("--name", help="Folder of the runs in --output.")
@click.option("--resume", is_flag=True, help="Go on with the runs an interrupted command left.")
@click.option("--address", help="A Ray cluster to join: auto or HOST:PORT.")
@click.option("--verbose", is_flag=True, help="Show Ray's own log.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@friendly_errors
def main(**arguments: Any) -> None:
    """Train one configuration, once per seed (by cv: on every fold), and test each model once."""
    from rayjobs.submit import submit_instead

    if submit_instead("train", arguments["address"]):
        return
    from rayjobs.outcomes import print_results
    from rayjobs.papers import print_paper, published_line

    asked = [{**arguments, "protocol": protocol} for protocol in protocols(arguments)]
    ready = [_ready(each) for each in asked]  # all that is wrong is told before anything is trained
    if ready[0].paper and not arguments["as_json"]:
        print_paper(ready[0].paper)
    documents = []
    for each in ready:
        document, folder = _train(each, suffix=each.arguments["protocol"] if len(ready) > 1 else "")
        documents.append(document)
        if not arguments["as_json"]:
            click.echo()
            published = published_line(each.paper)
            print_results(document["results"], folder, each.prepared, document["differences"], published)
    if arguments["as_json"]:
        print_json(documents if len(documents) > 1 else documents[0])


@dataclass(frozen=True)
class Ready:
    """A checked command on its data.

    Attributes:
        arguments: The command line's, of one protocol.
        config: Complete, but for the seed and the fold.
        prepared: The data.
        folds: (None,): the one split of the configuration.
        alone: What a reference reaches by one modality, by fold.
        extra: What is tested beside the data as they are.
        paper: The paper's settings as JSON values, where they were asked for.
    """

    arguments: dict[str, Any]
    config: RunConfig
    prepared: PreparedDataset
    folds: tuple[int | None, ...]
    alone: dict[int | None, dict[str, float]]
    extra: Extra
    paper: dict[str, Any]


def protocols(arguments: dict[str, Any]) -> list[str | None]:
    """Returns the protocols asked for; [None]: the configuration's own.

    Raises:
        UsageError: One is unknown or named twice, or there are several where one is needed.
    """
    if arguments["protocol"] is None:
        return [None]
    names = [name.strip() for name in arguments["protocol"].split(",")]
    for name in names:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
    if len(set(names)) < len(names):
        raise UsageError(f"--protocol names one twice, got {arguments['protocol']!r}")
    if len(names) > 1 and arguments["references"]:
        raise UsageError("--reference is for one protocol: its runs are of one, and are not compared across two")
    return list(names)


def _ready(arguments: dict[str, Any]) -> Ready:
    """Checks a command as far as it can be without its data, then prepares the data and checks the rest."""
    from mmcore.build import complete_config, missing_weights, used_modalities, with_named_encoders
    from mmcore.data.store import HowToPrepare
    from rayjobs.datasets import encode_one, prepare_one
    from rayjobs.encoding import RayEncoders
    from rayjobs.evaluations import Extra, parse_conditions
    from rayjobs.papers import describe_paper
    from rayjobs.parts import RayParts
    from rayjobs.training import alone_by_fold, base_config

    values = with_named_encoders(configuration(arguments))
    extra = Extra(parse_conditions(arguments["missing"], arguments["noises"]), arguments["shapley"])
    complete = complete_config(RunConfig.parse(values))
    asked, chosen = arguments["protocol"], complete.protocol.name
    if asked not in {None, chosen}:
        raise UsageError(f"--protocol {asked} and --set protocol.name={chosen} name two protocols: leave out one")
    if arguments["folds"] and chosen != "cv":
        raise UsageError(f"--folds is for --protocol cv, got protocol {chosen}")
    absent = missing_weights(complete)  # every problem, before any data is touched
    if absent:
        raise ConfigError(absent)
    paper = describe_paper(complete, arguments["variant"]) if arguments["as_paper"] else {}
    run = RayParts(arguments["address"], verbose=arguments["verbose"])
    prepared = prepare_one(
        values["dataset"]["name"],
        values["dataset"].get("options", {}),
        arguments["raw_dir"],
        arguments["data_dir"],
        HowToPrepare(vocab=arguments["vocab"], run=run),
    )
    prepared = encode_one(prepared, values["dataset"], RayEncoders(arguments["address"], verbose=arguments["verbose"]))
    set_path(values, "dataset.encoder_sha256", prepared.weights_sha256)
    config = base_config(values, prepared)
    extra.check(prepared.spec, used_modalities(config, prepared.spec))
    folds = prepared.rules.folds_of(values.get("protocol", {}))
    alone = alone_by_fold(arguments["references"], config, prepared, folds)
    return Ready(arguments, config, prepared, folds, alone, extra, paper)


def _train(ready: Ready, suffix: str) -> tuple[dict[str, Any], Path]:
    """Trains and tests what is ready, in a folder of its own; returns it as one document, and the folder."""
    from rayjobs.ledger import tested_before
    from rayjobs.outcomes import compare_folds
    from rayjobs.training import TrainRequest, open_folder, train_all

    arguments, config, folds = ready.arguments, ready.config, ready.folds
    command = shlex.join(["python", "-m", "rayjobs.train", *sys.argv[1:]])
    mirror = open_mirror(arguments["output"])
    folder = open_folder(mirror, arguments["name"], config, folds, arguments["resume"], command, suffix)
    request = TrainRequest(
        config,
        range(config.seed, config.seed + arguments["seeds"]),
        folds,
        arguments["workers"],
        arguments["gpus_per_worker"],
        arguments["address"],
        0 if arguments["cache"] == "off" else 2**30,
        arguments["verbose"],
        command,
        ready.extra,
        ready.alone,
        mirror,
    )
    known = {} if mirror else tested_before(mirror.root, request.configs, ready.prepared.fingerprint, folder)
    for name, run_dir in known.items():
        click.echo(f"note: {name} of this configuration was tested before ({run_dir}): training it again gives the "
                   "same model, which adds nothing; --seed N begins with another", err=True)  # fmt: skip
    try:
        results = train_all(request, ready.prepared, folder)
    except KeyboardInterrupt:
        click.echo(f"interrupted; the same command with --resume goes on ({mirror.address_of(folder)})", err=True)
        sys.exit(130)
    references = arguments["references"] if len(folds) > 1 else ()
    differences = [compare_folds(results, reference, folds) for reference in references]
    document = {"folder": mirror.address_of(folder), "results": results, "differences": differences}
    return ({**document, "paper": ready.paper} if ready.paper else document), folder


def configuration(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration a command line asks for: its file or the paper's, then its own options, then `--set`.

    Raises:
        UsageError: No paper has settings for the data set and method, or they are asked for beside others.
    """
    from rayjobs.datasets import resolve_dataset

    values: dict[str, Any] = read_config(arguments["config_file"]) if arguments["config_file"] else {}
    name, described = resolve_dataset(arguments["dataset"] or "")
    _choose(values, "dataset", name, "digits")
    if described:
        values["dataset"] = {"name": name, "options": described}
    _choose(values, "method", arguments["method"], "iprm")
    if arguments["as_paper"]:
        _set_paper(values, arguments)
    if arguments["options"]:
        set_path(values, "dataset.options", {**values["dataset"].get("options", {}),
                                             **parse_overrides(arguments["options"])})  # fmt: skip
    if arguments["encoders"] or arguments["views"] is not None:
        _set_encoding(values, arguments["encoders"], arguments["views"])
    if arguments["protocol"]:
        set_path(values, "protocol.name", arguments["protocol"])
        values["protocol"].pop("fold", None)  # a file's fold is of the protocol in the file; by --set one is chosen
    if arguments["split_seed"] is not None:
        set_path(values, "protocol.seed", arguments["split_seed"])
    if arguments["folds"]:
        set_path(values, "protocol.folds", arguments["folds"])
        values["protocol"].pop("fold", None)
    if arguments["max_epochs"]:
        set_path(values, "trainer.max_epochs", arguments["max_epochs"])
    values["seed"] = arguments["seed"]
    if arguments["variant"]:
        _set_variant(values, arguments["variant"])
    for path, value in parse_overrides(arguments["values"], "--set").items():
        set_path(values, path, value)
    return values


def _set_paper(values: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Puts the paper's settings into a configuration; everything the command line says goes before them."""
    from rayjobs.papers import paper_settings

    for option, given in (("--config", arguments["config_file"]), ("--encode", arguments["encoders"])):
        if given:
            reason = "it is a configuration itself" if option == "--config" else "the papers train their encoders"
            raise UsageError(f"--paper is not for {option}: {reason}; leave out one of them")
    given = parse_overrides(arguments["options"]) | parse_overrides(arguments["values"], "--set")
    is_demo = bool(given.get("demo") or given.get("dataset.options.demo"))
    for setting in paper_settings(values["dataset"]["name"], values["method"]["name"], arguments["variant"]):
        if not (is_demo and setting.is_of_real_data):
            set_path(values, setting.path, setting.value)


def _set_encoding(values: dict[str, Any], encoders: tuple[str, ...], views: int | None) -> None:
    """Puts `--encode` and `--views` into a configuration; encoders of the file stay where none are given."""
    from rayjobs.encoding import encoding_of

    dataset = values["dataset"]
    if encoders:
        dataset.pop("encoder_sha256", None)  # of those in the file
        dataset |= encoding_of(encoders, views)
    elif dataset.get("encode"):
        dataset["views"] = views
    else:
        encoding_of((), views)


def _set_variant(values: dict[str, Any], variant: str) -> None:
    """Puts all settings of a method's variant into a configuration; `--set` still goes before them."""
    from mmcore.build import variant_settings
    from rayjobs.datasets import source_modalities

    dataset = values["dataset"]
    modalities = source_modalities(dataset["name"], dataset.get("options", {}))
    for path, value in variant_settings(values["method"]["name"], variant, modalities).items():
        set_path(values, path, value)


def read_config(path: Path) -> dict[str, Any]:
    """Returns a configuration file's content, YAML or JSON.

    Raises:
        UsageError: It is missing, or no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"--config {path}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is no YAML file ({error})") from None
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} must hold a mapping, as tune's best-*.yaml does, got {json.dumps(values)}")
    return values


def _choose(values: dict[str, Any], section: str, given: str | None, default: str) -> None:
    """Sets a section's name; another plug-in than the file's takes its own defaults."""
    name = values.get(section, {}).get("name")
    if given and given != name:
        values[section] = {"name": given}
    elif not name:
        values[section] = {"name": default}


if __name__ == "__main__":
    main()
