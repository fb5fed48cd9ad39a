"""From the flags of `compare` to a checked study."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from mmcore.config.sections import parse_section
from mmcore.errors import ConfigError, UsageError
from rayjobs.cli.options import parse_overrides
from rayjobs.commands.tune_flags import MachineFlags, encoding_from

if TYPE_CHECKING:
    from rayjobs.experiment.search_result import Keep
    from rayjobs.study.study import Study


class NewFlags(TypedDict):
    """The flags of `compare new`; `python -m rayjobs.compare new --help` says what each means."""

    study: str
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    reference: str
    reference_only: bool
    options: tuple[str, ...]
    demo: bool
    encoders: tuple[str, ...]
    views: int | None
    protocol: str
    split_seed: int | None
    cv_folds: int | None
    folds: str | None
    algorithm: str
    scheduler: str
    trials: int | None
    max_epochs: int | None
    seeds: int
    seed: int
    margins: tuple[str, ...]
    alpha: float
    values: tuple[str, ...]
    space: Path | None
    workers: int
    gpus_per_worker: float | None
    data_dir: Path
    raw_dir: Path | None
    vocab: Path | None
    use: tuple[Path, ...]
    race: bool
    pilot: bool
    force: bool
    output: Path | str
    dry_run: bool
    as_json: bool
    cpus: int | None


class RunFlags(MachineFlags):
    """The flags of `compare run`."""

    study: str
    keep: Keep
    output: Path | str
    as_json: bool


class AddFlags(TypedDict):
    """The flags of `compare add`."""

    study: str
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    options: tuple[str, ...]
    demo: bool
    folds: str | None
    seeds: int | None
    trials: int | None
    margins: tuple[str, ...]
    output: Path | str
    as_json: bool


def command_line() -> str:
    """Returns what was typed."""
    return shlex.join(["python", "-m", "rayjobs.compare", *sys.argv[1:]])


def study_of(flags: NewFlags) -> Study:
    """Returns the study a command line asks for.

    Raises:
        ConfigError: Lists every value that breaks a rule.
        UsageError: Options that exclude each other.
    """
    from rayjobs.study.study import OTHER_REFERENCES, Study, check_study

    values = parse_overrides(flags["values"], "--set")
    margin, margins = _margins(flags["margins"])
    reference = flags["reference"]
    others = [] if flags["reference_only"] else [name for name in OTHER_REFERENCES if name != reference]
    given: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "datasets": data_of(flags["datasets"] or ("digits",), flags["options"], demo=flags["demo"]),
        "methods": list(flags["methods"] or ("iprm", "aug")),
        "reference": reference,
        "references": others,
        "margin": margin,
        "margins": margins,
        "alpha": flags["alpha"],
        "protocol": _protocol(flags),
        "folds": parse_folds(flags["folds"]),
        "dataset": encoding_from(flags["encoders"], flags["views"], values),
        "values": values,
        "space": _text(flags["space"]),
        "data_dir": str(flags["data_dir"].resolve()),
        "raw_dir": _text(flags["raw_dir"]),
        "vocab": _text(flags["vocab"]),
        "use": [str(path.resolve()) for path in flags["use"]],
    }
    same = ("trials", "max_epochs", "seeds", "seed", "algorithm", "scheduler", "workers", "gpus_per_worker", "race")
    study = parse_section(Study, given | {key: dict(flags)[key] for key in same}, "")
    problems = check_study(study)
    if problems:
        raise ConfigError(problems)
    return study


def data_of(datasets: tuple[str, ...], options: tuple[str, ...], *, demo: bool) -> list[dict[str, Any]]:
    """Returns data sets with their options: each has those it knows.

    Raises:
        ConfigError: An option that none of them knows.
    """
    from mmcore.data.spec import DATASETS
    from rayjobs.preparing.datasets import check_demo, resolve_dataset

    given = parse_overrides(options)
    if demo:
        given["demo"] = True
    found, unused = [], set(given)
    for dataset in dict.fromkeys(datasets):
        name, described = resolve_dataset(dataset)
        if demo:
            check_demo(name)
        known = set(DATASETS.get(name).Config.model_fields)
        own = {key: value for key, value in given.items() if key in known}
        unused -= set(own)
        found.append({"name": name, "options": {**described, **own}})
    if unused:
        raise ConfigError([f"--option {key}: no data set of this command has it" for key in sorted(unused)])
    return found


def parse_folds(text: str | None) -> list[int] | None:
    """Returns the folds that are named: `0,1` or `0-5`; None for all.

    Raises:
        UsageError: It is no such list.
    """
    if text is None:
        return None
    folds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})(?:-(\d{1,3}))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise UsageError(f"--folds must name folds, as in 0,1 or 0-5, got {text!r}; --cv-folds tells how many")
        folds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return sorted(set(folds))


def _margins(texts: tuple[str, ...]) -> tuple[float, dict[str, float]]:
    """Returns δ of all data sets, and of those that have one of their own, in points."""
    margin, margins = 1.0, {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = None
        if value is None or (equals and not name):
            raise UsageError(f"--margin must be points, or DATA_SET=points, got {text!r}")
        if equals:
            margins[name] = value
        else:
            margin = value
    return margin, margins


def _protocol(flags: NewFlags) -> dict[str, Any]:
    if flags["cv_folds"] and flags["protocol"] != "cv":
        raise UsageError(f"--cv-folds is for --protocol cv, got --protocol {flags['protocol']}")
    given = {"name": flags["protocol"], "seed": flags["split_seed"], "folds": flags["cv_folds"]}
    return {key: value for key, value in given.items() if value is not None}


def changed(study: Study, flags: AddFlags, left: Collection[str] = ()) -> Study:
    """Returns a study with what `compare add` adds to it.

    Args:
        study: As it was.
        flags: What is added.
        left: Labels that have left its race, and may be taken in again.

    Raises:
        UsageError: Nothing is added, or there would be less than before.
        ConfigError: Lists every value that breaks a rule.
    """
    from rayjobs.study.study import Study, check_study

    values = study.model_dump(mode="json")
    before = study.model_dump(mode="json")
    if flags["datasets"]:
        added = data_of(flags["datasets"], flags["options"], demo=flags["demo"])
        values["datasets"] += [data for data in added if data not in values["datasets"]]
    elif flags["options"] or flags["demo"]:
        raise UsageError("--option and --demo are for a --dataset that is added")
    values["methods"] += [name for name in dict.fromkeys(flags["methods"]) if name not in study.labels]
    values["seeds"] = _more("--seeds", flags["seeds"], study.seeds)
    values["trials"] = _more("--trials", flags["trials"], study.trials)
    if flags["folds"]:
        if study.folds is None:
            raise UsageError(f"--folds {flags['folds']}: the study has all folds already")
        values["folds"] = sorted({*study.folds, *(parse_folds(flags["folds"]) or [])})
    if flags["margins"]:
        plain = [text for text in flags["margins"] if "=" not in text]
        margin, margins = _margins(flags["margins"])
        values["margin"] = margin if plain else study.margin
        values["margins"] |= margins
    if values == before and not set(flags["methods"]) & set(left):
        raise UsageError("there is nothing to add: everything asked for is in the study already")
    added_to = parse_section(Study, values, "")
    problems = check_study(added_to)
    if problems:
        raise ConfigError(problems)
    return added_to


def _more(option: str, wanted: int | None, before: int | None) -> int | None:
    """Returns how many there are to be from now on.

    Raises:
        UsageError: Fewer than there are.
    """
    if wanted is not None and before is not None and wanted < before:
        raise UsageError(f"{option} {wanted}: the study has {before} already, and what was trained stays")
    return before if wanted is None else wanted


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
