"""Whatever is typed, described or listed: a command ends with 0, or with 1 or 2 and one message in words.

Hypothesis draws command lines, YAML files and tables; commands run in this process and are stopped before they train,
search or start Ray. A failure prints the smallest example that shows it. The draws follow from the tests' names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rayjobs.commands.comparing.running
import rayjobs.commands.submitting
import rayjobs.commands.training
import rayjobs.commands.tuning
from mmcore.assembly.config import complete_config, parse_config
from mmcore.errors import UsageError
from rayjobs import clean, compare, predict, prepare, report, submit, train, tune
from rayjobs.cluster import session

VERBS: dict[str, click.Command] = {
    "train": train.main, "tune": tune.main, "prepare": prepare.main, "predict": predict.main, "report": report.main,
    "submit": submit.main, "clean": clean.main, "new": compare.new, "run": compare.run, "add": compare.add,
    "tell": compare.report,
}  # fmt: skip
COMMAND_LINES, DESCRIPTIONS, CONFIGURATIONS, SPACES, TABLES = 1500, 1200, 700, 600, 1000
"""Examples of the slow tests: 5,000."""


class BeganError(UsageError):
    """Training, a search or Ray would begin now: the command line was taken."""

    exit_code = 0


def begin(*_: Any, **__: Any) -> Any:
    raise BeganError("began")


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder for all examples, in which nothing trains, and nothing outside of the machine is asked."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "folder").mkdir()
    (folder / "text").write_text("a\n")
    (folder / "bytes").write_bytes(bytes(range(256)))
    (folder / "loop").symlink_to("loop")
    (folder / "t.csv").write_text(TABLE)
    (folder / "own.yaml").write_text(yaml.safe_dump(DESCRIPTION))
    (folder / "config.yaml").write_text("dataset: {name: digits}\nmethod: {name: joint}\n")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(rayjobs.commands.training, "train_all", begin)
        patch.setattr(rayjobs.commands.tuning, "run_tuning", begin)
        patch.setattr(rayjobs.commands.comparing.running, "run_study", begin)
        patch.setattr(rayjobs.commands.submitting, "connect", begin)
        patch.setattr(session, "_init", begin)
        yield folder


def ends_well(verb: str, *arguments: str) -> None:
    """Asserts the rule of this file for one command line."""
    result = CliRunner().invoke(VERBS[verb], list(arguments))
    typed = f"{verb} {arguments}: {result.exit_code} {result.output}"
    assert result.exception is None or isinstance(result.exception, SystemExit), (typed, result.exception)
    assert result.exit_code in {0, 1, 2}, typed
    for word in ("error: unexpected", "Traceback"):
        assert word not in result.output, typed
    if result.exit_code == 2:
        assert result.output.lower().count("error: ") == 1, typed
    shutil.rmtree("results", ignore_errors=True)


def examples(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a test so many times; the same examples each time."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=number, derandomize=True, database=None, deadline=None, suppress_health_check=checks
    )  # fmt: skip


WORDS = st.sampled_from([
    "", " ", ".", "..", "a", "f", "y", "no", "null", "fused", "label", "one__present", "a.b", "a/b", "../a", "x" * 300,
    "digits", "joint", "iprm", "iprm-linear", "unimodal-image", "cv", "group", "image", "image=clip", "[", "{a: 1}",
    "é\u2028", "\udcff", "\\ud800", "a\nb", "-1", "0,0.5", "auto", "HOST:1", "http://127.0.0.1:1", "s3://", "a://b",
])  # fmt: skip
NUMBERS = st.sampled_from([
    "-1", "0", "1", "2", "3", "5", "0.5", "-0.0", "nan", "inf", "-inf", "1e400", "1e-3", "1e-320", "1_0", "0x10",
    "9" * 30, "9" * 5000, "½", "1:2", "2:1",
])  # fmt: skip
PLACES = st.sampled_from([
    "none", "folder", "text", "bytes", "loop", "t.csv", "own.yaml", "config.yaml", "space.yaml", ".", "text/a",
])  # fmt: skip
ANY_TEXT = st.text(st.characters(exclude_characters="\0"), max_size=20)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.sampled_from([0.5, -1.0, 1e300, 2**40, 2**70, "1e-3"]), WORDS,
    ANY_TEXT,
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


TABLE = "y,s,g,a,b,c\n" + "".join(
    f"{'cat' if number % 2 else 'dog'},{('train', 'val', 'test')[number % 3]},{number % 7},{number},{2 * number},x y\n"
    for number in range(24)
)
DESCRIPTION: dict[str, Any] = {
    "manifest": "t.csv", "label": "y", "split": "s", "group": "g", "classes": ["cat", "dog"],
    "modalities": {
        "f": {"kind": "tabular", "columns": ["a"], "fill": 0.5}, "g": {"kind": "tabular", "columns": ["b", "a"]},
        "i": {"kind": "image", "column": "c", "size": 8, "may_be_missing": True},
    },
}  # fmt: skip
SPACE: dict[str, Any] = {
    "trials": 2, "max_epochs": 4, "set": {"trainer.batch_size": 16},
    "space": {"optimizer.lr": {"loguniform": [0.001, 0.1]}}, "points": [{"optimizer.lr": 0.01}],
    "fill_in_methods": True,
    "methods": {
        "iprm": {
            "space": {"method.alpha": {"uniform": [0.1, 0.9]}}, "points": [{"method.alpha": 0.5, "optimizer.lr": 0.01}],
        },
        "joint": {"widen": {"optimizer.lr": [1, 2.5]}},
    },
}  # fmt: skip
CONFIGURATION: dict[str, Any] = complete_config(
    parse_config({"dataset": {"name": "digits"}, "method": {"name": "iprm"}})
).to_dict()


def paths_of(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the keys that lead to each value, however deep."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in items for path in [(*above, key), *paths_of(inner, (*above, key))]]


SETTING_PATHS = st.sampled_from([".".join(map(str, path)) for path in paths_of(CONFIGURATION)]) | WORDS


@st.composite
def changed(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """A mapping with one to three of its values replaced, removed, or joined by others."""
    value: dict[str, Any] = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        paths = paths_of(value)
        if not paths:
            break
        *above, last = draw(st.sampled_from(paths))
        place: Any = value
        for key in above:
            place = place[key]
        deed = draw(st.sampled_from(["replace", "remove", "add"]))
        if deed == "remove":
            del place[last]
        elif deed == "add" and isinstance(place, dict):
            place[draw(WORDS | ANY_TEXT)] = draw(VALUES)
        else:
            place[last] = draw(VALUES)
    return value


@st.composite
def files(draw: st.DrawFn, whole: dict[str, Any]) -> bytes:
    """A YAML file of a changed mapping, now and then with other bytes in it."""
    value = draw(changed(whole))
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=draw(st.booleans())).encode(errors="surrogatepass")
    if draw(st.integers(0, 3)):
        return text
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(st.binary(max_size=6) | st.sampled_from(SNIPPETS)) + text[place:]


SNIPPETS = [
    b"a: 1\n", b"&x ", b"*x", b"<<: *x\n", b"\n- ", b"!!int ", b"!!python/name:os.system ", b"{", b"[[[[", b": ", b"# ",
    b"\t", b"? ", b"---\n", b"...\n", b"%", b"'", b'"', b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"[" * 100,
    b"label: y\n", b".nan",
]  # fmt: skip


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A verb and arguments: flags it has, with values of their kind and of others."""
    verb = draw(st.sampled_from(list(VERBS)))
    arguments = ["--dataset", "digits"] if verb in {"train", "tune", "prepare"} and draw(st.booleans()) else []
    parameters = [one for one in VERBS[verb].params if one.name not in {"help", "debug"}]
    needed = [one for one in parameters if one.required and draw(st.integers(0, 9))]
    for parameter in [*needed, *draw(st.lists(st.sampled_from(parameters), max_size=4))]:
        arguments += draw(given_as(parameter))
    return verb, arguments


