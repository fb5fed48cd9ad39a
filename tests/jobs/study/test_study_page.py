"""The study's page, from its document alone."""

from __future__ import annotations

import dataclasses
import math
import re
from itertools import pairwise
from typing import Any

import pytest
from html_pages import Page
from study_documents import REFERENCE, make_document

from rayjobs.study.document import StudyDocument
from rayjobs.study.showing.page import build_page, data_stems

EVIL = '<script>alert("x")</script> & <b>'
MAIN = "Test accuracy in percent, mean"


def page_of(document: StudyDocument) -> Page:
    return Page(build_page(document)[0])


def changed(document: StudyDocument, **values: Any) -> StudyDocument:
    return dataclasses.replace(document, **values)


def test_the_answer_comes_first() -> None:
    page = page_of(make_document())
    beginning = [(tag, of.get("class")) for tag, of in page.tags if tag in {"h1", "p", "h2"}][:2]
    assert beginning == [("h1", None), ("p", "answer")]
    assert page.text.index("no method is better than ensemble-tuned by 1 point") < page.text.index("Protocol:")


def test_the_numbers_are_those_of_the_document() -> None:
    document = make_document(3)
    row = page_of(document).table(MAIN)["iprm"]
    score, found = document.scores[0], document.comparisons[0]
    assert (score.method, found.a, found.b) == ("iprm", "iprm", REFERENCE)
    assert found.plain is not None
    assert found.corrected is not None
    assert found.bayes is not None
    assert row == [
        f"{score.mean:.1f} ± {score.half_width:.1f}",
        f"{found.d:+.1f}",
        f"[{found.plain[0]:+.1f}, {found.plain[1]:+.1f}]",
        f"[{found.corrected[0]:+.1f}, {found.corrected[1]:+.1f}]",
        "better",
        f"{found.p_holm:.3f}" if found.p_holm and found.p_holm >= 0.001 else "<0.001",
        " / ".join(f"{100 * share:.0f}" for share in found.bayes) + " %",
    ]
    assert page_of(document).table(MAIN)[REFERENCE][1:] == ["", "", "", "the reference", "", ""]


def test_other_measures_stand_with_each_modality() -> None:
    rows = page_of(make_document()).table("Other measures on test")
    assert rows["method"] == ["macro-F1", "calibration error", "audio alone, %", "image alone, %"]
    assert rows["aug"] == ["0.812", "0.043", "70.5", "80.2"]


def test_bold_says_better_and_nothing_else() -> None:
    text, _ = build_page(make_document(30, folds=8))
    cells = re.findall(r"<t[dh][^>]*>(?:(?!</t[dh]>).)*</t[dh]>", text, re.DOTALL)
    bold = {re.sub("<[^>]*>", "", cell) for cell in cells if "<strong>" in cell}
    assert bold == {"better"}
    assert all(cell.count("<strong>") == 1 for cell in cells if ">better" in cell)
    assert "better, by less" not in text
    document = make_document(1)
    word = dataclasses.replace(document.comparisons[0], word="better, by less than 1 point")
    assert "<strong>better, by less than 1 point</strong>" in build_page(changed(document, comparisons=[word]))[0]


def test_what_failed_is_never_averaged() -> None:
    document = make_document(3, failed="aug")
    page = page_of(document)
    row = page.table(MAIN)["aug"]
    assert row == ["F", "", "", "", "F", "", ""]
    assert page.table("Test accuracy by fold")["aug"] == ["F"] * 6
    assert page.table("Cells without a result")["avdigits, aug, fold 1"] == ["F", "no finite loss"]
    assert "aug failed: fold 1: no finite loss. It is not averaged over the folds that worked." in page.text
    assert "What has no result" not in page_of(make_document(3)).text


def test_what_a_race_left_out_has_no_number_and_no_word() -> None:
    document = make_document(3)
    why = "left after 3 folds: it could win no more"
    scores = [dataclasses.replace(each, status="left out", reason=why, mean=None, folds=[], seeds=[], metrics={})
              if each.method == "aug" else each for each in document.scores]  # fmt: skip
    comparisons = [each for each in document.comparisons if each.a != "aug"]
    cells = [dataclasses.replace(each, status="left out", reason=why, finals=[], best=None, at_edge=[])
             if each.method == "aug" and each.fold > 2 else each for each in document.cells]  # fmt: skip
    page = page_of(changed(document, scores=scores, comparisons=comparisons, cells=cells))
    assert page.table(MAIN)["aug"] == ["left out", "", "", "", "left out", "", ""]
    assert page.table("Cells without a result")["avdigits, aug, fold 3"] == ["left out", why]
    assert f"aug was left out by the race: {why}. No word is said of it." in page.text
    assert f"corrected over {len(document.lock.families['primary'])} (Holm)" in page.text  # it counts on in the family


