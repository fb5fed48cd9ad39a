"""`python -m rayjobs.prepare`: makes a prepared data set from raw files, or finds it made already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from mmcore.errors import UsageError
from rayjobs.cli.flag_types import CPUS, VIEWS, folder
from rayjobs.cli.options import friendly_errors, parse_overrides, print_json
from rayjobs.cli.terminal import progress_bar

if TYPE_CHECKING:
    from rayjobs.commands.preparing import PrepareFlags


@click.command()
@click.option("--dataset", required=True, help="Its name, for example avdigits, or FILE.yaml.")
@click.option("--raw-dir", type=folder(), help="Its raw files; not needed where there are none.")
@click.option("--split-dir", type=folder(), help="Its public lists, where they are elsewhere.")
@click.option("--vocab", type=click.Path(path_type=Path), help="Vocabulary of its texts.  [default: RAW/vocab.txt]")
@click.option("--on-missing", type=click.Choice(["fail", "skip"]), default="fail", show_default=True,
              help="Refuse missing and damaged files, or leave their samples out.")  # fmt: skip
@click.option("--demo", is_flag=True, help="Small raw files that the data set writes itself.")
@click.option("--encode", "encoders", multiple=True, metavar="MODALITY=ENCODER,...",
              help="Also store the features of frozen encoders, in a data set beside it; repeatable.")  # fmt: skip
@click.option("--views", type=VIEWS, help="Augmented views of each sample that --encode stores.")
@click.option("--set", "values", multiple=True, metavar="PATH=VALUE", help="Settings of --encode: "
              "dataset.encode.image.weights, dataset.transforms.image.flip, ...; repeatable.")  # fmt: skip
@click.option("--check", is_flag=True, help="Only look: what is there, missing, damaged, on both sides of a split.")
@click.option("--address", help="A Ray cluster: auto or HOST:PORT.  [default: this machine]")
@click.option("--cpus", type=CPUS, help="CPUs of this machine to use.  [default: all]")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the data set; repeatable.")
@click.option("--data-dir", type=folder(), default=Path("data"), show_default=True, help="Where it is put.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@friendly_errors
def main(**flags: Unpack[PrepareFlags]) -> None:
    """Prepare a data set: read its raw files once, and store what training needs."""
    from mmcore.data.prepared.prepare import HowToPrepare, prepare, prepared_dir
    from rayjobs.cli.options import encoding_of
    from rayjobs.commands.preparing import check_raw, print_summary, summary
    from rayjobs.commands.submitting import submit_instead
    from rayjobs.preparing.datasets import alone_at, check_demo, check_frozen, encode_one, own_raw_dir, resolve_dataset
    from rayjobs.preparing.encode_tasks import RayEncoders
    from rayjobs.preparing.raw_tasks import RayParts

    if submit_instead("prepare", flags["address"]):
        return
    dataset, values = resolve_dataset(flags["dataset"])
    values |= parse_overrides(flags["options"])
    if flags["demo"]:
        check_demo(dataset)
        values["demo"] = True
    encoding = encoding_of(flags["encoders"], flags["views"], parse_overrides(flags["values"], "--set"))
    section = {"name": dataset, "options": values, **encoding}
    check_frozen(section)  # before files are read for hours
    raw_dir = flags["raw_dir"] or own_raw_dir(dataset, values, flags["data_dir"])
    run = RayParts(address=flags["address"], cpus=flags["cpus"])
    if flags["check"]:
        if encoding:
            raise UsageError("--check looks at raw files alone: leave out --encode")
        check_raw(dataset, values, raw_dir, flags, run)
        return
    how = HowToPrepare(flags["split_dir"], flags["vocab"], flags["on_missing"], run)
    target = prepared_dir(flags["data_dir"], dataset, values)
    with alone_at(target), progress_bar(f"preparing {dataset}") as progress:
        prepared = prepare(dataset, values, raw_dir, flags["data_dir"], progress=progress, how=how)
    prepared = encode_one(prepared, section, RayEncoders(address=flags["address"], cpus=flags["cpus"]))
    if flags["as_json"]:
        print_json(summary(prepared))
    else:
        print_summary(prepared)


if __name__ == "__main__":
    main()
