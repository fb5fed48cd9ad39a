"""A data set for tests: tiny, with every kind of column, and as many files as a test asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge

from mmcore.config.sections import Section
from mmcore.data.prepared import writer
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.spec import DATASETS, DatasetSource, DatasetSpec, Modality, Sample, SplitRules


class ToyConfig(Section):
    num_samples: Annotated[int, Ge(0)] = 60
    scale: float = 1.0
    note: str = ""


class Toy(DatasetSource):
    """Sample i has the waveform [i, i, ...] of length 1 + i % 5 and the features [i, -i]; group i % 6."""

    Config = ToyConfig
    needs_raw = False
    split_rules: ClassVar[SplitRules] = SplitRules(default_protocol="group", published=True)
    options: ToyConfig

    def spec(self) -> DatasetSpec:
        sound = Modality("sound", "audio", (5,), "int16", sample_rate_hz=8000, variable_length=True)
        features = Modality("features", "features", (2,), "float32", may_be_missing=True)
        return DatasetSpec("toy", ("a", "b", "c"), (sound, features))

    def samples(self, raw_dir: Path | None) -> Iterator[tuple[str, Sample]]:
        self.skip("sample-x", "no sound")
        for number in range(self.options.num_samples):
            split = "test" if number % 5 == 4 else "val" if number % 5 == 3 else "train"
            yield split, self.sample(number)

    def sample(self, number: int) -> Sample:
        length = 1 + number % 5
        sound = np.zeros(5, dtype=np.int16)
        sound[:length] = number
        return Sample(
            sample_id=f"sample-{number:03d}",
            label=number % 3,
            group=f"group-{number % 6}",
            source=f"source-{number:03d}",
            arrays={"sound": sound, "features": np.array([number, -number], dtype=np.float32)},
            lengths={"sound": length},
            present={"features": number % 4 != 0},
        )

    def card(self) -> str:
        return "A toy."


class Raw(Toy):
    """As `Toy`, with one sample for each line of raw/list.txt."""

    needs_raw = True
    raw_help = "It needs list.txt from example.org."

    def samples(self, raw_dir: Path | None) -> Iterator[tuple[str, Sample]]:
        assert raw_dir is not None
        for line in (raw_dir / "list.txt").read_text().split():
            yield "train", self.sample(int(line))


def register() -> None:
    """Enters both under `toy` and `toyraw`; may be called again."""
    DATASETS.register("toy")(Toy)
    DATASETS.register("toyraw")(Raw)


def prepare_in_many_files(monkeypatch: Any, data_dir: Path, num_samples: int, rows_per_file: int) -> PreparedDataset:
    """Returns `toy` in files of `rows_per_file` rows (the last of a split may have fewer)."""
    register()
    sample_bytes = sum(modality.num_bytes for modality in Toy(ToyConfig()).spec().modalities)
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", rows_per_file * sample_bytes)
    monkeypatch.setattr(writer, "PART_BYTES", rows_per_file * sample_bytes)
    return prepare("toy", {"num_samples": num_samples}, None, data_dir)
