"""Each kind of broken input, through the whole of `prepare`: refused by name, or left out with its reason."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import save_picture, save_text, save_vocab, save_wave

from mmcore.data.demo.clip_files import save_clip
from mmcore.data.prepared.prepare import HowToPrepare, prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.raw.description import read_description
from mmcore.data.sources import user_table
from mmcore.errors import DataError

GOOD = {"sound": "a.wav", "face": "a.png", "clip": "a.mp4", "words": "good day", "label": "sad"}
BAD: dict[str, tuple[dict[str, str], str]] = {
    "truncated mp4": ({"clip": "cut.mp4"}, "cut.mp4 can not be read as a clip"),
    "zero-length wav": ({"sound": "empty.wav"}, "missing: sound: empty.wav is empty"),
    "wav without a sample": ({"sound": "silent.wav"}, "silent.wav holds no audio"),
    "one pixel": ({"face": "dot.png"}, "dot.png is 1x1 pixels: no picture"),
    "label outside the classes": ({"label": "furious"}, "bad row: unknown class 'furious'; known: glad, sad"),
    "path that climbs out": ({"face": "../outside.png"}, "leads out of"),
    "symlink loop": ({"face": "loop.png"}, "missing: face: loop.png: Too many levels of symbolic links"),
    "text of blanks": ({"words": "   "}, "column 'words' has no value"),
}
STRANGE = {
    "ten thousand words": ({"words": "good " * 10_000}, "words cropped to 8 of 10002 tokens"),
    "emoji alone": ({"words": "😀 🎉"}, None),
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with good and bad media, and a description of a table without rows yet."""
    raw = tmp_path / "raw"
    save_wave(raw / "a.wav")
    save_picture(raw / "a.png")
    save_picture(tmp_path / "outside.png")
    save_picture(raw / "dot.png", size=(1, 1))
    save_text(raw / "empty.wav", "")
    save_wave(raw / "silent.wav", 0.0)
    frames = list(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8))
    save_clip(raw / "a.mp4", frames, None)
    content = (raw / "a.mp4").read_bytes()
    save_text(raw / "cut.mp4", content[: len(content) // 2])
    (raw / "loop.png").symlink_to("loop.png")
    save_vocab(raw, "good", "day")
    return raw


def described(raw: Path, rows: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Writes the table and returns the options of the data set."""
    lines = [",".join(["id", *GOOD]), *(",".join([name, *(GOOD | row).values()]) for name, row in rows.items())]
    save_text(raw / "rows.csv", "\n".join(lines) + "\n")
    description = raw / "mine.yaml"
    save_text(
        description,
        """
        manifest: rows.csv
        id: id
        label: label
        classes: [glad, sad]
        modalities:
          sound: {kind: audio, column: sound, sample_rate_hz: 8000, seconds: 0.1}
          face: {kind: image, column: face, size: 8}
          clip: {kind: video, column: clip, size: 8, frames: 1}
          words: {kind: text, column: words, max_tokens: 8}
        """,
    )
    return read_description(description)


def make(raw: Path, rows: dict[str, dict[str, str]], on_missing: Any = "fail") -> PreparedDataset:
    how = HowToPrepare(on_missing=on_missing)
    return prepare(user_table.SOURCE_NAME, described(raw, rows), raw, raw.parent / "data", how=how)


@pytest.mark.parametrize("kind", BAD)
def test_it_is_refused_by_name_and_the_data_set_of_before_stays(kind: str, raw: Path) -> None:
    before = make(raw, {"fine": {}})
    row, reason = BAD[kind]
    with pytest.raises(DataError) as raised:
        make(raw, {"fine": {}, "bad": row})
    assert reason in str(raised.value)
    assert "1 of 2 samples can not be used (" in str(raised.value)
    assert "--on-missing skip" in str(raised.value)
    after = PreparedDataset.open(before.directory)
    after.verify()
    assert after.fingerprint == before.fingerprint


def test_all_of_them_are_left_out_with_their_reasons(raw: Path) -> None:
    rows = {"fine": {}} | {kind: row for kind, (row, _) in (BAD | STRANGE).items()}
    prepared = make(raw, rows, on_missing="skip")
    assert sorted(prepared.index["sample_id"].to_pylist()) == sorted(["fine", *STRANGE])
    metadata = prepared.metadata
    said = {entry["sample_id"]: entry["reason"] for entry in [*metadata["skipped"], *metadata["noted"]]}
    expected = {kind: reason for kind, (_, reason) in (BAD | STRANGE).items() if reason}
    by_line = {f"rows.csv:{number}": kind for number, kind in enumerate(rows, start=2)}
    named = {by_line.get(name, name): reason for name, reason in said.items()}
    assert named.keys() == expected.keys()
    assert [kind for kind, reason in expected.items() if reason not in named[kind]] == []


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Lets the system refuse to write more into a file, as a full disk does: at any byte, with an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_bytes", [0, 500, 3000])
def test_a_disk_that_fills_up_leaves_what_was_there_and_nothing_half_written(num_bytes: int, raw: Path) -> None:
    before = make(raw, {"fine": {}})
    rows: dict[str, dict[str, str]] = {f"sample{number}": {} for number in range(8)}
    described(raw, rows)
    with files_of_at_most(num_bytes), pytest.raises((DataError, OSError), match="File too large"):
        prepare(user_table.SOURCE_NAME, read_description(raw / "mine.yaml"), raw, raw.parent / "data")
    after = PreparedDataset.open(before.directory)
    after.verify()
    assert after.fingerprint == before.fingerprint
    folders = [path.parent for path in (raw.parent / "data").rglob("dataset.json")]
    assert folders == [before.directory]
    assert make(raw, rows).num_samples == 8
