"""What a tune command will do, checked as far as it can be before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmcore.assembly.config import build_source, with_values
from mmcore.assembly.objects import build_method
from mmcore.assembly.weights import missing_weights
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.spec import DATASETS, SplitRules
from mmcore.errors import ConfigError, UsageError
from mmcore.features.encoded_set import check_encoding
from rayjobs.cluster import resources
from rayjobs.experiment.data import options_of, prepare_datasets, section_of
from rayjobs.experiment.machine import Machine, trial_shape
from rayjobs.experiment.request import Request
from rayjobs.preparing.datasets import check_available, source_modalities
from rayjobs.preparing.encode_tasks import RayEncoders
from rayjobs.preparing.raw_tasks import RayParts
from rayjobs.search.searches import Search, SearchOptions, build_searches
from rayjobs.search.spaces import load_space, space_file
from rayjobs.search.teachers import check_teachers


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

    def searches_of(self, label: str, fold: int | None) -> list[Search]:
        """Returns the searches that decide the configuration of a row on a fold: one, or one for each of its parts."""
        own = [search for search in self.searches if search.label == label]
        return [search for search in own if search.fold == fold] or [each for each in own if each.fold == own[0].fold]


def plan_searches(
    request: Request,
    dataset: str,
    folder_name: str,
    modalities: Sequence[str],
    rules: SplitRules,
    *,
    weights_sha256: Mapping[str, str] | None = None,
) -> list[Search]:
    """Returns the searches of one data set; the checksums are those of its frozen encoders, as far as known.

    Raises:
        ConfigError: The search-space file, or what the command line adds to it, breaks a rule.
        UsageError: The reference is no single row, or a method would have no teachers to learn from.
    """
    section = section_of(request, dataset) | ({"encoder_sha256": dict(weights_sha256)} if weights_sha256 else {})
    given = Path(request.space) if request.space else None
    is_demo, is_encoded = bool(section["options"].get("demo")), bool(section.get("encode"))
    space = load_space(space_file(dataset, given, demo=is_demo, encoded=is_encoded))
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
    searches = build_searches(space, section, folder_name, modalities, request.methods, options=options)
    check_teachers(searches, modalities, request.final_seeds)
    if request.reference and request.reference not in {search.label for search in searches}:
        own = [search.label for search in searches if search.config.method["name"] == request.reference]
        rows = ", ".join(dict.fromkeys(own))
        raise UsageError(f"--reference {request.reference} stands for several rows ({rows}): choose a method with one")
    return searches


def check_weights(searches: Sequence[Search]) -> None:
    """Raises a ConfigError that lists all weights which the searches name by a path, and which are not there."""
    problems = dict.fromkeys(problem for search in searches for problem in missing_weights(search.config))
    if problems:
        raise ConfigError(list(problems))


def check_request(request: Request, machine: Machine) -> list[Search]:
    """Checks a request as far as neither the data's content nor Ray is needed for it; returns its searches.

    Raises:
        ConfigError: As `plan_searches`; or weights are not there.
        UsageError: A trial asks for more than this machine has, where Ray is to be started on it.
    """
    raw_dir = Path(request.raw_dir) if request.raw_dir else None
    found: list[Search] = []
    for dataset in request.datasets:
        options = options_of(request, dataset)
        vocab = Path(request.vocab) if request.vocab else None
        check_available(dataset, options, raw_dir, Path(request.data_dir), vocab)
        rules = DATASETS.get(dataset).split_rules
        searches = plan_searches(request, dataset, dataset, source_modalities(dataset, options), rules)
        check_weights(searches)
        if machine.address is None:
            nodes = [resources.local_node(machine.cpus, machine.gpus)]
            resources.concurrent_trials(trial_shape(request, searches[0], nodes, streams=False), nodes)
        found += searches
    return found


def make_plans(request: Request, machine: Machine) -> list[Plan]:
    """Prepares the data sets and plans their searches; builds each model once, so that what cannot work fails here."""
    plans = []
    run = RayParts(address=machine.address, cpus=machine.cpus, verbose=machine.verbose)
    encoders = RayEncoders(address=machine.address, cpus=machine.cpus, verbose=machine.verbose)
    for dataset, prepared in prepare_datasets(request, run, encoders).items():
        searches = plan_searches(
            request,
            dataset,
            prepared.directory.name,
            prepared.spec.modality_names,
            prepared.rules,
            weights_sha256=prepared.weights_sha256,
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
    from rayjobs.search.population import changeable  # late: a dry run does without

    return replace(search, changeable=tuple(changeable(search, prepared.spec)))


def _check_encoding(search: Search, prepared: PreparedDataset) -> None:
    """Looks whether all trials of a search are of one data set: what is encoded must not be searched."""
    ends = [{path: value} for path, values in search.space.items() for value in values.ends() if path[:8] == "dataset."]
    spec = build_source(search.config).spec()
    for values in [{}, *ends]:
        check_encoding(with_values(search.config, values).dataset, prepared, spec)
