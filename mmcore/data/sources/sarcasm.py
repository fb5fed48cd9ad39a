"""`sarcasm`: tweets with pictures, sarcastic or not (Cai, Cai and Wan, ACL 2019).

Layouts: `text/train.txt`, `valid2.txt`, `test2.txt` with one Python list a line; JSON lists of `{image, text,
label}`; tab-separated `Label, ImageID, String`. Pictures in `dataset_image/<id>.jpg`.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from mmcore.data.demo import make
from mmcore.data.media import RawFolder
from mmcore.data.raw.index import BAD_ROW, FILTERED, Entry, Index
from mmcore.data.raw.lists import class_index, read_rows
from mmcore.data.sources import tweets
from mmcore.data.spec import DATASETS
from mmcore.errors import DataError, UsageError

FILTER_WORDS = frozenset(
    ["exgag", "sarcasm", "sarcastic", "reposting", "<url>", "joke", "humour", "humor", "jokes", "irony", "ironic"]
)
"""A training tweet with one of these as a word is left out, as the publishers do: it gives the label away."""


LABELS = ("0", "1")


LISTS = {
    "train": ("text/train.txt", "train.txt"),
    "val": ("text/valid2.txt", "valid2.txt"),
    "test": ("text/test2.txt", "test2.txt"),
}


PICTURE_FOLDERS = ("dataset_image", "images", "image")


class SarcasmConfig(tweets.TweetConfig):
    """Options of `sarcasm`."""

    label: Literal["human", "hashtag"] = Field(
        default="human", description="of validation and test: the annotators' label, or the tweet's own hashtag"
    )


@DATASETS.register("sarcasm")
class Sarcasm(tweets.TweetSource):
    """24,635 tweets: 19,816 train after the filter, 2,410 validate, 2,409 test."""

    Config: ClassVar[type[BaseModel]] = SarcasmConfig
    name = "sarcasm"
    classes = ("not sarcastic", "sarcastic")
    expected: ClassVar = {"publishers' lists, filtered": {"train": 19816, "val": 2410, "test": 2409}}
    raw_help = (
        "The lists are at github.com/headacheboy/data-of-multimodal-sarcasm-detection (text/train.txt, valid2.txt, "
        "test2.txt), the pictures behind its links (four archives), to be put into dataset_image/<id>.jpg; no licence "
        "is stated, and the tweets stay their authors'. To try without: --demo."
    )
    picture_mean: ClassVar = (0.4846, 0.4989, 0.5307)
    picture_std: ClassVar = (0.2440, 0.2487, 0.2574)
    options: SarcasmConfig

    def read_index(self, folder: RawFolder) -> Index:
        """Reads whichever lists are there."""
        pictures = tweets.picture_folder(folder, PICTURE_FOLDERS)
        lists = {split: folder.lists(*patterns) for split, patterns in LISTS.items()}
        if any(lists.values()):
            return self._read_literals(lists, pictures)
        index = tweets.read_json_or_tsv(folder, LABELS, pictures)
        if index is None:
            raise UsageError(f"sarcasm: there are no lists in {folder.split_dir or folder.root}. {self.raw_help}")
        return index

    def write_demo(self, directory: Path) -> None:
        """Writes 280 tweets: words that tell the label, pictures that nearly do not."""
        make.write_vocab(directory, self.classes)
        for split, number in (("train", 160), ("val", 60), ("test", 60)):
            rows = []
            for sample_id, label, generator in make.samples(f"sarcasm-{split}", number, len(self.classes)):
                text = make.sentence(label, 0.95, generator)
                picture = make.picture(label, len(self.classes), 0.5, generator)
                make.save_picture(directory / "dataset_image" / f"{sample_id}.jpg", picture)
                rows.append([sample_id, text, label] if split == "train" else [sample_id, text, label, label])
            path = directory / LISTS[split][0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{row!r}\n" for row in rows))

    def card(self) -> str:
        """Returns origin, terms and what is known to be wrong."""
        if self.options.demo:
            return make.card("Multimodal Sarcasm", "the words tell the label, the pictures hardly do")
        return (
            "Multimodal Sarcasm (Cai, Cai and Wan, ACL 2019): English tweets with one picture; training labels by "
            f"hashtag, validation and test by {self.options.label}. No licence is stated. Training tweets with words "
            "that give the label away are left out, as by the publishers' code."
        )

    def _read_literals(self, lists: dict[str, list[Path]], pictures: str) -> Index:
        missing = [LISTS[split][0] for split, found in lists.items() if not found]
        if missing:
            raise UsageError(f"sarcasm: {' and '.join(missing)} is missing. {self.raw_help}")
        index = Index("publishers' text files", [path for paths in lists.values() for path in paths])
        for split, paths in lists.items():
            for path in paths:
                self._read_file(index, path, split, pictures)
        return index

    def _read_file(self, index: Index, path: Path, split: str, pictures: str) -> None:
        for row in read_rows(path):
            try:
                sample_id, text, label = parse_literal(row.text, split, self.options.label)
            except DataError as error:
                index.leave_out(split, row.place, BAD_ROW, str(error))
                continue
            words = FILTER_WORDS.intersection(text.split()) if split == "train" else None
            if words:
                index.leave_out(split, sample_id, FILTERED, f"the text holds '{min(words)}'")
            else:
                index.add(Entry(sample_id, label, split, {"image": f"{pictures}/{sample_id}.jpg", "text": text}))


def parse_literal(line: str | None, split: str, label: str) -> tuple[str, str, int]:
    """Returns (id, text, label index) of one line, a Python list: `[id, text, label]` in train, else two labels.

    Raises:
        DataError: It is none.
    """
    if line is None:
        raise DataError("the line is not UTF-8")
    try:
        row = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise DataError("the line is no Python list") from None
    length = 3 if split == "train" else 4
    if not isinstance(row, list) or len(row) != length or not isinstance(row[1], str):
        raise DataError(f"the line must be a list of id, text and {length - 2} label(s)")
    chosen = row[2] if split == "train" or label == "hashtag" else row[3]
    return str(row[0]), row[1], class_index(str(chosen), LABELS)
