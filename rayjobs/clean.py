"""`python -m rayjobs.clean`: gives back the disk that the trials of a finished search hold."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from rayjobs.cli.flag_types import Location
from rayjobs.cli.options import friendly_errors, print_json


@click.command()
@click.argument("results", type=Location())
@click.option("--keep", type=click.Choice(["best", "finals"]), default="best", show_default=True,
              help="Whose checkpoints stay: each search's best trial's and the final models', or these.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only tell what would be given back.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@friendly_errors
def main(results: Path | str, *, keep: str, dry_run: bool, as_json: bool) -> None:
    """Remove the checkpoints of trials that nothing needs any more; rows, results and figures stay.

    RESULTS is the folder of one experiment, as rayjobs.tune prints it, or its address. A search that has not ended is
    left as it is: it goes on with its trials' checkpoints.
    """
    from rayjobs.commands.cleaning import clean_experiment, describe_bytes
    from rayjobs.experiment.search_result import Keep

    cleaned = clean_experiment(results, cast(Keep, keep), dry_run=dry_run)
    if as_json:
        print_json({"searches": [one.to_dict() for one in cleaned]})
        return
    for one in cleaned:
        state = describe_bytes(one.freed) if one.ended else "has not ended: nothing is removed"
        click.echo(f"{one.search}: {state}")
    total = describe_bytes(sum(one.freed for one in cleaned))
    click.echo(f"{total} {'would be' if dry_run else 'were'} given back in {results}")


if __name__ == "__main__":
    main()
