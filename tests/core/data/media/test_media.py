from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from places import SHARED
from raw_files import save_picture, save_text, save_vocab, save_wave

from mmcore.data.media import AudioFile, Frames, ImageFile, RawFolder, Text, read_audio, read_image
from mmcore.data.media.text import tokenizer
from mmcore.errors import DataError, UsageError

VOCAB = SHARED / "data" / "bert-base-uncased" / "vocab.txt"


class TestRawFolder:
    @pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "a/../../b"])
    def test_a_path_that_climbs_out_is_refused(self, tmp_path: Path, path: str) -> None:
        folder = RawFolder(tmp_path)
        with pytest.raises(DataError, match="leads out of the raw folder"):
            folder.path(path)
        assert "leads out" in str(folder.fault(path))

    def test_faults_say_why(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        save_text(tmp_path / "empty.wav", "")
        save_text(tmp_path / "full.wav", "x")
        folder = RawFolder(tmp_path)
        assert folder.fault("absent.wav") == "absent.wav is not there"
        assert folder.fault("empty.wav") == "empty.wav is empty"
        assert folder.fault("loop") == f"loop: {os.strerror(40)}"
        assert folder.fault("full.wav") is None

    def test_a_git_lfs_pointer_is_no_file_of_any_medium(self, tmp_path: Path) -> None:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 72862\n"
        names = ("a.jpg", "a.mp4", "a.wav", "a.npy", "train.csv", "vocab.txt")
        for name in names:
            save_text(tmp_path / name, pointer)
        folder = RawFolder(tmp_path)
        advice = "is a Git LFS pointer, not the file itself: run `git lfs pull`"
        assert [folder.fault(name) for name in names] == [f"{name} {advice}" for name in names]
        with pytest.raises(UsageError, match=rf"train.csv {advice}"):
            folder.lists("train.csv")
        with pytest.raises(UsageError, match=rf"vocab.txt {advice}"):
            Text("text", 8).read(folder, "Good day")

    def test_links_inside_may_lead_elsewhere(self, tmp_path: Path) -> None:
        save_picture(tmp_path / "elsewhere" / "a.png")
        (tmp_path / "raw").mkdir()
        (tmp_path / "raw" / "images").symlink_to(tmp_path / "elsewhere")
        assert RawFolder(tmp_path / "raw").fault("images/a.png") is None

    def test_lists_of_the_first_pattern_that_has_any_sorted(self, tmp_path: Path) -> None:
        for name in ("b.csv", "a.csv", "z.txt"):
            save_text(tmp_path / "lists" / name, "x")
        folder = RawFolder(tmp_path / "raw", tmp_path / "lists")
        assert [path.name for path in folder.lists("*.tsv", "*.csv", "*.txt")] == ["a.csv", "b.csv"]
        assert folder.lists("*.json") == []


class TestImage:
    def test_any_mode_becomes_rgb_of_the_size(self, tmp_path: Path) -> None:
        pixels = np.zeros((8, 8), dtype=np.uint8)
        pixels[:, 4:] = 255
        for mode, suffix in (("L", "png"), ("P", "gif"), ("RGBA", "png"), ("CMYK", "jpg"), ("1", "png")):
            path = tmp_path / f"{mode}.{suffix}"
            Image.fromarray(pixels).convert(mode).save(path)
            array = read_image(path, 4).array
            assert array.shape == (3, 4, 4)
            assert array.dtype == np.uint8
            assert array[:, :, 0].max() < 60, mode
            assert array[:, :, 3].min() > 195, mode

    def test_the_whole_picture_is_kept_whatever_its_shape(self, tmp_path: Path) -> None:
        pixels = np.zeros((10, 40, 3), dtype=np.uint8)
        pixels[:, :20, 0] = 200
        Image.fromarray(pixels).save(tmp_path / "wide.png")
        array = read_image(tmp_path / "wide.png", 8).array
        assert array[0, :, :3].min() == 200
        assert array[0, :, 5:].max() == 0

    @pytest.mark.parametrize("num_bytes", [0, 10, 200])
    def test_truncated(self, tmp_path: Path, num_bytes: int) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        path = tmp_path / "a.jpg"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:num_bytes])
        with pytest.raises(DataError, match=r"a.jpg can not be read as a picture"):
            read_image(path, 8)

    def test_one_pixel_is_no_picture(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"dot.png is 1x1 pixels: no picture"):
            read_image(save_picture(tmp_path / "dot.png", size=(1, 1)), 8)

    def test_frames_are_padded_and_counted(self, tmp_path: Path) -> None:
        names = [save_picture(tmp_path / f"{n}.png", 40 * n).name for n in (1, 2)]
        decoded = Frames("video", 3, 4).read(RawFolder(tmp_path), names)
        assert decoded.array.shape == (3, 3, 4, 4)
        assert decoded.array[:, 0, 0, 0].tolist() == [40, 80, 0]
        assert decoded.length == 2
        assert Frames("video", 1, 4).read(RawFolder(tmp_path), names).length == 1

    def test_files_of_a_sample(self) -> None:
        assert list(ImageFile("image", 4).files("a.jpg")) == ["a.jpg"]
        assert list(Frames("video", 2, 4).files(["a.jpg", "b.jpg"])) == ["a.jpg", "b.jpg"]


