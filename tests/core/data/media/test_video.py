"""Which frames of a clip are stored: by their times, upright, in every container; and what is decoded for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from raw_files import save_picture
from stored_media import store
from written_clips import SIDE, all_frames, numbered, numbers_of, plain, textures, write

from mmcore.assembly.config import complete_config, parse_config
from mmcore.data.demo.clip_files import CODECS, DEMO_RATE_HZ, save_clip
from mmcore.data.media import AudioFile, Frames, RawFolder, Timeline, Window, read_audio, read_frames
from mmcore.data.media.video import _decode_wanted, _read_packets, _runs
from mmcore.data.media.window import read_window
from mmcore.data.raw.description import read_description
from mmcore.errors import ConfigError, DataError

UNEVEN_MS = [0, 100, 200, 1900, 2000, 5200, 5300, 9000]
REORDERED_MS = [0, 40, 80, 300, 340, 900, 1000, 1100, 2500, 2540, 2580, 4000, 4040]
SHOWN = {1: [0, 2, 4, 4, 4, 4, 6, 6, 6, 7]}
"""Frames a second -> which of the uneven clip's frames are shown."""
CONTAINERS = {
    "a.mp4": "libx264", "a.mov": "libx264", "a.mkv": "libx264", "a.ts": "libx264", "a.flv": "flv", "a.avi": "mpeg4",
    "b.avi": "libx264", "a.webm": "libvpx", "a.mpg": "mpeg2video", "a.h264": "libx264", "a.mjpeg.avi": "mjpeg",
}  # fmt: skip


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
    wave = read_audio(path, 4000)
    assert wave.dtype == np.int16
    assert 3900 < len(wave) < 4700  # codecs pad
    spectrum = np.abs(np.fft.rfft(wave[500:3500].astype(float)))
    assert abs(np.argmax(spectrum) * 4000 / 3000 - 500) < 3
    decoded = AudioFile("audio", 4000, 0.5).read(RawFolder(tmp_path), path.name)
    assert (decoded.length, decoded.array.shape) == (2000, (2000,))


def test_which_frames_are_picked(tmp_path: Path) -> None:
    names = [f"{number:02d}.jpg" for number in range(10)]
    assert list(Frames("video", 3, 8).files(names)) == ["00.jpg", "01.jpg", "02.jpg"]
    assert list(Frames("video", 3, 8, pick="spread").files(names)) == ["02.jpg", "04.jpg", "07.jpg"]
    assert list(Frames("video", 3, 8, pick="spread").files(names[:2])) == ["00.jpg", "01.jpg"]
    assert list(Frames("video", 3, 8).files("a.mp4")) == ["a.mp4"]


def test_a_clip_with_fewer_frames_is_kept_and_noted(tmp_path: Path) -> None:
    save_clip(tmp_path / "a.mp4", [plain(100), plain(200)])
    decoded = Frames("video", 3, 8).read(RawFolder(tmp_path), "a.mp4")
    assert decoded.length == 2
    assert [str(note) for note in decoded.notes] == ["fewer frames than asked for (2 of 3)"]
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
        read_audio(tmp_path / "mute.mp4", 8000)
    with pytest.raises(DataError, match=r"absent.mp4 can not be read"):
        read_audio(tmp_path / "absent.mp4", 8000)


