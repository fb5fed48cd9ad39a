"""Sound: right values whatever the file holds, and what is damaged refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from sound_files import RATE_HZ, as_int16, chunk, error, form, mp3, save_by_av, tone, wave_file

from mmcore.data.media import AudioFile, RawFolder, read_audio, read_sound
from mmcore.errors import DataError

PCM = as_int16(tone())
EXACT, COARSE, LOSSY = 1e-4, 0.02, 0.06
ERRORS = {
    "PCM_S8": COARSE, "PCM_U8": COARSE, "ULAW": 0.03, "ALAW": 0.03, "IMA_ADPCM": LOSSY, "MS_ADPCM": LOSSY,
    "VORBIS": LOSSY, "OPUS": LOSSY, "MPEG_LAYER_III": LOSSY, "GSM610": 1.0, "G721_32": LOSSY, "G723_24": 0.2,
    "G723_40": LOSSY, "NMS_ADPCM_16": 0.2, "NMS_ADPCM_24": LOSSY, "NMS_ADPCM_32": LOSSY,
}  # fmt: skip
"""Subtype -> largest error against the tone, full scale 1; of others EXACT. GSM is for 8 kHz."""
UNREADABLE = {"RAW", "SD2", "XI", "WVE", "VOC"}
"""No header; a second file; rates of their own."""


def formats() -> list[tuple[str, str]]:
    return [
        (kind, subtype)
        for kind in soundfile.available_formats()
        if kind not in UNREADABLE
        for subtype in soundfile.available_subtypes(kind)
        if not subtype.startswith(("DWVW", "MPEG_LAYER")) or (kind, subtype) == ("MP3", "MPEG_LAYER_III")
    ]


def notes_of(path: Path, rate_hz: int = RATE_HZ) -> list[str]:
    return [str(note) for note in read_sound(path, rate_hz).notes]


class TestFormats:
    @pytest.mark.parametrize(("kind", "subtype"), formats())
    def test_all_that_soundfile_writes(self, tmp_path: Path, kind: str, subtype: str) -> None:
        path = tmp_path / "a.bin"
        soundfile.write(path, tone(), RATE_HZ, format=kind, subtype=subtype)
        wave = read_audio(path, RATE_HZ)
        assert wave.dtype == np.int16
        assert 0 <= len(wave) - RATE_HZ <= 1100 or subtype == "GSM610"  # blocks are filled up
        assert error(wave, tone()) < ERRORS.get(subtype, EXACT)

    @pytest.mark.parametrize(
        ("name", "codec", "rate_hz"),
        [
            ("a.m4a", "aac", 44100), ("a.aac", "aac", 44100), ("a.ts", "aac", 44100), ("a.mpg", "mp2", 44100),
            ("a.3gp", "aac", 44100), ("a.mov", "pcm_s16le", 44100), ("a.m4a", "alac", 44100), ("a.flv", "aac", 44100),
            ("a.webm", "libopus", 48000), ("a.opus", "libopus", 48000), ("a.mkv", "ac3", 44100),
            ("a.ac3", "ac3", 44100),
            ("a.amr", "libopencore_amrnb", 8000), ("a.wma", "wmav2", 44100), ("a.tta", "tta", 44100),
            ("a.wv", "wavpack", 44100), ("a.oga", "flac", 44100), ("a.mka", "pcm_f32le", 44100),
            ("a.mp2", "mp2", 44100),
            ("a.mp3", "libmp3lame", 44100), ("a.avi", "libmp3lame", 44100),
            ("a.wav", "pcm_s24le", 44100), ("a.wav", "g726", 8000), ("a.wav", "libmp3lame", 44100),
            ("a.wav", "adpcm_ms", 44100), ("a.mov", "pcm_u8", 44100), ("a.mkv", "pcm_f64le", 44100),
        ],
    )  # fmt: skip
    def test_all_that_pyav_writes(self, tmp_path: Path, name: str, codec: str, rate_hz: int) -> None:
        path = save_by_av(tmp_path / name, codec, tone(rate_hz), rate_hz)
        wave = read_audio(path, rate_hz).astype(float) / 32768
        assert -1200 < len(wave) - rate_hz < 4000  # encoders fill their last packet, or (wma) leave it out
        middle = wave[rate_hz // 4 : rate_hz // 4 * 3]
        assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.2)
        spectrum = np.abs(np.fft.rfft(middle))
        assert np.argmax(spectrum) * rate_hz / len(middle) == pytest.approx(440, abs=3)

    @pytest.mark.parametrize(
        ("kind", "name"), [("FLAC", "a.wav"), ("MP3", "a.wav"), ("WAV", "a.mp3"), ("OGG", "a.raw"), ("WAV", "a.mp4")]
    )
    def test_the_content_decides_not_the_name(self, tmp_path: Path, kind: str, name: str) -> None:
        soundfile.write(tmp_path / name, tone(), RATE_HZ, format=kind)
        assert error(read_audio(tmp_path / name, RATE_HZ), tone()) < LOSSY

    def test_flac_of_no_stated_length_and_behind_a_tag(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.flac", PCM, RATE_HZ)
        content = bytearray((tmp_path / "a.flac").read_bytes())
        (tmp_path / "b.flac").write_bytes(b"ID3\x04\0\0\0\0\x10\0" + bytes(2048) + content)
        assert (read_audio(tmp_path / "b.flac", RATE_HZ) == PCM).all()
        content[21] &= 0xF0
        content[22:26] = bytes(4)  # the number of samples, as a writer to a pipe leaves it
        (tmp_path / "c.flac").write_bytes(content)
        assert (read_audio(tmp_path / "c.flac", RATE_HZ) == PCM).all()

    @pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "AU", "CAF"])
    def test_a_tag_in_front_of_any_format(self, tmp_path: Path, kind: str) -> None:
        soundfile.write(tmp_path / "a", PCM, RATE_HZ, format=kind)
        for size in (10, 8192):
            tag = b"ID3\4\0\0\0\0" + bytes([size >> 7, size & 127]) + bytes(size)
            (tmp_path / "b").write_bytes(tag + (tmp_path / "a").read_bytes())
            assert (read_audio(tmp_path / "b", RATE_HZ) == PCM).all()
            (tmp_path / "c").write_bytes((tmp_path / "b").read_bytes()[:-400])
            with pytest.raises(DataError, match=r"c (is truncated|is damaged)"):
                read_audio(tmp_path / "c", RATE_HZ)

    @pytest.mark.parametrize(
        ("name", "codec"), [("a.m4a", "alac"), ("a.mp2", "mp2"), ("a.ac3", "ac3"), ("a.aac", "aac")]
    )
    def test_a_tag_in_front_of_what_pyav_reads(self, tmp_path: Path, name: str, codec: str) -> None:
        path = save_by_av(tmp_path / name, codec, tone(44100), 44100)
        whole = read_audio(path, 44100)
        path.write_bytes(b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + path.read_bytes())
        assert np.array_equal(read_audio(path, 44100), whole)

    def test_m4a_named_wav(self, tmp_path: Path) -> None:
        save_by_av(tmp_path / "a.m4a", "alac", tone(), RATE_HZ).rename(tmp_path / "a.wav")
        assert error(read_audio(tmp_path / "a.wav", RATE_HZ), tone()) < EXACT


class TestSamples:
    def test_16_bits_come_out_bit_for_bit(self, tmp_path: Path) -> None:
        every = np.arange(-32768, 32768).astype(np.int16)
        for kind in ("WAV", "FLAC", "AIFF", "CAF", "W64", "RF64", "AU"):
            soundfile.write(tmp_path / "a", every, RATE_HZ, format=kind)
            assert (read_audio(tmp_path / "a", RATE_HZ) == every).all(), kind

    @pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
    def test_wider_samples_give_the_same_value(self, tmp_path: Path, subtype: str) -> None:
        every = np.arange(-32768, 32768)
        soundfile.write(tmp_path / "a.wav", every / 32768, RATE_HZ, subtype=subtype)
        assert (read_audio(tmp_path / "a.wav", RATE_HZ) == every).all()

    def test_channels_are_averaged_as_float(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.wav", np.array([[32767, 32767], [-3, 0], [100, -50], [1, 2]], np.int16), RATE_HZ)
        assert read_audio(tmp_path / "a.wav", RATE_HZ).tolist() == [32767, -2, 25, 2]

    @pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "DOUBLE"])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_silence_stays_silence_through_mixing_and_resampling(
        self, tmp_path: Path, subtype: str, channels: int
    ) -> None:
        soundfile.write(tmp_path / "a.wav", np.zeros((16000, channels)), 16000, subtype=subtype)
        sound = read_sound(tmp_path / "a.wav", 22050)
        assert len(sound.wave) == 22050
        assert not sound.wave.any()
        assert [str(note) for note in sound.notes] == ["silent"]

    @pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
    def test_resampling_keeps_length_and_values(self, tmp_path: Path, subtype: str) -> None:
        soundfile.write(tmp_path / "a.wav", tone(), RATE_HZ, subtype=subtype)
        wave = read_audio(tmp_path / "a.wav", 22050)
        assert len(wave) == 22050
        assert error(wave, tone(22050)) < 1e-3

    def test_sound_beyond_full_scale_is_clipped_and_noted(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.wav", np.array([0.5, 1.0, 1.5, -2.0]), RATE_HZ, subtype="FLOAT")
        sound = read_sound(tmp_path / "a.wav", RATE_HZ)
        assert sound.wave.tolist() == [16384, 32767, 32767, -32768]
        soundfile.write(tmp_path / "b.wav", np.array([3e38, -3e38] * 800), RATE_HZ, subtype="FLOAT")
        assert "up to 3e+38 times" in notes_of(tmp_path / "b.wav", 22050)[0]
        assert [str(note) for note in sound.notes] == ["clipped at full scale (2 samples, up to 2 times full scale)"]

    @pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
    def test_what_is_no_number_is_damage(self, tmp_path: Path, subtype: str) -> None:
        soundfile.write(tmp_path / "a.wav", np.array([0.5, np.nan, np.inf, 0]), RATE_HZ, subtype=subtype)
        with pytest.raises(DataError, match=r"a.wav is damaged: 2 of its samples are no finite numbers"):
            read_audio(tmp_path / "a.wav", RATE_HZ)

    def test_channels_that_cancel_each_other_are_noted(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.wav", np.stack([tone(), -tone()], axis=1), RATE_HZ)
        assert notes_of(tmp_path / "a.wav") == ["the channels cancel each other in the mix to mono"]
        soundfile.write(tmp_path / "b.wav", np.stack([tone(), tone(amplitude=0.1)], axis=1), RATE_HZ)
        assert notes_of(tmp_path / "b.wav") == []

    def test_what_is_kept_may_be_silent_though_the_file_is_not(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.wav", np.concatenate([np.zeros(RATE_HZ), tone()]), RATE_HZ)
        decoded = AudioFile("a", RATE_HZ, 1).read(RawFolder(tmp_path), "a.wav")
        assert [note.rule for note in decoded.notes] == ["cropped", "silent"]


class TestHeaders:
    """A header that disagrees with the data never loses samples without a note."""

    @pytest.mark.parametrize("stated", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
    @pytest.mark.parametrize("bits", [16, 24])
    def test_written_to_a_pipe_is_read_to_the_end(self, tmp_path: Path, stated: int, bits: int) -> None:
        content = (
            PCM.tobytes() if bits == 16 else (PCM.astype("<i4") << 8).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        )
        path = wave_file(tmp_path / "a.wav", form(bits), chunk(b"data", content, stated), stated=min(stated, 2**32 - 1))
        assert (read_audio(path, RATE_HZ) == PCM).all()

    def test_a_riff_size_that_is_too_short_loses_nothing(self, tmp_path: Path) -> None:
        path = wave_file(tmp_path / "a.wav", form(), chunk(b"data", PCM.tobytes()), stated=1000)
        assert (read_audio(path, RATE_HZ) == PCM).all()

    def test_data_beyond_what_is_stated_is_noted(self, tmp_path: Path) -> None:
        path = wave_file(tmp_path / "a.wav", form(), chunk(b"data", PCM.tobytes(), 12000))
        assert len(read_audio(path, RATE_HZ)) == 6000
        assert notes_of(path) == ["left out what is behind the length its header states (20000 bytes)"]

    def test_data_that_is_not_there_is_damage(self, tmp_path: Path) -> None:
        path = wave_file(tmp_path / "a.wav", form(), chunk(b"data", PCM.tobytes(), 40000))
        with pytest.raises(DataError, match=r"a.wav is truncated: 32044 bytes, its header says 40044; fetch it anew"):
            read_audio(path, RATE_HZ)

    @pytest.mark.parametrize("bits", [8, 24])
    def test_a_missing_pad_byte_loses_nothing(self, tmp_path: Path, bits: int) -> None:
        eight = (PCM[:15999] // 256 + 128).astype(np.uint8).tobytes()
        wide = (PCM[:15999].astype("<i4") << 8).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        odd = chunk(b"LIST", b"INFOISFT\x05\0\0\0abcde", pad=False)
        data = chunk(b"data", eight if bits == 8 else wide, pad=False)
        path = wave_file(tmp_path / "a.wav", form(bits), odd, data, chunk(b"LIST", b"INFOISFT\x02\0\0\0ab"))
        wave = read_audio(path, RATE_HZ)
        assert len(wave) == 15999
        assert np.abs(wave.astype(int) - PCM[:15999]).max() <= (256 if bits == 8 else 0)
        assert notes_of(path) == []

    def test_chunks_around_the_data_are_no_sound(self, tmp_path: Path) -> None:
        around = [
            chunk(b"bext", bytes(602)),
            form(),
            chunk(b"data", PCM.tobytes()),
            chunk(b"LIST", b"INFOISFT\2\0\0\0ab"),
        ]
        assert (read_audio(wave_file(tmp_path / "a.wav", *around), RATE_HZ) == PCM).all()
        assert notes_of(tmp_path / "a.wav") == []
        late = wave_file(tmp_path / "b.wav", chunk(b"data", PCM.tobytes()), form())
        assert (read_audio(late, RATE_HZ) == PCM).all()

    def test_a_half_sample_at_the_end_is_noted(self, tmp_path: Path) -> None:
        path = wave_file(tmp_path / "a.wav", form(), chunk(b"data", PCM.tobytes()[:-1]))
        assert len(read_audio(path, RATE_HZ)) == RATE_HZ - 1
        assert notes_of(path) == ["ends within a sample (1 bytes left out)"]

    @pytest.mark.parametrize(
        ("tag", "channels", "align", "bits"), [(1, 1, 4, 16), (1, 2, 2, 16), (1, 1, 4, 8), (3, 1, 8, 32), (1, 1, 4, 24)]
    )
    def test_blocks_that_contradict_the_samples_are_refused(
        self, tmp_path: Path, tag: int, channels: int, align: int, bits: int
    ) -> None:
        fmt = chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, RATE_HZ, RATE_HZ * align, align, bits))
        path = wave_file(tmp_path / "a.wav", fmt, chunk(b"data", PCM.tobytes() * 2))
        said = f"{channels} channels of {bits} bits, but {align} bytes for the samples of one moment"
        with pytest.raises(DataError, match=f"a.wav is damaged: its header says {said}"):
            read_audio(path, RATE_HZ)

    @pytest.mark.parametrize(("align", "bits", "width"), [(0, 16, 2), (2, 12, 2), (3, 20, 3), (3, 24, 3)])
    def test_blocks_that_fit_the_samples(self, tmp_path: Path, align: int, bits: int, width: int) -> None:
        fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE_HZ, RATE_HZ * align, align, bits))
        wide = (PCM.astype("<i4") << 16).view(np.uint8).reshape(-1, 4)[:, 4 - width :]
        path = wave_file(tmp_path / "a.wav", fmt, chunk(b"data", wide.tobytes()))
        assert (read_audio(path, RATE_HZ) == PCM).all()

    @pytest.mark.parametrize(("channels", "rate_hz"), [(0, RATE_HZ), (1, 0)])
    def test_no_channels_or_no_rate(self, tmp_path: Path, channels: int, rate_hz: int) -> None:
        fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * 2, 2, 16))
        path = wave_file(tmp_path / "a.wav", fmt, chunk(b"data", PCM.tobytes()))
        with pytest.raises(DataError, match=f"its header says {channels} channels and {rate_hz} samples a second"):
            read_audio(path, RATE_HZ)

    def test_two_data_chunks_are_refused(self, tmp_path: Path) -> None:
        path = wave_file(tmp_path / "a.wav", form(), *[chunk(b"data", PCM.tobytes())] * 2)
        with pytest.raises(DataError, match="2 data chunks"):
            read_audio(path, RATE_HZ)

    @pytest.mark.parametrize(
        ("kind", "subtype"),
        [
            ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16"),
            ("CAF", "PCM_16"),
            ("CAF", "ALAC_16"), ("AIFF", "PCM_16"), ("AIFF", "IMA_ADPCM"), ("AU", "PCM_16"), ("NIST", "PCM_16"),
            ("SVX", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"),
            ("WAV", "MS_ADPCM"), ("WAV", "GSM610"),
        ],
    )  # fmt: skip
    def test_truncated(self, tmp_path: Path, kind: str, subtype: str | None) -> None:
        path = tmp_path / "a.bin"
        soundfile.write(path, tone(), RATE_HZ, format=kind, subtype=subtype)
        content = path.read_bytes()
        for length in (len(content) // 2, len(content) - 300):
            path.write_bytes(content[:length])
            with pytest.raises(DataError, match=r"a.bin (is truncated|is damaged)"):
                read_audio(path, RATE_HZ)

    @pytest.mark.parametrize(
        ("name", "codec"), [("a.m4a", "aac"), ("a.mkv", "ac3"), ("a.avi", "libmp3lame"), ("a.flv", "aac")]
    )
    def test_truncated_containers(self, tmp_path: Path, name: str, codec: str) -> None:
        options = {"movflags": "faststart"} if name == "a.m4a" else {}
        path = save_by_av(tmp_path / name, codec, tone(44100, 4), 44100, options=options)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match="is truncated"):
            read_audio(path, 44100)

    def test_ogg_without_an_end_is_noted(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ogg"
        soundfile.write(path, tone(seconds=20), RATE_HZ, format="OGG", subtype="OPUS")
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"OggS")])
        assert len(read_audio(path, RATE_HZ)) > RATE_HZ
        assert notes_of(path) == ["may be cut off (its last Ogg page is not marked as such)"]

    def test_streams_in_a_row_are_all_read(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.ogg", tone(48000), 48000, format="OGG", subtype="OPUS")
        (tmp_path / "b.ogg").write_bytes((tmp_path / "a.ogg").read_bytes() * 2)
        assert len(read_audio(tmp_path / "b.ogg", 48000)) > 1.9 * 48000


class TestMp3:
    def test_all_of_it_is_read_without_the_header_encoders_write(self, tmp_path: Path) -> None:
        content = mp3(tmp_path / "a.mp3", 4.0)
        whole = read_audio(tmp_path / "a.mp3", 44100)
        assert len(whole) == 4 * 44100
        (tmp_path / "b.mp3").write_bytes(content[content.find(b"\xff\xfb", 4) :])  # libsndfile reads a part of it
        assert len(read_audio(tmp_path / "b.mp3", 44100)) >= len(whole)

    def test_tags_are_no_sound(self, tmp_path: Path) -> None:
        content = mp3(tmp_path / "a.mp3")
        whole = read_audio(tmp_path / "a.mp3", 44100)
        picture = b"ID3\x04\0\0\0\0\x40\0" + bytes(8192)
        (tmp_path / "b.mp3").write_bytes(picture + content + b"TAG" + bytes(125))
        assert (read_audio(tmp_path / "b.mp3", 44100) == whole).all()

    @pytest.mark.parametrize(
        "tag",
        [
            b"TAG" + b" " * 125,
            b"ID3\4\0\0\0\0\0\x0a" + bytes(10),
            b"ID3\4\0\x10\0\0\0\x0a" + bytes(10) + b"3DI\4\0\x10\0\0\0\x0a",
            b"APETAGEX\xd0\7\0\0\x28\0\0\0\1\0\0\0\0\0\0\xa0" + bytes(8 + 40),
            b"LYRICSBEGINwords000020LYRICS200TAG" + b" " * 125,
        ],
        ids=["ID3v1", "ID3v2", "ID3v2 with a footer", "APE", "Lyrics3"],
    )
    def test_files_joined_with_a_tag_between_are_all_read(self, tmp_path: Path, tag: bytes) -> None:
        first, second = mp3(tmp_path / "a.mp3", 1.0), mp3(tmp_path / "b.mp3", 2.0)
        (tmp_path / "c.mp3").write_bytes(first + tag + second + tag)
        sound = read_sound(tmp_path / "c.mp3", 44100)
        assert error(sound.wave[:44100], tone(44100, 1)) < LOSSY
        assert error(sound.wave[44100:], tone(44100, 2)) < LOSSY
        assert len(sound.wave) == 3 * 44100
        assert [str(note) for note in sound.notes] == [
            "consists of several files, all of which are read (2 with tags between them)"
        ]

    def test_files_of_two_rates_joined_are_refused(self, tmp_path: Path) -> None:
        content = mp3(tmp_path / "a.mp3") + b"TAG" + b" " * 125 + mp3(tmp_path / "b.mp3", rate_hz=48000)
        (tmp_path / "c.mp3").write_bytes(content)
        with pytest.raises(DataError, match="several files of 44100 Hz, 1 channels and 48000 Hz, 1 channels"):
            read_audio(tmp_path / "c.mp3", 44100)

    def test_more_frames_than_its_header_says_are_read_and_noted(self, tmp_path: Path) -> None:
        content = mp3(tmp_path / "a.mp3")
        (tmp_path / "b.mp3").write_bytes(content + content[content.find(b"\xff\xfb", 4) :])
        assert len(read_audio(tmp_path / "b.mp3", 44100)) > 1.9 * 44100
        assert notes_of(tmp_path / "b.mp3", 44100)[0].startswith("read beyond the length its header states (")

    def test_junk_behind_is_noted_and_junk_within_is_damage(self, tmp_path: Path) -> None:
        content = mp3(tmp_path / "a.mp3")
        junk = b"\xff\xfb junk that is no frame" * 9
        (tmp_path / "b.mp3").write_bytes(content + junk[1:])
        assert len(read_audio(tmp_path / "b.mp3", 44100)) == 44100
        assert notes_of(tmp_path / "b.mp3", 44100) == [
            f"left out what is behind the last MP3 frame ({len(junk) - 1} bytes)"
        ]
        half = content.find(b"\xff\xfb", len(content) // 2)
        (tmp_path / "c.mp3").write_bytes(content[:half] + junk[1:] + content[half:])
        with pytest.raises(DataError, match=rf"c.mp3 is damaged: what is at byte {half} is no MP3 frame"):
            read_audio(tmp_path / "c.mp3", 44100)


class TestTracks:
    @pytest.mark.parametrize(("name", "codec", "packet"), [("a.mkv", "pcm_s16le", 1024), ("a.mp4", "aac", 1024)])
    def test_a_gap_keeps_its_length(self, tmp_path: Path, name: str, codec: str, packet: int) -> None:
        rate_hz = 44100
        left_out = range(40, 80)
        path = save_by_av(tmp_path / name, codec, tone(rate_hz, 4), rate_hz, pictures=40, left_out=left_out)
        sound = read_sound(path, rate_hz)
        assert len(sound.wave) == pytest.approx(4 * rate_hz, abs=2 * packet)
        assert not sound.wave[43 * packet : 78 * packet].any()
        assert np.abs(sound.wave[83 * packet : 90 * packet]).max() > 15000
        (note,) = sound.notes
        assert note.rule == "silence put where the sound track has a gap"
        assert float(note.detail.strip("( s)")) == pytest.approx(40 * packet / rate_hz, abs=0.03)

    def test_a_gap_in_ogg(self, tmp_path: Path) -> None:
        path = save_by_av(tmp_path / "a.ogg", "libopus", tone(48000, 4), 48000, left_out=range(50, 100))
        sound = read_sound(path, 48000)
        assert len(sound.wave) == pytest.approx(4 * 48000, abs=2 * 960)
        assert not sound.wave[52 * 960 : 98 * 960].any()
        assert np.abs(sound.wave[110 * 960 : 120 * 960]).max() > 15000
        assert [note.rule for note in sound.notes] == ["silence put where the sound track has a gap"]

    def test_sound_that_begins_behind_the_pictures_lies_at_its_time(self, tmp_path: Path) -> None:
        path = save_by_av(tmp_path / "a.mkv", "pcm_s16le", tone(), RATE_HZ, pictures=20, late=8000)
        sound = read_sound(path, RATE_HZ)
        assert len(sound.wave) == 24000
        assert not sound.wave[:7990].any()
        assert np.abs(sound.wave[8000:8100]).max() > 15000
        assert [str(note) for note in sound.notes] == ["silence put where the sound track has a gap (0.50 s)"]

    def test_whole_tracks_get_no_silence(self, tmp_path: Path) -> None:
        for name, codec in (
            ("a.mkv", "ac3"),
            ("a.mp4", "aac"),
            ("a.flv", "aac"),
            ("a.webm", "libopus"),
            ("a.ts", "mp2"),
        ):
            if name != "a.webm":
                assert notes_of(save_by_av(tmp_path / name, codec, tone(48000, 4), 48000, pictures=40), 48000) == [], (
                    name
                )
            assert notes_of(save_by_av(tmp_path / name, codec, tone(48000, 4), 48000), 48000) == [], name

    def test_the_first_of_several_tracks(self, tmp_path: Path) -> None:
        path = save_by_av(tmp_path / "a.mkv", "pcm_s16le", tone(), RATE_HZ, tracks=2)
        assert error(read_audio(path, RATE_HZ), tone()) < EXACT
        assert notes_of(path) == ["first of several sound tracks taken (of 2)"]

    def test_a_picture_is_no_clip_without_sound(self, tmp_path: Path) -> None:
        Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
        with pytest.raises(DataError, match="it is a picture") as caught:
            read_audio(tmp_path / "a.png", RATE_HZ)
        assert type(caught.value) is DataError

    def test_samples_without_a_header_are_no_picture(self, tmp_path: Path) -> None:
        (tmp_path / "a.raw").write_bytes(PCM.tobytes())  # FFmpeg takes it for one, by its name
        with pytest.raises(DataError, match=r"of no format known here, or has no header; .*convert it to flac"):
            read_audio(tmp_path / "a.raw", RATE_HZ)

    def test_a_text_is_no_clip_without_sound(self, tmp_path: Path) -> None:
        (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:04,000\nWords\n\n" * 9)  # FFmpeg knows subtitles
        with pytest.raises(DataError, match=r"can not be read as audio|holds no sound track") as caught:
            read_audio(tmp_path / "a.srt", RATE_HZ)
        assert type(caught.value) is DataError