def given_as(parameter: click.Parameter) -> st.SearchStrategy[list[str]]:
    """A parameter as it is typed, with a value of some kind."""
    if isinstance(parameter, click.Argument):
        return (PLACES | WORDS).map(lambda value: [value])
    name = parameter.opts[0]
    if getattr(parameter, "is_flag", False):
        return st.just([name])
    if isinstance(parameter.type, click.Choice):
        values: st.SearchStrategy[str] = st.sampled_from([*map(str, parameter.type.choices), "x"])
    elif isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
        values = NUMBERS
    elif name in {"--set", "--option"}:
        dumped = VALUES.map(lambda value: json.dumps(value, ensure_ascii=False))
        values = st.builds("{}={}".format, SETTING_PATHS, NUMBERS | WORDS | dumped) | WORDS
    elif isinstance(parameter.type, click.Path):
        values = PLACES
    else:
        values = WORDS | NUMBERS | PLACES | ANY_TEXT
    return values.map(lambda value: [name, value])


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, bytes]:
    """A table's name and content: cells, rows, lines and bytes changed."""
    rows = [line.split(",") for line in TABLE.splitlines()]
    for _ in range(draw(st.integers(0, 4))):
        row = draw(st.sampled_from(rows))
        row[draw(st.integers(0, len(row) - 1))] = draw(CELLS)
    kind = draw(st.sampled_from(["csv", "tsv", "jsonl"]))
    if kind == "jsonl":
        header, *body = rows
        lines = [json.dumps(dict(zip(header, row, strict=False))) for row in body]
        if draw(st.booleans()):
            lines[draw(st.integers(0, len(lines) - 1))] = draw(JSON_LINES)
        content = "\n".join(lines).encode(errors="surrogatepass")
    else:
        content = "\n".join({"csv": ",", "tsv": "\t"}[kind].join(row) for row in rows).encode(errors="surrogatepass")
    if not draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(st.binary(max_size=8) | st.sampled_from(SNIPPETS)) + content[place:]
    return kind, content


