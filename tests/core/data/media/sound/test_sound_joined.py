"""Files that hold more than their header says, or another file behind them: never less without a note."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sound_files import RATE_HZ, as_int16, chunk, form, save_by_av, tone, wave_file

from mmcore.data.media import read_audio, read_sound
from mmcore.data.media.sound.chunks import BLOCK
from mmcore.errors import DataError

PCM = as_int16(tone())
LEFT_OUT, SECOND = "left out what is behind the length its header states", "a second file begins within it"
READ_ON = "read beyond the length its header states"


def rules_of(path: Path, rate_hz: int = RATE_HZ) -> list[str]:
    return [note.rule for note in read_sound(path, rate_hz).notes]


class TestJoined:
    """Two files in one, as `cat` makes them."""

    @pytest.mark.parametrize(
        ("kind", "subtype"),
        [
            ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("RF64", "PCM_16"), ("W64", "PCM_16"),
            ("W64", "IMA_ADPCM"), ("AIFF", "PCM_16"), ("AIFF", "GSM610"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"),
            ("AU", "PCM_16"), ("AU", "G721_32"), ("NIST", "PCM_16"), ("SVX", "PCM_16"),
        ],
    )  # fmt: skip
    def test_the_first_is_read_and_the_other_noted(self, tmp_path: Path, kind: str, subtype: str) -> None:
        soundfile.write(tmp_path / "a", tone(), RATE_HZ, format=kind, subtype=subtype)
        soundfile.write(tmp_path / "b", tone(seconds=0.7), RATE_HZ, format=kind, subtype=subtype)
        (tmp_path / "c").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
        assert rules_of(tmp_path / "a") == []
        assert rules_of(tmp_path / "c") == [LEFT_OUT]
        assert np.array_equal(read_audio(tmp_path / "c", RATE_HZ), read_audio(tmp_path / "a", RATE_HZ))

    @pytest.mark.parametrize("kind", ["AVR", "MAT4", "MAT5", "PAF", "PVF", "IRCAM", "SDS", "VOC", "WVE"])
    def test_a_second_beginning_is_noted(self, tmp_path: Path, kind: str) -> None:
        subtype = "ALAW" if kind == "WVE" else "PCM_16"
        soundfile.write(tmp_path / "a", tone(), RATE_HZ, format=kind, subtype=subtype)
        content = (tmp_path / "a").read_bytes()
        (tmp_path / "b").write_bytes(content * 2)
        assert SECOND not in rules_of(tmp_path / "a")
        assert f"{SECOND} (at byte {len(content)})" in [str(note) for note in read_sound(tmp_path / "b", RATE_HZ).notes]

    def test_a_second_beginning_across_the_blocks_of_the_search(self, tmp_path: Path) -> None:
        header, own = 2048, 8
        for begin in (BLOCK + own - 4, BLOCK + own - 8, BLOCK + own, 2 * BLOCK + own - 2):
            wave = np.resize(PCM, (begin - header) // 2)
            soundfile.write(tmp_path / "a", wave, RATE_HZ, format="PAF", subtype="PCM_16")
            content = (tmp_path / "a").read_bytes()
            (tmp_path / "b").write_bytes(content * 2)
            assert len(content) == begin
            assert str(read_sound(tmp_path / "b", RATE_HZ).notes[0]) == f"{SECOND} (at byte {begin})"
            assert rules_of(tmp_path / "a") == []

    @pytest.mark.parametrize(
        ("name", "codec"), [("a.m4a", "aac"), ("a.mov", "pcm_s16le"), ("a.flv", "aac"), ("a.tta", "tta")]
    )
    def test_a_second_container_is_noted(self, tmp_path: Path, name: str, codec: str) -> None:
        path = save_by_av(tmp_path / name, codec, tone(44100), 44100)
        assert rules_of(path, 44100) == []
        path.write_bytes(path.read_bytes() * 2)
        assert SECOND in rules_of(path, 44100)

    def test_flac(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.flac", PCM, RATE_HZ)
        soundfile.write(tmp_path / "b.flac", PCM[:9000], RATE_HZ)
        (tmp_path / "c.flac").write_bytes((tmp_path / "a.flac").read_bytes() + (tmp_path / "b.flac").read_bytes())
        assert np.array_equal(read_audio(tmp_path / "c.flac", RATE_HZ), PCM)
        assert rules_of(tmp_path / "c.flac") == [SECOND]
        (tmp_path / "d.flac").write_bytes((tmp_path / "b.flac").read_bytes() + (tmp_path / "a.flac").read_bytes())
        assert np.array_equal(read_audio(tmp_path / "d.flac", RATE_HZ), PCM[:9000])
        assert rules_of(tmp_path / "d.flac") == [SECOND]

    @pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
    @pytest.mark.parametrize("rate_hz", [16000, 48000])
    def test_ogg_files_are_all_read_exactly(self, tmp_path: Path, subtype: str, rate_hz: int) -> None:
        soundfile.write(tmp_path / "a", tone(rate_hz, amplitude=0.3), rate_hz, format="OGG", subtype=subtype)
        soundfile.write(tmp_path / "b", tone(rate_hz, 3, amplitude=0.3), rate_hz, format="OGG", subtype=subtype)
        (tmp_path / "c").write_bytes((tmp_path / "a").read_bytes() * 2 + (tmp_path / "b").read_bytes())
        first, second = read_audio(tmp_path / "a", rate_hz), read_audio(tmp_path / "b", rate_hz)
        assert (len(first), len(second)) == (rate_hz, 3 * rate_hz)
        assert np.array_equal(read_audio(tmp_path / "c", rate_hz), np.concatenate([first, first, second]))

    def test_recordings_from_a_pipe(self, tmp_path: Path) -> None:
        path = wave_file(tmp_path / "a.wav", form(), chunk(b"data", PCM.tobytes(), 0xFFFFFFFF), stated=0xFFFFFFFF)
        assert rules_of(path) == []
        path.write_bytes(path.read_bytes() * 2)
        assert rules_of(path) == [SECOND]


def with_field(content: bytes, behind: bytes, skip: int, form_: str, value: int) -> bytes:
    """The content with another number `skip` bytes behind a name."""
    at = content.index(behind) + len(behind) + skip
    return content[:at] + struct.pack(form_, value) + content[at + struct.calcsize(form_) :]


class TestStatesLess:
    """The header tells of half the samples."""

    @pytest.mark.parametrize(
        ("kind", "name", "skip", "number", "stated"),
        [
            ("WAV", b"data", 0, "<I", 16000), ("RF64", b"ds64", 12, "<Q", 16000), ("AIFF", b"SSND", 0, ">I", 16008),
            ("CAF", b"data", 0, ">q", 16004), ("AU", b".snd", 4, ">I", 16000),
            ("W64", b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", 0, "<q", 16024),
        ],
    )  # fmt: skip
    def test_what_is_left_out_is_noted(
        self, tmp_path: Path, kind: str, name: bytes, skip: int, number: str, stated: int
    ) -> None:
        soundfile.write(tmp_path / "a", PCM, RATE_HZ, format=kind, subtype="PCM_16")
        content = (tmp_path / "a").read_bytes()
        (tmp_path / "b").write_bytes(with_field(content, name, skip, number, stated))
        assert np.array_equal(read_audio(tmp_path / "b", RATE_HZ), PCM[:8000])
        assert [str(note) for note in read_sound(tmp_path / "b", RATE_HZ).notes] == [f"{LEFT_OUT} (16000 bytes)"]

    def test_nist(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a", PCM, RATE_HZ, format="NIST", subtype="PCM_16")
        content = (tmp_path / "a").read_bytes()
        assert content.count(b"sample_count -i 16000") == 1
        (tmp_path / "a").write_bytes(content.replace(b"sample_count -i 16000", b"sample_count -i 08000"))
        assert np.array_equal(read_audio(tmp_path / "a", RATE_HZ), PCM[:8000])
        assert rules_of(tmp_path / "a") == [LEFT_OUT]

    @pytest.mark.parametrize(("subtype", "channels"), [("PCM_16", 1), ("PCM_16", 2), ("PCM_24", 2), ("PCM_S8", 1)])
    @pytest.mark.parametrize("behind", [b"", b"TAG" + b" " * 125])
    def test_flac_is_read_to_its_end(self, tmp_path: Path, subtype: str, channels: int, behind: bytes) -> None:
        path = tmp_path / "a.flac"
        soundfile.write(path, np.stack([tone()] * channels, axis=1), RATE_HZ, subtype=subtype)
        content = path.read_bytes() + behind
        path.write_bytes(content)
        whole = read_audio(path, RATE_HZ)
        assert len(whole) == RATE_HZ
        assert rules_of(path) == []
        for stated in (15999, 8000, 1):
            path.write_bytes(content[:21] + bytes([content[21] & 0xF0]) + struct.pack(">I", stated) + content[26:])
            assert np.array_equal(read_audio(path, RATE_HZ), whole)
            notes = [str(note) for note in read_sound(path, RATE_HZ).notes]
            assert notes == [f"{READ_ON} (16000 samples, not {stated})"]

    def test_chunks_behind_the_sound_of_w64_are_no_sound(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.w64", PCM, RATE_HZ)
        fact = b"fact\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a" + struct.pack("<qq", 32, RATE_HZ)
        (tmp_path / "a.w64").write_bytes((tmp_path / "a.w64").read_bytes() + fact)
        assert np.array_equal(read_audio(tmp_path / "a.w64", RATE_HZ), PCM)
        assert rules_of(tmp_path / "a.w64") == []


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # what soundfile would print
@pytest.mark.parametrize("kind", ["FLAC", "AIFF", "W64", "AU"])
def test_damaged_files_behind_a_tag_are_refused_without_a_print(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a", PCM[:2000], RATE_HZ, format=kind)
    content = (tmp_path / "a").read_bytes()
    for number in range(60):
        damaged = bytearray(content[: number if 4 < number < 30 else None])
        damaged[int(rng.integers(4, min(len(damaged), 80)))] = int(rng.integers(256))
        (tmp_path / "b").write_bytes(b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + damaged)
        with contextlib.suppress(DataError):
            read_audio(tmp_path / "b", RATE_HZ)