class TestTimes:
    def test_the_frame_shown_at_each_second(self, tmp_path: Path) -> None:
        name = write(tmp_path / "uneven.mp4", numbered(8), UNEVEN_MS)
        (stored,) = store(tmp_path, name, kind="video", size=SIDE, frames=16, frames_per_second=1)
        assert stored.length == 10  # the header says 5.5 s
        assert numbers_of(stored.array[:10], 8) == SHOWN[1]

    @pytest.mark.parametrize("name", CONTAINERS)
    def test_four_seconds_are_four_seconds_frames_in_every_container(self, tmp_path: Path, name: str) -> None:
        options = {"bf": "2"} if CONTAINERS[name] == "libx264" else {}
        write(tmp_path / name, numbered(40), range(0, 4000, 100), CONTAINERS[name], options)
        column = {"kind": "video", "size": SIDE, "frames": 8}
        if name == "a.h264":  # says nothing of its times: FFmpeg guesses 25 frames a second
            (stored,) = store(tmp_path, name, **column, frames_per_second=1)
            assert stored.length == 2
            assert "m at an assumed rate, since the stream holds no times" in stored.rules
            return
        (stored,) = store(tmp_path, name, **column, frames_per_second=1)
        assert numbers_of(stored.array[: stored.length], 40) == [0, 10, 20, 30]
        assert stored.rules == ["m fewer frames than asked for"]
        (stored,) = store(tmp_path, name, **column, sample="uniform")
        assert numbers_of(stored.array, 40) == [2, 7, 12, 17, 22, 27, 32, 37]

    @pytest.mark.parametrize("name", ["late.mkv", "late.ts", "late.mp4", "late.flv"])
    def test_they_are_counted_from_the_first_frame(self, tmp_path: Path, name: str) -> None:
        times_ms = range(5300, 7300, 100)
        write(tmp_path / name, numbered(20), times_ms, "flv" if name == "late.flv" else "libx264")
        (stored,) = store(tmp_path, name, kind="video", size=SIDE, frames=4, frames_per_second=1)
        assert stored.length == 2
        assert numbers_of(stored.array[:2], 20) == [0, 10]

    def test_the_papers_rule_for_data_sets_with_a_name(self, tmp_path: Path) -> None:
        write(tmp_path / "a.mp4", numbered(50), range(0, 5000, 100))
        write(tmp_path / "uneven.mp4", numbered(8), UNEVEN_MS)
        folder = RawFolder(tmp_path)
        assert numbers_of(Frames("video", 2, SIDE).read(folder, "a.mp4").array, 50) == [0, 10]
        assert numbers_of(Frames("video", 3, SIDE, pick="spread").read(folder, "a.mp4").array, 50) == [10, 20, 30]
        assert numbers_of(Frames("video", 4, SIDE).read(folder, "uneven.mp4").array, 8) == SHOWN[1][:4]

    @pytest.mark.parametrize("frames", [{"bf": "3"}, {"bf": "0"}])
    @pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
    def test_the_end_is_that_of_the_last_shown_frame(self, tmp_path: Path, name: str, frames: dict[str, str]) -> None:
        """Frames that are decoded in another order than they are shown in last other times in mp4 than they state."""
        write(tmp_path / name, textures(13), REORDERED_MS, options=frames)
        with av.open(str(tmp_path / name)) as container:
            shown_ms = [round(1000 * frame.time) for frame in container.decode(video=0) if frame.time is not None]
        assert shown_ms == REORDERED_MS
        everything = all_frames(tmp_path / name)
        end_ms = 4100  # the last of them lasts 40 to 100 ms
        for number in (1, 3, 5, 8):  # at whose middles no frame begins within 100 ms
            middles_ms = (np.arange(number) + 0.5) * end_ms / number
            expected = [max(place for place, at in enumerate(REORDERED_MS) if at <= time_ms) for time_ms in middles_ms]
            read = Frames("m", number, SIDE, pick="uniform", per_second=None).read(RawFolder(tmp_path), name)
            np.testing.assert_array_equal(read.array, np.stack([everything[place] for place in expected]))
        (stored,) = store(tmp_path, name, kind="video", size=SIDE, frames=16, frames_per_second=1)
        assert stored.length == 5
        np.testing.assert_array_equal(stored.array[:5], np.stack([everything[place] for place in (0, 6, 7, 10, 11)]))

    def test_a_last_frame_that_stays_keeps_its_length_where_times_are_shifted_alike(self, tmp_path: Path) -> None:
        """At a steady rate the times of decoding are those of showing, later by as much: their end is the end."""
        options = {"bf": "3", "x264-params": "b-adapt=0"}
        write(tmp_path / "a.mp4", textures(20), range(0, 2000, 100), options=options)
        ends = {}
        for last_ms in (100, 3000):
            with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(tmp_path / "b.mp4"), "w") as target:
                stream = target.add_stream_from_template(source.streams.video[0])
                packets = [packet for packet in source.demux(video=0) if packet.size]
                assert (packets[-1].pts or 0) < max(packet.pts or 0 for packet in packets)
                packets[-1].duration = round(last_ms / 1000 / float(packets[-1].time_base or 1))
                for packet in packets:
                    packet.stream = stream
                    target.mux(packet)
            read_frames(tmp_path / "b.mp4", lambda timeline: ends.update({last_ms: timeline.end_s}) or [0], SIDE, 3)  # type: ignore[func-returns-value]  # noqa: B023
        assert {last_ms: round(end_s, 3) for last_ms, end_s in ends.items()} == {100: 2.0, 3000: 4.9}

    def test_a_timeline(self) -> None:
        steady = Timeline([-0.2 + 0.1 * n for n in range(40)], last_s=0.1)
        assert steady.at_rate(1) == [0, 10, 20, 30]
        assert steady.uniform(4) == [5, 15, 25, 35]
        held = Timeline([7.0, 7.5, 8.0], last_s=3.0)  # the last picture stays
        assert held.at_rate(1) == [0, 2, 2, 2]
        assert held.uniform(4) == [1, 2, 2, 2]
        assert Timeline([3.0]).uniform(2) == [0, 0]
        rounded = Timeline([0.033, 0.066, 0.1, 0.133], last_s=0.033, unit_s=0.001)
        assert rounded.shown_at([0.0, 0.0333, 0.0667]) == [0, 1, 2]
        assert rounded.places().tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize(("name", "codec"), [("a.mjpeg", "mjpeg"), ("a.h264", "libx264"), ("a.m1v", "mpeg1video")])
    def test_a_rate_that_nobody_stated_is_noted(self, tmp_path: Path, name: str, codec: str) -> None:
        """FFmpeg makes times for some of such streams by its guess, as if they were there; MPEG's state their rate."""
        with av.open(str(tmp_path / name), "w") as container:
            video: Any = container.add_stream(codec, rate=50)
            video.height, video.width = 32, 48
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for picture in numbered(90):
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
        decoded = Frames("m", 8, SIDE, pick="first", per_second=1).read(RawFolder(tmp_path), name)
        notes = [str(note) for note in decoded.notes if "assumed" in str(note)]
        if codec == "mpeg1video":
            assert (decoded.length, notes) == (2, [])
        else:
            assert decoded.length == 4
            assert notes == ["at an assumed rate, since the stream holds no times (25 frames a second)"]


