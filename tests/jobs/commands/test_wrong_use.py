"""What a command line, a configuration or a description must not say: one message, exit code 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import rayjobs.commands.training
import rayjobs.commands.tuning
from rayjobs.prepare import main as prepare
from rayjobs.train import main as train
from rayjobs.tune import main as tune

COMMANDS = {"train": train, "tune": tune, "prepare": prepare}
TABLE = "y,a,b\n" + "".join(f"{'cat' if number % 2 else 'dog'},{number},{2 * number}\n" for number in range(20))
TWO = "{f: {kind: tabular, columns: [a]}, g: {kind: tabular, columns: [b]}}"


class Began(BaseException):
    """Training, or a search, would begin now."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs commands in an empty folder, and stops them before they train."""

    def begin(*_: Any, **__: Any) -> None:
        raise Began

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rayjobs.commands.training, "train_all", begin)
    monkeypatch.setattr(rayjobs.commands.tuning, "run_tuning", begin)
    return tmp_path


def run(verb: str, *arguments: str) -> Result:
    return CliRunner().invoke(COMMANDS[verb], arguments)


def refused(verb: str, *arguments: str) -> str:
    """Returns the one message of a command that is refused."""
    result = run(verb, *arguments)
    assert result.exit_code == 2, result.output
    message = " ".join(result.output.split())
    assert message.lower().count("error:") == 1
    assert "unexpected" not in message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("verb", ["train", "tune"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "9" * 30], "is not in the range 0<=x<=1000000000"),
        (["--max-epochs", "9" * 30], "is not in the range 1<=x<=1000000"),
        (["--views", "9" * 30], "is not in the range 0<=x<=1000"),
        (["--protocol", "cv", "--folds", "9" * 30], "is not in the range 3<=x<=1000"),
        (["--gpus-per-worker", "nan"], "nan is no finite number"),
        (["--gpus-per-worker", "inf"], "inf is not in the range"),
        (["--set", "optimizer.lr=.nan"], "a number must be finite, got .nan"),
        (["--set", "optimizer.lr=1e400"], "a number must be finite, got 1e400"),
        (["--set", f"trainer.batch_size={'9' * 30}"], "a whole number must fit in 64 bits"),
        (["--set", "trainer.batch_size=9999999999"], "trainer.batch_size must be in [1, 1000000]"),
        (["--set", f"optimizer.lr={'[' * 50}"], "nested deeper than 32 levels"),
        (["--set", "trainer={max_epochs: 1, max_epochs: 2}"], "the key 'max_epochs' is given again"),
        (["--set", "optimizer=5"], "optimizer"),
        (["--set", "dataset=digits"], "dataset"),
        (["--set", "dataset.options=x"], "dataset.options"),
        (["--set", "model.encoders.image=5"], "model.encoders.image must be a mapping, got 5"),
        (["--set", "model.encoders=5"], "model.encoders must be a mapping, got 5"),
        (["--name", "../up"], "it must be the name of one folder"),
        (["--name", "/up"], "it must be the name of one folder"),
        (["--name", "."], "it must be the name of one folder"),
        (["--name", ""], "it must be the name of one folder"),
        (["--name", "a\nb"], "it must be the name of one folder"),
        (["--name", "x" * 200], "it must be the name of one folder"),
        (["--name", "a\udcff"], "it must be the name of one folder"),
        (["--dataset", ""], "--dataset must not be empty"),
        (["--dataset", "a\udcff"], "--dataset must be UTF-8, got 'a\\udcff'"),
        (["--method", ""], "--method must not be empty"),
        (["--address", ""], "--address must not be empty"),
        (["--data-dir", "file"], "'file' is a file"),
        (["--output", "file"], "'file' is a file"),
        (["--data-dir", "loop"], "--data-dir loop: its symbolic links lead in a circle"),
    ],
)
def test_flags(here: Path, verb: str, arguments: list[str], message: str) -> None:
    (here / "file").touch()
    (here / "loop").symlink_to("loop")
    assert message in refused(verb, *arguments)
    assert {path.name for path in here.iterdir()} <= {"file", "loop", "data"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "9" * 30], "is not in the range 1<=x<=100000"),
        (["--final-seeds", "9" * 30], "is not in the range 0<=x<=10000"),
        (["--hang-timeout", "nan"], "nan is no finite number"),
        (["--time-budget", f"{'9' * 400}d"], "of 10 years at most"),
        (["--workers", "9" * 5000], "--workers must be a number from 1 to 9999"),
        (["--resume", "../up"], "it must be the name of one folder"),
        (["--set", "optimizer={lr: 0.1}"], "'optimizer.lr' is searched and 'optimizer' is fixed by --set or a variant"),
    ],
)
def test_flags_of_a_search(here: Path, arguments: list[str], message: str) -> None:
    assert message in refused("tune", *arguments)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dataset: digits", "dataset must be a mapping, got 'digits'; write dataset: {name: digits}"),
        ("method: iprm", "method must be a mapping, got 'iprm'; write method: {name: iprm}"),
        ("dataset: {name: digits, options: x}", "dataset.options must be a mapping, got 'x'"),
        ("trainer: x", "trainer must be a mapping, got 'x'"),
        ("optimizer: [1]", "optimizer must be a mapping, got [1]"),
        ("model: {encoders: {image: x}}", "model.encoders.image must be a mapping, got 'x'"),
        ("protocol: x", "protocol must be a mapping, got 'x'"),
        ("seed: 1\nseed: 2", "config.yaml: line 2: the key 'seed' is given again (first in line 1); keep one"),
        ("- a", "must hold a mapping, got a list"),
    ],
)
def test_a_configuration(here: Path, content: str, message: str) -> None:
    (here / "config.yaml").write_text(content)
    for more in ([], ["--option", "seed=1", "--max-epochs", "2", "--protocol", "cv", "--variant", "linear"]):
        assert message in refused("train", "--config", "config.yaml", *more)


