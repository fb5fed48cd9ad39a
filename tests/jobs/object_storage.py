"""An S3 server on loopback, moto's, from an environment of its own (`make test` makes it)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from driving import wait_for
from pyarrow import fs

SECRET = "a-secret-that-nothing-may-hold"
BUCKET = "bucket"


def server_program() -> str | None:
    """Returns moto's server; None where there is none."""
    beside = Path(sys.prefix) / "moto/bin/moto_server"
    return str(beside) if beside.exists() else shutil.which("moto_server")


@dataclass(frozen=True)
class ObjectStorage:
    """A running server with one bucket."""

    endpoint: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What a command needs to reach it."""
        return {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": self.endpoint}

    def read_all(self) -> dict[str, bytes]:
        """Returns every object of the bucket."""
        client = fs.S3FileSystem(
            access_key="key", secret_key=SECRET, endpoint_override=self.endpoint, region="us-east-1"
        )
        found = client.get_file_info(fs.FileSelector(BUCKET, recursive=True))
        return {info.path: client.open_input_stream(info.path).read() for info in found if info.is_file}


@contextmanager
def object_storage(folder: Path) -> Iterator[ObjectStorage]:
    """Starts a server, and ends it after the `with` block."""
    program = server_program()
    assert program is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    with (folder / "moto.log").open("w") as log:
        server = subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log, env=environment, cwd=folder
        )
    try:
        wait_for(lambda: server.poll() is not None or _answers(endpoint), timeout_s=120)
        assert server.poll() is None, (folder / "moto.log").read_text()
        yield ObjectStorage(endpoint)
    finally:
        server.kill()
        server.wait()


def _answers(endpoint: str) -> bool:
    request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request, timeout=10)
    except (urllib.error.URLError, OSError):
        return False
    return True
