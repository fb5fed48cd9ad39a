"""Connects to object storage, and turns its errors into those of an ordinary disk."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

LOCAL_SCHEME = "file"


@functools.cache
def connect(scheme: str, *, in_one_request: bool = False) -> FileSystem:
    """Returns this process's file system for addresses of a scheme; keys and endpoint are the environment's.

    Args:
        scheme: `s3` or `file`.
        in_one_request: Send a small object in one request, not in three. Only for streams that are closed by hand: an
            error comes at the end then, which `pyarrow.fs.copy_files` does not look at.
    """
    from pyarrow import fs

    if scheme == LOCAL_SCHEME:
        return fs.LocalFileSystem()
    endpoint = _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    # Without a region its client asks the metadata server of a cloud machine, which other machines do not have.
    region = _environment("AWS_REGION", "AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else None)
    return fs.S3FileSystem(endpoint_override=endpoint, region=region, allow_delayed_open=in_one_request)


def _environment(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


@contextmanager
def as_storage_errors() -> Iterator[None]:
    """Gives the file system's errors, which say only in words that storage is away, the number of such errors."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.EIO, str(error).splitlines()[0]) from None


def is_file(info: FileInfo) -> bool:
    """Tells a file from a folder in a listing."""
    from pyarrow.fs import FileType

    return bool(info.type == FileType.File)
