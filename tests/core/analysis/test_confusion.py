from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mmcore.analysis.confusion import Confusion, most_confused


def test_the_most_frequent_confusions_are_those_that_are_counted() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 200)
    answers = np.where(generator.random((3, 200)) < 0.6, labels, generator.integers(0, 5, (3, 200)))
    pairs = Counter((int(label), int(answer)) for model in answers for label, answer in zip(labels, model, strict=True))
    sizes = Counter(labels.tolist())
    shares = {pair: count / (3 * sizes[pair[0]]) for pair, count in pairs.items() if pair[0] != pair[1]}
    expected = sorted(shares, key=lambda pair: (-shares[pair], pair))[:4]
    found = most_confused(answers, labels, 5, 4)
    assert [(each.label, each.answer) for each in found] == expected
    assert [each.share for each in found] == pytest.approx([shares[pair] for pair in expected])


def test_what_does_not_occur_is_no_confusion_and_ties_are_in_order() -> None:
    assert most_confused([[0, 1, 2]], [0, 1, 2], 3, 5) == []
    found = most_confused([[1, 0, 2], [1, 1, 2]], [0, 1, 2], 4, 5)
    assert found == [Confusion(0, 1, 1.0), Confusion(1, 0, 0.5)]
    assert most_confused([[1, 0]], [0, 1], 2, 5) == [Confusion(0, 1, 1.0), Confusion(1, 0, 1.0)]


@pytest.mark.parametrize(
    ("answers", "labels", "words"),
    [
        ([0, 1], [0, 1], "answers must be"),
        ([[0, 1]], [0, 1, 1], "answers must be"),
        ([[]], [], "answers must be"),
        ([[0, 2]], [0, 1], "classes must be in"),
        ([[0, 1]], [0, -1], "classes must be in"),
    ],
)
def test_what_does_not_fit_is_refused(answers: list[list[int]], labels: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        most_confused(answers, labels, 2, 1)