def test_other_references_are_no_methods() -> None:
    document = make_document(3)
    methods = [dataclasses.replace(each, role="reference") if each.label == "joint" else each
               for each in document.methods]  # fmt: skip
    comparisons = [each for each in document.comparisons if each.a != "joint"]
    document = changed(document, methods=methods, comparisons=comparisons)
    assert page_of(document).table(MAIN)["joint"][1:] == ["", "", "", "a reference", "", ""]
    assert "joint" not in build_page(document)[1][0].description


def test_what_comes_from_outside_is_text() -> None:
    labels = [f"iprm {EVIL}", "aug", f"ensemble {EVIL}"]
    document = make_document(2, datasets=(f"mine {EVIL}",), labels=labels, over=True, failed=labels[0])
    cells = [dataclasses.replace(cell, reason=cell.reason and EVIL) for cell in document.cells]
    checks = [dataclasses.replace(document.checklist[0], title=EVIL, evidence=EVIL)]
    document = changed(document, cells=cells, checklist=checks, sentences=[EVIL], notes=[EVIL], commands={EVIL: EVIL})
    text, _ = build_page(document)
    page = Page(text)
    assert "<script" not in text.lower()
    assert page.text.count(EVIL) > 40
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "img", "b"}
    outside = [value for _, of in page.tags for name, value in of.items() if name in {"href", "src"}]
    assert all(value and value.startswith("#") for value in outside)
    assert not any(name.startswith("on") for _, of in page.tags for name in of)
    (policy,) = [meta["content"] for meta in page.named("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize(
    "document",
    [
        make_document(3, failed="aug"),
        make_document(30, ("avdigits", "utd"), folds=8, cd_bars=True),
        make_document(2, ("a", "b", "c"), folds=2, over=True),
        make_document(1, folds=1, seeds=1),
    ],
    ids=["three", "thirty", "two folds of three sets", "one split"],
)
def test_it_can_be_read_by_keyboard_and_by_ear(document: StudyDocument) -> None:
    page = page_of(document)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    ids = [of["id"] for _, of in page.tags if "id" in of]
    assert len(ids) == len(set(ids))
    assert {of["href"][1:] for of in page.named("a") if of["href"]} <= set(ids)
    assert page.named("a")[0] == {"class": "skip", "href": "#results"}
    assert len(page.named("table")) == len(page.named("caption")) == len(page.named("thead"))
    assert {heading["scope"] for heading in page.named("th")} == {"col", "row"}
    regions = [of for of in page.named("div") if of.get("class") == "wide"]
    assert len(regions) == len(page.named("table"))
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)
    drawn = [of for of in page.named("svg") if of.get("class") == "drawn"]
    assert drawn
    for figure in drawn:
        title, told = (figure["aria-labelledby"] or "").split()
        assert figure["role"] == "img"
        assert {title, told} <= set(ids)
    assert all("open" in of for of in page.named("details"))  # so that paper has them
    assert len(page.named("details")) == len(page.named("summary"))


def test_a_state_is_told_by_a_word_not_by_colour_alone() -> None:
    text, _ = build_page(make_document())
    for state, sign in (("pass", "✓"), ("warn", "!"), ("fail", "✗"), ("not applicable", "–")):
        name = state.replace(" ", "-")
        assert f'<span class="state {name}"><span aria-hidden="true">{sign}</span> {state}</span>' in text
    assert "What a reviewer would ask: 5 pass, 5 warn, 4 fail, 4 not applicable." in text
    check = make_document().checklist[0]
    listed = dataclasses.replace(check, title="Asked", evidence="a: shown; b: shown too")
    text, _ = build_page(changed(make_document(), checklist=[listed]))
    assert "</span> pass</span>: Asked\n<ul><li>a: shown</li><li>b: shown too</li></ul></li>" in text


def test_a_study_that_goes_on_says_of_what_it_speaks() -> None:
    document = make_document(3)
    cells = [dataclasses.replace(cell, status="open", finals=[]) if cell.fold > 3 else cell for cell in document.cells]
    scores = [dataclasses.replace(each, folds=each.folds[:4], seeds=each.seeds[:4]) for each in document.scores]
    blocks = dataclasses.replace(document.study, blocks={"avdigits": [0, 1, 2, 3]})
    page = page_of(changed(document, cells=cells, scores=scores, study=blocks))
    assert "avdigits is not finished: 8 of 24 cells are open." in page.text
    assert "of the 4 of 6 folds that every method has" in page.text
    assert "folds 0 to 3 of 6" in page.text


def test_a_study_without_a_finished_fold_can_be_shown() -> None:
    document = make_document(3)
    cells = [dataclasses.replace(cell, status="open", best=None, shrinkage=None, at_edge=[], finals=[])
             for cell in document.cells]  # fmt: skip
    document = changed(document, cells=cells, scores=[], comparisons=[], budgets=[], best_of=[], sentences=[], power=[],
                       study=dataclasses.replace(document.study, blocks={"avdigits": []}))  # fmt: skip
    text, figures = build_page(document)
    assert figures == []
    assert "No fold is finished by every method yet" in text


