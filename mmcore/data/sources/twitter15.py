"""`twitter15`: tweets with pictures, and the sentiment towards a target named in each (Yu and Jiang, IJCAI 2019).

Layouts: TomBERT's `train.tsv`, `dev.tsv`, `test.tsv` of five columns (index, label, picture, text with `$T$` for the
target, target), read by position: the header of test.tsv names four columns of five. TomBERT's `.txt` twins of four
lines a sample (text, target, label -1/0/1, picture). Tab-separated `Label, ImageID, String`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from mmcore.data.demo import make
from mmcore.data.media import RawFolder
from mmcore.data.raw.index import BAD_ROW, Entry, Index
from mmcore.data.raw.lists import Row, class_index, read_rows
from mmcore.data.sources import tweets
from mmcore.data.spec import DATASETS
from mmcore.errors import DataError, UsageError

LABELS = ("0", "1", "2")


TXT_LABELS = ("-1", "0", "1")


LIST_FOLDERS = ("absa_data/twitter2015/", "twitter2015/", "", "annotations/")


PICTURE_FOLDERS = ("IJCAI2019_data/twitter2015_images", "twitter2015_images", "images")


PLACEHOLDER = "$T$"


class Twitter15Config(tweets.TweetConfig):
    """Options of `twitter15`."""

    target: Literal["dropped", "filled", "marked"] = Field(
        default="dropped",
        description="as the papers here: the text without its target; the tweet as it was; or with it repeated at the "
        "end, so that the sentiment asked for is known",
    )


@DATASETS.register("twitter15")
class Twitter15(tweets.TweetSource):
    """5,338 tweets and targets: 3,179 train, 1,122 validate, 1,037 test."""

    Config: ClassVar[type[BaseModel]] = Twitter15Config
    name = "twitter15"
    classes = ("negative", "neutral", "positive")
    expected: ClassVar = {"TomBERT's lists": {"train": 3179, "val": 1122, "test": 1037}}
    raw_help = (
        "The lists are at github.com/jefferyYu/TomBERT (absa_data/twitter2015/{train,dev,test}.tsv), the pictures "
        "behind its link (IJCAI2019_data/twitter2015_images/); no licence is stated, and the tweets stay their "
        "authors'. To try without: --demo."
    )
    picture_mean: ClassVar = (0.42455, 0.44051, 0.47076)
    picture_std: ClassVar = (0.24485, 0.24617, 0.25451)
    options: Twitter15Config

    def read_index(self, folder: RawFolder) -> Index:
        """Reads whichever lists are there."""
        pictures = tweets.picture_folder(folder, PICTURE_FOLDERS)
        for suffix, layout, reader in (
            (".tsv", "TomBERT's tsv files", self._read_tsv),
            (".txt", "TomBERT's txt files", self._read_txt),
        ):
            lists = tweets.split_lists(folder, suffix, LIST_FOLDERS)
            missing = [split for split, found in lists.items() if not found]
            if len(missing) == len(lists):
                continue
            if missing:
                raise UsageError(f"twitter15: there is no list for {' and '.join(missing)}. {self.raw_help}")
            index = Index(layout, [path for paths in lists.values() for path in paths])
            for split, (path,) in lists.items():
                reader(index, path, split, pictures)
            return index
        raise UsageError(f"twitter15: there are no lists in {folder.split_dir or folder.root}. {self.raw_help}")

    def write_demo(self, directory: Path) -> None:
        """Writes 260 tweets: words that tell the label, pictures that hardly do."""
        make.write_vocab(directory, self.classes)
        headers = {"test": "index\t#1 ImageID\t#2 String\t#3 String"}
        for split, name, number in (("train", "train", 170), ("val", "dev", 45), ("test", "test", 45)):
            lines = [headers.get(split, "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String")]
            for count, (sample_id, label, generator) in enumerate(
                make.samples(f"twitter15-{split}", number, len(self.classes))
            ):
                picture = f"{sample_id}.jpg"
                path = directory / "IJCAI2019_data" / "twitter2015_images" / picture
                make.save_picture(path, make.picture(label, len(self.classes), 0.5, generator))
                text = make.sentence(label, 0.95, generator)
                lines.append(f"{count}\t{label}\t{picture}\t{PLACEHOLDER} {text}\tteam")
            path = directory / LIST_FOLDERS[0] / f"{name}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")

    def card(self) -> str:
        """Returns origin, terms and what is known to be wrong."""
        if self.options.demo:
            return make.card("Twitter-2015", "the words tell the label, the pictures hardly do")
        return (
            "Twitter-2015 (Zhang et al. 2018; targets and pictures by Yu and Jiang, IJCAI 2019): English tweets, the "
            f"sentiment towards a target; target {self.options.target}. No licence is stated. A tweet occurs once for "
            "each of its targets, with labels that may differ. The papers' 3,197 training samples is a misprint of "
            "3,179."
        )

    def _read_tsv(self, index: Index, path: Path, split: str, pictures: str) -> None:
        rows = list(read_rows(path))
        if rows and (rows[0].text or "").split("\t")[0].strip().lower() == "label":
            index.layout = "tab-separated Label, ImageID, String"
            tweets.read_short_tsv(index, path, split, LABELS, pictures)
            return
        for number, row in enumerate(rows):
            fields = (row.text or "").split("\t")
            if number == 0 and fields[0].strip().lower() == "index":
                continue
            try:
                index.add(self._entry(row, fields, split, pictures))
            except DataError as error:
                index.leave_out(split, row.place, BAD_ROW, str(error))

    def _entry(self, row: Row, fields: Sequence[str], split: str, pictures: str) -> Entry:
        if row.text is None or len(fields) != 5:
            raise DataError("the line is not UTF-8" if row.text is None else f"{len(fields)} columns, not 5")
        number, label, picture, text, target = (field.strip() for field in fields)
        label_index = class_index(label, LABELS)
        content = self._text(text, target)
        return tweets.tweet(f"{split}-{number}", label_index, split, picture=picture, text=content, pictures=pictures)

    def _read_txt(self, index: Index, path: Path, split: str, pictures: str) -> None:
        rows = list(read_rows(path))
        if len(rows) % 4:
            raise UsageError(f"{path} must have four lines a sample, got {len(rows)} lines")
        for number in range(0, len(rows), 4):
            lines = [row.text for row in rows[number : number + 4]]
            sample_id = f"{split}-{number // 4}"
            try:
                if any(line is None for line in lines):
                    raise DataError("a line is not UTF-8")
                text, target, label, picture = (str(line).strip() for line in lines)
                label_index = class_index(label, TXT_LABELS)
                content = self._text(text, target)
                entry = tweets.tweet(sample_id, label_index, split, picture=picture, text=content, pictures=pictures)
                index.add(entry)
            except DataError as error:
                index.leave_out(split, rows[number].place, BAD_ROW, str(error))

    def _text(self, text: str, target: str) -> str:
        """Returns the text as the option `target` asks."""
        if self.options.target == "dropped":
            return text.replace(PLACEHOLDER, " ")
        filled = text.replace(PLACEHOLDER, target)
        return f"{filled} [SEP] {target}" if self.options.target == "marked" else filled
