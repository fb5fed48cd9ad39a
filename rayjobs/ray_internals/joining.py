"""What Ray answers before it is joined: joined at once, it waits for a minute, writes logs, or ends the process.

Asked is the head itself, by the one question each of its releases answers: which cluster it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

from rayjobs.ray_internals import environment

ASK_S = 5.0
QUESTION = "/ray.rpc.NodeInfoGcsService/GetClusterId"
MODE = "RAY_AUTH_MODE"


class Answer(Enum):
    """What answers at an address."""

    HEAD = auto()
    REFUSED_TOKEN = auto()
    NOTHING = auto()
    OTHER = auto()


def ask(address: str, token: str) -> Answer:
    """Asks what stands at HOST:PORT, which takes `ASK_S` at most.

    Args:
        address: HOST:PORT.
        token: What to show; "" for none.
    """
    import grpc  # late: a command that joins nothing does without

    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        question = channel.unary_unary(QUESTION, request_serializer=bytes, response_deserializer=bytes)
        try:
            question(b"", timeout=ASK_S, metadata=metadata)
        except grpc.RpcError as error:
            return _meaning(error.code(), str(error.details()))
    return Answer.HEAD


def _meaning(code: object, details: str) -> Answer:
    import grpc

    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Answer.REFUSED_TOKEN
    # What listens, but speaks another language, is "unavailable" too.
    if code is grpc.StatusCode.UNAVAILABLE and "HTTP/2" not in details:
        return Answer.NOTHING
    return Answer.OTHER


def running_here() -> list[str]:
    """Returns HOST:PORT of each Ray that runs on this machine, the one that `ray start` began last first."""
    from ray._private import services

    found = sorted(services.find_gcs_addresses())
    newest = services.find_bootstrap_address(None)
    return [newest, *(one for one in found if one != newest)] if newest in found else found


def is_known_as_newest(address: str) -> bool:
    """Tells whether `ray start` began this one last."""
    from ray._private import services

    return bool(services.find_bootstrap_address(None) == address)


def may_show_token() -> bool:
    """Tells whether the user left it to Ray to show a token."""
    return os.environ.get(MODE, "").lower() != "disabled"


@contextmanager
def showing_token() -> Iterator[None]:
    """Lets Ray show the token there is, for the time of a `with` block; a user's own mode stays.

    Ray does so by itself only where it finds the cluster by itself, and reads the mode when it is imported.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    before = os.environ.get(MODE)
    if before is not None or not environment.stored_token():
        yield
        return
    os.environ[MODE] = "token"
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        del os.environ[MODE]
        Config.initialize("")
