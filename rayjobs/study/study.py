"""A study as it is wanted: `study.yaml`, written by `compare new` and `compare add`; people may edit it.

Where everything of a study lies is told in `rayjobs.results_layout`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Field

from mmcore.config.documents import read_yaml
from mmcore.config.plain import Plain
from mmcore.config.schema import LARGEST_SEED, MOST_EPOCHS
from mmcore.config.sections import Section, parse_section
from mmcore.errors import ConfigError, UsageError, suggest
from rayjobs.experiment.request import Request
from rayjobs.results_layout import STUDY_FILE
from rayjobs.storage.files import write_text

REFERENCE = "ensemble-tuned"
"""The primary reference: the strongest simple one, at equal budget."""
OTHER_REFERENCES = ("ensemble", "unimodal", "joint")
"""Compared as well, unless `--reference-only` says otherwise."""
LARGEST_MARGIN = 50.0
"""Points; a difference of half of all answers matters to everybody."""
Points = Annotated[float, Gt(0), Le(LARGEST_MARGIN)]


class StudiedData(Section):
    """A data set of a study: its name, and the options of this one, as in a run's `dataset` section."""

    name: str
    options: dict[str, Any] = Field(default={})


class Study(Section):
    """What a study is to find out, and by which means."""

    format: Literal["equipoise.study/1"] = "equipoise.study/1"
    created: str = Field(description="when, ISO 8601")
    command: str = Field(description="what was typed")
    datasets: Annotated[list[StudiedData], MinLen(1)]
    methods: Annotated[list[str], MinLen(1)] = Field(description="what is compared")
    reference: str = Field(default=REFERENCE, description="what they are compared with first of all")
    references: list[str] = Field(default=[], description="compared with as well")
    metric: Literal["accuracy"] = "accuracy"
    margin: Points = Field(default=1.0, description="points of accuracy that do not matter")
    margins: dict[str, Points] = Field(default={}, description="data set -> the same, where it is another")
    alpha: Annotated[float, Gt(0), Le(0.2)] = Field(default=0.05, description="how often a word may be wrong")
    protocol: dict[str, Any] = Field(default={"name": "cv"}, description="as in a run's `protocol` section")
    folds: list[Annotated[int, Ge(0), Lt(1000)]] | None = Field(default=None, description="none: all of them")
    trials: Annotated[int, Ge(1), Le(100_000)] | None = Field(default=None, description="none: the space's")
    max_epochs: Annotated[int, Ge(1), Le(MOST_EPOCHS)] | None = Field(default=None, description="none: the space's")
    seeds: Annotated[int, Ge(1), Le(10_000)] = Field(default=3, description="final models of each cell")
    seed: Annotated[int, Ge(0), Le(LARGEST_SEED // 2)] = 0
    algorithm: Literal["hyperopt", "random", "grid"] = "hyperopt"
    scheduler: Literal["asha", "fifo"] = "asha"
    dataset: dict[str, Any] = Field(default={}, description="as in a run's `dataset` section: what is encoded")
    values: dict[str, Any] = Field(default={}, description="path -> value fixed for all trials")
    space: str | None = Field(default=None, description="a search-space file; none: the data set's own")
    workers: Annotated[int, Ge(1), Le(10_000)] = 1
    gpus_per_worker: Annotated[float, Ge(0)] | None = None
    data_dir: str = "data"
    raw_dir: str | None = None
    vocab: str | None = None
    race: bool = Field(default=False, description="leave out of later folds what can no longer win")
    use: list[str] = Field(default=[], description="other studies whose cells are taken where they are the same")

    @property
    def labels(self) -> list[str]:
        """What is trained, as it was named: methods first, then references."""
        return list(dict.fromkeys([*self.methods, self.reference, *self.references]))

    @property
    def compared(self) -> list[str]:
        """What was named to be compared and is no reference."""
        others = {self.reference, *self.references}
        return [name for name in self.methods if name not in others]

    def margin_of(self, dataset: str) -> float:
        """Returns δ of a data set, in points."""
        return self.margins.get(dataset, self.margin)

    def request_of(self, data: StudiedData) -> Request:
        """Returns what `tune` would be asked for, for one of the data sets."""
        return Request(
            datasets=(data.name,),
            methods=tuple(self.labels),
            reference=self.reference,
            options=data.options,
            dataset=self.dataset,
            protocol=self.protocol,
            trials=self.trials,
            max_epochs=self.max_epochs,
            final_seeds=self.seeds,
            algorithm=self.algorithm,
            scheduler=self.scheduler,
            seed=self.seed,
            values=self.values,
            space=self.space,
            workers=self.workers,
            gpus_per_worker=self.gpus_per_worker,
            raw_dir=self.raw_dir,
            vocab=self.vocab,
            data_dir=self.data_dir,
        )

    def write(self, folder: Path) -> None:
        """Writes it into the study's folder, whole or not at all."""
        values: dict[str, Plain] = self.model_dump(mode="json")
        write_text(folder / STUDY_FILE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def read_study(folder: Path) -> Study:
    """Returns the study in a folder.

    Raises:
        UsageError: There is none.
        ConfigError: Its file, which may have been edited by hand, breaks a rule: each is named.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        known = sorted(found.parent.name for found in folder.parent.glob(f"*/{STUDY_FILE}"))
        there = suggest(folder.name, known) if known else ": there is none yet; begin one by rayjobs.compare new"
        raise UsageError(f"no study '{folder.name}' in {folder.parent}{there}")
    try:
        study = parse_section(Study, read_yaml(path), "")
        problems = check_study(study)
    except ConfigError as error:
        problems = error.problems
    if problems:
        raise ConfigError([problem if path.name in problem else f"{path.name}: {problem}" for problem in problems])
    return study


def check_study(study: Study) -> list[str]:
    """Returns what is wrong with a study beyond single values, in words."""
    problems = []
    for name, given in (("methods", study.methods), ("references", study.references), ("folds", study.folds or [])):
        if len(set(given)) < len(given):
            problems.append(f"{name} holds an entry twice: {', '.join(map(str, given))}")
    if study.protocol.get("name") == "paper":
        problems.append("protocol paper chooses on test; a study needs cv, group or holdout")
    if study.folds is not None and study.protocol.get("name") != "cv":
        problems.append(f"folds is for protocol cv, got {study.protocol.get('name', 'default')}")
    if study.folds == []:
        problems.append("folds must name one at least, or be left out for all")
    if not study.compared:
        problems.append(f"methods must name one that is no reference ({', '.join(study.methods)})")
    return problems
