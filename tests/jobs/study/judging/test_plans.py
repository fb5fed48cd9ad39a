"""What a plan can show: by hand, by the formulas of `mmcore.analysis.power`, and "unknown" where nothing tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmcore.analysis.power import smallest_difference
from rayjobs.study.judging.power import UNKNOWN, Folding, power_entry


def entry_of(folding: Folding, deviation: float | None, margin: float = 1.0, family: int = 5):
    return power_entry(
        "made",
        margin=margin,
        deviation=deviation,
        source="a pilot" if deviation else "",
        folds=folding.folds,
        max_folds=folding.most,
        family=family,
        rho_of_folds=folding.rho,
        widening_of_folds=folding.widening,
    )


SPEAKERS = Folding(folds=6, all_folds=6, groups=6, measured=1 / 4)
"""Each fold tests one of six speakers."""
PART = Folding(folds=2, all_folds=6, groups=6, measured=1 / 4)
SAMPLES = Folding(folds=6, all_folds=6, groups=None, measured=1 / 4)
PEOPLE = Folding(folds=5, all_folds=5, groups=10, measured=1 / 3)
"""Each fold tests two of ten."""


def test_more_speakers_are_like_those_there_are() -> None:
    found = entry_of(SPEAKERS, 2.0)
    assert found.smallest == pytest.approx(smallest_difference(2.0, 6, 1 / 4, family_size=5))
    assert list(found.with_more) == ["7", "8", "9", "10", "11", "12"]
    assert found.with_more["11"] == pytest.approx(smallest_difference(2.0, 11, 1 / 9, family_size=5))
    assert found.folds_needed is None
    assert found.note == "this plan can show neither a difference of 1 point nor equivalence within it"


def test_the_fewest_folds_that_show_the_margin() -> None:
    found = entry_of(SPEAKERS, 2.0, margin=4.0)
    assert found.folds_needed is not None
    assert found.with_more[str(found.folds_needed)] <= 4.0 < found.with_more[str(found.folds_needed - 1)]
    enough = entry_of(SPEAKERS, 0.1)
    assert (enough.folds_needed, enough.note) == (5, "")  # under 5 no word is said


def test_folds_not_trained_yet_are_like_those_that_were() -> None:
    found = entry_of(PART, 2.0)
    assert found.smallest is None
    assert found.note == "under 5 folds nothing is decided"
    assert list(found.with_more) == ["5", "6"]
    assert found.with_more["6"] == pytest.approx(smallest_difference(2.0, 6, 1 / 4, family_size=5))


@pytest.mark.parametrize(("folding", "most"), [(SAMPLES, 20), (PEOPLE, 10)])
def test_the_same_data_cut_finer_makes_each_fold_less_sure(folding: Folding, most: int) -> None:
    found = entry_of(folding, 2.0)
    assert list(map(int, found.with_more)) == list(range(folding.folds + 1, most + 1))
    finer = 2.0 * np.sqrt(most / folding.folds)
    assert found.with_more[str(most)] == pytest.approx(smallest_difference(finer, most, 1 / (most - 2), family_size=5))


@pytest.mark.parametrize("deviation", [None, 0.0])
def test_nothing_is_guessed(deviation: float | None) -> None:
    found = entry_of(SPEAKERS, deviation)
    assert (found.source, found.smallest, found.with_more, found.folds_needed) == (UNKNOWN, None, {}, None)


def test_ratios_of_a_plan() -> None:
    assert [PART.rho(folds) for folds in (2, 6)] == [1 / 4, 1 / 4]
    assert SPEAKERS.rho(8) == pytest.approx(1 / 6)
    assert (PART.needs_groups, SPEAKERS.needs_groups, PEOPLE.needs_groups) == (False, True, False)
    assert replace(PEOPLE, folds=3).most == 5
