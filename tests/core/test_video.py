from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmcore.data.clips import DEMO_RATE_HZ
from mmcore.data.demo_clips import CODECS, save_clip
from mmcore.data.media import AudioFile, Frames, RawFolder, read_sound_track
from mmcore.errors import DataError


def plain(value: int) -> np.ndarray:
    return np.full((32, 48, 3), value, dtype=np.uint8)


def tone(seconds: float) -> np.ndarray:
    return np.round(8000 * np.sin(2 * np.pi * 500 * np.arange(round(seconds * DEMO_RATE_HZ)) / DEMO_RATE_HZ)).astype(
        np.int16
    )


@pytest.mark.parametrize("suffix", CODECS)
def test_the_first_frame_of_each_second(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_clip(path, [plain(30), plain(120), plain(210)])
    decoded = Frames("video", 4, 8).read(RawFolder(tmp_path), path.name)
    assert (decoded.array.shape, decoded.length) == ((4, 3, 8, 8), 3)
    assert [round(float(frame.mean()), -1) for frame in decoded.array] == [30, 120, 210, 0]


@pytest.mark.parametrize("suffix", CODECS)
def test_the_sound_of_a_clip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_clip(path, [plain(30)], tone(1.0))
    wave = read_sound_track(path, 4000)
    assert wave.dtype == np.int16
    assert 3900 < len(wave) < 4700  # codecs pad
    spectrum = np.abs(np.fft.rfft(wave[500:3500].astype(float)))
    assert abs(np.argmax(spectrum) * 4000 / 3000 - 500) < 3
    decoded = AudioFile("audio", 4000, 0.5).read(RawFolder(tmp_path), path.name)
    assert (decoded.length, decoded.array.shape) == (2000, (2000,))


def test_which_frames_are_picked(tmp_path: Path) -> None:
    names = [f"{number:02d}.jpg" for number in range(10)]
    assert list(Frames("video", 3, 8).files(names)) == ["00.jpg", "01.jpg", "02.jpg"]
    assert list(Frames("video", 3, 8, "spread").files(names)) == ["02.jpg", "04.jpg", "07.jpg"]
    assert list(Frames("video", 3, 8, "spread").files(names[:2])) == ["00.jpg", "01.jpg"]
    assert list(Frames("video", 3, 8).files("a.mp4")) == ["a.mp4"]


def test_a_clip_with_fewer_frames_is_kept_and_noted(tmp_path: Path) -> None:
    save_clip(tmp_path / "a.mp4", [plain(100), plain(200)])
    decoded = Frames("video", 3, 8).read(RawFolder(tmp_path), "a.mp4")
    assert decoded.length == 2
    assert [str(note) for note in decoded.notes] == ["short: 2 of 3 frames"]
    assert not decoded.array[2].any()


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_a_truncated_clip_is_an_error_that_names_it(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(8)]
    save_clip(path, noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"cut{suffix} (can not be read as a clip|is truncated|holds no pictures)"):
        Frames("video", 3, 8).read(RawFolder(tmp_path), path.name)


def test_what_is_no_clip_or_lacks_a_track(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello, this is no clip" * 50)
    save_clip(tmp_path / "mute.mp4", [plain(30)])
    with pytest.raises(DataError, match=r"text.mp4 can not be read as a clip"):
        Frames("video", 3, 8).read(RawFolder(tmp_path), "text.mp4")
    with pytest.raises(DataError, match=r"mute.mp4 holds no sound"):
        read_sound_track(tmp_path / "mute.mp4", 8000)
    with pytest.raises(DataError, match=r"absent.mp4 can not be read"):
        read_sound_track(tmp_path / "absent.mp4", 8000)
