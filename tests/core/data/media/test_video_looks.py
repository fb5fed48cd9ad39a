"""How the frames of clips are stored: upright, and on a ground where they are transparent."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from PIL import Image
from stored_media import store
from written_clips import SIDE, plain, write

from mmcore.data.media import Frames, RawFolder
from mmcore.errors import DataError


class TestOrientation:
    @pytest.mark.parametrize(
        ("matrix", "expected"),
        [
            ((1, 0, 0, 1), "rgbk"), ((-1, 0, 0, 1), "grkb"), ((1, 0, 0, -1), "bkrg"), ((-1, 0, 0, -1), "kbgr"),
            ((0, 1, -1, 0), "brkg"), ((0, -1, 1, 0), "gkrb"), ((0, 1, 1, 0), "rbgk"), ((0, -1, -1, 0), "kgbr"),
        ],
    )  # fmt: skip
    def test_the_display_matrix_is_applied(
        self, tmp_path: Path, matrix: tuple[int, int, int, int], expected: str
    ) -> None:
        """A step to the right leads to the first pair, a step down to the second, each right and down."""
        colours = {"r": (220, 0, 0), "g": (0, 220, 0), "b": (0, 0, 220), "k": (0, 0, 0)}
        picture = np.zeros((64, 96, 3), np.uint8)
        for place, letter in enumerate("rgbk"):
            y, x = 32 * (place // 2), 48 * (place % 2)
            picture[y : y + 32, x : x + 48] = colours[letter]
        write(tmp_path / "a.mp4", [picture] * 10, range(0, 1000, 100))
        content = bytearray((tmp_path / "a.mp4").read_bytes())
        place = content.find(b"tkhd") + 44
        a, b, c, d = (0x10000 * step for step in matrix)
        content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
        (tmp_path / "a.mp4").write_bytes(content)
        (stored,) = store(tmp_path, "a.mp4", kind="video", size=SIDE, frames=3)
        for frame in stored.array:
            corners = [frame[:, y, x] for y in (1, 6) for x in (1, 6)]
            found = "".join("rgbk"[int(corner.argmax())] if corner.max() > 100 else "k" for corner in corners)
            assert found == expected
        assert stored.rules == ([] if expected == "rgbk" else ["m turned upright by its display matrix"])

    def test_what_is_turned_by_no_right_angle_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "a.mp4", [plain(50)] * 3, range(0, 300, 100))
        content = bytearray((tmp_path / "a.mp4").read_bytes())
        place = content.find(b"tkhd") + 44
        content[place : place + 16] = struct.pack(">4i", 0x8000, 0xDDB4, 0, -0xDDB4)
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(DataError, match=r"a.mp4 is turned by a display matrix of no right angle"):
            store(tmp_path, "a.mp4", kind="video", size=SIDE)


class TestTransparency:
    def test_what_is_black_on_nothing_lies_on_white(self, tmp_path: Path) -> None:
        frames = [Image.new("RGBA", (48, 48), (0, 0, 0, 0)) for _ in range(3)]
        for place, frame in enumerate(frames):
            frame.paste((0, 0, 0, 255), (0, 0, 24, 24 + place))
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], disposal=2, duration=100)
        for name, pixels in (("a.mov", "argb"), ("a.mkv", "yuva420p")):
            with av.open(str(tmp_path / name), "w") as container:
                video: Any = container.add_stream("qtrle" if pixels == "argb" else "ffv1", rate=10)
                video.height, video.width, video.pix_fmt = 48, 48, pixels
                for picture in frames:
                    container.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgba")))
                container.mux(video.encode(None))
        channels: tuple[Literal[1, 3], ...] = (1, 3)
        for name in ("a.gif", "a.mov", "a.mkv"):
            for number in channels:
                decoded = Frames("m", 1, SIDE, pick="uniform", per_second=None, channels=number).read(
                    RawFolder(tmp_path), name
                )
                assert [str(note) for note in decoded.notes] == ["composed on white"]
                np.testing.assert_allclose(decoded.array[0, :, 1, 1], 0, atol=2)
                np.testing.assert_allclose(decoded.array[0, :, 6, 6], 255, atol=2)

    @pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
    def test_webm_keeps_it_beside_the_picture(self, tmp_path: Path, codec: str) -> None:
        """FFmpeg's own decoders of these codecs leave it out."""
        options = {"auto-alt-ref": "0", "b": "1M"}
        with av.open(str(tmp_path / "a.webm"), "w") as container:
            video: Any = container.add_stream(codec, rate=10, options=options)
            video.height, video.width, video.pix_fmt = 48, 48, "yuva420p"
            for place in range(6):
                pixels = np.zeros((48, 48, 4), np.uint8)
                pixels[:, : 48 - 24 * (place // 3), 3] = 255
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
            container.mux(video.encode(None))
        (stored,) = store(tmp_path, "a.webm", kind="video", size=SIDE, frames=2)
        assert stored.rules == ["m composed on white"]
        np.testing.assert_allclose(stored.array[0], 0, atol=6)
        np.testing.assert_allclose(stored.array[1, :, :, :3], 0, atol=6)
        np.testing.assert_allclose(stored.array[1, :, :, 5:], 255, atol=6)
