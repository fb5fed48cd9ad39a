"""What a tune command will do, checked as far as it can be before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmcore.build import build_method, build_source, missing_weights
from mmcore.data import DATASETS
from mmcore.data.encoded import check_encoding
from mmcore.data.spec import SplitRules
from mmcore.data.store import PreparedDataset
from mmcore.errors import ConfigError, UsageError
from rayjobs import cluster
from rayjobs.datasets import check_available, options_of, prepare_datasets, section_of, source_modalities
from rayjobs.encoding import RayEncoders
from rayjobs.parts import RayParts
from rayjobs.population import changeable
from rayjobs.request import Request
from rayjobs.search import Search, SearchOptions, build_searches
from rayjobs.spaces import load_space, space_file
from rayjobs.trials import Body
from rayjobs.watchdog import DEFAULT_LIMIT_S


@dataclass(frozen=True)
class Machine:
    """Where and how fast a request is computed; another one gives the same kind of result.

    Attributes:
        address: None: a local Ray; else the cluster to join.
        cpus: CPUs of a local Ray; None: all.
        gpus: GPUs of a local Ray; None: all.
        concurrent: Most trials at once; None: as many as fit.
        max_failures: How often a lost process is tried again.
        hang_limit_s: A running trial that does nothing for so long is ended and tried again; 0: never.
        budget_s: For all searches together; None: none.
        cache_bytes: Data sets up to this size are held in the object store; None: a share of it; 0: all are streamed.
        verbose: Show Ray's own log.
        body: What a trial runs; None: the worker's.
    """

    address: str | None = None
    cpus: int | None = None
    gpus: int | None = None
    concurrent: int | None = None
    max_failures: int = 2
    hang_limit_s: float = DEFAULT_LIMIT_S
    budget_s: float | None = None
    cache_bytes: int | None = None
    verbose: bool = False
    body: Body | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done for one data set.

    Attributes:
        prepared: The data.
        searches: One per row of the ranking, and per fold unless fold 0 alone is searched.
        folds: Those the final models are trained and tested on; (None,) where there is one split.
    """

    prepared: PreparedDataset
    searches: tuple[Search, ...]
    folds: tuple[int | None, ...] = (None,)

    @property
    def labels(self) -> list[str]:
        """The rows of the ranking."""
        return list(dict.fromkeys(search.label for search in self.searches))

    def search_of(self, label: str, fold: int | None) -> Search:
        """Returns the search that decides the configuration of a row on a fold."""
        own = [search for search in self.searches if search.label == label]
        return next((search for search in own if search.fold == fold), own[0])


def plan_searches(
    request: Request,
    dataset: str,
    folder_name: str,
    modalities: Sequence[str],
    rules: SplitRules,
    weights_sha256: Mapping[str, str] | None = None,
) -> list[Search]:
    """Returns the searches of one data set; the checksums are those of its frozen encoders, as far as known.

    Raises:
        ConfigError: The search-space file, or what the command line adds to it, breaks a rule.
        UsageError: The reference is no single row.
    """
    section = section_of(request, dataset) | ({"encoder_sha256": dict(weights_sha256)} if weights_sha256 else {})
    given = Path(request.space) if request.space else None
    is_demo, is_encoded = bool(section["options"].get("demo")), bool(section.get("encode"))
    space = load_space(space_file(dataset, given, is_demo, is_encoded))
    folds = rules.folds_of(request.protocol)
    options = SearchOptions(
        request.seed,
        request.protocol,
        request.values,
        request.trials,
        request.max_epochs,
        request.algorithm,
        request.scheduler,
        folds[:1] if request.search_once else folds,
    )
    searches = build_searches(space, section, folder_name, modalities, request.methods, options)
    if request.reference and request.reference not in {search.label for search in searches}:
        rows = ", ".join(search.label for search in searches if search.config.method["name"] == request.reference)
        raise UsageError(f"--reference {request.reference} stands for several rows ({rows}): choose a method with one")
    return searches


