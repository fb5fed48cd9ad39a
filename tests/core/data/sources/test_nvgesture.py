"""NVGesture: its lists, windows of clips, optical flow, and the crop the three streams share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raw_files import index_of, kinds, save_text

from mmcore.batch import NUM_UNIFORMS, Batch
from mmcore.config.schema import ProtocolConfig
from mmcore.data.demo.clip_files import save_clip
from mmcore.data.media import Flow, RawFolder, Window, dense_flow, read_window
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.raw_check import examine
from mmcore.data.prepared.writer import rows_of
from mmcore.data.raw.source import RawSource
from mmcore.data.sources.nvgesture import LISTS, NVGesture, NVGestureConfig
from mmcore.data.spec import DATASETS
from mmcore.errors import DataError, UsageError
from mmcore.transforms.batch_transforms import build_transforms

SMALL: dict[str, Any] = {"frames": 4, "image_size": 16}


def row(number: int, subject: int, take: int = 0, start: int = 2, label: int | None = None) -> str:
    """A row as published: with a stream that is not read, and a blank at its end."""
    window = f"{start}:{start + 4}"
    path = f"path:./Video_data/class_{number:02d}/subject{subject}_r{take}"
    return f"{path} depth:sk_depth:{window} color:sk_color:{window} duo_left:duo_left:3:8 label:{label or number} "


def save_recording(root: Path, number: int, subject: int, take: int = 0, frames: int = 8) -> Path:
    folder = root / "Video_data" / f"class_{number:02d}" / f"subject{subject}_r{take}"
    for stream in ("sk_color", "sk_depth"):
        save_clip(folder / f"{stream}.avi", [np.full((32, 48, 3), 20 * k, np.uint8) for k in range(frames)], repeat=1)
    return folder


def save_lists(folder: Path, train: str, test: str, variant: int = 0) -> None:
    save_text(folder / LISTS["train"][variant], train + "\n")
    save_text(folder / LISTS["test"][variant], test + "\n")


def source(**options: Any) -> RawSource:
    return NVGesture(NVGestureConfig(**options))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number, subject in ((1, 3), (25, 12), (2, 20)):
        save_recording(tmp_path, number, subject)
    save_lists(tmp_path, f"{row(1, 3)}\r\n{row(25, 12)}", row(2, 20))
    return tmp_path


class TestLists:
    def test_rows_as_published(self, raw: Path) -> None:
        index = index_of("nvgesture", raw, **SMALL)
        assert index.problems == []
        assert {e.sample_id: (e.split, e.label, e.group) for e in index.entries} == {
            "class_01/subject3_r0": ("train", 0, "subject3"),
            "class_25/subject12_r0": ("train", 24, "subject12"),
            "class_02/subject20_r0": ("test", 1, "subject20"),
        }
        entry = next(entry for entry in index.entries if entry.label == 0)
        folder = "Video_data/class_01/subject3_r0"
        color = [f"{folder}/sk_color.avi", 2, 6]
        assert entry.media == {"rgb": color, "flow": color, "depth": [f"{folder}/sk_depth.avi", 2, 6]}

    @pytest.mark.parametrize("variant", range(4))
    def test_every_name_of_the_lists_in_either_folder(self, raw: Path, tmp_path: Path, variant: int) -> None:
        for split in LISTS:
            (raw / LISTS[split][0]).unlink()
        save_lists(tmp_path / "lists", row(1, 3), row(2, 20), variant)
        index = index_of("nvgesture", raw, tmp_path / "lists", **SMALL)
        assert len(index.entries) == 2
        assert [path.name for path in index.lists] == [LISTS["train"][variant], LISTS["test"][variant]]

    def test_fields_in_any_order(self, raw: Path) -> None:
        save_lists(
            raw, "label:1 color:sk_color.avi:2:6 path:Video_data/class_01/subject3_r0 depth:sk_depth:0:4", row(2, 20)
        )
        (entry,) = [entry for entry in index_of("nvgesture", raw, **SMALL).entries if entry.split == "train"]
        assert entry.sample_id == "class_01/subject3_r0"
        assert entry.media["rgb"] == ["Video_data/class_01/subject3_r0/sk_color.avi", 2, 6]
        assert entry.media["depth"][1:] == [0, 4]

    def test_the_label_counts_where_the_folder_says_something_else(self, raw: Path) -> None:
        save_lists(raw, f"{row(1, 3, label=2)}\n{row(25, 12)}", row(2, 20))
        index = index_of("nvgesture", raw, **SMALL)
        assert next(e for e in index.entries if e.sample_id == "class_01/subject3_r0").label == 1
        assert kinds(index) == {"class_01/subject3_r0": "noted"}
        assert index.problems[0].reason == "listed as class_02, which counts; it lies in class_01"
        assert index.faults() == []

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (row(1, 3, label=26), r"label must be in \[1, 25\], got '26'"),
            (row(1, 3).replace("label:1", "label:x"), r"label must be in \[1, 25\], got 'x'"),
            (row(1, 3).replace("color:sk_color:2:6", ""), "no field color; a row is path:… depth:"),
            (row(1, 3).replace("color:2:6", "color:2:7"), "the window of color must have 4 frames, got 2 to 7"),
            (row(1, 3).replace("depth:2:6", "depth:2"), "field depth must be file:first:last, got 'sk_depth:2'"),
            (row(1, 3).replace("subject3_r0", "subject"), "is no recording: its path must end as class_01/subject3_r0"),
            (row(1, 3).replace("./Video_data", "../Video_data"), "leads out of the raw folder"),
            (row(1, 3).replace("./Video_data", "/Video_data"), "leads out of the raw folder"),
            ("hello", "no field path, color, depth, label"),
        ],
    )
    def test_bad_rows(self, raw: Path, line: str, message: str) -> None:
        save_lists(raw, f"{row(25, 12)}\n{line}", row(2, 20))
        index = index_of("nvgesture", raw, **SMALL)
        assert kinds(index) == {f"{LISTS['train'][0]}:2": "bad row"}
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(index.problems[0].reason)

    def test_a_line_that_is_not_utf8_and_a_clip_that_is_not_there(self, raw: Path) -> None:
        save_text(raw / LISTS["train"][0], row(25, 12).encode() + b"\n\xff\xfe\n" + row(7, 4).encode())
        assert kinds(index_of("nvgesture", raw, **SMALL)) == {
            f"{LISTS['train'][0]}:2": "bad row", "class_07/subject4_r0": "missing",
        }  # fmt: skip

    def test_no_lists(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"lacks nvgesture_train_.*lst and nvgesture_test_.*NVIDIA.*--demo"):
            index_of("nvgesture", tmp_path)


class TestDoctor:
    def test_expects_the_published_counts(self, tmp_path: Path) -> None:
        window = "depth:sk_depth:146:226 color:sk_color:146:226"
        lines = {
            split: [
                f"path:./Video_data/class_{1 + n % 25:02d}/subject{subject}_r{n} {window} label:{1 + n % 25}"
                for n in range(number)
            ]
            for split, number, subject in (("train", 1050, 3), ("test", 482, 20))
        }
        save_lists(tmp_path, "\n".join(lines["train"]), "\n".join(lines["test"]))
        report = examine(source(), RawFolder(tmp_path), with_media=False)
        assert report["matches"] == "the publishers' lists"
        assert report["expected"] == {"the publishers' lists": {"train": 1050, "test": 482}}
        assert report["labels"]["train"] == {f"class_{number:02d}": 42 for number in range(1, 26)}
        assert (report["groups"], report["shared_groups"]) == ({"train": 1, "val": 0, "test": 1}, {})
        assert report["default_protocol"] == "holdout"

    def test_people_on_both_sides_make_group_the_default(self, raw: Path) -> None:
        save_recording(raw, 2, 3, take=1)
        save_lists(raw, row(1, 3), row(2, 3, take=1))
        report = examine(source(**SMALL), RawFolder(raw))
        assert report["shared_groups"] == {"train/test": ["subject3"]}
        assert report["default_protocol"] == "group"
        assert report["splits"]["train"] == {"listed": 1, "usable": 1, "found": 1}

    def test_a_clip_that_ends_within_its_window_is_damaged(self, raw: Path) -> None:
        save_recording(raw, 25, 12, frames=5)
        report = examine(source(**SMALL), RawFolder(raw))
        (problem,) = report["problems"]
        assert (problem["sample_id"], problem["kind"]) == ("class_25/subject12_r0", "damaged")
        assert "sk_color.avi is too short or truncated: 5 frames, its window is 2 to 6" in problem["reason"]
        assert report["splits"]["train"] == {"listed": 2, "usable": 2, "found": 1}


class TestWindow:
    def test_the_frames_from_first_to_last(self, raw: Path) -> None:
        value = ["Video_data/class_01/subject3_r0/sk_color.avi", 2, 6]
        rgb = Window("rgb", 4, 16, channels=3).read(RawFolder(raw), value).array
        assert (rgb.shape, rgb.dtype) == ((4, 3, 16, 16), np.uint8)
        np.testing.assert_allclose(rgb.mean(axis=(1, 2, 3)), [40, 60, 80, 100], atol=3)
        depth = Window("depth", 4, 16, channels=1).read(RawFolder(raw), value).array
        assert depth.shape == (4, 1, 16, 16)
        np.testing.assert_allclose(depth.mean(axis=(1, 2, 3)), [40, 60, 80, 100], atol=3)

    def test_channels_and_axes_keep_their_places(self, tmp_path: Path) -> None:
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:16, :, 0] = 240  # red above
        save_clip(tmp_path / "a.avi", [picture] * 2, repeat=1)
        rgb = Window("rgb", 2, 16, channels=3).read(RawFolder(tmp_path), ["a.avi", 0, 2]).array
        assert rgb[1, 0, :7].min() > 190
        assert rgb[1, 0, 9:].max() < 50
        assert rgb[1, 1:].max() < 60

    @pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 0.5, 0.8])
    def test_a_truncated_avi_is_an_error_that_names_it(self, tmp_path: Path, share: float) -> None:
        generator = np.random.default_rng(0)
        path = tmp_path / "cut.avi"
        save_clip(path, [generator.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(20)], repeat=1)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match=r"cut.avi (can not be read as a clip|is truncated|is too short)"):
            read_window(path, 0, 20, size=16, channels=1)

    def test_no_frame_is_taken_that_was_cut_off(self, tmp_path: Path) -> None:
        """Wherever the file ends: the frames that are read are the whole file's, or it is an error."""
        generator = np.random.default_rng(0)
        path = tmp_path / "cut.avi"
        save_clip(path, [generator.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(8)], repeat=1)
        content = path.read_bytes()
        whole = read_window(path, 0, 3, size=64, channels=1)[0]
        read = 0
        for size in range(len(content) // 4, len(content), len(content) // 40):
            path.write_bytes(content[:size])
            try:
                np.testing.assert_array_equal(read_window(path, 0, 3, size=64, channels=1)[0], whole)
                read += 1
            except DataError:
                assert read == 0  # what is long enough once stays so
        assert 0 < read < 30

    def test_what_is_no_clip(self, tmp_path: Path) -> None:
        save_text(tmp_path / "text.avi", "hello, this is no clip" * 50)
        with pytest.raises(DataError, match=r"text.avi can not be read as a clip"):
            read_window(tmp_path / "text.avi", 0, 1, size=8, channels=1)


def texture(height: int, width: int) -> np.ndarray:
    """A smooth pattern without a period."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(x / 5 + y / 11), np.sin(y / 4 - x / 13), np.sin((x + 2 * y) / 9), np.sin(x * y / 900)]
    return np.clip(128 + 30 * sum(waves), 0, 255).astype(np.uint8)


class TestFlow:
    @pytest.mark.parametrize(("right", "down"), [(3, -2), (-1, 0), (0, 5), (0, 0)])
    def test_a_known_translation(self, right: int, down: int) -> None:
        scene = texture(120, 120)
        first, second = scene[20:84, 20:84], scene[20 - down : 84 - down, 20 - right : 84 - right]
        flow = dense_flow(first, second)
        assert flow.shape == (64, 64, 2)
        inner = flow[12:-12, 12:-12].reshape(-1, 2)
        np.testing.assert_allclose(inner.mean(axis=0), [right, down], atol=0.1)

    def test_of_a_clip_belongs_to_the_frames_of_its_window(self, tmp_path: Path) -> None:
        """Still, then two pixels to the right a frame, then still: stored at half the size, one pixel."""
        scene = texture(96, 160)
        places = [0, 0, 0, 2, 4, 6, 6, 6]
        save_clip(tmp_path / "a.avi", [np.repeat(scene[:, 20 - p : 116 - p, None], 3, 2) for p in places], repeat=1)
        flow = Flow("flow", 5, 48).read(RawFolder(tmp_path), ["a.avi", 1, 6]).array
        assert (flow.shape, flow.dtype) == ((5, 2, 48, 48), np.float16)
        inner = flow[:, :, 8:-8, 8:-8].astype(float).mean(axis=(2, 3))
        np.testing.assert_allclose(inner[:, 0], [0, 1, 1, 1, 0], atol=0.15)
        np.testing.assert_allclose(inner[:, 1], 0, atol=0.15)

    def test_the_last_one_without_a_frame_behind_the_window(self, tmp_path: Path) -> None:
        scene = texture(48, 100)
        frames = [np.repeat(scene[:, 20 - 2 * k : 68 - 2 * k, None], 3, 2) for k in range(4)]
        save_clip(tmp_path / "a.avi", frames, repeat=1)
        ends = Flow("flow", 3, 48).read(RawFolder(tmp_path), ["a.avi", 1, 4]).array
        goes_on = Flow("flow", 3, 48).read(RawFolder(tmp_path), ["a.avi", 0, 3]).array
        assert not ends[2].any()
        np.testing.assert_array_equal(ends[:2], goes_on[1:])

    def test_is_cut_off_and_finite(self) -> None:
        generator = np.random.default_rng(0)
        noise = generator.integers(0, 255, (2, 64, 64), dtype=np.uint8)
        scene = texture(64, 200)
        for first, second in ((noise[0], noise[1]), (scene[:, :64], scene[:, 90:154]), (noise[0] * 0, noise[0] * 0)):
            flow = dense_flow(first, second)
            assert np.isfinite(flow).all()
            assert abs(flow).max() <= 20


class TestTransforms:
    def streams(self, frames: int = 6, size: int = 16) -> tuple[Any, Batch]:
        """The same numbers in every stream: colour in all channels, flow as it is, depth."""
        spec = source(frames=frames, image_size=size).spec()
        values = torch.randint(0, 256, (5, frames, 1, size, size), generator=torch.Generator().manual_seed(1))
        inputs = {
            "rgb": values.expand(-1, -1, 3, -1, -1).to(torch.uint8),
            "flow": values.expand(-1, -1, 2, -1, -1).half(),
            "depth": values.to(torch.uint8),
        }
        uniforms = torch.rand(5, NUM_UNIFORMS, generator=torch.Generator().manual_seed(2))
        return spec, Batch(inputs, torch.zeros(5, dtype=torch.int64), uniforms=uniforms)

    def settings(self, **more: Any) -> dict[str, dict[str, Any]]:
        share = (12 / 16) ** 2
        cut = {"crop_scale": [share, share], "crop_ratio": [1.0, 1.0], "middle_scale": share, "size": [12, 12],
               "train_frames": 4, **more}  # fmt: skip
        return {"rgb": cut, "flow": {**cut, "std": 255.0}, "depth": cut}

    def test_training_cuts_all_streams_at_the_same_place_in_time_and_space(self) -> None:
        spec, batch = self.streams()
        cut = build_transforms(spec, self.settings())(batch, training=True).inputs
        assert [tuple(x.shape) for x in cut.values()] == [(5, 4, 3, 12, 12), (5, 4, 2, 12, 12), (5, 4, 1, 12, 12)]
        for channel in (cut["rgb"][:, :, 2], cut["flow"][:, :, 0], cut["flow"][:, :, 1]):
            torch.testing.assert_close(channel, cut["depth"][:, :, 0], rtol=0, atol=1e-5)

    def test_frames_are_consecutive_and_start_where_the_number_says(self) -> None:
        spec, batch = self.streams()
        assert batch.uniforms is not None
        batch.uniforms[:, 5] = torch.tensor([0.0, 0.34, 0.67, 0.999999, 0.3])
        settings = {"depth": {"train_frames": 4}}
        cut = build_transforms(spec, settings)(batch, training=True).inputs["depth"]
        stored = batch.inputs["depth"].float() / 255
        for sample, start in enumerate([0, 1, 2, 2, 0]):
            torch.testing.assert_close(cut[sample], stored[sample, start : start + 4])

    def test_evaluation_takes_every_frame_and_the_middle(self) -> None:
        spec, batch = self.streams()
        cut = build_transforms(spec, self.settings())(batch, training=False).inputs
        middle = batch.inputs["depth"][..., 2:14, 2:14].float() / 255
        torch.testing.assert_close(cut["depth"], middle, rtol=0, atol=1e-5)
        torch.testing.assert_close(cut["flow"][:, :, :1], middle, rtol=0, atol=1e-5)

    def test_short_clips_keep_their_frames(self) -> None:
        from mmcore.transforms.augmentation import consecutive_frames

        x = torch.arange(6).repeat(3, 1)
        uniforms = torch.full((3, NUM_UNIFORMS), 0.999)
        taken, lengths = consecutive_frames(x, torch.tensor([2, 4, 6]), 4, uniforms)
        assert taken.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [2, 3, 4, 5]]
        assert lengths is not None
        assert lengths.tolist() == [2, 4, 4]

    def test_more_frames_than_stored_are_refused(self) -> None:
        spec, _ = self.streams()
        with pytest.raises(UsageError, match=r"dataset.transforms.depth.train_frames must be at most 6, got 7"):
            build_transforms(spec, {"depth": {"train_frames": 7}})

    def test_the_papers_settings(self) -> None:
        real = source()
        spec = real.spec()
        assert [(m.name, m.shape, m.dtype) for m in spec.modalities] == [
            ("rgb", (80, 3, 256, 256), "uint8"),
            ("flow", (80, 2, 256, 256), "float16"),
            ("depth", (80, 1, 256, 256), "uint8"),
        ]
        assert sum(modality.num_bytes for modality in spec.modalities) == 41_943_040
        assert rows_of(spec) == (1, 2)  # a row group holds one sample, whatever the budget
        transforms = build_transforms(spec, real.default_transforms()).to("meta")
        for training, frames in ((True, 64), (False, 80)):
            inputs = {
                m.name: torch.empty((2, *m.shape), dtype=getattr(torch, m.dtype), device="meta")
                for m in spec.modalities
            }
            batch = Batch(inputs, torch.empty(2, device="meta"), uniforms=torch.empty(2, NUM_UNIFORMS, device="meta"))
            cut = transforms(batch, training=training).inputs
            assert [tuple(x.shape) for x in cut.values()] == [(2, frames, c, 224, 224) for c in (3, 2, 1)]

    def test_other_sizes_are_cut_by_the_same_shares(self) -> None:
        for section in source(image_size=128, frames=40).default_transforms().values():
            assert (section["size"], section["train_frames"]) == ([112, 112], 32)
            assert section["crop_scale"] == [section["middle_scale"]] * 2 == [(112 / 128) ** 2] * 2


def test_the_demo_is_read_as_the_real_one(tmp_path: Path) -> None:
    assert "nvgesture" in DATASETS.names()
    demo = source(demo=True)
    demo.write_demo(tmp_path / "raw")
    prepared = prepare("nvgesture", {"demo": True}, tmp_path / "raw", tmp_path / "data")
    assert prepared.spec.modality_names == ("rgb", "flow", "depth")
    assert prepared.default_protocol == "holdout"
    groups = prepared.index["group"].to_numpy()
    assignment = prepared.assign(ProtocolConfig())
    assert set(groups[assignment.rows("test")]) == {"subject7", "subject8", "subject9"}
    assert len(assignment.rows("test")) == 72
    assert not set(groups[assignment.rows("train")]) & set(groups[assignment.rows("val")])
    assert assignment.line == "holdout (published test, validation cut from train by group, seed 0)"
    by_group = prepared.assign(ProtocolConfig(name="group"))
    sides = [set(groups[by_group.rows(split)]) for split in ("train", "val", "test")]
    assert sum(map(len, sides)) == 9
    assert len(set.union(*sides)) == 9
    assert (tmp_path / "raw/Video_data/class_04/subject9_r5/sk_depth.avi").is_file()
    # The imbalance is the stated one: of all clips, this share goes where the class says (0.95 and 0.5, and by chance).
    samples = to_batch(prepared.read_table(), prepared.spec)
    seen = {"rgb": [], "depth": []}  # type: ignore[var-annotated]
    for row in range(216):
        seen["rgb"].append(side_of(samples.inputs["flow"][row].float().mean(dim=(0, 2, 3)).numpy()))
        first, last = samples.inputs["depth"][row, [4, 8], 0].numpy()
        seen["depth"].append(side_of(dense_flow(first, last).mean(axis=(0, 1))))
    share = {name: np.mean(np.array(sides) == samples.labels.numpy()) for name, sides in seen.items()}
    assert 0.9 < share["depth"] < 1
    assert 0.5 < share["rgb"] < 0.75


def side_of(motion: np.ndarray) -> int:
    """Right, down, left, up."""
    return int(np.argmax([motion[0], motion[1], -motion[0], -motion[1]]))
