"""Text files as text: UTF-8, with a reason by name where they are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmcore.errors import UsageError

UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def decoded(path: Path, most_bytes: int | None = None) -> str:
    """Returns the content of a UTF-8 file, without a byte-order mark.

    Args:
        path: The file.
        most_bytes: Its largest size; no more of it is read. None: any size.

    Raises:
        UsageError: It can not be read, is too large, or is not UTF-8; the line is named.
    """
    try:
        with path.open("rb") as file:
            content = file.read() if most_bytes is None else file.read(most_bytes + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; name a file") from None
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        raise UsageError(f"{path} can not be read: {getattr(error, 'strerror', None) or error}") from None
    if most_bytes is not None and len(content) > most_bytes:
        raise UsageError(f"{path} is too large: a file of this kind must have {_size(most_bytes)} at most")
    # Latin text in UTF-16 without a mark is valid UTF-8, too: every other character is NUL.
    if content.startswith(UTF_16) or b"\0" in content[:2]:
        raise UsageError(f"{path} is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UsageError(f"{path}: line {line} holds a NUL character, which no text has; save the file as UTF-8")
    return text


def repeated(names: Sequence[str]) -> list[str]:
    """Returns the names that are there more than once."""
    return [name for name, number in Counter(names).items() if number > 1]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:g} MiB" if num_bytes >= 2**20 else f"{num_bytes:,} bytes"
