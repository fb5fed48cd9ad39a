"""What a search must not choose: the samples and the seeds its trials see, and what a row of the ranking is.

A search that could set one of these would compare trials on different validation samples, pick the split or the seed
that flatters a method, or stop trials on test itself. This is the one place that decides; space files (in every
section), `--set`, grids and variants ask it.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmcore.config.plain import Settings
from mmcore.errors import UsageError

RESERVED: dict[str, tuple[str, str]] = {
    # path: (what it decides, what to do instead)
    "protocol.name": ("decides which samples train, validate and test", "choose one for all rows by --protocol NAME"),
    "protocol.seed": ("decides which samples train, validate and test", "choose one for all rows by --split-seed N"),
    "protocol.folds": ("decides which samples train, validate and test", "choose one for all rows by --folds N"),
    "protocol.fold": (
        "decides which samples are tested",
        "use --protocol cv for all folds, with --search-once to search on fold 0 alone",
    ),
    "protocol": ("decides which samples train, validate and test", "use --protocol, --split-seed and --folds"),
    "seed": ("decides which seed a trial has", "choose one for all trials by --seed N"),
    "dataset.name": ("decides which samples there are", "choose data sets by --dataset NAME"),
    "dataset.options": ("decides which samples there are", "choose them for all rows by --option KEY=VALUE"),
    "method.name": ("decides what a row of the ranking is", "choose methods by --method NAME"),
}


def refusals(paths: Iterable[str], where: str) -> list[str]:
    """Returns a sentence for each path that a search must not set, or that leads to or on from one.

    Args:
        paths: Paths of the run's configuration.
        where: What sets them, for the messages: `--set`, `methods.iprm.space`.
    """
    return [f"{where}: {problem}" for path in paths if (problem := _refusal(path))]


def _refusal(path: str) -> str:
    for known, (reason, cure) in RESERVED.items():
        if path == known or path.startswith(f"{known}.") or known.startswith(f"{path}."):
            return f"'{path}' {reason}, so a search must not set it: {cure}"
    return ""


def check_protocol(protocol: Settings) -> None:
    """Raises a UsageError for the protocol that picks on test, whichever way a search came by it."""
    if protocol.get("name") == "paper":
        raise UsageError(
            "--protocol paper picks the best epoch on the test split, and a search would stop trials on it: "
            "tune with group, holdout or cv; rayjobs.train --protocol paper reproduces the papers' way"
        )
