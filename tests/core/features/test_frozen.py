"""Frozen encoders over a prepared data set: the features, what is told of them, what is kept, and what is refused."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import CONV, FRAMES, prepare_scenes, register

from mmcore.assembly.config import build_source, complete_config, parse_config, parse_dataset, with_named_frozen
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.batch import Batch
from mmcore.config.schema import DatasetConfig, ProtocolConfig, RunConfig
from mmcore.data.prepared import writer
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.part_files import run_here
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.raw.source import RawConfig
from mmcore.data.spec import DATASETS
from mmcore.encoders.base import Encoder, build_encoder
from mmcore.errors import ConfigError, DataError, UsageError
from mmcore.features import encoded_set as encoded_module
from mmcore.features import frozen
from mmcore.features.encoded_set import EncodedWriter, check_encoding, encode, encoded_dir
from mmcore.features.frozen import FrozenEncoders, recipe_of
from mmcore.seeding import derive_seed
from mmcore.transforms.batch_transforms import build_transforms

FLIP = {"picture": {"flip": True, "crop_scale": [0.3, 0.9]}}


def section(views: int = 0, transforms: dict[str, Any] | None = None, **encoders: Any) -> DatasetConfig:
    encode = {name: {"name": given} if isinstance(given, str) else given for name, given in encoders.items()}
    return parse_dataset({"name": "scenes", "encode": encode, "views": views, "transforms": transforms or {}})


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PreparedDataset:
    """Twenty samples, in five files of four rows at most."""
    return prepare_scenes(monkeypatch, tmp_path, rows_per_file=4)


def batch_of(prepared: PreparedDataset) -> Batch:
    return to_batch(prepared.read_table(), prepared.spec)


def naive_encoder(parent: PreparedDataset, name: str) -> Encoder:
    """The encoder with the weights the documented seed gives."""
    modality = next(modality for modality in parent.spec.modalities if modality.name == name)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "encoder", name))
        return build_encoder(CONV, modality).eval()


def naive_inputs(parent: PreparedDataset, transforms: dict[str, Any] | None = None) -> Any:
    defaults = {"mean": 0.5, "std": 0.25}
    settings = {
        "clip": defaults,
        "picture": {**defaults, **(transforms or {})},
        "sound": {"n_fft": 16, "hop_length": 8},
    }
    return build_transforms(parent.spec, settings)


def test_features_are_those_of_each_transformed_sample_alone(parent: PreparedDataset) -> None:
    encoded = encode(parent, section(clip=CONV, picture=CONV))
    batch, features = naive_inputs(parent)(batch_of(parent), training=False), batch_of(encoded)
    clip, picture = naive_encoder(parent, "clip"), naive_encoder(parent, "picture")
    for row in range(20):
        with torch.no_grad():
            expected = picture(batch.inputs["picture"][row : row + 1])[0]  # type: ignore[index]
            frames = torch.zeros(FRAMES, 5)
            for frame in range(int(batch.lengths["clip"][row])):
                frames[frame] = clip(batch.inputs["clip"][row, frame][None])[0]
        torch.testing.assert_close(features.inputs["picture"][row].float(), expected, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(features.inputs["clip"][row].float(), frames, atol=1e-3, rtol=1e-3)


def test_a_large_file_is_encoded_in_several_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parent = prepare_scenes(monkeypatch, tmp_path, rows_per_file=12, groups_per_file=2)
    assert [len(parent.files(split)) for split in ("train", "val", "test")] == [1, 1, 1]
    whole = encode(parent, section(clip=CONV, picture=CONV))
    expected = whole.read_table()
    whole.directory.rename(tmp_path / "whole")
    monkeypatch.setattr(encoded_module, "SAMPLES", 5)
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 1)
    in_parts = encode(parent, section(clip=CONV, picture=CONV))
    assert [file["num_rows"] for file in in_parts.metadata["files"]] == [5, 5, 2, 4, 4]
    assert in_parts.read_table().equals(expected)


def test_everything_else_is_the_parents(parent: PreparedDataset) -> None:
    encoded = encode(parent, section(clip=CONV, picture=CONV))
    ours, theirs = batch_of(encoded), batch_of(parent)
    assert encoded.index.equals(parent.index)
    assert ours.sample_ids == theirs.sample_ids
    for mine, other in ((ours.inputs["sound"], theirs.inputs["sound"]), (ours.labels, theirs.labels),
                        (ours.lengths["clip"], theirs.lengths["clip"]),
                        (ours.lengths["sound"], theirs.lengths["sound"]),
                        (ours.present["clip"], theirs.present["clip"])):  # fmt: skip
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    kinds = {m.name: (m.kind, m.shape, m.dtype, m.variable_length, m.may_be_missing) for m in encoded.spec.modalities}
    assert kinds["clip"] == ("features", (FRAMES, 5), "float16", True, True)
    assert kinds["picture"] == ("features", (5,), "float16", False, False)
    assert kinds["sound"][0] == "audio"
    assert encoded.metadata["splits"] == parent.metadata["splits"]


def test_what_is_told_of_them(parent: PreparedDataset) -> None:
    encoded = encode(parent, section(picture=CONV, clip=CONV))
    assert encoded.metadata["parent"] == {"directory": "scenes", "fingerprint": parent.fingerprint}
    told = encoded.encoded["clip"]
    assert told["encoder"] == CONV
    assert told["weights_sha256"] == frozen.weights_sha256(naive_encoder(parent, "clip"))
    assert (told["seed"], told["layer"]) == (0, "mean over height and width of the last block")
    assert (told["pooling"], encoded.encoded["picture"]["pooling"]) == (
        "none: features of each frame",
        "by the encoder",
    )
    assert told["transform"]["mean"] == [0.5]
    assert parent.encoded == {}
    line = encoded.assign(ProtocolConfig()).line
    assert line.startswith(
        parent.assign(ProtocolConfig()).line + "; frozen encoders (clip small_conv, picture small_conv)"
    )
    assert line.endswith("imbalance that arises while encoders train cannot arise")
    assert "frozen" not in parent.assign(ProtocolConfig()).line


def test_views_are_seeded_by_sample_and_view(parent: PreparedDataset) -> None:
    encoded = encode(parent, section(2, FLIP, clip=CONV, picture=CONV))
    stored = {modality.name: (modality.shape, modality.views) for modality in encoded.spec.modalities}
    assert (stored["picture"], stored["clip"]) == (((3, 5), 2), ((FRAMES, 5), 0))  # nothing augments the frames
    features = batch_of(encoded).inputs["picture"].float()
    transforms, encoder = naive_inputs(parent, FLIP["picture"]), naive_encoder(parent, "picture")
    with torch.no_grad():
        plain = encoder(transforms(batch_of(parent), training=False).inputs["picture"])
        torch.testing.assert_close(features[:, 0], plain, atol=1e-3, rtol=1e-3)
        for row, view in ((0, 1), (0, 2), (7, 1)):
            one = batch_of(parent).select(row, row + 1)
            generator = np.random.default_rng(derive_seed(0, "view", view, one.sample_ids[0]))
            one.uniforms = torch.from_numpy(generator.random((1, 8), dtype=np.float32))
            expected = encoder(transforms(one, training=True).inputs["picture"])[0]
            torch.testing.assert_close(features[row, view], expected, atol=1e-3, rtol=1e-3)
    assert not torch.equal(features[:, 1], features[:, 2])


def test_views_of_frames_are_their_mean(parent: PreparedDataset) -> None:
    encoded = encode(parent, section(1, {"clip": {"flip": True, "train_frames": 2}}, clip=CONV))
    (clip, *_), features = encoded.spec.modalities, batch_of(encoded)
    assert (clip.shape, clip.variable_length, clip.may_be_missing) == ((2, 5), False, True)
    assert "clip" not in features.lengths
    transformed = naive_inputs(parent)(batch_of(parent), training=False)
    with torch.no_grad():
        plain = naive_encoder(parent, "clip")(transformed.inputs["clip"], transformed.lengths["clip"])
    there = transformed.present["clip"]
    torch.testing.assert_close(features.inputs["clip"][there, 0].float(), plain[there], atol=1e-3, rtol=1e-3)
    assert not features.inputs["clip"][~there].any()


class CountingRun:
    """Runs parts here, and counts those written anew; ends like a killed command after `limit` of them."""

    def __init__(self, limit: int = 100):
        self.limit, self.written = limit, 0

    def __call__(self, writer: EncodedWriter, parts: Sequence[Any]) -> Iterator[dict[str, Any]]:
        write = writer._written

        def counted(part: Any) -> dict[str, Any]:
            if self.written == self.limit:
                raise KeyboardInterrupt
            self.written += 1
            return write(part)

        writer._written = counted  # type: ignore[method-assign]
        yield from run_here(writer, parts)


def test_an_interrupted_run_is_gone_on_with(parent: PreparedDataset, tmp_path: Path) -> None:
    whole = encode(parent, section(clip=CONV)).read_table()
    first, second, third = CountingRun(2), CountingRun(), CountingRun()
    with pytest.raises(KeyboardInterrupt):
        encode(parent, section(picture=CONV), first)
    done: list[int] = []
    encoded = encode(parent, section(picture=CONV), second, lambda number, total: done.append(number))
    assert (first.written, second.written, len(parent.files())) == (2, 3, 5)
    assert done[-1] == 20
    again = encode(parent, section(picture=CONV), third)
    assert (third.written, again.fingerprint) == (0, encoded.fingerprint)
    assert batch_of(encoded).sample_ids == to_batch(whole, encode(parent, section(clip=CONV)).spec).sample_ids
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".partial", ".old"))]
    assert not (encoded.directory / "reports").exists()


def encode_and_die(directory: Path) -> None:
    """Is killed while the third part is encoded."""
    register()
    calls = 0
    call = FrozenEncoders.__call__

    def dying(self: FrozenEncoders, batch: Batch, *, plain_only: bool = False) -> Batch:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, batch, plain_only=plain_only)

    FrozenEncoders.__call__ = dying  # type: ignore[method-assign]
    encode(PreparedDataset.open(directory), section(picture=CONV))


@pytest.mark.slow
def test_a_killed_process_loses_the_part_it_was_at(parent: PreparedDataset) -> None:
    process = multiprocessing.get_context("spawn").Process(target=encode_and_die, args=(parent.directory,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    rest = CountingRun()
    encoded = encode(parent, section(picture=CONV), rest)
    assert rest.written == 3
    encoded.verify()
    assert encoded.num_samples == 20


def test_other_encoders_lie_beside(parent: PreparedDataset) -> None:
    wider = encode(parent, section(picture={**CONV, "features": 6}))
    plain = encode(parent, section(picture=CONV))
    viewed = encode(parent, section(1, FLIP, picture=CONV))
    assert len({wider.directory, plain.directory, viewed.directory}) == 3
    assert plain.directory.name.startswith("scenes+encode+picture=small_conv+")
    assert "+views=1+" in viewed.directory.name
    assert plain.directory == encoded_dir(parent.directory, recipe_of(section(picture=CONV), parent.spec))


def test_changed_weights_are_refused(parent: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode(parent, section(picture=CONV))
    with monkeypatch.context() as patch:
        patch.setattr(frozen, "derive_seed", lambda *purpose: 1)
        with pytest.raises(
            DataError, match=r"weights changed since .* was encoded: picture .* then, .* now.; remove it"
        ):
            encode(parent, section(picture=CONV))
        config = section(clip=CONV).model_copy(update={"encoder_sha256": {"clip": "0" * 64}})
        with pytest.raises(DataError, match=r"changed since the configuration was written: clip .sha256 000000000000"):
            encode(parent, config)
    config = section(picture=CONV).model_copy(update={"encoder_sha256": {"picture": "0" * 64}})
    with pytest.raises(DataError, match="changed since the configuration was written"):
        check_encoding(config, encoded, parent.spec)
    assert encode(parent, section(picture=CONV)).fingerprint == encoded.fingerprint


def test_weights_that_differ_where_a_part_is_encoded(parent: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(writer: EncodedWriter, parts: Sequence[Any]) -> Iterator[dict[str, Any]]:
        monkeypatch.setattr(frozen, "derive_seed", lambda *purpose: 1)
        writer._encoders = None  # as where it is unpickled
        yield from run_here(writer, parts)

    with pytest.raises(DataError, match="weights found where this part is encoded are others than the command's"):
        encode(parent, section(picture=CONV), elsewhere)


def test_another_parent_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parent = prepare_scenes(monkeypatch, tmp_path)
    encoded = encode(parent, section(picture=CONV))
    other = prepare_scenes(monkeypatch, tmp_path / "other", shift=1)
    other.directory.rename(tmp_path / "moved")
    parent.directory.rename(tmp_path / "before")
    (tmp_path / "moved").rename(parent.directory)
    with pytest.raises(
        DataError, match=r"was encoded from another scenes \(fingerprint \w{16}, now \w{16}\): remove it"
    ):
        encode(PreparedDataset.open(parent.directory), section(picture=CONV))
    assert PreparedDataset.open(encoded.directory).fingerprint == encoded.fingerprint


@pytest.mark.parametrize(
    ("scale", "message"), [(-1.0, "by 'scaled' are NaN"), (1e6, r"are larger than float16 holds \(65504\)")]
)
def test_features_that_are_no_numbers_name_the_sample(parent: PreparedDataset, scale: float, message: str) -> None:
    sums = naive_inputs(parent)(batch_of(parent), training=False).inputs["picture"].flatten(1).sum(1)
    bad = sums < 0 if scale < 0 else torch.ones_like(sums, dtype=torch.bool)
    first = batch_of(parent).sample_ids[int(bad.int().argmax())]
    with pytest.raises(DataError, match=rf"sample {first}: features of 'picture' {'' if scale < 0 else '.*'}{message}"):
        encode(parent, section(picture={"name": "scaled", "scale": scale}))


def test_a_full_disk_keeps_what_is_written(parent: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = encoded_module.write_file

    def full(path: Path, *arguments: Any) -> dict[str, Any]:
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        return write(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(encoded_module, "write_file", full)
        with pytest.raises(DataError, match=r"No space left on device.*what is written is kept: mend it and run again"):
            encode(parent, section(picture=CONV))
    rest = CountingRun()
    encode(parent, section(picture=CONV), rest)
    assert rest.written == 3


def test_wrong_sections(parent: PreparedDataset) -> None:
    with pytest.raises(ConfigError, match=r"unknown modality 'dataset.encode.pictur': did you mean 'picture'\?"):
        encode(parent, section(pictur=CONV))
    with pytest.raises(ConfigError, match=r"dataset.views must be 0, got 3: nothing augments picture"):
        encode(parent, section(3, picture=CONV))
    with pytest.raises(ConfigError, match=r"unknown key 'dataset.encode.picture.widht': did you mean 'width'\?"):
        section(picture={"name": "small_conv", "widht": 3})
    with pytest.raises(ConfigError, match=r"dataset.encode.picture.name: unknown encoder 'clp'"):
        section(picture="clp")
    with pytest.raises(UsageError, match="'bert' encodes tokens, but 'picture' is of kind image"):
        encode(parent, section(picture="bert"))


def run_config(**dataset: Any) -> RunConfig:
    config = {"dataset": {"name": "scenes", **dataset}, "method": {"name": "joint"}}
    return complete_config(parse_config(config))


def test_a_method_on_features_and_raw_samples(parent: PreparedDataset) -> None:
    """Frames go through `temporal`, vectors through `mlp`, and what is not encoded through its own encoder."""
    config = run_config(encode={"clip": CONV, "picture": CONV}, views=1, transforms=FLIP)
    assert {name: entry["name"] for name, entry in config.model.encoders.items()} == {
        "clip": "temporal", "picture": "mlp", "sound": "small_conv"
    }  # fmt: skip
    encoded = encode(parent, config.dataset)
    check_encoding(config.dataset, encoded, parent.spec)
    batch = batch_of(encoded)
    batch.uniforms = torch.rand(20, 8)
    transformed = build_run_transforms(config, encoded.spec)(batch, training=True)
    assert transformed.inputs["picture"].shape == (20, 5)
    assert transformed.inputs["clip"].dtype == torch.float32
    logits = build_method(config, encoded.spec).predict(transformed)
    assert logits["fused"].shape == (20, 2)


@pytest.mark.parametrize(
    "other",
    [{}, {"encode": {"clip": CONV}}, {"encode": {"picture": CONV}, "transforms": {"picture": {"mean": 0.4}}},
     {"encode": {"picture": CONV}, "transforms": {"picture": {"flip": True}}, "views": 1}],
)  # fmt: skip
def test_a_run_of_another_encoding_is_refused(parent: PreparedDataset, other: dict[str, Any]) -> None:
    encoded = encode(parent, section(picture=CONV))
    with pytest.raises(DataError, match="holds features of picture by small_conv, the configuration asks for"):
        check_encoding(run_config(**other).dataset, encoded, parent.spec)
    with pytest.raises(DataError, match="holds no features, the configuration asks for"):
        check_encoding(section(picture=CONV), parent, parent.spec)


DEMOS = [name for name in DATASETS.names() if issubclass(DATASETS.get(name).Config, RawConfig)]


@pytest.mark.parametrize("name", DEMOS)
def test_every_demo_can_be_trained_on_features_of_its_own_encoders(name: str) -> None:
    options = {"name": name, "options": {"demo": True}}
    source = build_source(parse_config({"dataset": options, "method": {"name": "joint"}}))
    spec = source.spec()
    named = {key: {"name": own["name"]} for key, own in source.default_encoders().items()}
    dataset = with_named_frozen({**options, "encode": named})
    encoders = FrozenEncoders(recipe_of(parse_dataset(dataset), spec))
    assert all(modality.kind == "features" and modality.num_bytes < 4096 for modality in encoders.spec.modalities)

    inputs = {m.name: torch.zeros(2, *m.shape, dtype=getattr(torch, m.dtype)) for m in spec.modalities}
    lengths = {m.name: torch.ones(2, dtype=torch.int64) for m in spec.modalities if m.variable_length}
    present = {m.name: torch.ones(2, dtype=torch.bool) for m in spec.modalities if m.may_be_missing}
    features = encoders(Batch(inputs, torch.zeros(2, dtype=torch.int64), lengths, present, ["a", "b"]))
    assert {key: tuple(values.shape[1:]) for key, values in features.inputs.items()} == {
        modality.name: modality.shape for modality in encoders.spec.modalities
    }

    config = complete_config(parse_config({"dataset": dataset, "method": {"name": "iprm"}}))
    logits = build_method(config, encoders.spec).predict(
        build_run_transforms(config, encoders.spec)(features, training=False)
    )
    assert logits["fused"].shape == (2, spec.num_classes)