def test_one_split_says_so_and_shows_no_folds() -> None:
    page = page_of(make_document(3, folds=1))
    assert "One split: what follows is for these training data." in page.text
    assert page.table(MAIN)["iprm"][2:5] == ["–", "–", "–"]
    assert page.table("Test accuracy of each seed")["method"] == ["test"]


def test_several_data_sets_get_a_diagram_only_where_there_is_one() -> None:
    sets = ("a", "b", "c")
    titles = {over: [figure.stem for figure in build_page(make_document(3, sets, over=over, cd_bars=bars))[1]]
              for over, bars in ((False, False), (True, False), ("bars", True))}  # fmt: skip
    assert "ranks" in titles["bars"]
    assert "differences" not in titles["bars"]
    assert "differences" in titles[True]
    assert "ranks" not in titles[True]
    assert not {"ranks", "differences"} & set(titles[False])
    page = page_of(make_document(3, sets, over=True))
    assert "digits is left out: constructed." in page.text
    assert page.table("Mean ranks")["iprm"] == ["1.00", "1.01", "[0.98, 1.04]"]


def test_over_data_sets_speak_those_that_count_and_the_test_there_is() -> None:
    document = make_document(3, ("a", "b", "c"), over=True)
    over = document.over_datasets
    assert over is not None
    assert any(caption.startswith("Mean ranks, 1 is best (Friedman: F = 4.50, p = 0.004)")
               for caption in page_of(document).tables)  # fmt: skip
    over = dataclasses.replace(over, friedman={"chi2": 24.0, "p_chi2": 1e-5}, left_out={"c": "it was constructed"},
                               ranks={"iprm": 1.0, REFERENCE: 2.0})  # fmt: skip
    text, figures = build_page(changed(document, over_datasets=over))
    page = Page(text)
    assert any("(Friedman: χ² = 24.00, p <0.001)" in caption for caption in page.tables)
    assert list(page.table("Mean ranks")) == ["method", "iprm", REFERENCE]
    (differences,) = [figure for figure in figures if figure.stem == "differences"]
    assert differences.caption.endswith("1 a, 2 b.")


def test_a_method_of_parts_has_no_curve_and_that_is_said() -> None:
    document = make_document(3)
    budgets = [dataclasses.replace(each, curves={}) if each.method == REFERENCE else each for each in document.budgets]
    page = page_of(changed(document, budgets=budgets))
    assert f"found anything: {REFERENCE}." in page.text
    assert page.table("What was spent")[REFERENCE][-3:] == ["–", "–", "86.5"]
    assert "found anything" not in page_of(document).text


def test_what_was_changed_after_test_was_read_is_shown() -> None:
    page = page_of(make_document())
    assert page.table("Changed after test had been read")["margin"] == ["1.0", "2.0", "14", "2026-11-29T12:00:00"]
    assert page.table("Readings of the same test samples")["by this study"] == ["72"]
    assert page.table("Software")["commit"] == ["c2577d2"]
    assert page.table("Best values at an end of their range")["avdigits, iprm"] == [
        "optimizer.lr", "log-uniform from 0.001 to 0.1", "fold 0"
    ]  # fmt: skip


def test_what_is_no_number_is_a_dash() -> None:
    document = make_document(2)
    nan = math.nan
    comparisons = [dataclasses.replace(each, plain=(nan, nan), corrected=None, p_holm=nan, bayes=None, s_d=nan)
                   for each in document.comparisons]  # fmt: skip
    scores = [dataclasses.replace(each, metrics={"ece": nan, "macro_f1": 0.5}) for each in document.scores]
    budgets = [dataclasses.replace(each, at_common_cost=nan) for each in document.budgets]
    page = page_of(changed(document, comparisons=comparisons, scores=scores, budgets=budgets))
    assert page.table(MAIN)["iprm"][2:] == ["–", "–", "better", "–", "–"]
    assert page.table("Other measures on test")["iprm"] == ["0.500", "–"]
    assert "nan" not in page.text


def test_many_folds_are_split_into_tables_that_paper_holds() -> None:
    page = page_of(make_document(2, folds=30))
    captions = [caption for caption in page.tables if caption.startswith("Test accuracy by fold")]
    assert [len(page.tables[caption][0]) for caption in captions] == [11, 11, 11]
    assert captions[2].endswith("(fold 20 to fold 29)")


def test_no_two_data_sets_share_a_file() -> None:
    assert data_stems(["a/b", "a b", "A b", "all-data-sets"]) == ["a_b", "a_b-2", "A_b-3", "all_data_sets"]
