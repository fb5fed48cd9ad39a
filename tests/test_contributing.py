"""CONTRIBUTING's example of a method runs as it stands, and a package that cannot be imported stops nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from contributed import install, write_metadata, write_package
from places import ROOT
from synthetic import make_config, make_spec, make_trainer

from mmcore.errors import UsageError
from mmcore.methods import METHODS
from rayjobs.search.searches import SearchOptions, build_searches
from rayjobs.search.spaces import load_space, spaces_folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path to install into; the registry of methods looks for entries anew, here alone."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    monkeypatch.setattr(METHODS, "_unusable", {})
    monkeypatch.setattr(METHODS, "_loaded", False)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"my_package", "broken_package"}:
            del sys.modules[name]


def install_broken(folder: Path) -> None:
    """A package whose module fails after it has registered its class, as one built for another release may."""
    (folder / "broken_package.py").write_text(
        "from mmcore.methods import METHODS, joint\n"
        "@METHODS.register('broken')\nclass Broken(joint.Joint): ...\n"
        "raise RuntimeError('built for\\nanother release')\n"
    )
    points = {"broken": "broken_package:Broken", "absent": "no_such_package:Absent"}
    write_metadata(folder, "broken-package", {"equipoise.methods": points})


def test_the_pages_method_trains_and_is_tested(site: Path) -> None:
    install(site)
    spec = make_spec(2)
    trainer = make_trainer(make_config("my_method", spec, trainer__max_epochs=16), spec)
    assert type(trainer.method).__module__ == "my_package.my_method"
    before = trainer.evaluate("val").metrics
    trainer.fit()
    after = trainer.evaluate("val").metrics
    assert {"fused/accuracy", "loud/accuracy", "quiet/accuracy"} <= after.keys()
    assert after["fused/loss"] < 0.7 * before["fused/loss"]
    assert all(torch.isfinite(parameter).all() for parameter in trainer.method.parameters())


@pytest.mark.parametrize("file", ["default", "avdigits"])
def test_the_pages_method_is_searched_in_the_space_it_ships(site: Path, file: str) -> None:
    install(site)
    (search,) = build_searches(
        load_space(spaces_folder() / f"{file}.yaml"), {"name": "digits", "options": {}}, "digits", ("image", "audio"),
        ["my_method"], options=SearchOptions(),
    )  # fmt: skip
    assert list(search.space) == ["optimizer.lr", "method.strength"]
    assert search.space["method.strength"].ends() == [0, 1]
    assert search.points == [{"optimizer.lr": 0.01, "method.strength": 0.5}]


def test_a_package_that_cannot_be_imported_is_one_line_and_its_name_an_error(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(site)
    install_broken(site)
    names = METHODS.names()
    assert {"joint", "my_method"} <= set(names)
    assert not {"broken", "absent"} & set(names)
    told = [record.getMessage() for record in caplog.records]
    reason = "(RuntimeError: built for another release)"
    line = f"the method 'broken' of broken-package cannot be loaded from broken_package:Broken {reason}"
    assert line + ": it is left out" in told
    assert len(told) == 2  # one of each
    with pytest.raises(UsageError) as caught:
        METHODS.get("broken")
    assert str(caught.value) == line + ": mend or uninstall that package"
    METHODS.names()
    assert len(caplog.records) == 2  # said once


def test_an_entry_that_is_no_class_is_left_out(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_package(site)
    write_metadata(site, "my-package", {"equipoise.methods": {"mine": "my_package.my_method"}})
    assert "mine" not in METHODS.names()
    assert "it must be a class, got <module 'my_package.my_method'" in caplog.text


@pytest.mark.slow
def test_a_command_runs_beside_a_package_that_cannot_be_imported(tmp_path: Path) -> None:
    install_broken(tmp_path)
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "rayjobs.train", "--dataset", "digits", "--max-epochs", "1", "--method"]

    def train(method: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            [*command, method], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    done = train("joint")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "broken_package" in line or "no_such_package" in line]
    assert [line.partition(" of ")[0] for line in sorted(told)] == ["the method 'absent'", "the method 'broken'"]
    assert "Traceback" not in done.stderr
    failed = train("broken")
    assert failed.returncode == 2
    assert "mend or uninstall that package" in failed.stderr
