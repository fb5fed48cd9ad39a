"""Which Ray `--address` means: a real head that asks for a token, as `ray start --head` makes it, and what is none."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from mmcore.errors import UsageError
from rayjobs.cluster import joining as cluster_joining
from rayjobs.cluster.joining import Found, find
from rayjobs.ray_internals import joining
from rayjobs.ray_internals.joining import Answer, ask, showing_token

TOKEN = "a" * 64
JOIN = """
import sys
from rayjobs.cluster.session import start
with start(sys.argv[1]) as nodes:
    print(sum(node.cpus for node in nodes), "CPUs", file=sys.stderr)
"""
START = "from ray.scripts.scripts import main; main()"
VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS")


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def website() -> Iterator[str]:
    """Another service: HOST:PORT of a web server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """Something that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_what_is_no_head(website: str, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "ASK_S", 0.5)
    assert ask(f"127.0.0.1:{free_port()}", "") is Answer.NOTHING
    assert ask("nowhere.invalid:6379", "") is Answer.NOTHING
    assert ask(website, "") is Answer.OTHER
    assert ask(silent, "") is Answer.OTHER
    with pytest.raises(UsageError, match=f"--address {website}: what answers there is no head of a Ray"):
        find(website)
    with pytest.raises(UsageError, match=r"--address nowhere\.invalid:1: nothing answers there; the head's address is"):
        find("nowhere.invalid:1")


class TestAuto:
    @pytest.fixture(autouse=True)
    def heads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(joining, "ask", lambda address, token: Answer.HEAD)

    def running(self, monkeypatch: pytest.MonkeyPatch, *addresses: str, newest: str | None = None) -> None:
        monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: frozenset(addresses))
        monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: newest)

    def test_the_variable_goes_before_what_runs_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running(monkeypatch, "h:1")
        monkeypatch.setenv("RAY_ADDRESS", "h:2")
        assert find("auto") == Found("h:2", "RAY_ADDRESS names it")
        monkeypatch.setenv("RAY_ADDRESS", "h")
        with pytest.raises(UsageError, match="HOST:PORT"):
            find("auto")

    def test_none_runs_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running(monkeypatch, newest="h:1")  # of one that has ended
        with pytest.raises(UsageError, match=r"--address auto: no Ray runs on this machine; start one \(ray start"):
            find("auto")

    def test_one_runs_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running(monkeypatch, "h:1", newest="h:9")
        assert str(find("auto")) == "h:1 (the only one on this machine)"

    def test_of_several_it_says_which(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running(monkeypatch, "h:1", "h:2", "h:3", newest="h:2")
        assert str(find("auto")) == (
            "h:2 (of those on this machine the one that ray start began last; others: h:1, h:3)"
        )  # fmt: skip

    def test_several_of_which_none_is_known_to_be_meant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running(monkeypatch, "h:1", "h:2")
        with pytest.raises(UsageError, match="--address auto: 2 Rays run on this machine; name one: h:1, h:2"):
            find("auto")


class TestTokens:
    def test_it_is_shown_only_where_it_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        monkeypatch.setattr(joining, "ask", lambda address, token: Answer.HEAD)
        assert not find("h:1").asks_for_token
        refusing = {"": Answer.REFUSED_TOKEN, TOKEN: Answer.HEAD}
        monkeypatch.setattr(joining, "ask", lambda address, token: refusing[token])
        assert find("h:1").asks_for_token

    def refused(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        shown: list[str] = []

        def refuse(_: str, token: str) -> Answer:
            shown.append(token)
            return Answer.REFUSED_TOKEN

        monkeypatch.setattr(cluster_joining.joining, "ask", refuse)
        return shown

    def test_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.refused(monkeypatch) == []
        with pytest.raises(UsageError, match="--address h:1: the cluster asks for a token: put the one of its head"):
            find("h:1")

    def test_wrong_ones_are_named_by_their_place_and_not_printed(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        shown = self.refused(monkeypatch)
        usual, named = tmp_path / ".ray" / "auth_token", tmp_path / "token"
        usual.parent.mkdir()
        usual.write_text("usual\n")
        named.write_text("named\n")
        for variable, value, place in (
            ("HOME", str(tmp_path), usual), ("RAY_AUTH_TOKEN_PATH", str(named), named),
            ("RAY_AUTH_TOKEN", "typed", "RAY_AUTH_TOKEN"),
        ):  # fmt: skip
            monkeypatch.setenv(variable, value)
            with pytest.raises(UsageError, match=f"the cluster refuses the token in {place}") as raised:
                find("h:1")
            assert shown[-1] not in str(raised.value).replace(str(place), "")
        assert shown == ["", "usual", "", "named", "", "typed"]  # asked without it first

    def test_a_file_that_is_named_and_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused(monkeypatch)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "nowhere")
        with pytest.raises(UsageError, match="nowhere: there is no such file"):
            find("h:1")

    def test_the_mode_is_put_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with showing_token():
            assert "RAY_AUTH_MODE" not in os.environ
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        with showing_token():
            assert os.environ["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_MODE" not in os.environ
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with showing_token():
            assert os.environ["RAY_AUTH_MODE"] == "disabled"


@dataclass(frozen=True)
class Head:
    """A head that asks for a token: its address, its client's, and the file that holds the token."""

    address: str
    client: str
    token: Path


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Starts a head as a user does, where a token lies in the home folder, and ends it by its own process group."""
    home = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))  # short: sockets lie in it
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(TOKEN)
    port, client = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"HOME": str(home)}
    settings = {"port": port, "ray-client-server-port": client, "dashboard-agent-listen-port": free_port(),
                "num-cpus": 1, "include-dashboard": "false", "object-store-memory": 80_000_000,
                "min-worker-port": 0, "max-worker-port": 0, "temp-dir": home / "r"}  # fmt: skip
    options = [f"--{name}={value}" for name, value in settings.items()]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", START, "start", "--head", "--block", *options],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address, clients = f"127.0.0.1:{port}", f"127.0.0.1:{client}"
    try:
        for _ in range(120):
            is_whole = (home / "r" / "ray_current_cluster").exists()
            if is_whole and ask(address, TOKEN) is Answer.HEAD and ask(clients, TOKEN) is not Answer.NOTHING:
                break
            assert process.poll() is None, (home / "log").read_text()
            threading.Event().wait(1)
        yield Head(address, clients, token)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def run(*arguments: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python as a user with that home folder and no other trace of a token."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), **variables}
    command: list[Any] = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.ray
class TestAHeadThatAsksForAToken:
    def test_it_answers_those_that_have_its_token(self, head: Head) -> None:
        assert ask(head.address, TOKEN) is Answer.HEAD
        assert ask(head.address, "") is Answer.REFUSED_TOKEN
        assert ask(head.address, "b" * 64) is Answer.REFUSED_TOKEN
        assert ask(head.client, TOKEN) is Answer.OTHER

    @pytest.mark.parametrize("place", ["home", "file", "variable", "auto"])
    def test_it_is_joined_with_the_token_where_ray_keeps_it(self, head: Head, tmp_path: Path, place: str) -> None:
        variables = {
            "home": {"HOME": str(head.token.parent.parent)}, "file": {"RAY_AUTH_TOKEN_PATH": str(head.token)},
            "variable": {"RAY_AUTH_TOKEN": TOKEN}, "auto": {"RAY_AUTH_TOKEN": TOKEN, "RAY_ADDRESS": head.address},
        }[place]  # fmt: skip
        done = run("-c", JOIN, "auto" if place == "auto" else head.address, home=tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        assert "1.0 CPUs" in done.stderr
        assert f"joined the Ray at {head.address}" in done.stderr
        assert TOKEN not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("variables", "message"),
        [
            ({}, "the cluster asks for a token: put the one of its head"),
            ({"RAY_AUTH_TOKEN": "b" * 64}, "the cluster refuses the token in RAY_AUTH_TOKEN"),
            ({"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "disabled"}, "the cluster asks for a token"),
        ],
    )
    @pytest.mark.parametrize("verb", ["tune", "train", "prepare"])
    def test_without_its_token_a_command_says_so_and_leaves_nothing(
        self, head: Head, tmp_path: Path, verb: str, variables: dict[str, str], message: str
    ) -> None:
        done = run(
            "-m", f"rayjobs.{verb}", "--dataset", "digits", "--address", head.address, home=tmp_path, **variables
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"error: --address {head.address}: {message}")
        assert done.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
