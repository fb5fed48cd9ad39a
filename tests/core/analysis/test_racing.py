from __future__ import annotations

import numpy as np
import pytest

from mmcore.analysis.fold_statistics import compare_folds
from mmcore.analysis.racing import can_still_win
from mmcore.analysis.words import Word, judge_folds


def _races(differences: list[float], num_folds: int = 6) -> bool:
    return can_still_win(differences, num_folds, rho=1 / (num_folds - 2), margin=1.0)


def test_nobody_leaves_before_three_folds() -> None:
    assert _races([-50.0, 40.0])
    assert not _races([-50.0, 40.0, -10.0])


def test_who_falls_behind_leaves_and_who_leads_stays() -> None:
    assert not _races([-5.0, -4.0, -6.0])
    assert _races([5.0, 4.0, 6.0])
    assert _races([-0.4, 3.0, 3.0])  # with three more of 3 p is .04; of their mean, .07
    assert not _races([5.0, -14.0, 6.0])  # three more of 6 do not make up for the one


def test_who_may_yet_be_equivalent_stays() -> None:
    assert _races([-0.1, 0.2, -0.2])
    # The best would lead past the margin; the one nearest to 0 would not.
    differences = [0.02, 1.0, -0.02, 0.01]
    assert compare_folds([*differences, 1.0, 1.0], 1 / 4, 1.0).tests.p_equivalent > 0.05
    assert compare_folds([*differences, 1.0, 1.0], 1 / 4, 1.0).tests.p > 0.05
    assert _races(differences)
    assert not can_still_win(differences, 6, rho=1 / 4, margin=0.3)


def test_folds_without_a_spread_decide_nothing() -> None:
    assert _races([-3.0, -3.0, -3.0])


def test_after_the_last_fold_only_words_are_left_in_the_race() -> None:
    rng = np.random.default_rng(0)
    for row in rng.normal(0.3, 0.6, (200, 6)):
        word = judge_folds({"a": compare_folds(row, 1 / 4, 1.0)})["a"].word
        won = word in {Word.BETTER, Word.BETTER_BY_LESS, Word.EQUIVALENT, Word.WORSE_BY_LESS}
        assert _races(list(row)) == won


def test_no_word_of_the_whole_study_is_lost() -> None:
    rng, stays = np.random.default_rng(1), []
    for _ in range(40):
        table = rng.normal(rng.choice([0.0, 3.0]), 1.0, (3, 6))
        verdicts = judge_folds({str(row): compare_folds(table[row], 1 / 4, 1.0) for row in range(3)})
        for row in range(3):
            if verdicts[str(row)].word in {Word.BETTER, Word.BETTER_BY_LESS, Word.EQUIVALENT}:
                stays.append(all(_races(table[row, :seen].tolist()) for seen in range(3, 6)))
    assert len(stays) > 20
    assert np.mean(stays) >= 0.95


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        _races([1.0, float("nan"), 2.0])
    with pytest.raises(ValueError, match="num_folds must be 7 or more"):
        _races([1.0] * 7)
    with pytest.raises(ValueError, match="alpha"):
        can_still_win([1.0] * 3, 6, 0.25, 1.0, alpha=0)