class TestSampling:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"frames": 3}, [6, 20, 33]),
            ({"frames": 16}, [int(2.5 * (n + 0.5)) for n in range(16)]),
            ({"frames": 4, "sample": "consecutive"}, [18, 19, 20, 21]),
            ({"frames": 4, "frames_per_second": 2}, [5, 15, 25, 35]),
            ({"frames": 4, "frames_per_second": 2, "sample": "consecutive"}, [10, 15, 20, 25]),
            ({"frames": 8, "frames_per_second": 2}, [0, 5, 10, 15, 20, 25, 30, 35]),
        ],
    )
    def test_of_forty_frames_in_four_seconds(
        self, tmp_path: Path, settings: dict[str, Any], expected: list[int]
    ) -> None:
        write(tmp_path / "a.mp4", numbered(40), range(0, 4000, 100))
        (stored,) = store(tmp_path, "a.mp4", kind="video", size=SIDE, **settings)
        assert numbers_of(stored.array, 40) == expected
        assert stored.length == len(expected)

    def test_uniform_goes_by_time_and_repeats_what_is_shown_longer(self, tmp_path: Path) -> None:
        write(tmp_path / "uneven.mp4", numbered(8), UNEVEN_MS)
        (stored,) = store(tmp_path, "uneven.mp4", kind="video", size=SIDE, frames=9)
        shown_at = (np.arange(9) + 0.5) * 9.1 / 9
        expected = [int(np.searchsorted(UNEVEN_MS, 1000 * time_s, side="right")) - 1 for time_s in shown_at]
        assert numbers_of(stored.array, 8) == expected
        assert stored.length == 9

    def test_consecutive_ones_of_a_short_clip_are_padded(self, tmp_path: Path) -> None:
        write(tmp_path / "a.mp4", numbered(3), range(0, 300, 100))
        (stored,) = store(tmp_path, "a.mp4", kind="video", size=SIDE, frames=5, sample="consecutive")
        assert stored.length == 3
        assert numbers_of(stored.array[:3], 3) == [0, 1, 2]
        assert not stored.array[3:].any()
        assert stored.rules == ["m fewer frames than asked for"]

    def test_depth_as_grey(self, tmp_path: Path) -> None:
        write(tmp_path / "a.mp4", numbered(20), range(0, 2000, 100))
        encoder = {"name": "small_conv"}
        (stored,) = store(tmp_path, "a.mp4", kind="video", size=SIDE, frames=16, channels=1, encoder=encoder)
        assert stored.array.shape == (16, 1, SIDE, SIDE)
        assert numbers_of(stored.array, 20) == [int(1.25 * (n + 0.5)) for n in range(16)]
        options = read_description(tmp_path / "mine.yaml")
        config = complete_config(
            parse_config(
                {"dataset": {"name": "manifest", "options": options}, "method": {"name": "unimodal", "modality": "m"}}
            )
        )
        assert config.dataset.transforms["m"]["mean"] == 0.449

    def test_a_rate_needs_the_most_frames(self, tmp_path: Path) -> None:
        write(tmp_path / "a.mp4", numbered(3), range(0, 300, 100))
        with pytest.raises(ConfigError, match="frames is required beside frames_per_second: the most frames"):
            store(tmp_path, "a.mp4", kind="video", frames_per_second=2)

    def test_pictures_somebody_took_of_a_clip(self, tmp_path: Path) -> None:
        names = [save_picture(tmp_path / f"{place}.png", 20 * place).name for place in range(10)]
        picks: list[tuple[Literal["uniform", "consecutive"], list[int]]] = [
            ("uniform", [1, 5, 8]), ("consecutive", [3, 4, 5]),
        ]  # fmt: skip
        for pick, expected in picks:
            medium = Frames("video", 3, SIDE, pick=pick, per_second=None, channels=1)
            assert list(medium.files(names)) == [names[place] for place in expected]
            decoded = medium.read(RawFolder(tmp_path), names)
            assert decoded.array[:, 0, 0, 0].tolist() == [20 * place for place in expected]


