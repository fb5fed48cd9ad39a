"""Commands submitted as jobs: what is checked and packed here, and a real head with its token for the rest."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mmcore.errors import UsageError
from rayjobs.commands import job_bundle
from rayjobs.commands.job_bundle import check_command, pack
from rayjobs.commands.submitting import _without_address
from rayjobs.submit import main

SHARED = ["--output", "/shared/results", "--data-dir", "/shared/data"]


def test_what_a_job_would_lose_or_never_find_is_refused_before_anything_is_sent() -> None:
    check_command("tune", ["--dataset", "digits", *SHARED])
    check_command("tune", ["--dataset", "/shared/my.yaml", "--space", "mine.yaml", *SHARED])
    with pytest.raises(UsageError, match=r"--data-dir, --output must be absolute, on storage all nodes see"):
        check_command("tune", ["--dataset", "digits"])
    with pytest.raises(UsageError, match=r"^--dataset must be absolute"):
        check_command("tune", ["--dataset", "my.yaml", *SHARED])
    with pytest.raises(UsageError, match=r"^--raw-dir must be absolute"):
        check_command("prepare", ["--dataset", "cremad", "--raw-dir", "raw", "--data-dir", "/shared/data"])
    check_command("report", ["/shared/results/mine"])
    with pytest.raises(UsageError, match=r"^results must be absolute"):
        check_command("report", ["results/mine"])
    plain = [verb for verb in job_bundle.VERBS if verb != "compare"]
    assert [verb for verb in plain if not job_bundle.takes_address(verb, [])] == ["report"]
    with pytest.raises(
        UsageError, match="begins with one of prepare, train, tune, compare, predict, report, got 'tun'"
    ):
        check_command("tun", [])


def test_a_study_is_submitted_by_the_command_of_compare_that_is_named() -> None:
    check_command("compare", ["run", "mine", "--output", "/shared/results"])
    with pytest.raises(UsageError, match=r"^--output must be absolute"):
        check_command("compare", ["run", "mine"])
    with pytest.raises(click.UsageError, match="No such option '--methods'"):
        check_command("compare", ["add", "mine", "--methods", "aug"])
    with pytest.raises(click.UsageError, match="No such command 'go'"):
        check_command("compare", ["go", "mine"])
    with pytest.raises(click.UsageError, match="name one of add, new, report, run"):
        check_command("compare", [])
    assert job_bundle.takes_address("compare", ["run", "mine"])
    assert not job_bundle.takes_address("compare", ["report", "mine"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", "tune", "--trails", "3", *SHARED], "No such option '--trails'"),
        (["--", "tune", "--trials", "x", *SHARED], "'x' is not a valid integer"),
        (["--", "train"], "--data-dir, --output must be absolute"),
        (["--list", "--", "tune"], "either a command after --, or one of --logs, --status, --stop, --list"),
        ([], "either a command after --, or one of --logs, --status, --stop, --list"),
        (["--list"], "no job server answers there"),
    ],
)
def test_wrong_use_is_one_message(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["--address", f"http://127.0.0.1:{free_port()}", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_an_address_without_a_scheme_is_no_job_servers() -> None:
    done = CliRunner().invoke(main, ["--address", "head:8265", "--list"])
    assert "--address must be a job server's, http://HEAD:8265, got 'head:8265'" in done.output


def test_the_package_and_the_files_named_are_packed_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("trials: 3")
    target = tmp_path / "job"
    target.mkdir()
    arguments = ["--space", "mine.yaml", "--config=mine.yaml", "--space", "/on/the/cluster.yaml", "--name", "mine.yaml"]
    packed = pack(target, arguments)
    carried = "carried/mine.yaml"
    assert packed == [
        "--space", carried, f"--config={carried}", "--space", "/on/the/cluster.yaml", "--name", "mine.yaml",
    ]  # fmt: skip
    assert (target / carried).read_text() == "trials: 3"
    assert {path.name for path in target.iterdir()} == {"mmcore", "rayjobs", "search_spaces", "carried"}
    assert not list(target.rglob("*.pyc"))
    code = "from rayjobs.search.spaces import space_file; print(space_file('digits', None).is_file())"
    environment = {**os.environ, "PYTHONPATH": ""}
    found = subprocess.run([sys.executable, "-c", code], cwd=target, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == "True", found.stderr
    Path("mine.yaml").write_bytes(bytes(2**20))
    monkeypatch.setattr(job_bundle, "MAX_BYTES", 2**20)
    (tmp_path / "again").mkdir()
    with pytest.raises(UsageError, match="at most 1 MiB, this one has"):
        pack(tmp_path / "again", arguments)


def test_the_address_is_taken_out_of_what_is_submitted() -> None:
    given = ["--dataset", "digits", "--address", "http://head:8265", "--trials", "3", "--address=http://head:8265"]
    assert _without_address(given) == ["--dataset", "digits", "--trials", "3"]


def test_a_verb_with_the_address_of_a_job_server_is_submitted_to_it() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "rayjobs.tune", "--dataset", "digits", *SHARED, f"--address={address}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"--address {address}: no job server answers there" in done.stderr


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A cluster of its own: its job server's address, and an environment with its token."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a" * 64)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # Every port is named: those Ray takes by default are another cluster's where one runs on the same machine. Those of
    # the workers lie below the range from which the system gives free ones.
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port",
             "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")  # fmt: skip
    ports = {name: free_port() for name in names}
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--dashboard-host=127.0.0.1",
        "--num-cpus=2", "--min-worker-port=20000", "--max-worker-port=20999", "--object-store-memory=200000000",
        *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    log = (home / "head.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=home)
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        deadline = time.monotonic() + 180
        while not answers(address) or submit(environment, address, "--list").returncode:
            assert process.poll() is None, (home / "head.log").read_text()
            assert time.monotonic() < deadline, (home / "head.log").read_text()
            time.sleep(1)
        yield address, {key: value for key, value in environment.items() if key != "RAY_AUTH_MODE"}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_command_is_submitted_followed_and_its_results_stay(head, tmp_path: Path) -> None:
    address, environment = head
    folders = ["--output", str(tmp_path / "results"), "--data-dir", str(tmp_path / "data")]
    config = tmp_path / "mine.yaml"
    config.write_text("{method: {name: joint}, trainer: {max_epochs: 1}}")
    done = submit(environment, address, "--", "train", "--config", str(config), *folders)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "joint on digits: test, in percent" in done.stdout
    assert (tmp_path / "results/train-digits-joint/seed-0/result.json").is_file()
    failed = submit(environment, address, "--", "train", "--config", "/nowhere.yaml", *folders)
    assert failed.returncode == 1
    assert "there is no such file" in failed.stdout + failed.stderr
    assert "failed" in failed.stderr
    jobs = json.loads(submit(environment, address, "--list", "--json").stdout)["jobs"]
    assert sorted(job["status"] for job in jobs) == ["FAILED", "SUCCEEDED"]
    assert any(job["command"].startswith("train --config") for job in jobs)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_job_outlives_its_client_and_is_stopped(head, tmp_path: Path) -> None:
    address, environment = head
    folders = ["--output", str(tmp_path / "results"), "--data-dir", str(tmp_path / "data")]
    command = ["train", "--method", "joint", "--max-epochs", "2000", *folders]
    job = json.loads(submit(environment, address, "--json", "--", *command).stdout)["job"]
    follower = start(environment, address, "--logs", job)
    assert follower.stdout is not None
    assert follower.stdout.readline()  # it follows; before, an interruption would come while it is still loaded
    metrics = tmp_path / "results/train-digits-joint/seed-0/metrics.jsonl"
    deadline = time.monotonic() + 300
    while not metrics.exists():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    follower.send_signal(signal.SIGINT)
    _, stderr = follower.communicate(timeout=180)
    assert follower.returncode == 130
    assert "the job continues" in stderr
    assert f"--stop {job}" in stderr
    assert '"RUNNING"' in submit(environment, address, "--status", job, "--json").stdout
    stopped = submit(environment, address, "--stop", job)
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped" in stopped.stderr
    for question in ("--stop", "--status"):
        assert "there is no job nothing" in submit(environment, address, question, "nothing").stderr


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_without_the_token_the_message_says_what_to_do(head, tmp_path: Path) -> None:
    address, environment = head
    refused = submit({**environment, "HOME": str(tmp_path)}, address, "--list")
    assert refused.returncode == 2
    assert "the cluster asks for a token" in refused.stderr
    assert "a" * 20 not in refused.stderr + refused.stdout


def answers(address: str) -> bool:
    """Whether a web server is there; asked before a command is, each of which takes seconds to start."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=10).close()
    except urllib.error.HTTPError:  # it asks for the token
        return True
    except OSError:
        return False
    return True


def submit(environment: dict[str, str], address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(environment, address, *arguments)
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def start(environment: dict[str, str], address: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rayjobs.submit", "--address", address, *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
