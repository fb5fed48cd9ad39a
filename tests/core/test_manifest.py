"""Your own data: the description, the table, every kind, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from raw_files import kinds, save_picture, save_text, save_vocab, save_wave

from mmcore.build import build_method, complete_config
from mmcore.config import ProtocolConfig, RunConfig
from mmcore.data.columns import columns_to_arrays
from mmcore.data.demo_clips import save_clip
from mmcore.data.description import ManifestConfig, read_description
from mmcore.data.manifest import Manifest
from mmcore.data.media import RawFolder
from mmcore.data.raw import Index
from mmcore.data.spec import Modality
from mmcore.data.store import HowToPrepare, PreparedDataset, prepare, prepared_dir
from mmcore.encoders import build_encoder
from mmcore.errors import ConfigError, DataError, UsageError

FACTS = {"kind": "tabular", "columns": ["age", "height"]}


def describe(folder: Path, **content: Any) -> Path:
    path = folder / "my.yaml"
    base = {"manifest": "samples.csv", "label": "label", "modalities": {"facts": FACTS}}
    path.write_text(yaml.safe_dump({**base, **content}))
    return path


def options(path: Path) -> ManifestConfig:
    return ManifestConfig.model_validate(read_description(path))


def index_of(path: Path) -> Index:
    source = Manifest(options(path))
    return source.index(RawFolder(Path(source.options.root)))


def make(path: Path, data: Path, **how: Any) -> PreparedDataset:
    described = read_description(path)
    return prepare("manifest", described, described["root"], data, how=HowToPrepare(**how))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        f"{(n % 2 and 'yes') or 'no'},{20 + n},{150 + n}.5,s{n % 3},{('train', 'dev', 'Test')[n % 3]}"
        for n in range(12)
    ]
    save_text(tmp_path / "samples.csv", "\n".join(["label,age,height,speaker,part", *rows]))
    return tmp_path


class TestKinds:
    @pytest.fixture
    def all_kinds(self, tmp_path: Path) -> Path:
        save_vocab(tmp_path, "good", "bad")
        rows = []
        for n in range(9):
            save_wave(tmp_path / "wav" / f"{n}.wav", seconds=0.1 * (n + 1))
            save_picture(tmp_path / "jpg" / f"{n}.png", 20 * n)
            save_clip(tmp_path / "mp4" / f"{n}.mp4", [np.full((16, 16, 3), 20 * n, np.uint8)] * 2)
            (tmp_path / "npy").mkdir(exist_ok=True)
            np.save(tmp_path / "npy" / f"{n}.npy", np.full((n + 1, 2), float(n)))
            rows.append({"id": f"row{n}", "y": n % 3, "wav": f"wav/{n}.wav", "jpg": str(tmp_path / "jpg" / f"{n}.png"),
                         "mp4": f"mp4/{n}.mp4", "text": "good bad", "npy": f"npy/{n}.npy", "list": [n, n, n], "a": n,
                         "split": ("train", "val", "test")[n % 3]})  # fmt: skip
        rows[4]["jpg"] = None
        save_text(tmp_path / "rows.jsonl", "\n".join(json.dumps(row) for row in rows))
        return describe(
            tmp_path,
            name="mine",
            manifest="rows.jsonl",
            label="y",
            split="split",
            id="id",
            modalities={
                "voice": {"kind": "audio", "column": "wav", "sample_rate_hz": 8000, "seconds": 0.5},
                "photo": {"kind": "image", "column": "jpg", "size": 8, "may_be_missing": True},
                "clip": {"kind": "video", "column": "mp4", "size": 8, "frames": 3},
                "words": {"kind": "text", "column": "text", "max_tokens": 6},
                "sensor": {"kind": "series", "column": "npy", "length": 5, "channels": 2},
                "beat": {"kind": "series", "column": "list", "length": 4},
                "age": {"kind": "tabular", "columns": ["a"]},
            },
        )

    def test_each_becomes_what_its_column_holds(self, all_kinds: Path, tmp_path: Path) -> None:
        prepared = make(all_kinds, tmp_path / "data")
        assert prepared.directory.name == "mine"
        assert prepared.spec.classes == ("0", "1", "2")
        arrays = columns_to_arrays(prepared.read_table(), prepared.spec)
        for row, sample_id in enumerate(arrays.sample_ids.tolist()):
            n = int(sample_id.removeprefix("row"))
            assert arrays.labels[row] == n % 3
            assert arrays.lengths["voice"][row] == min(4000, 800 * (n + 1))
            assert arrays.present["photo"][row] == (n != 4)
            assert np.unique(arrays.inputs["photo"][row]).tolist() == [0 if n == 4 else 20 * n]
            assert arrays.lengths["clip"][row] == 3
            assert arrays.inputs["words"][row].tolist() == [2, 5, 6, 3, 0, 0]
            assert arrays.lengths["sensor"][row] == min(5, n + 1)
            assert np.unique(arrays.inputs["sensor"][row][: n + 1]).tolist() == [n]
            assert arrays.inputs["beat"][row][:, 0].tolist() == [n, n, n, 0]
            assert arrays.inputs["age"][row].tolist() == [n]

    def test_a_model_of_all_of_them_can_be_built_and_takes_them(self, all_kinds: Path, tmp_path: Path) -> None:
        prepared = make(all_kinds, tmp_path / "data")
        encoders = {"words": {"name": "bert", "size": "tiny", "weights": "random"}, "voice": {"name": "small_conv"},
                    "photo": {"name": "small_conv"}, "clip": {"name": "small_conv"}}  # fmt: skip
        config = complete_config(
            RunConfig.parse(
                {
                    "dataset": {"name": "manifest", "options": read_description(all_kinds)},
                    "method": {"name": "joint"},
                    "model": {"encoders": encoders},
                }
            )
        )
        assert {config.model.encoders[name]["name"] for name in ("sensor", "beat")} == {"series"}
        assert config.model.encoders["age"]["name"] == "mlp"
        assert build_method(config, prepared.spec).context.modalities == prepared.spec.modality_names


class TestTable:
    def test_splits_by_column_or_by_hash(self, folder: Path) -> None:
        index = index_of(describe(folder, split="part"))
        assert index.published
        assert {e.sample_id: e.split for e in index.entries}["samples.csv:3"] == "val"
        drawn = index_of(describe(folder))
        assert not drawn.published
        assert {entry.split for entry in drawn.entries} == {"train", "val", "test"}
        grouped = index_of(describe(folder, group="speaker"))
        assert len({(entry.group, entry.split) for entry in grouped.entries}) == 3

    def test_a_group_column_makes_group_the_default_where_it_leaks(self, folder: Path, tmp_path: Path) -> None:
        rows = [f"{n % 2},1,1,s{n % 4},{('train', 'val', 'test')[n % 3]}" for n in range(24)]
        save_text(folder / "samples.csv", "\n".join(["label,age,height,speaker,part", *rows]))
        prepared = make(describe(folder, split="part", group="speaker"), tmp_path / "data")
        assert prepared.default_protocol == "group"
        assignment = prepared.assign(ProtocolConfig())
        groups = prepared.index["group"].to_numpy()
        assert not set(groups[assignment.train]) & set(groups[assignment.test])

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("maybe,1,2,s,train", "unknown class 'maybe'"),
            ("yes,1,2,s,holdout", "column 'part' must be train, val or test, got 'holdout'"),
            ("yes,1,2,s", "the row has not 5 fields"),
            ("yes,1,2,s,train,more", "the row has not 5 fields"),
        ],
    )
    def test_bad_rows_are_listed(self, folder: Path, row: str, message: str) -> None:
        with (folder / "samples.csv").open("a") as file:
            file.write(f"\n{row}\n")
        index = index_of(describe(folder, split="part", classes=["no", "yes"]))
        (problem,) = index.problems
        assert (problem.sample_id, problem.kind) == ("samples.csv:14", "bad row")
        assert message in problem.reason

    def test_bad_cells_are_damage(self, folder: Path, tmp_path: Path) -> None:
        with (folder / "samples.csv").open("a") as file:
            file.write("\nyes,old,2,s,train\nyes,nan,2,s,train\nyes,,,s,train\n")
        path = describe(folder, split="part")
        with pytest.raises(DataError, match=r"1 of 15 samples can not be used \(1 missing\)"):
            make(path, tmp_path / "data")
        prepared = make(path, tmp_path / "data", on_missing="skip")
        reasons = {entry["sample_id"]: entry["reason"] for entry in prepared.metadata["skipped"]}
        assert reasons == {
            "samples.csv:14": "damaged: column 'age' must hold numbers, got ['old']",
            "samples.csv:15": "damaged: column 'age' must hold finite numbers, got 'nan'",
            "samples.csv:16": "missing: no facts",
        }

    def test_a_path_outside_the_root_is_refused(self, folder: Path) -> None:
        save_picture(folder.parent / "outside.png")
        save_text(folder / "samples.csv", "label,p\na,../outside.png\nb,/etc/hosts\n")
        index = index_of(describe(folder, modalities={"p": {"kind": "image", "column": "p"}}))
        assert not index.entries
        assert set(kinds(index).values()) == {"missing"}
        assert all("leads out of the raw folder" in problem.reason for problem in index.problems)

    def test_bad_jsonl_lines(self, folder: Path) -> None:
        save_text(folder / "rows.jsonl", '{"label": "a", "x": 1}\nnot json\n[1]\n{"label": "b", "x": 2}\n')
        modalities = {"x": {"kind": "tabular", "columns": ["x"]}}
        index = index_of(describe(folder, manifest="rows.jsonl", modalities=modalities))
        assert kinds(index) == {"rows.jsonl:2": "bad row", "rows.jsonl:3": "bad row"}

    @pytest.mark.parametrize(
        ("array", "message"),
        [(np.zeros((3, 2)), r"must be of shape \(steps, 1\), got \(3, 2\)"), (np.zeros((0, 1)), r"got \(0, 1\)"),
         (np.array([[np.inf]]), "holds 1 values that are no finite numbers"),
         (np.array(["a"]), "can not be read as numbers")],
    )  # fmt: skip
    def test_bad_series(self, folder: Path, tmp_path: Path, array: np.ndarray, message: str) -> None:
        np.save(folder / "bad.npy", array)
        np.save(folder / "good.npy", np.ones(3))
        save_text(folder / "good.csv", "1\n2\n")
        save_text(folder / "samples.csv", "label,s,part\na,bad.npy,train\na,good.npy,train\nb,good.csv,test\n")
        series = {"s": {"kind": "series", "column": "s", "length": 4}}
        path = describe(folder, split="part", modalities=series, classes=["a", "b"])
        with pytest.raises(DataError, match=message):
            make(path, tmp_path / "data")
        prepared = make(path, tmp_path / "data", on_missing="skip")
        arrays = columns_to_arrays(prepared.read_table(), prepared.spec)
        assert sorted(arrays.inputs["s"][:, :, 0].tolist()) == [[1, 1, 1, 0], [1, 2, 0, 0]]


class TestDescription:
    def test_is_complete_and_absolute(self, folder: Path) -> None:
        described = read_description(describe(folder))
        assert described["name"] == "my"
        assert described["manifest"] == str(folder / "samples.csv")
        assert described["root"] == str(folder)
        assert described["classes"] == ["no", "yes"]
        assert (
            RunConfig.parse(
                {"dataset": {"name": "manifest", "options": described}, "method": {"name": "joint"}}
            ).dataset.options
            == described
        )
        assert prepared_dir("data", "manifest", described) == Path("data/my")

    def test_all_problems_at_once(self, folder: Path) -> None:
        path = describe(folder, lable="x", modalities={"a": {"kind": "audio", "column": "c", "seconds": -1},
                                                       "b": {"kind": "smell"}})  # fmt: skip
        with pytest.raises(ConfigError) as raised:
            read_description(path)
        text = str(raised.value)
        assert "unknown key 'my.yaml.lable': did you mean 'label'?" in text
        assert "seconds must be" in text
        assert "smell" in text

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"manifest": "none.csv"}, "the manifest .*none.csv does not exist"),
            ({"manifest": "my.yaml"}, "the manifest must be a .csv, .tsv or .jsonl file, got my.yaml"),
            ({"label": "mood"}, r"has no column 'mood' \(label\); it has label, age, height, speaker, part"),
            ({"label": "height"}, "to predict a number is regression, which is not supported"),
            ({"name": "digits"}, "name must not be that of a data set of this project, got 'digits'"),
            ({"name": "a/b"}, "my.yaml.name"),
        ],
    )
    def test_wrong_files(self, folder: Path, content: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            read_description(describe(folder, **content))

    def test_columns_that_are_not_there_are_all_named(self, folder: Path) -> None:
        path = describe(folder, split="splt", group="grp")
        with pytest.raises(ConfigError) as raised:
            index_of(path)
        assert [problem.split("; ")[0] for problem in raised.value.problems] == [
            "samples.csv has no column 'grp'", "samples.csv has no column 'splt'",
        ]  # fmt: skip

    def test_files_that_are_no_yaml_or_text(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="there is no such file"):
            read_description(folder / "none.yaml")
        for content, message in (
            (b"a: [", "is no YAML file"),
            (b"- a", "must hold a mapping"),
            (b"\xff", "is no YAML"),
        ):
            with pytest.raises(UsageError, match=message):
                read_description(save_text(folder / "bad.yaml", content))
        save_text(folder / "samples.csv", b"label,age,height\nyes,1,2\nn\xf6,1,2\n")
        with pytest.raises(UsageError, match=r"samples.csv: line 3 is not UTF-8"):
            read_description(describe(folder))


class TestEncoders:
    def test_padding_does_not_matter_to_a_series(self) -> None:
        torch.manual_seed(0)
        network = build_encoder({"name": "series"}, Modality("s", "features", (9, 2), "float32")).eval()
        x = torch.randn(4, 9, 2)
        lengths = torch.tensor([9, 4, 1, 0])
        other = x.clone()
        other[1, 4:], other[2, 1:] = 100, -3
        with torch.no_grad():
            torch.testing.assert_close(network(x, lengths), network(other, lengths))
            torch.testing.assert_close(network(x, lengths)[1:2], network(x[1:2, :4]))
        assert network(x).shape == (4, 64)

    @pytest.mark.parametrize(("name", "shape"), [("mlp", (3,)), ("series", (9, 2))])
    def test_scale_and_offset_of_the_numbers_do_not_matter(self, name: str, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        network = build_encoder({"name": name}, Modality("s", "features", shape, "float32")).double()
        x = torch.randn(16, *shape, dtype=torch.float64)
        torch.testing.assert_close(network(x), network(1e3 * x + 5e4), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(("name", "shape"), [("mlp", (3,)), ("series", (9, 2))])
    def test_on_the_meta_device_with_every_gradient(self, name: str, shape: tuple[int, ...]) -> None:
        network = build_encoder({"name": name}, Modality("s", "features", shape, "float32")).to("meta")
        features = network(torch.empty(4, *shape, device="meta"), torch.ones(4, dtype=torch.int64, device="meta"))
        features.sum().backward()
        assert features.device.type == "meta"
        assert all(parameter.grad is not None for parameter in network.parameters())

    def test_the_other_axes_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"'mlp' takes features \(N,\), 's' is \(9, 2\)"):
            build_encoder({"name": "mlp"}, Modality("s", "features", (9, 2), "float32"))
        with pytest.raises(UsageError, match=r"'series' takes features \(T, C\), 's' is \(3,\)"):
            build_encoder({"name": "series"}, Modality("s", "features", (3,), "float32"))
