"""One command at a time on a folder: a lease that is renewed while its holder lives, and expires when it does not.

    FOLDER/.lease/20261129T071500-3f2a.json    who holds it: host, process, command, since when

Nothing is asked of storage but what a local disk, a shared folder and object storage all do: a file, once written, is
in every later listing. Whoever wants the folder writes a claim and only then looks for others, so that of two who come
at the same time one sees the other at least. A claim is first `trying`; of several such the one that sorts first stays,
and none stays where one is `held`. Age is measured between times that storage itself gave, whatever the clocks of the
machines say. A claim of a process that is dead on this very machine counts for nothing; another's expires.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import psutil

from mmcore.errors import EquipoiseError, UsageError
from mmcore.storage import patiently, storage_fault, write_whole
from rayjobs.storage.object_store import LOCAL_SCHEME, as_storage_errors, connect, is_file

RENEW_EVERY_S = 10.0
EXPIRES_S = 60.0
"""After so long without a sign of life a claim counts for nothing; a command that stood still for longer lost it."""
LOOK_EVERY_S = 0.2
LEASE_FOLDER = ".lease"
"""In the folder that is held; with a dot, so that it is no part of what is copied of it."""


class LeaseLostError(EquipoiseError):
    """The command stood still, or was away from its storage, for so long that another one took its folder over."""


@dataclass(frozen=True)
class Claim:
    """Who wants a folder, or holds it.

    Attributes:
        host: Name of the machine.
        machine: What tells whether a process number means the same: the machine's start, and its room for numbers.
        pid: Number of the process.
        created: When the process began, s: a number is given again.
        command: What was typed.
        since: When, ISO 8601.
        held: Whether it is the one that counts.
    """

    host: str
    machine: str
    pid: int
    created: float
    command: str
    since: str
    held: bool = False

    def is_dead(self) -> bool:
        """Tells whether its process has ended, as far as this machine can know."""
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.pid)
            is_another = abs(process.create_time() - self.created) > 1
            return is_another or bool(process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid} on {self.host}, since {self.since})"


UNREADABLE = Claim(
    host="a machine", machine="", pid=0, created=0.0, command="another release", since="some time", held=True
)  # fmt: skip


class Place(Protocol):
    """Where claims lie."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a claim, whole or not at all."""

    def renew(self, name: str, content: bytes) -> bool:
        """Gives a claim the time of now; returns False where it is gone."""

    def ages(self) -> dict[str, float]:
        """Returns each claim's time, s, by the clock of storage."""

    def read(self, name: str) -> bytes | None:
        """Returns a claim's content; None where it is gone."""

    def remove(self, name: str) -> None:
        """Removes a claim; it may be gone."""