def test_a_configuration_that_is_a_folder_or_bytes(here: Path) -> None:
    assert "--config . is a folder; name a file" in refused("train", "--config", ".")
    (here / "config.yaml").write_bytes(b"seed: \xff")
    assert "--config config.yaml: line 1 is not UTF-8" in refused("train", "--config", "config.yaml")


class TestSpaces:
    BASE = "trials: 2\nmax_epochs: 4\n"

    def refused(self, here: Path, content: str, *arguments: str) -> str:
        (here / "space.yaml").write_text(self.BASE + content)
        return refused("tune", "--space", "space.yaml", "--method", "iprm", "--reference", "none", *arguments)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("methods: {iprm: x}", "space.yaml: methods.iprm must be a mapping, got 'x'"),
            ("space: x", "space must be a mapping, got 'x'"),
            ("set: {optimizer.lr: 0.1}\nspace: {optimizer.lr: {uniform: [0.1, 0.2]}}",
             "'optimizer.lr' is searched and 'optimizer.lr' is fixed by set:"),
            ("space: {optimizer: {choice: [{lr: 0.1}]}, optimizer.lr: {uniform: [0.1, 0.2]}}",
             "'optimizer' and 'optimizer.lr', a part of it, are both searched"),
            ("trials: 3", "the key 'trials' is given again"),
        ],
    )  # fmt: skip
    def test_what_a_file_must_not_say(self, here: Path, content: str, message: str) -> None:
        assert message in self.refused(here, content)

    def test_a_value_that_the_command_line_fixes_is_not_searched(self, here: Path) -> None:
        (here / "space.yaml").write_text(f"{self.BASE}space: {{optimizer.lr: {{uniform: [0.1, 0.2]}}}}")
        with pytest.raises(Began):
            CliRunner().invoke(tune, ["--space", "space.yaml", "--set", "optimizer.lr=0.3"], catch_exceptions=False)

    def test_combinations_by_the_billion(self, here: Path) -> None:
        numbers = ", ".join(str(number / 1000) for number in range(1, 101))
        paths = ("lr", "momentum", "weight_decay")
        space = "".join(f"  optimizer.{path}: {{choice: [{numbers}]}}\n" for path in paths)
        message = self.refused(here, f"space:\n{space}", "--search", "grid")
        assert "--search grid would train 1,000,000 combinations (100 x 100 x 100), 10,000 at most" in message


