"""An epoch's samples from the prepared data set ÷ the same samples decoded anew from wav and jpg.

The raw files are made in CREMA-D's layout at its own sizes: a wav of 2.5 s at 16 kHz and two pictures of 480x360,
listed under several names. What is prepared of them: 5 s at 22,050 Hz and two frames of 128x128; one thread, one core.

- `decoded`: as the released code does it for every sample of every epoch: read, resample, tile to 20 s, spectrogram;
  open two jpg, cut at random, scale to 128x128, flip, standardise.
- `prepared`: tensors on the host from the object store (`--cache auto`); ÷ decoded, bar 0.1.
- `transformed`: the same with the transforms of the device run, here on the CPU: the same work but for the decoding.
- `streamed`: by Ray Data from the files (`--cache off`), between the first and the last batch of an epoch, with its
  readers on the same core; ÷ `mosaic`, bar 0.5.
- `mosaic`: MosaicML Streaming, local shards of the same columns, no worker processes. Only where it is installed
  (pip install mosaicml-streaming==0.13.0).

    python benchmarks/decoding.py [--quick] [--samples 2400] [--rounds 5] [--json PATH]
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Report, Rounds, parser, ratio

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_run_transforms
from mmcore.data.feeding.loader import Loader
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from rayjobs.cluster import session
from rayjobs.feeding import cached, streaming

BATCH_SIZE, SIDE, RATE_HZ, TILE = 64, 128, 22050, 441_000
CODES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
DISTINCT = 60
"""Clips that are really made; the others are further names of the same files."""


def write_raw(folder: Path, num_samples: int) -> None:
    """Writes clips as CREMA-D has them, and its lists."""
    import soundfile
    from PIL import Image

    generator = np.random.default_rng(0)
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(num_samples):
        clip = f"{1001 + number % 50}_S{number:05d}_{CODES[number % 6]}_XX"
        sound, pictures = folder / "AudioWAV" / f"{clip}.wav", folder / "Image-01-FPS" / clip
        pictures.mkdir(parents=True)
        sound.parent.mkdir(exist_ok=True)
        if number < DISTINCT:
            wave = generator.normal(0, 3000, 40_000).clip(-32768, 32767).astype(np.int16)
            soundfile.write(str(sound), wave, 16_000)
            for frame in (1, 2):
                coarse = generator.integers(0, 256, (36, 48, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((480, 360)).save(pictures / f"{frame:05d}.jpg", quality=90)
        else:
            first = next(folder.glob(f"AudioWAV/*_S{number % DISTINCT:05d}_*.wav"))
            os.link(first, sound)
            for frame in (1, 2):
                name = f"{frame:05d}.jpg"
                os.link(folder / "Image-01-FPS" / first.stem / name, pictures / name)
        rows["test" if number % 10 == 0 else "train"].append(f"{clip},{CODES[number % 6]}")
    (folder / "annotations").mkdir()
    for split, lines in rows.items():
        (folder / "annotations" / f"{split}.csv").write_text("\n".join(lines) + "\n")


class Decoder:
    """Decodes samples one by one, as a data set class of the released code does."""

    def __init__(self, raw: Path, clips: Sequence[str]):
        from torchvision.transforms import v2

        self._raw, self._clips = raw, clips
        self._window = torch.hann_window(512)
        self._picture = v2.Compose(
            [
                v2.RandomResizedCrop(SIDE, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def sample(self, clip: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns spectrogram (257, T) and pictures (3, 2, H, W)."""
        import soundfile
        import soxr
        from PIL import Image

        wave, rate = soundfile.read(str(self._raw / "AudioWAV" / f"{clip}.wav"), dtype="float32")
        wave = soxr.resample(wave, rate, RATE_HZ)
        wave = torch.from_numpy(np.tile(wave, math.ceil(TILE / len(wave)))[:TILE])
        spectrum = torch.stft(wave, 512, 353, window=self._window, return_complex=True)
        frames = sorted((self._raw / "Image-01-FPS" / clip).iterdir())
        pictures = [self._picture(Image.open(path).convert("RGB")) for path in frames]
        return torch.log(spectrum.abs() + 1e-7), torch.stack(pictures, dim=1)

    def epoch(self) -> float:
        """Decodes all samples, batch by batch; returns the seconds each took."""
        begun = time.perf_counter()
        for start in range(0, len(self._clips), BATCH_SIZE):
            samples = [self.sample(clip) for clip in self._clips[start : start + BATCH_SIZE]]
            torch.stack([sound for sound, _ in samples])
            torch.stack([picture for _, picture in samples])
        return (time.perf_counter() - begun) / len(self._clips)


