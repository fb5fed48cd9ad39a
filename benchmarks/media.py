"""Decoding media: this build ÷ another one, both in one run, call by call in turns.

Each build is a process of its own that decodes with the classes `prepare` decodes with; what a call took is measured in
it. Sound of 5 s to mono (of its own rate and resampled to 22,050 Hz), pictures of 480x360 to 128x128, three frames of
a clip of 4 s. What only this build reads is left out. Without --against, both sides are this build: how much noise
there is.

    python benchmarks/media.py [--quick] [--against FOLDER] [--kinds sound pictures clips] [--rounds 9] [--json PATH]

FOLDER is another checkout: `git worktree add ../before COMMIT`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from builds import THIS, Build, add_option, in_turns, serve
from common import Report, Rounds, parser, ratio

SECONDS, SIDE = 5, 128
BAR = 1.05
KINDS = ("sound", "pictures", "clips")


def write_sounds(folder: Path) -> dict[str, list[Any]]:
    """Writes sound files; returns their cases: name -> [class, its arguments, file]."""
    import soundfile

    noise = np.random.default_rng(0).normal(0, 0.05, 44_100 * SECONDS)
    cases: dict[str, list[Any]] = {}
    for name, rate_hz, channels, form in (
        ("speech.wav", 16_000, 1, {}),
        ("music.wav", 44_100, 2, {}),
        ("speech.flac", 16_000, 1, {}),
        ("music.flac", 44_100, 2, {}),
        ("speech.mp3", 16_000, 1, {}),
        ("music.mp3", 44_100, 2, {}),
        ("music.ogg", 44_100, 2, {"format": "OGG", "subtype": "VORBIS"}),
    ):
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate_hz * SECONDS) / rate_hz) + noise[: rate_hz * SECONDS]
        soundfile.write(str(folder / name), np.stack([wave] * channels, axis=1), rate_hz, **form)
        cases[name] = ["AudioFile", {"name": "a", "sample_rate_hz": rate_hz, "seconds": SECONDS}, name]
        cases[f"{name}/resampled"] = ["AudioFile", {"name": "a", "sample_rate_hz": 22_050, "seconds": SECONDS}, name]
    return cases


def write_pictures(folder: Path) -> dict[str, list[Any]]:
    """Writes pictures of 480x360; returns their cases."""
    from PIL import Image

    coarse = np.random.default_rng(0).integers(0, 256, (36, 48, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((480, 360))
    picture.save(folder / "colour.jpg", quality=90)
    picture.save(folder / "colour.png")
    picture.convert("L").save(folder / "grey.png")
    return {name: ["ImageFile", {"name": "i", "size": SIDE}, name] for name in ("colour.jpg", "colour.png", "grey.png")}


def write_clips(folder: Path) -> dict[str, list[Any]]:
    """Writes a clip of 4 s, 25 frames a second, with sound; returns its cases."""
    import av

    coarse = np.random.default_rng(0).integers(0, 256, (100, 6, 8, 3), dtype=np.uint8)
    wave = np.random.default_rng(1).normal(0, 0.05, (1, 44_100 * 4)).astype(np.float32)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio: Any = container.add_stream("aac", rate=44_100)
        audio.layout = "mono"
        for pixels in coarse.repeat(40, axis=1).repeat(40, axis=2):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        for start in range(0, wave.shape[1], 1024):
            sound = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], "fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 44_100, start, Fraction(1, 44_100)
            container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())
    return {
        "clip.mp4/frames": ["Frames", {"name": "v", "num_frames": 3, "size": SIDE, "pick": "spread"}, "clip.mp4"],
        "clip.mp4/sound": ["AudioFile", {"name": "a", "sample_rate_hz": 22_050, "seconds": 4}, "clip.mp4"],
    }


WRITERS = {"sound": write_sounds, "pictures": write_pictures, "clips": write_clips}


def answer(question: Any) -> object:
    """Returns what a build's process answers: the seconds of a call, of the clock and of CPU time."""
    from mmcore.data import media

    root, (name, arguments, file), calls = question
    medium, folder = getattr(media, name)(**arguments), media.RawFolder(Path(root))
    medium.read(folder, file)
    cpu_start, start = time.process_time(), time.perf_counter()
    for _ in range(calls):
        medium.read(folder, file)
    return (time.perf_counter() - start) / calls, (time.process_time() - cpu_start) / calls


def compare(builds: dict[str, Build], folder: Path, case: Sequence[Any], rounds: int) -> dict[str, Rounds]:
    """Decodes a case by both builds in turns, for about 50 ms each time."""
    calls = max(1, round(0.05 / builds["this"].ask((str(folder), case, 1))[0]))
    return in_turns(lambda name: builds[name].ask((str(folder), case, calls)), rounds)


def main() -> None:
    options = parser(str(__doc__).split("\n", 1)[0])
    add_option(options)
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what is decoded")
    options.add_argument("--rounds", type=int, default=9, help="figures of each side")
    arguments = options.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    report = Report("decoding media: this build ÷ another", f"{rounds} rounds of 50 ms; against {arguments.against}")
    builds = {"this": Build(__file__, THIS), "against": Build(__file__, arguments.against)}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for kind in arguments.kinds:
            for name, case in WRITERS[kind](folder).items():
                report.add(ratio(name, compare(builds, folder, case, rounds), "this", "against", BAR))
    for build in builds.values():
        build.close()
    report.finish(arguments.json)


if __name__ == "__main__":
    serve(answer) if sys.argv[1:] == ["--serve"] else main()
