"""Figures of a study: where things are drawn, and that each stands by itself."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_documents import REFERENCE, make_document

from rayjobs.study.showing.drawing.curves import budget_figure, expected_figure, found
from rayjobs.study.showing.drawing.rows import critical_differences, fold_dots, forest
from rayjobs.study.showing.drawing.shapes import Figure, Frame, apart, curve, range_of, scale_over, tick_text, ticks
from rayjobs.study.showing.page import build_page
from rayjobs.study.showing.reading import OfDataset, of_datasets

SVG = "{http://www.w3.org/2000/svg}"


def only(methods: int = 3, failed: str = "") -> tuple[OfDataset, list[str]]:
    document = make_document(methods, failed=failed)
    return of_datasets(document)[0], [method.label for method in document.methods]


def drawn(figure: Figure | None) -> ElementTree.Element:
    assert figure is not None
    return ElementTree.fromstring(figure.file)


def percent(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name].removesuffix("%"))


def test_a_forest_has_each_estimate_between_its_ends_right_of_zero_where_it_is_better() -> None:
    data, labels = only()
    tree = drawn(forest("f", data, labels))
    for place, label in enumerate(labels[:-1]):
        lines = [each for each in tree.iter(f"{SVG}line") if each.get("class") == f"m{place}"]
        corrected, plain = lines
        (dot,) = [
            each for each in tree.iter(f"{SVG}circle") if each.get("class") == f"m{place}" and each.get("r") == "4.5"
        ]
        assert percent(corrected, "x1") < percent(plain, "x1") < percent(dot, "cx")
        assert percent(dot, "cx") < percent(plain, "x2") < percent(corrected, "x2")
        assert float(plain.attrib["stroke-width"]) > float(corrected.attrib["stroke-width"])
        rings = [
            each for each in tree.iter(f"{SVG}circle") if each.get("class") == f"m{place}" and each.get("r") == "1.8"
        ]
        assert len(rings) == 6
        (zero,) = {percent(each, "x1") for each in tree.iter(f"{SVG}line")
                   if each.get("class") == "axis" and each.attrib["x1"] == each.attrib["x2"]}  # fmt: skip
        assert (percent(dot, "cx") > zero) == (data.primary[label].d > 0)


def test_the_margin_is_shaded_on_both_sides_of_zero() -> None:
    data, labels = only()
    tree = drawn(forest("f", data, labels))
    (band,) = [each for each in tree.iter(f"{SVG}rect") if each.get("class") == "band"]
    (zero,) = {percent(each, "x1") for each in tree.iter(f"{SVG}line")
               if each.get("class") == "axis" and each.attrib["x1"] == each.attrib["x2"]}  # fmt: skip
    assert percent(band, "x") + percent(band, "width") / 2 == pytest.approx(zero, abs=0.02)


def test_a_failed_method_keeps_its_row_without_a_line() -> None:
    data, labels = only(failed="aug")
    tree = drawn(forest("f", data, labels))
    assert [each.text for each in tree.iter(f"{SVG}text")].count("F") == 1
    assert not [each for each in tree.iter() if each.get("class") == "m1"]
    assert "aug: F" in (tree.findtext(f"{SVG}desc") or "")


def test_a_method_has_one_colour_in_all_figures() -> None:
    data, labels = only()
    for figure in (forest("a", data, labels), fold_dots("b", data, labels), budget_figure("c", data, labels, "epochs")):
        tree = drawn(figure)
        assert {each.get("class") for each in tree.iter(f"{SVG}circle")} <= {"m0", "m1", "m2", "m3"}
    points = {each.get("class") for each in drawn(fold_dots("b", data, labels)).iter(f"{SVG}circle")}
    assert f"m{labels.index(REFERENCE)}" in points


def test_every_figure_stands_by_itself_and_stays_text() -> None:
    document = make_document(30, ("a <&> b", "c"), cd_bars=True, labels=[f"<m&{number}>" for number in range(31)])
    page, figures = build_page(document)
    assert len(figures) == 2 * 5 + 1
    assert len({figure.stem for figure in figures}) == len(figures)
    for figure in figures:
        tree = drawn(figure)
        assert tree.findtext(f"{SVG}title") == figure.title
        assert "<m&3>" in (tree.findtext(f"{SVG}desc") or "")
        assert any("<m&3>" in (each.text or "") for each in tree.iter(f"{SVG}text"))
        assert str(figure.inline) in page


def test_curves_are_named_at_their_ends_without_one_label_on_another() -> None:
    data, labels = only(methods=30)
    tree = drawn(budget_figure("c", data, labels, "device_seconds"))
    places = [float(each.attrib["y"]) for each in tree.iter(f"{SVG}text") if each.attrib["x"] == "67.00%"]
    assert len(places) == 31
    assert all(lower - upper >= 13.85 for upper, lower in pairwise(sorted(places)))
    assert max(places) < float(tree.attrib["height"])


def test_a_method_without_any_result_on_a_fold_has_no_curve() -> None:
    data, _ = only()
    budget = dataclasses.replace(data.budgets[0], curves={**data.budgets[0].curves, "3": []})
    assert found(budget, "trials") is None
    assert found(data.budgets[0], "trials") is not None


def test_the_expected_best_is_drawn_where_trials_were_exchangeable() -> None:
    data, labels = only()
    assert expected_figure("e", data, labels) is None
    document = data.document
    budgets = [dataclasses.replace(each, expected_best=[80.0, 82.0, 83.0]) for each in document.budgets]
    changed = of_datasets(dataclasses.replace(document, budgets=budgets))[0]
    figure = expected_figure("e", changed, labels)
    assert figure is not None
    assert "iprm 83.0 of 3" in figure.description


def test_a_bar_stands_beside_the_methods_it_names() -> None:
    document = make_document(3, ("a", "b"), cd_bars=True)
    over = document.over_datasets
    assert over is not None
    assert over.cd_bars == [["iprm", REFERENCE], [REFERENCE, "aug", "joint"]]
    tree = drawn(critical_differences("ranks", over, [method.label for method in document.methods]))
    at = {each.text: float(each.attrib["y"]) for each in tree.iter(f"{SVG}text")}
    bars = [each for each in tree.iter(f"{SVG}line") if each.get("stroke-linecap") == "round"]
    assert [each.text for each in tree.iter(f"{SVG}text") if each.get("text-anchor") == "end"] == [
        "iprm", REFERENCE, "aug", "joint"
    ]  # fmt: skip
    for bar, (first, last) in zip(bars, (("iprm", REFERENCE), (REFERENCE, "joint")), strict=True):
        assert float(bar.attrib["y1"]) < at[first] < at[last] < float(bar.attrib["y2"]) + 5


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_are_few_round_and_within(low: float, width: float) -> None:
    found_ticks = ticks(low, low + width)
    assert 2 <= len(found_ticks) <= 7
    step = found_ticks[1] - found_ticks[0]
    assert re.fullmatch("[125]0*e.*", f"{step:.0e}")
    assert all(low - 1e-6 * step <= tick <= low + width + 1e-6 * step for tick in found_ticks)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=40))
def test_labels_are_moved_apart_and_kept_in_order(places: list[float]) -> None:
    moved = apart(places, 14.0, 300.0)
    by_place = [moved[at] for at in sorted(range(len(places)), key=lambda at: (places[at], at))]
    assert all(lower - upper >= 14 - 1e-6 for upper, lower in pairwise(by_place))
    assert max(moved) <= max(300, 14 * (len(places) - 1)) + 1e-6
    assert min(moved) >= -1e-6


def test_labels_with_room_stay() -> None:
    assert apart([10, 100, 50], 14, 200) == [10, 100, 50]
    assert apart([10, 12], 14, 200) == [10, 24]


def test_numbers_of_an_axis() -> None:
    assert ticks(-6, 4.5) == [-6, -4, -2, 0, 2, 4]
    assert [tick_text(value, sign=True) for value in (-2, 0, 2.5)] == ["-2", "0", "+2.5"]
    assert tick_text(1500) == "1,500"
    scale = scale_over([0, 10], (20.0, 80.0))
    assert scale.at(5) == pytest.approx(50)
    assert (scale.at(-99), scale.at(99)) == (20, 80)
    one = scale_over([3.0, float("nan")])
    assert one.high - one.low == pytest.approx(1)


def test_steps_go_across_before_they_go_up() -> None:
    frame = Frame(10, 60, 0, 100)
    assert 'd="M0.0 1000.0H500.0V250.0H1000.0V0.0"' in curve([(0, 0), (0.5, 0.75), (1, 1)], "m0", frame)
    area = range_of([(0, 0), (0.5, 0.2)], [(0, 0.1), (0.5, 0.3)], "m0", frame)
    assert 'd="M0.0 900.0H500.0V700.0L500.0 800.0H500.0V1000.0H0.0Z"' in area
