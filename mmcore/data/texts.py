"""Text files as text: UTF-8, with a reason by name where they are not."""

from __future__ import annotations

from pathlib import Path

from mmcore.errors import UsageError

UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def decoded(path: Path) -> str:
    """Returns the content of a UTF-8 file, without a byte-order mark.

    Raises:
        UsageError: It can not be read, or is not UTF-8; the line is named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can not be read: {error.strerror}") from None
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
