"""What a `tune` command asks for, and the folder its results go to; kept there, so that `--resume` knows."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmcore.config.plain import Settings
from mmcore.data.spec import DATASETS
from mmcore.errors import UsageError
from mmcore.methods import METHODS
from rayjobs.search.reserved import check_protocol
from rayjobs.storage.json_record import JsonRecord

MAX_NAME = 100


@dataclass(frozen=True, kw_only=True)
class Request(JsonRecord):
    """What decides a result; the rest of a command line decides only where and how fast it is computed.

    Attributes:
        datasets: Names of data sets.
        methods: Names of methods, or of rows or variants of them (`iprm-linear`), the reference among them.
        reference: The method the others are compared with; None for none.
        options: Options of the data sets.
        dataset: Settings of the run's `dataset` section beside name and options: what is encoded.
        protocol: Settings of the run's `protocol` section.
        trials: Trials of each method; None: what the search-space file says.
        max_epochs: Longest length of each trial, in epochs; None: what the file says.
        final_seeds: Final models of each method.
        algorithm: How a search chooses its trials: hyperopt, random or grid.
        scheduler: What becomes of weak trials: asha, fifo or pbt.
        search_once: Whether a cross-validation searches on fold 0 alone.
        seed: Seed of the search.
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
    options: Settings = field(default_factory=dict)
    dataset: Settings = field(default_factory=dict)
    protocol: Settings = field(default_factory=dict)
    trials: int | None = None
    max_epochs: int | None = None
    final_seeds: int = 3
    algorithm: str = "hyperopt"
    scheduler: str = "asha"
    search_once: bool = False
    seed: int = 0
    values: Settings = field(default_factory=dict)
    space: str | None = None
    workers: int = 1
    min_workers: int | None = None
    gpus_per_worker: float | None = None
    raw_dir: str | None = None
    vocab: str | None = None
    data_dir: str = "data"

    def check(self, *, at_address: bool = False, has_budget: bool = False) -> None:
        """Checks what can be checked without the data.

        Args:
            at_address: Results go to object storage.
            has_budget: The searches have a time budget.

        Raises:
            UsageError: An unknown name, a protocol that a search must not use, or settings that exclude each other.
        """
        for name in self.datasets:
            DATASETS.get(name)
        for name in self.methods:
            METHODS.get(name.partition("-")[0])
        if self.search_once and (self.protocol.get("name") != "cv" or "fold" in self.protocol):
            raise UsageError("--search-once is for --protocol cv over all folds")
        check_protocol(self.protocol)
        if self.scheduler == "pbt" and at_address:
            raise UsageError(
                "--scheduler pbt is not for results on object storage: trials continue from each other's checkpoints, "
                "so --output must be a folder that all nodes see"
            )
        if self.algorithm == "grid":
            self._check_grid(has_budget=has_budget)

    def _check_grid(self, *, has_budget: bool) -> None:
        if self.scheduler == "pbt":
            raise UsageError("--scheduler pbt is not for --search grid: a population's settings change as it trains")
        for option, is_given in (("--trials", self.trials is not None), ("--time-budget or --cost-budget", has_budget)):
            if is_given:
                raise UsageError(
                    f"{option} is not for --search grid, whose trials are all combinations of the space's choices"
                )

    def name(self) -> str:
        """Returns the experiment's name, made of what is searched: `digits-aug-iprm-ensemble`."""
        methods = sorted(set(self.methods) - {self.reference})
        datasets = [DATASETS.get(name).short_name(name, self.options) for name in self.datasets]
        encoded = "encoded" if self.dataset.get("encode") else ""
        parts = [*datasets, encoded, str(self.protocol.get("name", "")), *methods, self.reference or ""]
        name = "-".join(part for part in parts if part)
        if len(name) > MAX_NAME:
            name = "-".join([*(part for part in parts[: len(datasets) + 2] if part), f"{len(methods)}-methods"])
        return name
