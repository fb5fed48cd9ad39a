"""No sentence claims more than the numbers beside it, whatever a study holds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from study_files import MadeData, MadeStudy, write_study

from rayjobs.study.build import document_of
from rayjobs.study.document import StudyDocument

LABELS = ("aug", "iprm", "ogm")


def made(number: int) -> MadeStudy:
    """Returns a random study, of few or many folds, near differences or far ones, some of it failed or open."""
    draw = np.random.default_rng(number)
    folds = int(draw.choice([3, 5, 6, 8]))
    spread = float(draw.choice([0.002, 0.02, 0.1]))
    centre = dict(zip(LABELS, draw.choice([-0.1, -0.01, 0, 0.01, 0.1], len(LABELS)), strict=True))
    methods = {label: list(0.6 + centre[label] + spread * draw.normal(size=folds)) for label in LABELS}
    failed = {("made", "ogm", 0): "loss nan"} if number % 4 == 0 else {}
    opened = frozenset({("made", "iprm", folds - 1)}) if number % 3 == 0 else frozenset()
    return MadeStudy(
        methods={**methods, "ensemble-tuned": list(0.6 + spread * draw.normal(size=folds))},
        data=[MadeData(folds=folds, samples=200)],
        seeds=2,
        margin=float(draw.choice([0.5, 1, 8])),
        failed=failed,
        open=opened,
    )


def claimed(sentence: str, text: str) -> set[str]:
    """Returns the methods of which a clause of a sentence says something."""
    clauses = re.split(r"; |\) | folds\) ", sentence.removeprefix("On made ").removesuffix("."))
    found = [re.fullmatch(rf"(.+?) (?:is|are) {text}", clause) for clause in clauses]
    return {name for match in found if match for name in re.split(r", | and ", match[1])} - {"no method"}


def check(document: StudyDocument) -> None:
    """Holds the first sentence against the comparisons in the primary family."""
    (sentence,) = document.sentences
    alpha, margin = document.lock.alpha, document.lock.margins["made"]
    own = {each.a: each for each in document.comparisons if each.family == "primary"}
    assert "ogm" not in own or "ogm failed" not in sentence
    shown = {
        r"better than ensemble-tuned(?:, by less than .+)?": lambda each: (
            each.p_holm < alpha and each.d > 0 and each.corrected[0] > 0
        ),
        r"worse(?:, by less than .+)?": lambda each: each.p_holm < alpha and each.d < 0 and each.corrected[1] < 0,
        r"equivalent within .+": lambda each: each.p_tost_holm < alpha and abs(each.d) < margin,
        r"not worse by .+ or more": lambda each: each.p_not_worse_holm < alpha and each.d > -margin,
    }
    said = {text: claimed(sentence, text) for text in shown}
    for text, names in said.items():
        assert [name for name in names if not shown[text](own[name])] == []
    if re.search(r"is better than ensemble-tuned by ", sentence):  # "no method is better by δ": all must be bounded
        assert all(each.d < margin and (each.p_tost_holm < alpha or each.p_holm < alpha) for each in own.values())
    if "nothing is decided" in sentence:
        assert not any(each.word and each.word != "undecided" for each in own.values())
    with_word = {each.a for each in own.values() if each.word and each.word != "undecided"}
    assert set().union(*said.values()) == with_word


@pytest.mark.parametrize("number", range(1, 9))
def test_sentences_say_no_more_than_the_comparisons(tmp_path: Path, number: int) -> None:
    check(document_of(write_study(tmp_path / "results" / "study", made(number))))