def check_weights(searches: Sequence[Search]) -> None:
    """Raises a ConfigError that lists all weights which the searches name by a path, and which are not there."""
    problems = dict.fromkeys(problem for search in searches for problem in missing_weights(search.config))
    if problems:
        raise ConfigError(list(problems))


def check_request(request: Request, machine: Machine) -> None:
    """Checks a request as far as neither the data's content nor Ray is needed for it.

    Raises:
        ConfigError: As `plan_searches`; or weights are not there.
        UsageError: A trial asks for more than this machine has, where Ray is to be started on it.
    """
    raw_dir = Path(request.raw_dir) if request.raw_dir else None
    for dataset in request.datasets:
        options = options_of(request, dataset)
        vocab = Path(request.vocab) if request.vocab else None
        check_available(dataset, options, raw_dir, Path(request.data_dir), vocab)
        rules = DATASETS.get(dataset).split_rules
        searches = plan_searches(request, dataset, dataset, source_modalities(dataset, options), rules)
        check_weights(searches)
        if machine.address is None:
            nodes = [cluster.local_node(machine.cpus, machine.gpus)]
            cluster.concurrent_trials(trial_shape(request, searches[0], nodes, streams=False), nodes)


def make_plans(request: Request, machine: Machine) -> list[Plan]:
    """Prepares the data sets and plans their searches; builds each model once, so that what cannot work fails here."""
    plans = []
    run = RayParts(machine.address, machine.cpus, machine.verbose)
    encoders = RayEncoders(machine.address, machine.cpus, machine.verbose)
    for dataset, prepared in prepare_datasets(request, run, encoders).items():
        searches = plan_searches(
            request,
            dataset,
            prepared.directory.name,
            prepared.spec.modality_names,
            prepared.rules,
            prepared.weights_sha256,
        )
        for search in searches:
            _check_encoding(search, prepared)
            prepared.assign(search.config.protocol)
            build_method(search.config, prepared.spec)
        searches = [_with_changes(search, prepared) for search in searches]
        plans.append(Plan(prepared, tuple(searches), prepared.rules.folds_of(request.protocol)))
    return plans


def _with_changes(search: Search, prepared: PreparedDataset) -> Search:
    """Returns a search that knows what its population may change, if it has one."""
    if search.scheduler != "pbt":
        return search
    return replace(search, changeable=tuple(changeable(search, prepared.spec)))


def _check_encoding(search: Search, prepared: PreparedDataset) -> None:
    """Looks whether all trials of a search are of one data set: what is encoded must not be searched."""
    ends = [{path: value} for path, values in search.space.items() for value in values.ends() if path[:8] == "dataset."]
    spec = build_source(search.config).spec()
    for values in [{}, *ends]:
        check_encoding(search.config.with_values(values).dataset, prepared, spec)


def grid_stage(plan: Plan) -> str:
    """Returns what the trials of a data set's grids are called: all of them are run as one list."""
    return f"{plan.prepared.directory.name} grid"


def final_stage(plan: Plan) -> str:
    """Returns what the training of a data set's final models is called."""
    return f"{plan.prepared.directory.name} final models"


def trial_shape(request: Request, search: Search, nodes: Sequence[cluster.Node], streams: bool) -> cluster.TrialShape:
    """Returns what a trial asks for; where nothing is said, a GPU a worker if the cluster has any."""
    gpus = request.gpus_per_worker
    if gpus is None:
        wanted = search.config.trainer.device != "cpu"
        gpus = 1.0 if wanted and any(node.gpus for node in nodes) else 0.0
    cpus: float = search.config.trainer.threads
    if streams and cpus == 1 and max(node.cpus for node in nodes) < 2:
        cpus = 0.5  # the only CPU is shared with the readers
    return cluster.TrialShape(request.workers, cpus, gpus, streams, request.min_workers)
