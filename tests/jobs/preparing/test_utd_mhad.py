"""The example of docs/your-data.md: its script on files of the published form, its description on what that wrote."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from places import ROOT, SHARED
from scipy.io import savemat

from mmcore.data.prepared.columns import columns_to_arrays
from mmcore.data.prepared.store import PreparedDataset
from rayjobs import prepare

DOCUMENT = (ROOT / "docs" / "your-data.md").read_text()
REAL = SHARED / "data" / "utd_mhad"


def block(language: str, first_line: str) -> str:
    return next(
        text for text in re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL) if text.startswith(first_line)
    )


def save_clip(folder: Path, clip: str, num_frames: int) -> None:
    """A clip in the published form: a near square on a far ground moves right; joint 3 is the hip."""
    depth = np.full((240, 320, num_frames), 3000, dtype=np.int16)
    depth[:40] = 0  # no reading
    for frame in range(num_frames):
        depth[100:180, 10 + 4 * frame : 90 + 4 * frame, frame] = 1000
    joints = np.arange(20 * 3 * num_frames, dtype=float).reshape(20, 3, num_frames) / 1000
    savemat(folder / f"{clip}_depth.mat", {"d_depth": depth})
    savemat(folder / f"{clip}_skeleton.mat", {"d_skel": joints})
    savemat(folder / f"{clip}_inertial.mat", {"d_iner": np.tile(np.arange(6.0), (2 * num_frames, 1))})


def test_the_script_writes_what_the_description_reads(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number, subject in enumerate((1, 2, 3, 5), start=1):
        save_clip(tmp_path / "raw", f"a{1 + number % 2}_s{subject}_t1", 40 + number)
    (tmp_path / "make_utd.py").write_text(block("python", "# make_utd.py"))
    command = [sys.executable, str(tmp_path / "make_utd.py"), str(tmp_path / "raw"), str(tmp_path / "out")]
    subprocess.run(command, check=True)
    description = tmp_path / "out" / "utd.yaml"
    description.write_text(block("yaml", "# utd.yaml"))
    done = CliRunner().invoke(prepare.main, ["--dataset", str(description), "--data-dir", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    data = PreparedDataset.open(tmp_path / "data" / "utd")
    arrays = columns_to_arrays(data.read_table(), data.spec)
    row = arrays.sample_ids.tolist().index("a2_s1_t1")
    depth = arrays.inputs["depth"][row]
    assert depth.shape == (16, 1, 48, 48)
    # The bright square starts at the left and ends further right; what had no reading is black.
    columns = [int((frame[0, 28] > 128).nonzero()[0].mean()) for frame in depth]
    assert columns == sorted(columns)
    assert columns[-1] - columns[0] > 15
    assert depth[:, 0, :7].max() < 20
    skeleton = arrays.inputs["skeleton"][row]
    assert arrays.lengths["skeleton"][row] == 41
    assert np.abs(skeleton[0, 9:12]).max() == 0  # the hip
    assert arrays.inputs["inertial"][row, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real files of UTD-MHAD are not there")
def test_the_check_of_the_real_files(tmp_path: Path) -> None:
    shutil.copytree(REAL, tmp_path / "utd")
    (tmp_path / "utd" / "utd.yaml").write_text(block("yaml", "# utd.yaml"))
    done = CliRunner().invoke(prepare.main, ["--dataset", str(tmp_path / "utd" / "utd.yaml"), "--check", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["split"]["samples"] == {"train": 323, "val": 108, "test": 430}
    assert report["split"]["groups"] == {"train": 3, "val": 1, "test": 4}
    assert (report["left_out"], report["noted"]) == ({}, {})
    lengths = {name: (min(found.values()), max(found.values())) for name, found in report["lengths"].items()}
    assert lengths == {"depth": (16, 16), "skeleton": (41, 125), "inertial": (107, 326)}