class TestDescriptions:
    def refused(self, here: Path, content: str, *arguments: str) -> str:
        (here / "t.csv").write_text(TABLE)
        (here / "own.yaml").write_text(content)
        messages = {refused(verb, "--dataset", "own.yaml", *arguments) for verb in ("train", "tune")}
        return messages.pop()

    @pytest.mark.parametrize("name", ["fused", "label", "one__present", "", "a.b", "a/b", "x" * 100, "values"])
    def test_names_of_modalities(self, here: Path, name: str) -> None:
        content = f"manifest: t.csv\nlabel: y\nmodalities: {{'{name}': {{kind: tabular, columns: [a]}}}}"
        assert "a modality's name must be a letter" in self.refused(here, content)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("classes: [cat, dog, cat]", "classes: 'cat' is listed twice; keep one"),
            (f"name: {'x' * 100}", "64 characters at most"),
            ("name: ../up", "a letter or digit, then letters"),
            ('root: "a\\0"', "a text must not hold NUL"),
            ("root: loop", "own.yaml: root must be a folder"),
            ("root: t.csv", "own.yaml: root must be a folder"),
            ("split: x", "has no column 'x' (split)"),
        ],
    )
    def test_lines(self, here: Path, line: str, message: str) -> None:
        (here / "loop").symlink_to("loop")
        content = f"manifest: t.csv\nlabel: y\nmodalities: {TWO}\n{line}\n"
        assert message in self.refused(here, content)

    @pytest.mark.parametrize(
        "method", ["agm", "amss", "gblending", "inforeg", "iprm", "lfm", "mmpareto", "mslr", "ogm", "opm", "pmr"]
    )
    def test_one_modality_for_a_method_that_needs_two(self, here: Path, method: str) -> None:
        content = "manifest: t.csv\nlabel: y\nmodalities: {f: {kind: tabular, columns: [a]}}"
        message = self.refused(here, content, "--method", method)
        assert f"method.name = {method} compares modalities and needs at least two, got f: use unimodal" in message
        assert not (here / "results").exists()


class TestResume:
    @pytest.fixture
    def begun(self, here: Path) -> None:
        with pytest.raises(Began):
            CliRunner().invoke(
                tune, ["--name", "one", "--method", "iprm", "--trials", "5", "--set", "method.alpha=0.5"],
                catch_exceptions=False,
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("arguments", "difference"),
        [
            (["--trials", "6"], "--trials: was 5, not 6"),
            (["--method", "aug"], "--method and --ablations: was ensemble, iprm, not aug, ensemble"),
            (["--reference", "none"], "--reference: was ensemble, not not said"),
            (["--set", "method.alpha=0.6"], "--set: method.alpha was 0.5, not 0.6"),
            (["--set", "optimizer.lr=0.1"], "--set: optimizer.lr was not said, not 0.1"),
            (["--option", "seed=3"], "--option and --demo: seed was not said, not 3"),
            (["--protocol", "cv", "--folds", "4"], "folds was not said, not 4"),
            (["--seed", "3"], "--seed: was 0, not 3"),
            (["--workers", "1:2"], "--workers: was not said, not 1"),
            (
                ["--search", "random", "--scheduler", "fifo"],
                "--search: was hyperopt, not random; --scheduler: was asha, not fifo",
            ),
            (["--data-dir", "elsewhere"], "--data-dir: was"),
        ],
    )
    @pytest.mark.usefixtures("begun")
    def test_an_option_that_says_otherwise_is_refused(self, arguments: list[str], difference: str) -> None:
        for more in ([], ["--dry-run"]):
            message = refused("tune", "--resume", "one", *arguments, *more)
            assert "so these options would be ignored" in message
            assert difference in message

    @pytest.mark.usefixtures("begun")
    def test_the_same_again_and_what_decides_no_result(self) -> None:
        same = ["--method", "iprm", "--trials", "5", "--set", "method.alpha=0.5", "--concurrent", "1", "--seed", "0"]
        for arguments in ([], same):
            with pytest.raises(Began):
                CliRunner().invoke(tune, ["--resume", "one", *arguments], catch_exceptions=False)

    @pytest.mark.usefixtures("begun")
    def test_a_dry_run_shows_what_is_resumed(self) -> None:
        plan = json.loads(run("tune", "--resume", "one", "--dry-run", "--json").stdout)
        assert {search["trials"] for search in plan["searches"]} == {5}

    def test_a_run_of_train_names_the_difference(self, here: Path) -> None:
        for arguments in ([], ["--resume"]):
            with pytest.raises(Began):
                CliRunner().invoke(train, ["--name", "one", *arguments], catch_exceptions=False)
        result = run("train", "--name", "one", "--resume", "--set", "method.alpha=0.4")
        assert result.exit_code == 1
        assert "(method.alpha was 0.8, not 0.4)" in result.output
