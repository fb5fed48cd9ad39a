"""Frames of a ten-second clip ÷ decoding all of its frames, for clips with few and many key frames and other codecs.

python -m benchmarks.clips
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, measure, parser, ratio

from mmcore.data.media import Timeline, read_frames

SECONDS, RATE, HEIGHT, WIDTH, STORED = 10, 30, 480, 640, 256
NUMBERS = (3, 16)
"""Frames that are taken."""
CLIPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264_key12": ("a.mp4", "libx264", {"g": "12", "bf": "2"}),
    "h264_key250": ("b.mp4", "libx264", {"g": "250", "bf": "3", "sc_threshold": "0"}),
    "mpeg4_key12": ("c.avi", "mpeg4", {"g": "12"}),
    "vp8": ("d.webm", "libvpx", {"g": "128", "deadline": "realtime"}),
}


def write(path: Path, codec: str, options: dict[str, str], frames: int) -> None:
    """Writes a clip of a drifting texture."""
    import av

    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, ((HEIGHT + frames) // 8, (WIDTH + frames) // 8, 3))
    scene = coarse.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(frames):
            pixels = np.ascontiguousarray(scene[number // 2 :][:HEIGHT, number // 2 :][:, :WIDTH])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def uniform(number: int, timeline: Timeline) -> list[int]:
    """Returns the frames at the middles of `number` equal parts."""
    return timeline.uniform(number)


def decode_all(path: Path, number: int, frames: int) -> None:
    """Decodes every one of so many frames, and keeps as many as are wanted."""
    import av

    with av.open(str(path)) as container:
        for place, frame in enumerate(container.decode(video=0)):
            if place % (frames // number) == 0:
                frame.reformat(STORED, STORED, "rgb24", interpolation="BILINEAR").to_ndarray()


def main() -> None:
    arguments = parser("frames of a clip ÷ decoding all of it")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--calls", type=int, default=5, help="clips read in a round")
    options = arguments.parse_args()
    rounds, calls, seconds = (1, 1, 2) if options.quick else (options.rounds, options.calls, SECONDS)
    work = Path(tempfile.mkdtemp(prefix="equipoise-clips-"))
    report = Report(
        "frames of a clip ÷ decoding all of it",
        f"clips of {seconds} s, {RATE} frames a second, {WIDTH}x{HEIGHT}, stored {STORED}x{STORED}; "
        f"{rounds} rounds of {calls}; seconds a clip",
    )
    try:
        for name, (file, codec, settings) in CLIPS.items():
            path = work / file
            write(path, codec, settings, seconds * RATE)
            for number in NUMBERS:
                sides: dict[str, Callable[[], object]] = {
                    "read": partial(read_frames, path, partial(uniform, number), STORED, 3),
                    "all": partial(decode_all, path, number, seconds * RATE),
                }
                report.add(ratio(f"{name}/{number}", measure(sides, rounds, calls, warm_up=1), "read", "all"))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report.finish(options.json)


if __name__ == "__main__":
    main()
