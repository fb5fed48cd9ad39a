"""`python -m rayjobs.report`: a search as one HTML page and its figures as PNGs, finished or still running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mmcore.errors import UsageError
from rayjobs.cli.flag_types import Location, folder
from rayjobs.cli.options import friendly_errors, print_json
from rayjobs.results_layout import CHECKPOINTS, PAGE_FILE
from rayjobs.storage.addresses import fetched


@click.command()
@click.argument("results", type=Location())
@click.option("--out", type=folder(), help="Folder to write to.  [default: RESULTS/report]")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@friendly_errors
def main(results: Path | str, out: Path | None, *, as_json: bool) -> None:
    """Show a search: its ranking, what each method adds, how its trials learned, and which settings mattered.

    RESULTS is the folder of one search, as rayjobs.tune prints it, or its address. The page needs nothing beside it.
    """
    if out is None and not isinstance(results, Path):
        raise UsageError("of results at an address the report needs a folder of its own: --out FOLDER")
    with fetched(results, without=(CHECKPOINTS,)) as folder:
        written = write_report(folder, out or folder / "report")
    if as_json:
        print_json(written)
    else:
        for problem in written["damage"]:
            click.echo(f"warning: {problem}", err=True)
        click.echo(f"{written['page']}: {written['trials']} trials, {len(written['figures'])} figures beside it"
                   + ("" if written["finished"] else "; the search has not ended"))  # fmt: skip


def write_report(results: Path, out: Path) -> dict[str, Any]:
    """Writes the page and its figures into `out` and returns what was written.

    Raises:
        UsageError: `results` holds no search.
        DataError: One of its files is damaged.
    """
    from mmcore.storage import write_whole
    from rayjobs.reporting.html_page import build_page
    from rayjobs.reporting.records import load_experiment
    from rayjobs.storage.files import write_text

    experiment = load_experiment(results)
    page, pictures = build_page(experiment)
    out.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        write_whole(out / f"{picture.stem}.png", picture.png)
    write_text(out / PAGE_FILE, page)
    return {
        "page": str(out / PAGE_FILE),
        "figures": [str(out / f"{picture.stem}.png") for picture in pictures],
        "finished": experiment.ranking is not None,
        "trials": sum(len(search.trials) for search in experiment.searches),
        "damage": list(experiment.damage),
    }


if __name__ == "__main__":
    main()