CELLS = WORDS | NUMBERS | ANY_TEXT | st.sampled_from(['"', '"a', 'a""b', "a,b", "a\tb", "NaN", "1e39", "١"])
JSON_LINES = st.sampled_from([
    "", "{}", "[]", "1", "null", '{"y": null}', '{"y": ["cat"], "a": {"b": 1}}', '{"y": "cat", "y": "dog"}', "[" * 2000,
    '{"y": "cat", "a": NaN, "b": 1e400, "c": "\\ud800"}', '{"y": "cat", "a": ' + "9" * 5000 + "}",
    '{"y": true, "a": [1, 2]}',
    '{"y": "cat", "s": "train", "g": 1, "a": 1, "b": ' + "[" * 900 + "]" * 900 + ', "c": "x"}',
])  # fmt: skip


def check_command_line(drawn: tuple[str, list[str]]) -> None:
    verb, arguments = drawn
    ends_well(verb, *arguments)


def check_description(content: bytes) -> None:
    Path("fuzzed.yaml").write_bytes(content)
    ends_well("prepare", "--dataset", "fuzzed.yaml", "--check")
    ends_well("tune", "--dataset", "fuzzed.yaml", "--dry-run", "--method", "joint", "--reference", "none")


def check_configuration(content: bytes) -> None:
    Path("fuzzed.yaml").write_bytes(content)
    ends_well("train", "--config", "fuzzed.yaml")


def check_space(content: bytes) -> None:
    Path("fuzzed.yaml").write_bytes(content)
    ends_well(
        "tune", "--space", "fuzzed.yaml", "--dry-run", "--method", "iprm", "--method", "joint", "--reference", "none"
    )


def check_table(drawn: tuple[str, bytes]) -> None:
    kind, content = drawn
    Path(f"fuzzed.{kind}").write_bytes(content)
    Path("fuzzed.yaml").write_text(yaml.safe_dump({**DESCRIPTION, "manifest": f"fuzzed.{kind}"}))
    ends_well("prepare", "--dataset", "fuzzed.yaml", "--check")


KINDS: Sequence[tuple[str, st.SearchStrategy[Any], Callable[[Any], None], int]] = [
    ("command lines", command_lines(), check_command_line, COMMAND_LINES),
    ("descriptions", files(DESCRIPTION), check_description, DESCRIPTIONS),
    ("configurations", files(CONFIGURATION), check_configuration, CONFIGURATIONS),
    ("spaces", files(SPACE), check_space, SPACES),
    ("tables", tables(), check_table, TABLES),
]


@pytest.mark.parametrize(("strategy", "check"), [kind[1:3] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_some(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    examples(20)(given(strategy)(check))()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "check", "number"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS]
)  # fmt: skip
def test_many(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], number: int) -> None:
    examples(number)(given(strategy)(check))()


def test_the_slow_tests_draw_5000_examples() -> None:
    assert sum(kind[3] for kind in KINDS) == 5000
