"""Which Ray `--address` means, and whether it can be joined: said within seconds, before anything is done."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmcore.errors import UsageError
from rayjobs.ray_internals import environment, joining
from rayjobs.ray_internals.joining import Answer

AUTO = "auto"
CLIENT = "ray://"


@dataclass(frozen=True)
class Found:
    """A Ray that can be joined.

    Attributes:
        address: HOST:PORT, or ray://HOST:PORT.
        reason: Why this one, where it was not named; else "".
        asks_for_token: Whether it must be shown a token. It must not where none is asked for: its workers, which have
            none, could not talk to a process that asks for one itself then.
    """

    address: str
    reason: str = ""
    asks_for_token: bool = False

    def __str__(self) -> str:
        return f"{self.address} ({self.reason})" if self.reason else self.address


def find(address: str) -> Found:
    """Returns the Ray an address means, having asked it; takes ten seconds at most.

    Raises:
        UsageError: It is no address, nothing or something else answers there, or it wants a token there is none of.
    """
    check_form(address)
    found = _auto() if address == AUTO else Found(address)
    if found.address.startswith(CLIENT):
        return found
    return replace(found, asks_for_token=_asks_for_token(found.address, address))


def check_form(address: str) -> None:
    """Raises a UsageError for a job server's address, and for what is no address."""
    if address.startswith(("http://", "https://")):
        raise UsageError(
            f"--address {address} is a job server's: submit the command to it (python -m rayjobs.submit), or join the "
            "cluster with --address HOST:PORT"
        )
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16
    if address != AUTO and not (host and is_port and host.isprintable() and " " not in host):
        raise UsageError(f"--address must be 'auto' or HOST:PORT, got {address!r}")


def _auto() -> Found:
    """Returns the Ray that `auto` means: the environment's, else the one on this machine that is known to be meant."""
    named = environment.named_address()
    if named and named != AUTO:
        check_form(named)
        return Found(named, f"{environment.ADDRESS} names it")
    running = joining.running_here()
    if not running:
        raise UsageError(
            "--address auto: no Ray runs on this machine; start one (ray start --head), name a cluster by --address "
            "HOST:PORT, or leave the option out for a Ray of this command's own"
        )
    if len(running) == 1:
        return Found(running[0], "the only one on this machine")
    if joining.is_known_as_newest(running[0]):
        others = ", ".join(running[1:])
        return Found(running[0], f"of those on this machine the one that ray start began last; others: {others}")
    raise UsageError(f"--address auto: {len(running)} Rays run on this machine; name one: {', '.join(running)}")


def _asks_for_token(address: str, given: str) -> bool:
    """Tells whether a head asks for a token, and takes the one there is.

    Raises:
        UsageError: It does not take it, there is none, or no head answers.
    """
    where = f"--address {given}" + ("" if given == address else f": {address}")
    answer = joining.ask(address, "")
    if answer is Answer.HEAD:
        return False
    if answer is Answer.NOTHING:
        raise UsageError(
            f"{where}: nothing answers there; the head's address is printed by ray start (its port is 6379 unless "
            "--port says otherwise), and must be reachable from this machine"
        )
    if answer is Answer.OTHER:
        raise UsageError(
            f"{where}: what answers there is no head of a Ray; it wants the head's own port (6379 unless --port says "
            "otherwise), neither the dashboard's nor the client's"
        )
    token = environment.stored_token() if joining.may_show_token() else ""
    if not token:
        raise UsageError(f"{where}: {environment.TOKEN_HELP}")
    if joining.ask(address, token) is not Answer.HEAD:
        raise UsageError(f"{where}: the cluster refuses the token in {environment.token_place()}; "
                         f"{environment.TOKEN_HELP}")  # fmt: skip
    return True
