"""Text as tokens, by transformers' tokenizers and a vocabulary file: BERT's or CLIP's. Nothing is fetched.

Shape legend: L tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmcore.config.documents import parse_json
from mmcore.config.texts import decoded
from mmcore.data.medium import CROPPED, Decoded, Medium, Note, RawFolder, padded, refuse_pointer
from mmcore.data.spec import Modality
from mmcore.errors import DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLIP_TOKENS = ("<|startoftext|>", "<|endoftext|>")
MAX_VOCAB_BYTES = 2**26


class Text(Medium):
    """A text as [CLS] tokens [SEP], (L,) int32, padded with 0, the id of [PAD]. The value is the text.

    CLIP's vocabulary gives its own start and end around the tokens; 0 is no padding there, the lengths tell.

    Args:
        name: Name of the modality.
        max_tokens: L, the two special tokens included; the rest of a longer text is left out.
    """

    def __init__(self, name: str, max_tokens: int):
        self._max_tokens = max_tokens
        self.modality = Modality(name, "tokens", (max_tokens,), "int32", variable_length=True)

    def files(self, value: str) -> Iterator[str]:
        """Yields nothing: the text itself stands in the index."""
        yield from ()

    def shared_files(self, folder: RawFolder) -> list[Path]:
        """Returns the vocabulary."""
        path = vocabulary(folder)
        return [path, _merges(path)] if path.suffix == ".json" else [path]

    def stored(self, folder: RawFolder) -> Modality:
        """Returns the modality with the size of the vocabulary."""
        return replace(self.modality, num_values=len(tokenizer(vocabulary(folder))))

    def read(self, folder: RawFolder, value: str) -> Decoded:
        """Tokenizes one text."""
        if not value.strip():
            raise DataError("the text is empty")
        ids = tokenizer(vocabulary(folder))(value)["input_ids"]
        notes: tuple[Note, ...] = ()
        if len(ids) > self._max_tokens:
            notes = (Note(CROPPED, f"to {self._max_tokens} of {len(ids)} tokens"),)
            ids = [*ids[: self._max_tokens - 1], ids[-1]]
        return Decoded(padded(np.array(ids, dtype=np.int32), self._max_tokens), len(ids), notes)


def vocabulary(folder: RawFolder) -> Path:
    """Returns the path of the vocabulary.

    Raises:
        UsageError: There is none, or it is a Git LFS pointer.
    """
    own = [folder.root / "vocab.txt", folder.root / "vocab.json"]
    path = folder.vocab or next((path for path in own if path.is_file()), own[0])
    if not path.is_file():
        raise UsageError(
            f"the text needs a WordPiece vocabulary, and {path} is not there: pass --vocab PATH, or put vocab.txt into "
            "the raw folder (bert-base-uncased's: github.com/google-research/bert, Apache-2.0; nothing is fetched)"
        )
    refuse_pointer(path)
    return path


def tokenizer(vocab: Path) -> PreTrainedTokenizerBase:
    """Returns the lower-casing tokenizer of a vocabulary: WordPiece, one token a line, or CLIP's vocab.json.

    Raises:
        UsageError: The file is no such vocabulary.
    """
    return _tokenizer(vocab, vocab.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _tokenizer(vocab: Path, _changed_ns: int) -> PreTrainedTokenizerBase:
    from transformers.utils import logging

    # A text longer than its model takes is cropped here, and noted.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers has no types for it
    content = decoded(vocab, MAX_VOCAB_BYTES)
    return _clip(vocab, content) if vocab.suffix == ".json" else _word_piece(vocab, content)


def _word_piece(vocab: Path, content: str) -> PreTrainedTokenizerBase:
    from transformers import BertTokenizer

    tokens = content.split("\n")
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing or tokens[0] != SPECIAL_TOKENS[0]:
        what = f"it lacks {', '.join(missing)}" if missing else "its first line must be [PAD]"
        raise UsageError(f"{vocab} is no BERT vocabulary: {what}")
    # The last line ends the file; it is no token.
    # Said explicitly: the default is another one in transformers 5.0 than in later releases.
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens) if token}, do_lower_case=True)


def _clip(vocab: Path, content: str) -> PreTrainedTokenizerBase:
    from transformers import CLIPTokenizer

    try:
        tokens = parse_json(content)
    except ValueError as error:
        raise UsageError(f"{vocab} is no CLIP vocabulary: {error}") from None
    if not isinstance(tokens, dict) or not all(isinstance(number, int) for number in tokens.values()):
        raise UsageError(f"{vocab} is no CLIP vocabulary: it must be a mapping of tokens to numbers")
    if missing := [token for token in CLIP_TOKENS if token not in tokens]:
        raise UsageError(f"{vocab} is no CLIP vocabulary: it lacks {', '.join(missing)}")
    return CLIPTokenizer(str(vocab), str(_merges(vocab)))


def _merges(vocab: Path) -> Path:
    """Returns the file of merges that belongs to CLIP's vocabulary."""
    path = vocab.with_name("merges.txt")
    if not path.is_file():
        raise UsageError(
            f"{vocab} is CLIP's vocabulary, which needs merges.txt beside it (both are in a CLIP model's folder on the "
            "Hugging Face hub, openai/clip-vit-base-patch16 for example; nothing is fetched)"
        )
    return path