class FolderPlace:
    """Claims in a folder, on this machine's disk or shared by several.

    Args:
        path: The folder; made where it is needed, and removed with all that was made for it when it is empty.
    """

    def __init__(self, path: Path):
        self._path = path
        self._made = [path, *(parent for parent in path.parents if not parent.exists())]

    def write(self, name: str, content: bytes) -> None:
        """Writes a claim; a folder that another command removes at the same moment is made again."""

        def write() -> None:
            self._path.mkdir(parents=True, exist_ok=True)
            write_whole(self._path / name, content, patient=False)

        patiently(write, self._path)

    def renew(self, name: str, content: bytes) -> bool:
        """Changes its time alone, for which a full disk has room; on a shared folder its server's clock gives it."""
        try:
            os.utime(self._path / name)
        except FileNotFoundError:
            # Where the whole folder is gone, so is its disk, and nobody else can have taken it.
            return not self._path.parent.is_dir()
        return True

    def ages(self) -> dict[str, float]:
        """Returns each claim's time."""
        found = {}
        for path in self._path.glob("[!.]*.json"):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.stat().st_mtime
        return found

    def read(self, name: str) -> bytes | None:
        """Returns a claim's content."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Removes a claim, and the folder with the last one."""
        (self._path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are in it
            for folder in self._made:
                folder.rmdir()


class AddressPlace:
    """Claims on object storage.

    Args:
        scheme: `s3`.
        path: `bucket/prefix/EXPERIMENT/.lease`.
    """

    def __init__(self, scheme: str, path: str):
        self._scheme = scheme
        self._path = path

    def write(self, name: str, content: bytes) -> None:
        """Writes a claim; an object is there whole or not at all."""
        patiently(lambda: self._write(name, content), f"{self._scheme}://{self._path}")

    def renew(self, name: str, content: bytes) -> bool:
        """Writes it again: objects have no other way to a new time."""
        if self.read(name) is None:
            return False
        self._write(name, content)
        return True

    def ages(self) -> dict[str, float]:
        """Returns each claim's time."""
        from pyarrow.fs import FileSelector

        with as_storage_errors():
            found = connect(self._scheme).get_file_info(FileSelector(self._path, allow_not_found=True))
        return {info.base_name: info.mtime_ns / 1e9 for info in found if is_file(info)}

    def read(self, name: str) -> bytes | None:
        """Returns a claim's content."""
        try:
            with as_storage_errors(), connect(self._scheme).open_input_stream(f"{self._path}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Removes a claim."""
        with as_storage_errors(), contextlib.suppress(FileNotFoundError):
            connect(self._scheme).delete_file(f"{self._path}/{name}")

    def _write(self, name: str, content: bytes) -> None:
        with (
            as_storage_errors(),
            connect(self._scheme, in_one_request=True).open_output_stream(f"{self._path}/{name}") as stream,
        ):
            stream.write(content)


def lease_of_folder(location: str) -> str:
    """Returns where the claims on a folder's path, or on what lies at an address, lie: in it."""
    return f"{location}/{LEASE_FOLDER}"


def lease_of_file(path: Path) -> str:
    """Returns where the claims on a file, or on a folder that is replaced as a whole, lie: beside it."""
    return str(path.with_name(f".{path.name}{LEASE_FOLDER}"))


def place_at(location: str) -> Place:
    """Returns where claims lie: an address, or a folder's path."""
    scheme, is_address, path = location.rpartition("://")
    return AddressPlace(scheme, path) if is_address and scheme != LOCAL_SCHEME else FolderPlace(Path(path))


class Lease:
    """A claim, from `acquire` to `release`.

    Args:
        place: Where claims lie.
        what: What is held, for messages.
        expires_s: After how long without a sign of life another's claim counts for nothing.
    """

    def __init__(self, place: Place, what: str, expires_s: float = EXPIRES_S):
        now = datetime.now(UTC)
        self._place = place
        self._what = what
        self._expires_s = expires_s
        self._claim = Claim(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            created=psutil.Process().create_time(),
            command=_command(),
            since=now.isoformat(timespec="seconds"),
        )
        self._name = f"{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
        self._renewed = 0.0

    def acquire(self) -> None:
        """Takes the lease.

        Raises:
            UsageError: Another command holds it; says which, since when, and how long ago it was seen.
            OSError: Storage cannot be reached.
        """
        self._write(held=False)
        try:
            self._wait_for_others()
            self._write(held=True)
        except BaseException:
            self.release()
            raise
        self._renewed = time.monotonic()

    def renew(self) -> bool:
        """Gives a sign of life; returns False where another command has taken over.

        Raises:
            OSError: Storage cannot be reached: nothing is known.
        """
        late = time.monotonic() - self._renewed > self._expires_s
        if late and any(self._others()):
            return False
        if not self._place.renew(self._name, self._content(held=True)):
            return False
        self._renewed = time.monotonic()
        return True

    def release(self) -> None:
        """Gives the lease back; where that fails, it expires."""
        with contextlib.suppress(OSError):
            self._place.remove(self._name)

    # Parts

    def _wait_for_others(self) -> None:
        """Returns when no other claim is left that goes before this one."""
        while True:
            # Patiently: one that is removed while it is read is an error of some storage, not a missing object.
            others = patiently(lambda: dict(self._others()), self._what)
            for name, (claim, seen_s) in others.items():
                if claim.held or name < self._name:
                    raise UsageError(
                        f"{self._what} is in use by {claim}, seen {max(0, seen_s):.0f} s ago: wait until it ends, or "
                        f"end it; should its machine be gone, it is free {self._expires_s:.0f} s after it was seen last"
                    )
            if not others:
                return
            time.sleep(LOOK_EVERY_S)  # those came later: each will see this claim, and go
            self._place.renew(self._name, self._content(held=False))

    def _others(self) -> Iterator[tuple[str, tuple[Claim, float]]]:
        """Yields the other claims that count, and how long ago, s, each was renewed; removes those that do not."""
        ages = self._place.ages()
        now = ages.pop(self._name, None)
        for name, age in ages.items():
            content = self._place.read(name)
            seen_s = 0.0 if now is None else now - age
            if content is None:
                continue
            claim = _claim(content)
            if claim.is_dead() or seen_s > self._expires_s:
                self._place.remove(name)
            else:
                yield name, (claim, seen_s)

    def _write(self, *, held: bool) -> None:
        self._place.write(self._name, self._content(held=held))

    def _content(self, *, held: bool) -> bytes:
        return json.dumps(asdict(replace(self._claim, held=held))).encode()


@contextmanager
def holding(location: str, what: str | Path, *, waits: bool = False) -> Iterator[None]:
    """Holds a folder, a file, or what lies at an address, for the time of a `with` block.

    Args:
        location: `lease_of_folder` or `lease_of_file` of it.
        what: What it is called in messages.
        waits: Wait for a command that holds it, and say so; else refuse.

    Raises:
        UsageError: Another command holds it.
        LeaseLostError: It was taken over on the way; the block was ended as by Ctrl-C.
    """
    lease = Lease(place_at(location), str(what))
    _acquire(lease, waits=waits)
    ended, lost = threading.Event(), threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_EVERY_S):
            if not _renewed(lease):
                lost.set()
                os.kill(os.getpid(), signal.SIGINT)  # the block ends as it would by Ctrl-C, with all state kept
                return

    thread = threading.Thread(target=renew, daemon=True, name="lease")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        lease.release()
        if lost.is_set():
            raise LeaseLostError(
                f"{what} was taken over by another command, since this one gave no sign of life for "
                f"{EXPIRES_S:.0f} s; what it had finished is kept"
            ) from None


def _acquire(lease: Lease, *, waits: bool) -> None:
    said = ""
    while True:
        try:
            lease.acquire()
        except UsageError as error:
            if not waits:
                raise
            holder = str(error).partition(", seen")[0]
            if holder != said:
                logging.getLogger(__name__).warning("%s: waiting for it", holder)
                said = holder
            time.sleep(1)
        else:
            return


def _renewed(lease: Lease) -> bool:
    """Gives a sign of life; storage that is away keeps everybody from taking over."""
    try:
        return lease.renew()
    except OSError as error:
        if storage_fault(error) is None:
            logging.getLogger(__name__).warning("a sign of life could not be given (%s)", error)
        return True


def _claim(content: bytes) -> Claim:
    """Returns a claim as it was written; one that cannot be read may be another release's, and counts as held."""
    try:
        return Claim(**json.loads(content))
    except (ValueError, TypeError):
        return UNREADABLE


def _command() -> str:
    """Returns what was typed, as far as a process knows it."""
    program = Path(sys.argv[0])
    start = ["python", "-m", f"rayjobs.{program.stem}"] if program.parent.name == "rayjobs" else [program.name]
    return shlex.join([*start, *sys.argv[1:]])


def _machine() -> str:
    """Returns what two processes have in common that know each other's numbers."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{started}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{socket.gethostname()}:{psutil.boot_time():.0f}"
