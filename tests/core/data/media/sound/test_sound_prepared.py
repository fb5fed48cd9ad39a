"""Sound through `prepare`, to the stored bytes; and that decoders print nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from sound_files import RATE_HZ, as_int16, error, mp3, save_by_av, tone

from mmcore.data.media import read_audio
from mmcore.data.prepared.columns import columns_to_arrays
from mmcore.data.prepared.prepare import HowToPrepare, prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.raw.description import read_description
from mmcore.errors import DataError

PCM = as_int16(tone())
LOSSY = 0.06
DESCRIPTION = {
    "manifest": "rows.jsonl",
    "label": "y",
    "split": "split",
    "id": "id",
    "modalities": {
        "voice": {"kind": "audio", "column": "file", "sample_rate_hz": RATE_HZ, "seconds": 1},
        "facts": {"kind": "tabular", "columns": ["x"]},
    },
}


def make(folder: Path, names: list[str], may_be_missing: bool = False, on_missing: str = "fail") -> PreparedDataset:
    rows = [
        {"id": name, "y": "ab"[number % 2], "split": ("train", "test")[number // 2 % 2], "file": name, "x": number}
        for number, name in enumerate(names)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    described = json.loads(json.dumps(DESCRIPTION))
    described["modalities"]["voice"]["may_be_missing"] = may_be_missing
    (folder / "my.yaml").write_text(yaml.safe_dump(described))
    options = read_description(folder / "my.yaml")
    return prepare("manifest", options, options["root"], folder / "data", how=HowToPrepare(on_missing=on_missing))


def stored(prepared: PreparedDataset) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
    """Sample -> its stored waveform, without padding; and whether it has one."""
    table = prepared.read_table()
    arrays = columns_to_arrays(table, prepared.spec)
    ids = table["sample_id"].to_pylist()
    lengths = arrays.lengths["voice"]
    waves = {name: arrays.inputs["voice"][row][: lengths[row]] for row, name in enumerate(ids)}
    present = arrays.present.get("voice", np.ones(len(ids), bool))
    return waves, dict(zip(ids, present.tolist(), strict=True))


def noted(prepared: PreparedDataset) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in json.loads((prepared.directory / "dataset.json").read_text())["noted"]:
        found.setdefault(entry["sample_id"], []).append(entry["reason"])
    return found


class TestPrepared:
    def test_the_right_samples_are_stored(self, tmp_path: Path) -> None:
        for subtype in ("PCM_16", "FLOAT", "DOUBLE"):
            soundfile.write(tmp_path / f"{subtype}.wav", tone(), RATE_HZ, subtype=subtype)
        soundfile.write(tmp_path / "flac_named.wav", tone(), RATE_HZ, format="FLAC")
        soundfile.write(tmp_path / "muted.wav", np.zeros(RATE_HZ), RATE_HZ)
        save_by_av(tmp_path / "sound.m4a", "aac", tone(44100, 1), 44100)
        names = ["PCM_16.wav", "FLOAT.wav", "DOUBLE.wav", "flac_named.wav", "muted.wav", "sound.m4a"]
        prepared = make(tmp_path, names)
        waves, _ = stored(prepared)
        for name in names[:4]:
            assert np.abs(waves[name].astype(int)).max() == 16384, name
            assert np.abs(waves[name] - PCM.astype(int)).max() <= 1, name  # soundfile writes 16 bits of 32767
        assert len(waves["muted.wav"]) == RATE_HZ
        assert not waves["muted.wav"].any()
        assert error(waves["sound.m4a"], tone()) < LOSSY
        assert noted(prepared)["muted.wav"] == ["voice silent"]
        assert set(noted(prepared)) <= {"muted.wav", "sound.m4a"}

    def test_a_git_lfs_pointer_is_named(self, tmp_path: Path) -> None:
        for number in range(4):
            soundfile.write(tmp_path / f"{number}.wav", tone(), RATE_HZ)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 72862\n"
        (tmp_path / "pointer.mp3").write_text(pointer)
        message = r"pointer.mp3: damaged: .*pointer.mp3 is a Git LFS pointer, not the file itself: run `git lfs pull`"
        with pytest.raises(DataError, match=message):
            make(tmp_path, [*(f"{n}.wav" for n in range(4)), "pointer.mp3"])
        with pytest.raises(DataError, match=r"pointer.mp3 is a Git LFS pointer"):
            read_audio(tmp_path / "pointer.mp3", RATE_HZ)

    def test_a_clip_without_sound_is_a_missing_modality_where_it_may_be(self, tmp_path: Path) -> None:
        for number in range(4):
            soundfile.write(tmp_path / f"{number}.wav", tone(), RATE_HZ)
        save_by_av(tmp_path / "silent.mp4", "aac", np.zeros(0), RATE_HZ, pictures=40, tracks=0)
        names = [*(f"{number}.wav" for number in range(4)), "silent.mp4"]
        with pytest.raises(DataError, match=r"silent.mp4: damaged: .*silent.mp4 holds no sound track"):
            make(tmp_path, names)
        prepared = make(tmp_path, names, may_be_missing=True)
        waves, present = stored(prepared)
        assert present == {name: name != "silent.mp4" for name in names}
        assert len(waves["silent.mp4"]) == 0
        assert noted(prepared)["silent.mp4"][0].startswith("voice missing (")

    def test_a_truncated_clip_is_damage_even_where_sound_may_be_missing(self, tmp_path: Path) -> None:
        for number in range(4):
            soundfile.write(tmp_path / f"{number}.wav", tone(), RATE_HZ)
        path = save_by_av(tmp_path / "cut.mp4", "aac", tone(44100, 4), 44100, pictures=40)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(DataError, match=r"cut.mp4: damaged"):
            make(tmp_path, [*(f"{n}.wav" for n in range(4)), "cut.mp4"], may_be_missing=True)


def test_decoders_print_nothing(tmp_path: Path) -> None:
    """FFmpeg and libmpg123 print to the terminal from C, past anything Python could catch."""
    content = bytearray(mp3(tmp_path / "whole.mp3", 4.0))
    for place in range(4000, len(content), 997):
        content[place : place + 20] = bytes(range(1, 21))
    (tmp_path / "bodies.mp3").write_bytes(content)
    (tmp_path / "cut.mp3").write_bytes(content[: len(content) // 2])
    whole = (tmp_path / "whole.mp3").read_bytes()
    (tmp_path / "zeros.mp3").write_bytes(whole[:8000] + bytes(3000) + whole[11000:])
    (tmp_path / "text.mp3").write_text("no sound at all " * 100)
    clip = save_by_av(tmp_path / "clip.mp4", "aac", tone(44100, 4), 44100, pictures=40).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(clip[: len(clip) // 2])
    (tmp_path / "holes.mp4").write_bytes(clip[:2000] + bytes(3000) + clip[5000:])
    code = (
        "import sys; from pathlib import Path; from mmcore.data.media import read_sound\n"
        "from mmcore.errors import DataError\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: print(path.name, len(read_sound(path, 44100).wave))\n"
        "    except DataError as error: print(path.name, 'refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    refused = {line.split()[0] for line in done.stdout.splitlines() if line.endswith("refused")}
    assert {"cut.mp3", "text.mp3", "cut.mp4"} <= refused
    assert "clip.mp4" not in refused