def mosaic_batches(prepared: PreparedDataset, loader: Loader, folder: Path) -> Any:
    """Writes the samples as local shards; returns an iterable over batches of tensors."""
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    columns = {"label": "int"}
    for modality in prepared.spec.modalities:
        columns[modality.name] = f"ndarray:{modality.dtype}:{','.join(map(str, modality.shape))}"
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for batch in loader.train_batches(0):
            for row, label in enumerate(batch.labels.tolist()):
                inputs = {name: values[row].numpy() for name, values in batch.inputs.items()}
                writer.write({"label": label, **inputs})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH_SIZE)
    return DataLoader(dataset, batch_size=BATCH_SIZE, num_workers=0)


def steady(batches: Iterator[Any]) -> float:
    """Returns the seconds a batch took between the first and the last of an epoch."""
    next(batches)
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    return (time.perf_counter() - start) / count


def take_turns(report: Report, prepared: PreparedDataset, raw: Path, work: Path, rounds: int, decoded: int) -> None:
    """Adds all ratios; every side yields seconds a sample."""
    config = complete_config(
        parse_config(
            {
                "dataset": {
                    "name": "cremad",
                    "options": prepared.options,
                    "transforms": {"video": {"size": [SIDE, SIDE]}},
                },
                "method": {"name": "joint"},
            }
        )
    )
    assignment = prepared.assign(config.protocol)
    rows = cached.materialise(prepared, 2**33)
    if rows is None:
        raise SystemExit("the samples do not fit in the object store of this machine")
    memory = rows.loader(assignment, BATCH_SIZE)
    transforms = build_run_transforms(config, prepared.spec)
    decoder = Decoder(raw, memory.rows("train").sample_ids[:decoded].tolist())
    has_mosaic = importlib.util.find_spec("streaming") is not None
    mosaic = mosaic_batches(prepared, memory, work / "shards") if has_mosaic else None
    names = ("decoded", "prepared", "transformed", "streamed", *(("mosaic",) if has_mosaic else ()))
    results = {name: Rounds() for name in names}
    for number in range(rounds):
        results["decoded"].wall.append(decoder.epoch())
        results["prepared"].wall.append(_read(memory, number))
        results["transformed"].wall.append(_transformed(memory, transforms, decoded, number))
        # A loader for each round: one that knew of the next would read it while the other sides have their turns.
        stream = streaming.StreamLoader(prepared, assignment, BATCH_SIZE, num_epochs=number + 1)
        results["streamed"].wall.append(steady(stream.train_batches(number)) / BATCH_SIZE)
        stream.close()
        if mosaic is not None:
            results["mosaic"].wall.append(steady(iter(mosaic)) / BATCH_SIZE)
    report.add(ratio("prepared÷decoded", results, "prepared", "decoded", 0.1))
    report.add(ratio("transformed÷decoded", results, "transformed", "decoded"))
    report.add(ratio("streamed÷decoded", results, "streamed", "decoded"))
    if mosaic is not None:
        report.add(ratio("prepared÷mosaic", results, "prepared", "mosaic"))
        report.add(ratio("streamed÷mosaic", results, "streamed", "mosaic", 0.5))
    else:
        report.say("mosaicml-streaming is not installed: not compared")


def _transformed(memory: Loader, transforms: Any, samples: int, epoch: int) -> float:
    """Returns the seconds a sample takes from the object store through the transforms."""
    start, count = time.perf_counter(), 0
    for batch in memory.train_batches(epoch):
        transforms(batch, training=True)
        count += batch.num_samples
        if count >= samples:
            break
    return (time.perf_counter() - start) / count


def _read(memory: Loader, epoch: int) -> float:
    """Returns the seconds a sample takes from the object store to the host's tensors."""
    start = time.perf_counter()
    count = sum(batch.num_samples for batch in memory.train_batches(epoch))
    return (time.perf_counter() - start) / count


def main() -> None:
    arguments = parser("samples from the prepared data set ÷ decoded anew")
    arguments.add_argument("--samples", type=int, default=2400, help="clips of the raw folder")
    arguments.add_argument("--decoded", type=int, default=256, help="samples decoded in a round")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    samples, decoded, rounds = (240, 8, 1) if options.quick else (options.samples, options.decoded, options.rounds)
    work = Path(tempfile.mkdtemp(prefix="equipoise-decoding-"))
    report = Report(
        "a sample from the prepared data set ÷ decoded anew",
        f"{samples} clips, batch {BATCH_SIZE}, {decoded} decoded in a round, {rounds} rounds; seconds a sample",
    )
    try:
        write_raw(work / "raw", samples)
        prepared = prepare("cremad", {"image_size": SIDE}, work / "raw", work / "data")
        with session.start(num_cpus=1):
            take_turns(report, prepared, work / "raw", work, rounds, decoded)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report.finish(options.json)


if __name__ == "__main__":
    main()
