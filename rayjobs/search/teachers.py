"""Which searches learn from which: a method with teachers waits for the final models of `unimodal` on its own fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmcore.assembly.config import with_values
from mmcore.assembly.objects import modalities_of, needs_teachers
from mmcore.errors import UsageError
from rayjobs.results_layout import final_name
from rayjobs.search.searches import Search

UNIMODAL = "unimodal"


def learns_from_teachers(search: Search) -> bool:
    """Tells whether a search's method needs teachers, with any of the settings that it may try."""
    ends = [{path: value} for path, drawn in search.space.items() for value in drawn.ends() if path[:7] == "method."]
    return any(needs_teachers(with_values(search.config, values)) for values in [{}, *ends])


def teachers_of(search: Search, fold: int | None, searches: Sequence[Search]) -> dict[str, Search]:
    """Returns modality -> the search of `unimodal` whose first final model on a fold teaches a search's runs there.

    Args:
        search: A search, whose row may have runs on other folds than its own; where it needs no teachers: none.
        fold: Where the runs are.
        searches: All of its data set.
    """
    if not learns_from_teachers(search):
        return {}
    alone = [each for each in searches if each.config.method["name"] == UNIMODAL and not each.part]
    # Where fold 0 alone is searched, final models are trained on every fold all the same.
    alone = [each for each in alone if each.fold == fold] or alone
    return {str(each.config.method["modality"]): replace(each, fold=fold) for each in alone}


def folder_of(teacher: Search) -> Path:
    """Returns where a teacher's run lies, within the experiment's folder."""
    return Path(teacher.row_name) / final_name(1)


def check_teachers(searches: Sequence[Search], modalities: Sequence[str], final_seeds: int) -> None:
    """Looks whether each method that learns from teachers will have them.

    Args:
        searches: All of one data set.
        modalities: Those it has.
        final_seeds: Final models of each row.

    Raises:
        UsageError: It will not.
    """
    for search in searches:
        if not learns_from_teachers(search):
            continue
        there = teachers_of(search, search.fold, searches)
        if lacking := [name for name in modalities_of(search.config, modalities) if name not in there]:
            raise UsageError(
                f"{search.label} learns from a model of each modality alone, and there is none of "
                f"{', '.join(lacking)}: add --method {UNIMODAL}"
            )
        if not final_seeds:
            raise UsageError(f"{search.label} learns from the final models of {UNIMODAL}: --final-seeds 1 or more")
