"""Your own data: the description, the table, every kind, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from raw_files import kinds, save_picture, save_text, save_vocab, save_wave

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method
from mmcore.config.schema import ProtocolConfig
from mmcore.data.demo.clip_files import save_clip
from mmcore.data.media import RawFolder
from mmcore.data.prepared.columns import columns_to_arrays
from mmcore.data.prepared.prepare import HowToPrepare, prepare, prepared_dir
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.raw.description import ManifestConfig, read_description
from mmcore.data.raw.index import Index
from mmcore.data.sources.user_table import Manifest
from mmcore.errors import ConfigError, DataError, UsageError

QUOTE = '"'
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
            parse_config(
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
            ("yes,1,2,s", "the row has 4 fields, not 5"),
            ("yes,1,2,s,train,more", "the row has 6 fields, not 5"),
        ],
    )
    def test_bad_rows_are_listed(self, folder: Path, row: str, message: str) -> None:
        with (folder / "samples.csv").open("a") as file:
            file.write(f"\n{row}\n")
        index = index_of(describe(folder, split="part", classes=["no", "yes"]))
        (problem,) = index.problems
        assert (problem.sample_id, problem.kind) == ("samples.csv:14", "bad row")
        assert message in problem.reason

    def test_bad_cells_are_bad_rows(self, folder: Path, tmp_path: Path) -> None:
        with (folder / "samples.csv").open("a") as file:
            file.write("\nyes,old,2,s,train\nyes,nan,2,s,train\nyes,,,s,train\n")
        path = describe(folder, split="part")
        with pytest.raises(DataError, match=r"3 of 15 samples can not be used \(3 bad rows\)"):
            make(path, tmp_path / "data")
        prepared = make(path, tmp_path / "data", on_missing="skip")
        reasons = {entry["sample_id"]: entry["reason"] for entry in prepared.metadata["skipped"]}
        assert reasons == {
            "samples.csv:14": "bad row: column 'age' must hold numbers, got 'old'",
            "samples.csv:15": "bad row: column 'age' must hold finite numbers, got 'nan'; leave a missing one empty",
            "samples.csv:16": "bad row: column 'age', 'height' has no value; fill: mean, median or a number fills it "
            "in, may_be_missing: true leaves out the modality",
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
            parse_config(
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
            ({"manifest": "my.yaml"}, "the manifest must be a .csv, .tsv, .tab, .jsonl, .* got my.yaml"),
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
            "samples.csv has no column 'grp' (group)", "samples.csv has no column 'splt' (split)",
        ]  # fmt: skip


class TestStored:
    """From a table as it is written in practice to the bytes that are stored, or the reason with its line."""

    FACTS: ClassVar = {"facts": {"kind": "tabular", "columns": ["a", "b"]}}

    @pytest.fixture
    def rows(self) -> list[dict[str, Any]]:
        return [
            {"id": f"r{n}", "y": ("no", "yes")[n % 2], "a": n + 0.5, "b": -n, "g": f"s{n // 4}", "ts": [n, n + 1],
             "part": ("train", "val", "test")[n // 2 % 3]} for n in range(12)
        ]  # fmt: skip

    def described(self, folder: Path, rows: list[dict[str, Any]] | str, table: str = "t.jsonl", **content: Any) -> Path:
        text = rows if isinstance(rows, str) else "\n".join(json.dumps(row) for row in rows)
        save_text(folder / table, text)
        base = {"manifest": table, "label": "y", "id": "id", "split": "part", "modalities": self.FACTS}
        return describe(folder, **{**base, **content})

    def arrays(self, path: Path, **how: Any) -> tuple[PreparedDataset, dict[str, int], Any]:
        prepared = make(path, path.parent / "data", **how)
        arrays = columns_to_arrays(prepared.read_table(), prepared.spec)
        return prepared, {name: row for row, name in enumerate(arrays.sample_ids.tolist())}, arrays

    @pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet", ".jsonl"])
    def test_every_kind_of_table_says_the_same(self, tmp_path: Path, rows: list[dict[str, Any]], kind: str) -> None:
        for row in rows:
            del row["ts"]
        path = self.described(tmp_path, rows, group="g", manifest=f"t{kind}")
        if kind == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
        elif kind != ".jsonl":
            mark = "," if kind == ".csv" else "\t"
            lines = [rows[0].keys(), *(map(str, row.values()) for row in rows)]
            save_text(tmp_path / f"t{kind}", "\n".join(mark.join(line) for line in lines))
        prepared, row_of, arrays = self.arrays(path)
        assert prepared.spec.classes == ("no", "yes")
        assert len(row_of) == 12
        for n in range(12):
            assert arrays.labels[row_of[f"r{n}"]] == n % 2
            assert arrays.inputs["facts"][row_of[f"r{n}"]].tolist() == [n + 0.5, -n]
            assert prepared.index["group"][row_of[f"r{n}"]].as_py() == f"s{n // 4}"

    def test_a_text_that_begins_with_a_quote_loses_no_row(self, tmp_path: Path) -> None:
        save_vocab(tmp_path, '"', *map(str, range(60)))
        lines = [f"r{n}\t{n % 2}\t{QUOTE * (n in (5, 45))}{n}\ttrain" for n in range(60)]
        text = "\n".join(["id\ty\ttxt\tpart", *lines])
        words = {"words": {"kind": "text", "column": "txt", "max_tokens": 6}}
        _, row_of, arrays = self.arrays(self.described(tmp_path, text, "t.tsv", modalities=words))
        assert len(row_of) == 60
        for n in range(60):
            quote = [5] if n in (5, 45) else []
            expected = [2, *quote, 6 + n, 3]
            assert arrays.inputs["words"][row_of[f"r{n}"]][: len(expected)].tolist() == expected

    def test_a_table_that_can_not_be_told_is_refused_as_a_whole(self, tmp_path: Path) -> None:
        for text, message in (
            (
                'id,y,a,b,part\nr1,no,1,2,train\n"r2,yes,1,2,test\nr3,no,1,2,val\n',
                "t.csv: line 3: a quote opens a cell",
            ),
            ("id,y,a,b,part,a\nr1,no,1,2,train,3\nr2,yes,1,2,test,3\n", r"column 'a' \(facts\) is there twice"),
            ("id;y;a;b;part\nr1;no;1;2;train\n", "if that is the delimiter, say delimiter: ';'"),
        ):
            with pytest.raises(UsageError, match=message):
                read_description(self.described(tmp_path, text, "t.csv"))

    def test_a_series_that_float32_can_not_hold_is_damage(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        for n, row in enumerate(rows):
            np.save(tmp_path / f"{n}.npy", np.full((2, 2), 1e300 if n == 3 else n))
            row["ts"] = f"{n}.npy"
        trace = {"trace": {"kind": "series", "column": "ts", "length": 2, "channels": 2}}
        path = self.described(tmp_path, rows, modalities=trace)
        with pytest.raises(DataError, match=r"r3: damaged: 3.npy holds 4 numbers beyond float32's 3.4e38"):
            make(path, tmp_path / "data")
        _, row_of, arrays = self.arrays(path, on_missing="skip")
        assert arrays.inputs["trace"][row_of["r4"]].tolist() == [[4, 4], [4, 4]]
        assert "r3" not in row_of

    def test_a_long_cell_is_a_sample_as_any(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        name = "z" * 200_000
        rows[5]["id"] = name
        lines = ["id,y,a,b,part", *(f"{r['id']},{r['y']},{r['a']},{r['b']},{r['part']}" for r in rows)]
        _, row_of, arrays = self.arrays(self.described(tmp_path, "\n".join(lines), "t.csv"))
        assert arrays.inputs["facts"][row_of[name]].tolist() == [5.5, -5]

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("y", ..., "column 'y' (label) has no value"), ("y", None, "column 'y' (label) has no value"),
            ("y", " ", "column 'y' (label) has no value"), ("y", ["no"], "column 'y' (label) must hold a text or a"),
            ("y", True, "column 'y' (label) must hold a text or a number, got True (bool)"),
            ("part", ..., "column 'part' (split) has no value"), ("part", None, "column 'part' (split) has no value"),
            ("part", 3, "column 'part' must be train, val or test, got '3'"),
            ("id", ..., "column 'id' (id) has no value"), ("id", "", "column 'id' (id) has no value"),
            ("g", None, "column 'g' (group) has no value"), ("g", "", "column 'g' (group) has no value"),
            ("g", {"x": 1}, "column 'g' (group) must hold a text or a number"),
            ("g", "nan", "column 'g' (group) holds 'nan', as programs write a missing value: empty the cell, or"),
            ("id", "<NA>", "column 'id' (id) holds '<NA>'"), ("part", "NaN", "column 'part' (split) holds 'NaN', as"),
            ("y", "N/A", "column 'y' (label) holds 'N/A', as programs write a missing value: empty the cell, or list"),
            ("a", [1], "column 'a' must hold numbers, got [1]"), ("a", False, "'a' must hold numbers, got False"),
            ("a", "1_0", "column 'a' must hold numbers"), ("a", "1,5", "write decimals with a point"),
            ("a", 1e39, "column 'a' must hold numbers that float32 can tell, got 1e+39"),
            ("a", "1e-60", "column 'a' must hold numbers that float32 can tell, got '1e-60'"),
            ("a", None, "column 'a' has no value; fill: mean, median or a number fills it in, may_be_missing"),
            ("ts", ["1"], "the series must hold numbers, got ['1']"), ("ts", [1, None], "the series must hold numbers"),
            ("ts", 5, "column 'ts' must hold a path or a list of numbers, got 5 (int)"),
            ("ts", [1e39], "the series holds 1 numbers beyond float32"), ("ts", None, "column 'ts' has no value"),
        ],
    )  # fmt: skip
    def test_a_cell_that_is_not_what_it_must_be(
        self, tmp_path: Path, rows: list[dict[str, Any]], key: str, value: Any, reason: str
    ) -> None:
        rows[3][key] = value
        rows[3] = {name: cell for name, cell in rows[3].items() if cell is not ...}
        beat = {"kind": "series", "column": "ts", "length": 2}
        path = self.described(tmp_path, rows, group="g", modalities={**self.FACTS, "beat": beat})
        prepared, row_of, _ = self.arrays(path, on_missing="skip")
        assert sorted(row_of) == sorted(f"r{n}" for n in range(12) if n != 3)
        (skipped,) = prepared.metadata["skipped"]
        assert skipped["sample_id"] == "t.jsonl:4"
        assert reason in skipped["reason"]
        assert prepared.spec.classes == ("no", "yes")
        assert not {"", "None", "nan"} & set(prepared.index["group"].to_pylist())

    def test_a_number_stays_what_was_written(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        rows[0]["a"], rows[1]["a"], rows[2]["a"] = " 1e-3 ", 3e38, 1e-44
        _, row_of, arrays = self.arrays(self.described(tmp_path, rows))
        stored = [arrays.inputs["facts"][row_of[f"r{n}"]][0] for n in range(3)]
        assert stored == [np.float32(1e-3), np.float32(3e38), np.float32(1e-44)]
        assert stored[2] > 0

    def test_blanks_around_names_do_not_make_others(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        for n, row in enumerate(rows):
            row.update(y=f" {row['y']}\t", g=f"{row['g']} " if n % 2 else row["g"], part=f" {row['part'].upper()}")
        prepared, row_of, arrays = self.arrays(self.described(tmp_path, rows, group="g", classes=["no", "yes"]))
        assert set(prepared.index["group"].to_pylist()) == {"s0", "s1", "s2"}
        assert [arrays.labels[row_of[f"r{n}"]] for n in range(12)] == [n % 2 for n in range(12)]

    def test_rows_of_one_id(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        rows += [dict(rows[2]), {**rows[3], "a": 99}]
        prepared, row_of, arrays = self.arrays(self.described(tmp_path, rows), on_missing="skip")
        assert len(row_of) == 12
        assert arrays.inputs["facts"][row_of["r3"]][0] == 3.5
        assert [entry["reason"] for entry in prepared.metadata["skipped"]] == [
            "duplicate: listed in t.jsonl:3 and again, alike, in t.jsonl:13",
            "conflict: listed in t.jsonl:4 and again, differently, in t.jsonl:14; the first counts",
        ]

    def test_partly_empty_rows_lack_the_modality_where_that_is_allowed(
        self, tmp_path: Path, rows: list[dict[str, Any]]
    ) -> None:
        rows[3]["a"], rows[4]["a"], rows[4]["b"] = "", None, None
        facts = {"facts": {**self.FACTS["facts"], "may_be_missing": True}}
        prepared, row_of, arrays = self.arrays(self.described(tmp_path, rows, modalities=facts))
        for n in range(12):
            assert arrays.present["facts"][row_of[f"r{n}"]] == (n not in (3, 4))
        assert arrays.inputs["facts"][row_of["r3"]].tolist() == [0, 0]
        assert prepared.metadata["noted"] == [
            {"sample_id": "r3", "reason": "facts partly empty, so missing: column 'a' has no value",
             "rule": "facts partly empty, so missing"},
        ]  # fmt: skip

    def test_classes_that_are_left_out(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        for row in rows[:4]:
            row["y"] = "unsure"
        for content in ({}, {"classes": ["no", "yes"]}):
            path = self.described(tmp_path, rows, leave_out=["unsure"], **content)
            prepared, row_of, _ = self.arrays(path)  # by rule: no fault
            assert sorted(row_of) == sorted(f"r{n}" for n in range(4, 12))
            reasons = [entry["reason"] for entry in prepared.metadata["skipped"]]
            assert reasons == ["filtered: class 'unsure' is left out (leave_out)"] * 4
            with pytest.raises(UsageError, match=r"leave_out: no row of t.jsonl has the label 'unsur'"):
                read_description(self.described(tmp_path, rows, leave_out=["unsur"], **content))

    def test_labels_that_match_no_class_are_not_blamed_on_files(
        self, tmp_path: Path, rows: list[dict[str, Any]]
    ) -> None:
        path = self.described(tmp_path, rows, classes=["No", "Yes"])
        message = r"my: not one of the 12 rows becomes a sample: 12 bad rows \(first: t.jsonl:1: unknown class 'no'"
        with pytest.raises(UsageError, match=message) as raised:
            make(path, tmp_path / "data")
        assert "files" not in str(raised.value)
