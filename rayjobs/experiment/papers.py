"""The papers' settings for a data set and a method: what `train --paper` applies, and what it says of each.

They stand in the data set's search space, in the `paper` section of the method (`rayjobs.search.spaces.PaperSettings`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from mmcore.assembly.config import build_source, variant_settings
from mmcore.config.plain import Plain
from mmcore.config.schema import RunConfig
from mmcore.config.sections import get_path
from mmcore.data.spec import DATASETS
from mmcore.errors import UsageError
from mmcore.methods.aug import scaled_interval
from rayjobs.search.spaces import PaperSettings, load_space, spaces_folder
from rayjobs.storage.json_record import JsonRecord, key

STATED = "the paper"
CODE = "the released code; not in the paper"
RELEASED = "--variant released: the authors' code"
NOT_STATED = "not stated; ours: "
OF_REAL_DATA = ("model.encoders.", "dataset.options.", "dataset.transforms.", "trainer.eval_batch_size")


@dataclass(frozen=True)
class PaperSetting:
    """One value, and where it stands."""

    path: str
    value: Plain
    source: str

    @property
    def is_of_real_data(self) -> bool:
        """Whether it means nothing for a demo, which has small samples and tiny encoders of its own."""
        return self.path.startswith(OF_REAL_DATA)


@dataclass(frozen=True, kw_only=True)
class RunSetting(JsonRecord):
    """A setting as it is in a run, beside the paper's.

    Attributes:
        path: Path of the setting.
        value: What the run has.
        source: Where that is from; of a deviation also what it deviates from.
        deviates: Whether the run has another value than the paper, or the same by chance where a demo has its own.
        paper: What the paper has.
    """

    path: str
    value: Plain
    source: str = field(metadata=key("from"))
    deviates: bool
    paper: Plain


@dataclass(frozen=True, kw_only=True)
class Paper(JsonRecord):
    """A paper's settings for a data set and a method, beside a run's.

    Attributes:
        title: Title of the paper.
        published: Its own figures.
        settings: Each setting.
        note: What becomes of a setting that goes by the length of the run; "" for nothing.
    """

    title: str
    published: str
    settings: list[RunSetting]
    note: str

    @property
    def num_deviating(self) -> int:
        """How many settings the run has otherwise than listed."""
        return sum(setting.deviates for setting in self.settings)


def paper_settings(dataset: str, method: str, variant: str | None) -> list[PaperSetting]:
    """Returns the paper's settings, those of the authors' code in place of them where that variant is asked for.

    Raises:
        UsageError: No paper has the pair; lists those there are.
    """
    found = _paper_of(dataset, method)
    settings = {path: PaperSetting(path, value, STATED) for path, value in found.stated.items()}
    settings |= {path: PaperSetting(path, value, CODE) for path, value in found.code.items()}
    settings |= {path: PaperSetting(path, value, NOT_STATED + why) for path, (value, why) in found.ours.items()}
    if variant == "released":
        settings |= {path: PaperSetting(path, value, RELEASED) for path, value in found.released.items()}
    return list(settings.values())


def describe_paper(config: RunConfig, variant: str | None) -> Paper:
    """Returns the paper's title, its own figures, and each setting beside what the configuration has.

    Args:
        config: Complete.
        variant: The one asked for; what it sets stands in place of the paper's.
    """
    dataset, method = config.dataset.name, config.method["name"]
    settings = {setting.path: setting for setting in paper_settings(dataset, method, variant)}
    if variant:
        modalities = build_source(config).spec().modality_names
        source = RELEASED if variant == "released" else f"--variant {variant}"
        changed = variant_settings(method, variant, modalities).items()
        settings |= {path: PaperSetting(path, value, source) for path, value in changed}
    found, values = _paper_of(dataset, method), config.to_dict()
    is_demo = bool(config.dataset.options.get("demo"))
    rows = [_row(setting, get_path(values, setting.path), is_demo=is_demo) for setting in settings.values()]
    return Paper(title=found.title, published=found.published, settings=rows, note=_interval_note(config))


def _row(setting: PaperSetting, value: Plain, *, is_demo: bool) -> RunSetting:
    """Returns a setting as it is in the run, and where that is from; a deviation tells what it deviates from."""
    source, is_small = setting.source, is_demo and setting.is_of_real_data
    deviates = is_small or value != setting.value
    if deviates:
        by = "the demo's own, tiny" if is_small else "this command"
        source = f"{by}, not {_text(setting.value)} ({source})"
    return RunSetting(path=setting.path, value=value, source=source, deviates=deviates, paper=setting.value)


def _interval_note(config: RunConfig) -> str:
    """Returns what becomes of AUG's t_N where the run is not as long as the schedule it is stated for."""
    method, epochs = config.method, config.trainer.max_epochs
    if method["name"] != "aug" or epochs == method["schedule_epochs"]:
        return ""
    stated = method["check_every_epochs"], method["schedule_epochs"]
    return f"t_N of {stated[0]} in {stated[1]} epochs is {scaled_interval(*stated, epochs)} in the {epochs} of this run"


def print_paper(paper: Paper) -> None:
    """Prints the settings, one a line, and which of them the run does not have."""
    console = Console(highlight=False, width=80)
    table = Table(box=None, pad_edge=False, header_style="bold", title=f"settings of {paper.title}")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold", max_width=18)
    table.add_column("from", overflow="fold")
    for row in paper.settings:
        table.add_row(row.path, _text(row.value), row.source, style="yellow" if row.deviates else "")
    console.print(table)
    if paper.num_deviating:
        console.print(f"{paper.num_deviating} of {len(paper.settings)} settings deviate", style="yellow")
    if paper.note:
        console.print(paper.note)


def published_line(paper: Paper | None) -> str:
    """Returns the paper's own figures, to stand beside a run made as its were, and in how far it was not."""
    if not paper:
        return ""
    deviating = paper.num_deviating
    but = f"; of this run {deviating} settings deviate, so it is no repetition" if deviating else ""
    return f"{paper.title} prints {paper.published}{but}"


def covered() -> dict[str, list[str]]:
    """Returns data set -> methods whose papers' settings are known."""
    pairs = {name: _methods_of(name) for name in DATASETS.names()}
    return {name: methods for name, methods in pairs.items() if methods}


def _methods_of(dataset: str) -> list[str]:
    return [name for name, part in _sections(dataset).items() if part is not None]


def _sections(dataset: str) -> dict[str, PaperSettings | None]:
    path = spaces_folder() / f"{dataset}.yaml"
    return {name: part.paper for name, part in load_space(path).methods.items()} if path.is_file() else {}


def _paper_of(dataset: str, method: str) -> PaperSettings:
    found = _sections(dataset).get(method)
    if found is None:
        known = "; ".join(f"{name}: {', '.join(methods)}" for name, methods in covered().items())
        raise UsageError(f"--paper: no paper states settings of {method} on {dataset}; there are those of {known}")
    return found


def _text(value: Plain) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
