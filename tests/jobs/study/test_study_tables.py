"""Files of a study's report, its tables, and what the terminal prints."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console
from study_documents import REFERENCE, make_document

from mmcore.errors import UsageError
from rayjobs.study.document import StudyDocument
from rayjobs.study.showing.csv_tables import comparisons_csv, results_csv, trials_csv
from rayjobs.study.showing.latex import dataset_table, escaped, summary_table
from rayjobs.study.showing.reading import of_datasets
from rayjobs.study.showing.report import write_report
from rayjobs.study.showing.terminal import print_study

SPECIAL = r"a_b & 50% #1 ${x}^2~ <\y> |z"


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def with_word(document: StudyDocument, label: str, word: str | None) -> StudyDocument:
    made = [dataclasses.replace(each, word=word) if each.a == label else each for each in document.comparisons]
    return dataclasses.replace(document, comparisons=made)


def latex_of(document: StudyDocument) -> str:
    return dataset_table(of_datasets(document)[0], "one")


def latex_row(text: str, label: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{label} & ")]
    return [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))]


def check_latex(text: str) -> None:
    """Braces match, every special stands escaped, and every row has as many cells as the table columns."""
    bare = text.replace("\\\\", "")
    assert len(re.findall(r"(?<!\\)\{", bare)) == len(re.findall(r"(?<!\\)\}", bare))
    assert len(re.findall(r"(?<!\\)\$", bare)) % 2 == 0
    assert not re.search(r"(?<!\\)[%#]", bare)
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
    assert re.search(r"\\toprule\n.*\n\\midrule\n", text)
    assert text.endswith("\\end{tabular}\n\\end{table}\n")


def test_every_special_of_latex_is_set_as_it_is() -> None:
    assert escaped(SPECIAL) == (
        r"a\_b \& 50\% \#1 \$\{x\}\textasciicircum{}2\textasciitilde{} "
        r"\textless{}\textbackslash{}y\textgreater{} \textbar{}z"
    )
    assert escaped("two\nlines\t±δ") == r"two lines $\pm$$\delta$"


def test_tables_are_whole_whatever_the_names() -> None:
    document = make_document(2, (SPECIAL, "b"), labels=[SPECIAL, "aug", REFERENCE], failed="aug", over=True)
    check_latex(latex_of(document))
    check_latex(summary_table(document))


def test_bold_is_better_a_dagger_equivalent_and_undecided_is_bare() -> None:
    document = make_document(4, failed="ogm")
    for label, word in (("iprm", "better"), ("aug", "equivalent within 1 point"), ("joint", "undecided")):
        document = with_word(document, label, word)
    text = latex_of(document)
    mean = {score.method: f"{score.mean:.1f} $\\pm$ {score.half_width:.1f}" for score in document.scores if score.mean}
    assert latex_row(text, "iprm")[1] == rf"\textbf{{{mean['iprm']}}}"
    assert latex_row(text, "aug")[1] == mean["aug"] + r"$^{\dagger}$"
    assert latex_row(text, "joint")[1] == mean["joint"]
    assert latex_row(text, "ogm")[1:5] == ["F", "", "F", "F"]
    assert latex_row(text, REFERENCE)[2:4] == ["", "the reference"]
    assert text.count(r"\textbf") == 2  # one cell, and the caption's own
    both = latex_of(with_word(document, "iprm", "better, by less than 1 point"))
    assert latex_row(both, "iprm")[1] == rf"\textbf{{{mean['iprm']}}}$^{{\dagger}}$"
    worse = latex_of(with_word(document, "iprm", "worse, by less than 1 point"))
    assert latex_row(worse, "iprm")[1] == mean["iprm"] + r"$^{\dagger}$"


def test_the_caption_says_which_interval_and_by_what() -> None:
    text = latex_of(make_document(3))
    for said in ("half its plain 95", "corrected for the folds' shared samples", "$k = 6$", "$S = 3$", "$T = 16$",
                 r"$\delta = 1$", r"$\alpha = 0.05$", "Holm over 3"):  # fmt: skip
        assert said in text
    one = latex_of(make_document(3, folds=1))
    assert "one split" in one
    assert "for these training data" in one


def test_results_have_a_row_for_each_final_model_and_for_each_cell_without_one() -> None:
    document = make_document(2, failed="aug")
    rows = rows_of(results_csv(document))
    assert len(rows) == 3 * 6 * 3 - 3 + 1
    lost = [row for row in rows if row["status"] == "failed"]
    assert [(row["method"], row["fold"], row["seed"], row["test_accuracy"], row["reason"]) for row in lost] == [
        ("aug", "1", "", "", "no finite loss")
    ]
    final = document.cells[0].finals[0]
    assert float(rows[0]["test_accuracy"]) == final.metrics["accuracy"]
    assert rows[0]["sha256"] == final.sha256


def test_csv_has_every_digit_and_nothing_where_there_is_no_number() -> None:
    document = make_document(2)
    first = dataclasses.replace(document.comparisons[0], p=math.nan, corrected=None, note='a "b", c\nd')
    rows = rows_of(comparisons_csv(dataclasses.replace(document, comparisons=[first])))
    assert float(rows[0]["d"]) == first.d
    assert first.plain is not None
    assert (float(rows[0]["plain_low"]), float(rows[0]["plain_high"])) == first.plain
    assert (rows[0]["p"], rows[0]["corrected_low"], rows[0]["note"]) == ("", "", first.note)
    trials = rows_of(trials_csv(document))
    assert len(trials) == 3 * 6 * 16
    assert float(trials[0]["best_val"]) == document.budgets[0].curves["0"][0].best


def test_the_report_is_the_same_bytes_twice(tmp_path: Path) -> None:
    document = make_document(3, ("avdigits", "b/c"), failed="aug", cd_bars=True)
    written = write_report(document, tmp_path / "one")
    again = write_report(document, tmp_path / "two")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]
    names = {path.relative_to(tmp_path / "one").as_posix() for path in written}
    assert names == {path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*.*")}
    assert names >= {"compare.json", "report.html", "figures/avdigits-differences.svg", "figures/b_c-folds.svg",
                     "figures/ranks.svg", "tables/avdigits.tex", "tables/b_c.tex", "tables/all-data-sets.tex",
                     "tables/ranks-over-data-sets.tex", "tables/results.csv", "tables/trials.csv",
                     "tables/comparisons.csv", "tables/ranks.csv"}  # fmt: skip
    assert written[:2] == [tmp_path / "one" / "compare.json", tmp_path / "one" / "report.html"]


def test_only_the_tables_asked_for_are_written(tmp_path: Path) -> None:
    write_report(make_document(1), tmp_path, tables=("csv",))
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".csv"}
    with pytest.raises(UsageError, match="tables must be of latex, csv, got word"):
        write_report(make_document(1), tmp_path, tables=("word",))


def test_compare_json_reads_back_and_has_null_for_what_is_no_number(tmp_path: Path) -> None:
    document = make_document(2)
    broken = dataclasses.replace(document.scores[0], half_width=math.nan)
    write_report(dataclasses.replace(document, scores=[broken, *document.scores[1:]]), tmp_path, tables=())
    stored = json.loads((tmp_path / "compare.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert stored["scores"][0]["half_width"] is None
    fixed = dataclasses.replace(broken, half_width=None)
    assert StudyDocument.from_dict(stored) == dataclasses.replace(document, scores=[fixed, *document.scores[1:]])


def printed(document: StudyDocument, page: str | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_study(document, page, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_terminal_holds_eighty_columns_and_breaks_no_number() -> None:
    labels = [f"a-method-with-a-name-that-is-long-{number}" for number in range(29)]
    document = make_document(datasets=("avdigits", "utd"), labels=["iprm", *labels, REFERENCE], failed="iprm")
    document = with_word(document, labels[0], "better, by less than 0.33333333 points")
    lines = printed(document, "results/mine/report.html")
    assert max(map(len, lines)) <= 80
    numbers = [line for line in lines if re.search(r" [+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]  \w", line)]
    assert len(numbers) == 29 + 30
    assert all(line.startswith("a-method-with") for line in numbers if not line.startswith("iprm"))
    assert lines[1].startswith("On avdigits no method is better")
    assert sum(re.fullmatch(r"iprm +F +", line) is not None for line in lines) == 1
    assert any(line.startswith("iprm failed: fold 1: no finite loss. It is not averaged") for line in lines)
    assert lines[-1] == "  results/mine/report.html"


def test_the_terminal_says_which_interval_stands_there() -> None:
    assert any("Δ [corrected 95 %]" in line for line in printed(make_document(2)))
    split = printed(make_document(2, folds=1))
    assert any(re.search(r"test +Δ \[95 %\]", line) for line in split)