UNSTEADY_MS = np.cumsum(np.random.default_rng(0).choice([20, 30, 100, 400], size=120)).tolist()


class TestDecoding:
    @pytest.mark.parametrize(
        ("name", "codec", "options", "times_ms"),
        [
            ("12.mp4", "libx264", {"g": "12", "bf": "3"}, None),
            ("250.mp4", "libx264", {"g": "250", "bf": "3", "sc_threshold": "0"}, None),
            ("open.mkv", "libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=12:scenecut=0"}, None),
            ("unsteady.mp4", "libx264", {"g": "30", "bf": "2"}, UNSTEADY_MS),
            ("refresh.mp4", "libx264", {"bf": "0", "x264-params": "intra-refresh=1:keyint=20"}, None),
            ("b.avi", "libx264", {"bf": "2"}, None),
            ("4.avi", "mpeg4", {"g": "12", "bf": "2"}, None),
            ("a.webm", "libvpx", {"g": "30"}, None),
            ("a.flv", "flv", {"g": "12"}, None),
            ("a.mpg", "mpeg2video", {"g": "12", "bf": "2"}, None),
            ("raw.h264", "libx264", {"bf": "2"}, None),
        ],
    )
    def test_frames_are_those_of_decoding_everything(
        self, tmp_path: Path, name: str, codec: str, options: dict[str, str], times_ms: list[int] | None
    ) -> None:
        path = tmp_path / name
        write(path, textures(120), times_ms or range(0, 12000, 100), codec, options)
        everything = all_frames(path)
        assert len(everything) == 120
        for wanted in ([60], [0, 11, 12, 119], [5, 4, 99, 4], list(range(120))):
            frames, _ = read_frames(path, lambda _, wanted=wanted: wanted, SIDE, 3)  # type: ignore[misc]
            np.testing.assert_array_equal(frames, np.stack([everything[place] for place in wanted]))

    def test_frames_that_are_never_shown_are_none(self, tmp_path: Path) -> None:
        """VP8 keeps frames to make others from; a bit of their first byte says that they are not shown."""
        write(tmp_path / "all.webm", textures(40), range(0, 4000, 100), "libvpx", {"g": "30"})
        path = tmp_path / "hidden.webm"
        with av.open(str(tmp_path / "all.webm")) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(source.demux(video=0)):
                if packet.size:
                    data = bytearray(packet)
                    data[0] &= 0xEF if number in (5, 19) else 0xFF
                    copy = av.Packet(bytes(data))
                    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                    copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                    target.mux(copy)
        everything = all_frames(path)
        assert len(everything) == 38
        seen: list[int] = []
        frames, _ = read_frames(path, lambda timeline: seen.append(len(timeline)) or [4, 5, 30], SIDE, 3)  # type: ignore[func-returns-value]
        np.testing.assert_array_equal(frames, np.stack([everything[place] for place in (4, 5, 30)]))
        assert seen == [38]  # told by the packets alone

    def test_a_long_clip_is_opened_twice_instead_of_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.mp4"
        write(path, textures(120), range(0, 12000, 100), options={"g": "12"})
        frames, _ = read_frames(path, lambda _: [5, 50, 119], SIDE, 3)
        monkeypatch.setattr("mmcore.data.media.video.HELD_BYTES", 0)
        assert _read_packets(path).held is None
        np.testing.assert_array_equal(read_frames(path, lambda _: [5, 50, 119], SIDE, 3)[0], frames)

    def test_little_else_is_decoded(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        write(path, textures(120), range(0, 12000, 100), options={"g": "12", "bf": "2", "sc_threshold": "0"})
        packets = _read_packets(path)
        _, times = packets.timeline()
        wanted = frozenset(times[number] for number in (20, 60, 100))
        assert _decode_wanted(path, packets, wanted, SIDE, "rgb24").keys() == wanted  # decoding all is not needed
        runs = _runs(packets.infos, wanted)
        assert len(runs) == 3
        assert sum(stop - start + 1 for start, stop in runs) <= 3 * 13

    def test_a_clip_cut_behind_its_header_is_refused(self, tmp_path: Path) -> None:
        """What its index promises is not there; a clip whose header says too little is read (the uneven one)."""
        path = tmp_path / "cut.mp4"
        generator = np.random.default_rng(0)
        noise = [generator.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(80)]
        write(path, noise, range(0, 8000, 100), container_options={"movflags": "faststart"})
        content = path.read_bytes()
        for share in (0.2, 0.5, 0.7):
            path.write_bytes(content[: int(share * len(content))])
            with pytest.raises(DataError, match=r"cut.mp4 is truncated: pictures for .* s, its header says 8.0 s"):
                store(tmp_path, "cut.mp4", kind="video", size=SIDE, frames=2)

    def test_a_taken_frame_that_is_cut_off_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.avi"
        generator = np.random.default_rng(0)
        noise = [generator.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(20)]
        write(path, noise, range(0, 2000, 100), "mpeg4")
        path.write_bytes(path.read_bytes()[: int(0.9 * path.stat().st_size)])
        with pytest.raises(DataError, match=r"cut.avi is truncated in frame 1\d"):
            read_frames(path, lambda timeline: [len(timeline) - 1], SIDE, 3)
        frames, _ = read_frames(path, lambda timeline: [0], SIDE, 3)
        assert frames.shape == (1, 3, SIDE, SIDE)


class TestWindow:
    def test_dropped_frames_keep_their_numbers(self, tmp_path: Path) -> None:
        """Frames 4, 5 and 9 of twelve are not in the file: what is shown then is the frame before."""
        kept = [0, 1, 2, 3, 6, 7, 8, 10, 11]
        pictures = numbered(12)
        for name, codec in (("a.avi", "mpeg4"), ("a.mp4", "libx264"), ("a.mkv", "libx264")):
            write(tmp_path / name, [pictures[place] for place in kept], [100 * place for place in kept], codec)
            decoded = Window("rgb", 8, SIDE, channels=3).read(RawFolder(tmp_path), [name, 3, 11])
            assert numbers_of(decoded.array, 12) == [3, 3, 3, 6, 7, 8, 8, 10]
            assert [str(note) for note in decoded.notes] == [
                "taken by time stamps, since frames were dropped (3 of 12)"
            ]

    def test_a_clip_without_gaps_goes_by_number(self, tmp_path: Path) -> None:
        unsteady_ms = np.cumsum([30, 35, 28, 33, 40, 33, 33, 26, 33, 37, 30, 33]).tolist()  # as cameras do
        for name, times_ms in (("a.mp4", range(0, 1200, 100)), ("b.mp4", unsteady_ms)):
            write(tmp_path / name, numbered(12), times_ms)
            frames, notes = read_window(tmp_path / name, 3, 11, size=SIDE, channels=1)
            assert numbers_of(frames, 12) == list(range(3, 11))
            assert notes == []
            with pytest.raises(DataError, match=r"too short or truncated: 12 frames, its window is 5 to 13"):
                read_window(tmp_path / name, 5, 13, size=SIDE, channels=1)
