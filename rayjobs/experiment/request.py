"""What a `tune` command asks for, and the folder its results go to; kept there, so that `--resume` knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mmcore.data.spec import DATASETS
from mmcore.errors import UsageError
from mmcore.methods import METHODS
from rayjobs.search.reserved import check_protocol

MAX_NAME = 100


@dataclass(frozen=True)
class Request:
    """What decides a result; the rest of a command line decides only where and how fast it is computed.

    Attributes:
        datasets: Names of data sets.
        methods: Names of methods, or of rows or variants of them (`iprm-linear`), the reference among them.
        reference: The method the others are compared with; None for none.
        options: Options of the data sets.
        dataset: Settings of the run's `dataset` section beside name and options: what is encoded.
        protocol: Settings of the run's `protocol` section.
        trials: Of each method; None: what the search-space file says.
        max_epochs: Of each trial; None: what the file says.
        final_seeds: Final models of each method.
        algorithm: How a search chooses its trials: hyperopt, random or grid.
        scheduler: What becomes of weak trials: asha, fifo or pbt.
        search_once: Of a cross-validation, search fold 0 alone.
        seed: Of the search.
        values: Path -> fixed value.
        space: A search-space file; None: the data set's own.
        workers: Workers of a trial; of an elastic one the most.
        min_workers: The fewest of an elastic one; None: their number is fixed.
        gpus_per_worker: None: one where there are GPUs.
        raw_dir: Raw files, for data that is not prepared yet.
        vocab: Vocabulary of the texts of data that is not prepared yet; None: vocab.txt in `raw_dir`.
        data_dir: Where prepared data lies.
    """

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    reference: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    trials: int | None = None
    max_epochs: int | None = None
    final_seeds: int = 3
    algorithm: str = "hyperopt"
    scheduler: str = "asha"
    search_once: bool = False
    seed: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    space: str | None = None
    workers: int = 1
    min_workers: int | None = None
    gpus_per_worker: float | None = None
    raw_dir: str | None = None
    vocab: str | None = None
    data_dir: str = "data"

    def check(self) -> None:
        """Checks what can be checked without the data.

        Raises:
            UsageError: An unknown name, or a protocol that a search must not use.
        """
        for name in self.datasets:
            DATASETS.get(name)
        for name in self.methods:
            METHODS.get(name.partition("-")[0])
        if self.search_once and (self.protocol.get("name") != "cv" or "fold" in self.protocol):
            raise UsageError("--search-once is for --protocol cv over all folds")
        check_protocol(self.protocol)

    def name(self) -> str:
        """Returns the experiment's name, made of what is searched: `digits-aug-iprm-ensemble`."""
        methods = sorted(set(self.methods) - {self.reference})
        datasets = [DATASETS.get(name).short_name(name, self.options) for name in self.datasets]
        encoded = "encoded" if self.dataset.get("encode") else ""
        parts = [*datasets, encoded, self.protocol.get("name", ""), *methods, self.reference or ""]
        name = "-".join(part for part in parts if part)
        if len(name) > MAX_NAME:
            name = "-".join([*filter(None, parts[: len(datasets) + 2]), f"{len(methods)}-methods"])
        return name
