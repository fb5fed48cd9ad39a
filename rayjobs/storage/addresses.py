"""Where results lie, as a command line names it: a folder, or an address on object storage."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from mmcore.errors import UsageError
from rayjobs.storage.mirror import Mirror, own_folder
from rayjobs.storage.object_store import LOCAL_SCHEME

SCHEMES = ("s3", LOCAL_SCHEME)
KEYS_HELP = (
    "keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or ~/.aws, or the machine's role), another endpoint "
    "than Amazon's from AWS_ENDPOINT_URL, the region from AWS_REGION"
)


def is_address(value: str | os.PathLike[str]) -> bool:
    """Tells an address from a path."""
    return isinstance(value, str) and "://" in value


def check_address(text: str) -> str:
    """Returns an address without a last slash.

    Raises:
        UsageError: Its scheme is unknown, it names no bucket, or it holds keys, which would be written to every log.
    """
    scheme, _, place = text.partition("://")
    if scheme not in SCHEMES:
        raise UsageError(f"it must be a folder or s3://BUCKET/PREFIX, got the scheme '{scheme}'")
    if urlsplit(text).username is not None or "?" in text or "#" in text:
        raise UsageError(f"it must be s3://BUCKET/PREFIX and nothing more: {KEYS_HELP}")
    if not place.strip("/") or (scheme == LOCAL_SCHEME and not place.startswith("/")):
        raise UsageError(f"it must name a bucket: s3://BUCKET/PREFIX, got {text!r}")
    return text.rstrip("/")


def open_mirror(location: Path | str) -> Mirror:
    """Returns the mirror of a results folder, or of an address that was asked once.

    Raises:
        UsageError: Nothing answers there.
    """
    if isinstance(location, Path):
        return Mirror(location)
    mirror = Mirror(working_folder(location), location)
    own_folder(mirror.root)
    with reaching(location):
        mirror.reach()
    return mirror


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Ends a command that cannot reach its storage with one message, for the time of a `with` block."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{address} cannot be used ({reason}); {KEYS_HELP}") from None


def working_folder(address: str) -> Path:
    """Returns where processes work at results of an address: the same path on every machine of a user's name.

    Tune's state knows its trials' folders by their paths, so that another machine must use the same.
    """
    base = os.environ.get("EQUIPOISE_CACHE") or f"/var/tmp/equipoise-{_user()}"
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", address.partition("://")[2]).strip("-")[-40:]
    return Path(base).resolve() / f"{slug}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


@contextmanager
def fetched(location: Path | str, without: Sequence[str] = ()) -> Iterator[Path]:
    """Yields a folder; of one at an address, a copy that is removed at the end.

    Args:
        location: The folder's.
        without: Names of files and folders to leave out.

    Raises:
        UsageError: Nothing answers there, or nothing lies there.
    """
    if isinstance(location, Path):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="equipoise-") as folder:
        copy = Mirror(Path(folder) / "copy" / location.rpartition("/")[2], location)
        with reaching(location):
            copy.reach()
        copy.pull(copy.root, without)
        if not copy.root.exists() or not any(copy.root.iterdir()):
            raise UsageError(f"nothing lies at {location}")
        yield copy.root


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
