from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from places import ROOT

from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import ConfigError, DataError, UsageError
from rayjobs.cli.options import describe_error, friendly_errors, parse_duration, parse_overrides, parse_scalar
from rayjobs.prepare import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_prepares_and_describes(tmp_path: Path) -> None:
    result = run(
        "--dataset", "digits", "--data-dir", tmp_path, "--option", "third=view", "--option", "image_noise=1e-1"
    )
    assert result.exit_code == 0, result.output
    directory = tmp_path / "digits+image_noise=0.1+third=view"
    assert PreparedDataset.open(directory).spec.modality_names == ("image", "audio", "view")
    assert f"{directory}: 1797 samples; " in result.stdout
    assert "  split for training: holdout (seed 0): 1,079 train, 359 val, 359 test\n" in result.stdout
    assert "CONSTRUCTED" in result.stdout


def test_json(tmp_path: Path) -> None:
    result = run("--dataset", "digits", "--data-dir", tmp_path, "--json")
    described = json.loads(result.stdout)
    assert described["directory"] == str(tmp_path / "digits")
    assert described["splits"]["train"]["num_rows"] == 1079
    assert described["constructed"] is True
    assert described["modalities"]["image"] == {"shape": [1, 8, 8], "dtype": "uint8"}
    assert json.loads(run("--dataset", "digits", "--data-dir", tmp_path, "--json").stdout) == described


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digit"], "unknown data set 'digit': did you mean 'digits'? known: avdigits, cremad, digits"),
        (["--dataset", "avdigits"], "avdigits is made from raw files: pass --raw-dir."),
        (["--dataset", "avdigits", "--raw-dir", "nowhere"], "raw folder nowhere does not exist."),
        (["--dataset", "digits", "--option", "third"], "--option must be key=value, got 'third'"),
        (["--dataset", "digits", "--option", "seed=1", "--option", "seed=2"], "--option seed is given twice"),
        (["--dataset", "digits", "--option", "tird=view"], "unknown key 'dataset.options.tird': did you mean 'third'"),
        (["--dataset", "digits", "--option", "image_noise=2"], "dataset.options.image_noise must be in [0, 1], got 2"),
        ([], "Missing option '--dataset'"),
    ],
)
def test_wrong_use_ends_with_2_and_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run(*arguments, "--data-dir", tmp_path / "data")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "data").exists()


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    result = run("--dataset", "digits", "--option", "tird=view", "--option", "image_noise=2", "--data-dir", tmp_path)
    assert "2 problems:" in result.stderr
    assert "tird" in result.stderr
    assert "image_noise" in result.stderr


def test_damaged_data_ends_with_1_and_traceback_only_with_debug(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "recordings").mkdir(parents=True)
    (raw / "recordings" / "0_theo_0.wav").write_bytes(b"RIFF")
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (raw / name).write_bytes(b"text")
    arguments = ("--dataset", "avdigits", "--raw-dir", raw, "--data-dir", tmp_path / "data")
    result = run(*arguments)
    assert result.exit_code == 1
    assert "t10k-images-idx3-ubyte.gz can not be read as gzip" in result.stderr
    assert "Traceback" not in result.output
    assert "Traceback" in run(*arguments, "--debug").stderr


def test_a_folder_that_can_not_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("--dataset", "digits", "--data-dir", tmp_path / "file" / "data")
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr
    assert "Traceback" not in result.output


def test_a_killed_prepare_leaves_no_half_data_set(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from mmcore.data.prepared.prepare import prepare
        def progress(done, total):
            if done == 500:
                Path(sys.argv[1], "reached").touch()
                time.sleep(600)
        prepare("digits", None, None, sys.argv[1], progress=progress)
    """)
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "reached").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".digits.partial").is_dir()
    assert not (tmp_path / "digits").exists()
    assert prepare("digits", None, None, tmp_path).num_samples == 1797
    assert not (tmp_path / ".digits.partial").exists()


class TestCli:
    @pytest.mark.parametrize(
        ("text", "value"),
        [("1e-3", 1e-3), ("3", 3), ("0.5", 0.5), ("true", True), ("null", None), ("", None), ("view", "view"),
         ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}), ("'7'", "7"), ("a=b", "a=b")],
    )  # fmt: skip
    def test_values_are_yaml(self, text: str, value: Any) -> None:
        parsed = parse_overrides([f"method.alpha={text}"])
        assert parsed == {"method.alpha": value}
        assert type(parsed["method.alpha"]) is type(value)

    def test_every_bad_pair_is_listed(self) -> None:
        with pytest.raises(ConfigError) as raised:
            parse_overrides(["a", "=1", "b=[", "c=1", "c=2"], option="--set")
        assert raised.value.problems == [
            "--set must be key=value, got 'a'",
            "--set must be key=value, got '=1'",
            "--set b: '[' is not valid YAML: line 1, column 2: while parsing a flow node expected the node "
            "content, but found '<stream end>'; put it in quotes",
            "--set c is given twice",
        ]

    def test_bad_yaml(self) -> None:
        with pytest.raises(UsageError, match="is not valid YAML"):
            parse_scalar("{")

    @pytest.mark.parametrize(
        ("error", "exit_code", "message"),
        [
            (UsageError("wrong [use]"), 2, "error: wrong [use]"),
            (DataError("bad file"), 1, "error: bad file"),
            (OSError(28, "No space left on device"), 1, "No space left on device"),
            (KeyError("x"), 1, "unexpected KeyError: 'x' (run again with --debug for the traceback)"),
        ],
    )
    def test_errors_become_one_message_and_an_exit_code(self, error: Exception, exit_code: int, message: str) -> None:
        @click.command()
        @friendly_errors
        def command() -> None:
            raise error

        result = CliRunner().invoke(command, [])
        assert result.exit_code == exit_code
        assert message in result.stderr
        assert result.stdout == ""
        assert "Traceback" in CliRunner().invoke(command, ["--debug"]).stderr

    def test_describe_error_of_our_own_is_its_text(self) -> None:
        assert describe_error(ConfigError(["one", "two"])) == "2 problems:\n  - one\n  - two"


def test_times_are_read_in_every_unit() -> None:
    texts = {"90": 90, "90s": 90, "1.5m": 90, "8h": 28800, "2 d": 172800}
    assert {text: parse_duration(text, "--time-budget") for text in texts} == texts
    for text in ("", "0", "h", "-1h", "1w", "1h30m"):
        with pytest.raises(UsageError, match="--time-budget must be a time above 0"):
            parse_duration(text, "--time-budget")
