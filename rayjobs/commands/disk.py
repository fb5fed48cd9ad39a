"""What a search will take of the disk, compared with what is free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcore.assembly.config import build_source
from mmcore.assembly.sizes import checkpoint_sizes
from mmcore.data.spec import DATASETS
from mmcore.errors import EquipoiseError, UsageError
from rayjobs.commands.cleaning import describe_bytes
from rayjobs.experiment.request import Request
from rayjobs.experiment.search_result import Keep
from rayjobs.search.searches import Search

NOT_KNOWN = "what checkpoints will take of the disk is not known: features, or weights, are not here yet"


@dataclass(frozen=True)
class DiskNeed:
    """Bytes of checkpoints.

    Attributes:
        most: At the end of the searches, when all trials of all of them have some.
        stays: What is left of it at the end of all.
    """

    most: int
    stays: int

    def describe(self, output: Path) -> str:
        """Returns it in words, beside what is free where results go."""
        return (
            f"checkpoints take up to {describe_bytes(self.most)} while it runs and {describe_bytes(self.stays)} when "
            f"it has ended; {describe_bytes(free_bytes(output))} are free"
        )


def disk_need(searches: Sequence[Search], request: Request, keep: Keep) -> DiskNeed | None:
    """Returns what the checkpoints of all trials and final models take; None where that is not known.

    The sizes of features that frozen encoders are still to make are told by no data set, and those of a model by
    nobody where its weights are not here.
    """
    if request.dataset.get("encode"):
        return None
    trials = kept = finals = 0
    for search in searches:
        config = search.config
        try:
            run = checkpoint_sizes(config, build_source(config).spec()).run
        except EquipoiseError:  # weights that are not here: a job's are the cluster's, and a run says what is wrong
            return None
        folds = DATASETS.get(config.dataset.name).split_rules.folds_of(request.protocol)
        trials += search.trials * run
        kept += {"best": 1, "finals": 0, "all": search.trials}[keep] * run
        finals += request.final_seeds * (len(folds) if request.search_once else 1) * run
    return DiskNeed(most=trials + finals, stays=kept + finals)


def check_room(need: DiskNeed, output: Path) -> None:
    """Refuses a search whose checkpoints cannot fit on the disk its results go to.

    Raises:
        UsageError: They do not fit; says what is lacking.
    """
    lacking = need.most - free_bytes(output)
    if lacking > 0:
        raise UsageError(
            f"{output}: {need.describe(output)}, so {describe_bytes(lacking)} are lacking: free them, ask for fewer "
            "trials or methods, name another --output, pass --set trainer.keep_checkpoints=1, or begin all the same "
            "by --force"
        )


def free_bytes(folder: Path) -> int:
    """Returns the bytes that are free where a folder is, or will be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(os.fspath(there)).free