class TestAudio:
    def test_is_cropped_padded_and_resampled(self, tmp_path: Path) -> None:
        folder = RawFolder(tmp_path)
        save_wave(tmp_path / "short.wav", 0.1, rate_hz=16000)
        save_wave(tmp_path / "long.wav", 0.5, rate_hz=8000)
        medium = AudioFile("audio", 8000, 0.25)
        short, long = medium.read(folder, "short.wav"), medium.read(folder, "long.wav")
        assert short.array.shape == long.array.shape == (2000,)
        assert (short.length, short.notes) == (800, ())
        assert not short.array[800:].any()
        assert long.length == 2000
        assert [str(note) for note in long.notes] == ["cropped to the first 0.25 s of 0.50 s"]

    @pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
    def test_other_formats(self, tmp_path: Path, suffix: str) -> None:
        tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
        soundfile.write(tmp_path / f"a.{suffix}", tone, 8000)
        wave = read_audio(tmp_path / f"a.{suffix}", 8000)
        assert abs(len(wave) - 8000) < 1300
        assert 20000 < np.abs(wave).max() <= 32767

    def test_a_header_that_states_no_length_is_taken_by_its_word(self, tmp_path: Path) -> None:
        path = save_wave(tmp_path / "piped.wav")
        content = bytearray(path.read_bytes())
        content[4:8] = b"\xff\xff\xff\xff"
        path.write_bytes(content)
        assert len(read_audio(path, 8000)) == 800


class TestText:
    def test_ids_are_those_of_the_lines(self, tmp_path: Path) -> None:
        save_vocab(tmp_path, "good", "day", "##s")
        decoded = Text("text", 8).read(RawFolder(tmp_path), "Good days, friend")
        # [CLS] good day ##s [UNK] [UNK] [SEP]: line numbers from 0.
        assert decoded.array.tolist() == [2, 5, 6, 7, 1, 1, 3, 0]
        assert decoded.length == 7
        assert decoded.array.dtype == np.int32

    def test_a_long_text_is_cropped_and_said_to_be(self, tmp_path: Path) -> None:
        save_vocab(tmp_path, "word")
        decoded = Text("text", 16).read(RawFolder(tmp_path), "word " * 10_000)
        assert decoded.array.tolist() == [2, *[5] * 14, 3]
        assert [str(note) for note in decoded.notes] == ["cropped to 16 of 10002 tokens"]

    def test_emoji_alone_are_unknown_words_and_no_text_is_an_error(self, tmp_path: Path) -> None:
        save_vocab(tmp_path, "word")
        assert Text("text", 6).read(RawFolder(tmp_path), "😀😀").array.tolist() == [2, 1, 3, 0, 0, 0]
        with pytest.raises(DataError, match="the text is empty"):
            Text("text", 6).read(RawFolder(tmp_path), " \n")

    def test_the_size_of_the_vocabulary_is_stored(self, tmp_path: Path) -> None:
        vocab = save_vocab(tmp_path / "elsewhere", "word")
        folder = RawFolder(tmp_path, vocab=vocab)
        assert Text("text", 8).modality.num_values is None
        assert Text("text", 8).stored(folder).num_values == 6
        assert Text("text", 8).shared_files(folder) == [vocab]

    @pytest.mark.skipif(not VOCAB.is_file(), reason=f"the real vocabulary is not in {VOCAB}")
    def test_the_real_vocabulary(self, tmp_path: Path) -> None:
        decoded = Text("text", 12).read(RawFolder(tmp_path, vocab=VOCAB), "Hello World's embeddings")
        assert decoded.array[:8].tolist() == [101, 7592, 2088, 1005, 1055, 7861, 8270, 4667]
        assert Text("text", 8).stored(RawFolder(tmp_path, vocab=VOCAB)).num_values == 30522

    def test_bad_vocabularies(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"vocab.txt is not there: pass --vocab PATH.*Apache-2.0"):
            Text("text", 8).stored(RawFolder(tmp_path))
        for content, message in (
            (b"[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n", "its first line must be"),
            (b"[PAD]\n[CLS]\n[SEP]\n", r"it lacks \[UNK\], \[MASK\]"),
            (b"[PAD]\n\xff\xfe", "line 2 is not UTF-8"),
        ):
            path = save_text(tmp_path / f"{len(content)}.txt", content)
            with pytest.raises(UsageError, match=message):
                tokenizer(path)
