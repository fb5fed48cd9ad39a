from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from mmcore.analysis.fold_statistics import Disagreement, FoldComparison, compare_folds
from mmcore.analysis.sign_flips import SplitComparison
from mmcore.analysis.words import Word, ceiling_note, holm, judge_folds, judge_split

NOISE = [0.3, -0.2, 0.1, -0.3, 0.2, -0.1]


def _around(mean: float, spread: float = 1.0, num_folds: int = 6) -> FoldComparison:
    return compare_folds([mean + spread * value for value in NOISE[:num_folds]], 0.25, margin=1.0)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_that_of_statsmodels(seed: int) -> None:
    p = np.random.default_rng(seed).uniform(0, 0.2, size=7).round(2)  # rounded: some tie
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])


def test_holm_keeps_the_locked_size_of_the_family() -> None:
    left = [0.01, 0.03]
    np.testing.assert_allclose(holm(left, family_size=4), holm([*left, 1.0, 1.0])[:2])
    assert holm(left, family_size=4)[0] == pytest.approx(0.04)
    with pytest.raises(ValueError, match="family"):
        holm([0.1, 0.2], family_size=1)


@pytest.mark.parametrize("p", [[0.1, float("nan")], [1.2], [-0.1], []])
def test_holm_refuses_what_is_no_p(p: list[float]) -> None:
    with pytest.raises(ValueError, match="p values"):
        holm(p)


@pytest.mark.parametrize(
    ("mean", "spread", "word"),
    [
        (3.0, 1.0, Word.BETTER),
        (0.5, 0.3, Word.BETTER_BY_LESS),
        (0.0, 1.0, Word.EQUIVALENT),
        (1.0, 4.0, Word.NOT_WORSE),
        (0.0, 9.0, Word.UNDECIDED),
        (-0.5, 0.3, Word.WORSE_BY_LESS),
        (-3.0, 1.0, Word.WORSE),
    ],
)
def test_every_word(mean: float, spread: float, word: Word) -> None:
    assert judge_folds({"a": _around(mean, spread)})["a"].word is word


def test_words_state_the_margin() -> None:
    assert Word.BETTER_BY_LESS.stating("1 point") == "better, by less than 1 point"
    assert Word.EQUIVALENT.stating("2 points") == "equivalent within 2 points"
    assert Word.BETTER.stating("1 point") == "better"


def test_a_word_is_corrected_over_its_family() -> None:
    shift = 0.55  # each of its p alone is .016 or less, times 5 it is not under .05 but for `not worse`
    alone, crowd = {"a": _around(shift)}, {name: _around(shift) for name in "abcde"}
    assert judge_folds(alone)["a"].word is Word.BETTER_BY_LESS
    assert judge_folds(crowd)["a"].word is Word.NOT_WORSE
    assert judge_folds(alone, family_size=5)["a"].word is Word.NOT_WORSE
    assert judge_folds(alone, alpha=1e-6)["a"].word is Word.UNDECIDED


def test_few_folds_decide_nothing() -> None:
    verdicts = judge_folds({"four": _around(30.0, num_folds=4), "two": _around(30.0, num_folds=2)})
    assert (verdicts["four"].word, verdicts["four"].note) == (Word.UNDECIDED, "k < 5")
    assert verdicts["four"].p is not None
    assert verdicts["four"].p < 0.05
    assert (verdicts["two"].word, verdicts["two"].p) == (None, None)
    # The one that cannot be tested counts in the family.
    assert verdicts["four"].p == pytest.approx(2 * judge_folds({"four": _around(30.0, num_folds=4)})["four"].p)


def test_notes_say_what_was_done_about_no_spread() -> None:
    same = [Disagreement(0, 0, 100, 3, 0.0)] * 6
    close = [Disagreement(6, 3, 100, 1, 9e-4)] * 6
    comparisons = {
        "identical": compare_folds([0.0] * 6, 0.25, 1.0, same, 100.0),
        "floored": compare_folds([3.0] * 6, 0.25, 1.0, close, 100.0),
        "unknown": compare_folds([3.0] * 6, 0.25, 1.0),
    }
    verdicts = judge_folds(comparisons)
    assert verdicts["identical"].note == "differ in 0 of 600"
    assert verdicts["identical"].p == 1
    assert "McNemar" in verdicts["floored"].note
    assert "no variance" in verdicts["unknown"].note
    assert verdicts["unknown"].word is Word.UNDECIDED


def test_a_single_split_says_better_worse_or_undecided() -> None:
    comparisons = {
        "better": SplitComparison(0.02, 12, 0.001),
        "worse": SplitComparison(-0.02, 12, 0.001),
        "open": SplitComparison(0.02, 12, 0.04),
        "few": SplitComparison(0.5, 5, 2.0**-4),
    }
    words = {label: verdict.word for label, verdict in judge_split(comparisons).items()}
    assert words == {"better": Word.BETTER, "worse": Word.WORSE, "open": Word.UNDECIDED, "few": None}
    assert judge_split(comparisons)["open"].p == pytest.approx(2 * 0.04)  # of 4: the first two were smaller
    assert "under 6" in judge_split(comparisons)["few"].note


def test_one_choice_of_groups_decides_nothing_beyond_them() -> None:
    verdict = judge_split({"a": SplitComparison(0.2, 12, 0.0005)}, held_out="speakers")["a"]
    assert (verdict.word, verdict.note) == (Word.UNDECIDED, "within these speakers")


def test_alpha_and_family_are_checked() -> None:
    with pytest.raises(ValueError, match="alpha"):
        judge_folds({"a": _around(1.0)}, alpha=1.5)
    with pytest.raises(ValueError, match="family_size"):
        judge_folds({"a": _around(1.0), "b": _around(1.0)}, family_size=1)


def test_the_ceiling_is_noted() -> None:
    assert ceiling_note(reference_errors=200, num_samples=1000, only_a=5, only_b=5) == ""
    assert "errs on 19 of 100" in ceiling_note(reference_errors=19, num_samples=100, only_a=3, only_b=2)
    assert "alone is right on 3" in ceiling_note(reference_errors=19, num_samples=100, only_a=3, only_b=2)
    assert ceiling_note(reference_errors=90, num_samples=10_000, only_a=3, only_b=2) != ""
