"""`train --paper`: what is applied for each pair, what is said of it, and what stands beside the published figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mmcore.assembly.config import complete_config, parse_config, with_named_encoders
from mmcore.config.schema import RunConfig
from mmcore.errors import UsageError
from rayjobs.commands.train_flags import configuration, protocols
from rayjobs.experiment.papers import covered, describe_paper, paper_settings, published_line
from rayjobs.train import main

NOTHING: dict[str, Any] = main.make_context("train", []).params
"""A command line without an argument."""


def configured(dataset: str, method: str, **arguments: Any) -> RunConfig:
    given = NOTHING | {"dataset": dataset, "method": method, "as_paper": True} | arguments
    return complete_config(parse_config(with_named_encoders(configuration(given))))


RESNETS, TEXTS = {"resnet18"}, {"resnet50", "bert"}
PAPERS: dict[tuple[str, str], tuple[Any, ...]] = {
    # pair: optimizer, rate, batch, epochs, alpha or (t_N, lambda), encoders, accuracy printed
    ("cremad", "iprm"): ("sgd", 1e-2, 64, 100, 0.8, RESNETS, "84.27"),
    ("cremad", "aug"): ("sgd", 1e-2, 64, 200, (20, 0.5), RESNETS, "85.15"),
    ("kinetics_sounds", "iprm"): ("sgd", 1e-2, 64, 100, 0.8, RESNETS, "74.37"),
    ("kinetics_sounds", "aug"): ("sgd", 1e-2, 64, 100, (10, 0.2), RESNETS, "72.63"),
    ("vggsound", "aug"): ("sgd", 1e-2, 16, 100, (10, 0.2), RESNETS, "53.01"),
    ("nvgesture", "iprm"): ("sgd", 1e-2, 2, 100, 0.7, {"i3d"}, "85.89"),
    ("nvgesture", "aug"): ("sgd", 1e-2, 2, 100, (10, 0.2), {"i3d"}, "85.01"),
    ("iemocap", "iprm"): ("sgd", 1e-3, 16, 100, 0.7, {"cav_mae", "m3ae"}, "80.22"),
    ("sarcasm", "iprm"): ("adam", 1e-4, 64, 19, 0.7, TEXTS, "85.14"),
    ("sarcasm", "aug"): ("adam", 2e-5, 32, 19, (1, 0.2), TEXTS, "85.10"),
    ("twitter15", "aug"): ("adam", 2e-5, 32, 50, (5, 0.2), TEXTS, "75.12"),
}


@pytest.mark.parametrize("pair", PAPERS, ids="-".join)
def test_the_papers_settings_are_applied(pair: tuple[str, str]) -> None:
    optimizer, rate, batch, epochs, own, encoders, accuracy = PAPERS[pair]
    config = configured(*pair)
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay) == (optimizer, rate, 1e-4)
    assert (config.trainer.batch_size, config.trainer.max_epochs, config.schedule.name) == (batch, epochs, "plateau")
    assert {section["name"] for section in config.model.encoders.values()} == encoders
    method = config.method
    if pair[1] == "aug":
        assert (method["check_every_epochs"], method["residual_weight"]) == own
        assert (method["schedule_epochs"], method["sigma"], method["tau"]) == (epochs, 1.0, 0.01)
    else:
        assert method["alpha"] == own
    paper = describe_paper(config, None)
    assert f"accuracy {accuracy}" in paper.published
    assert not any(row.deviates for row in paper.settings)
    assert paper.note == ""  # t_N is in epochs of this very run


def test_every_pair_that_is_covered_is_compared_with_its_paper() -> None:
    assert {(name, method) for name, methods in covered().items() for method in methods} == set(PAPERS)


def sources(config: RunConfig, variant: str | None = None) -> dict[str, str]:
    return {row.path: row.source for row in describe_paper(config, variant).settings}


def test_where_a_setting_stands_is_told() -> None:
    told = sources(configured("cremad", "aug"))
    assert told["optimizer.lr"] == told["method.check_every_epochs"] == "the paper"
    assert told["trainer.max_epochs"] == told["method.residual_weight"] == "the released code; not in the paper"
    told = sources(configured("sarcasm", "aug"))
    assert told["trainer.max_epochs"] == "not stated; ours: at most that: its code has t_N = int(epochs / 10)"


def test_the_released_variant_stands_in_place_of_the_papers(tmp_path: Path) -> None:
    config = configured("nvgesture", "iprm", variant="released")
    assert (config.method["alpha"], config.method["third_head"], config.schedule.name) == (0.8, "shared", "step")
    told = sources(config, "released")
    assert {told[path] for path in ("method.alpha", "method.third_head", "schedule.name")} == {
        "--variant released: the authors' code"
    }
    assert configured("cremad", "aug", variant="released").method["added_classifiers"] == "frozen"


def test_what_the_command_says_goes_before_and_is_shown_as_deviating() -> None:
    given = {"values": ("optimizer.lr=0.002", "model.encoders.text.weights=random"), "max_epochs": 10}
    config = configured("twitter15", "aug", **given)
    assert (config.optimizer.lr, config.trainer.max_epochs, config.method["schedule_epochs"]) == (0.002, 10, 50)
    paper = describe_paper(config, None)
    deviating = {row.path: row.source for row in paper.settings if row.deviates}
    assert deviating["optimizer.lr"] == "this command, not 2e-05 (the paper)"
    assert set(deviating) == {"optimizer.lr", "model.encoders.text.weights", "trainer.max_epochs"}
    assert paper.note == "t_N of 5 in 50 epochs is 1 in the 10 of this run"
    assert published_line(paper).endswith("of this run 3 settings deviate, so it is no repetition")


@pytest.mark.parametrize("way", [{"options": ("demo=true",)}, {"values": ("dataset.options.demo=true",)}])
def test_a_demo_says_that_its_encoders_are_not_the_papers(way: dict[str, Any]) -> None:
    config = configured("sarcasm", "iprm", **way)
    assert config.model.encoders["text"]["size"] == "tiny"
    assert (config.optimizer.lr, config.method["alpha"]) == (1e-4, 0.7)
    told = sources(config)
    assert told["model.encoders.image.name"] == "the demo's own, tiny, not resnet50 (the paper)"
    assert all(text.startswith("the demo's own, tiny") for path, text in told.items() if "encoders" in path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--dataset", "iemocap", "--method", "aug"],
            "no paper states settings of aug on iemocap; there are those of ",
        ),
        (["--dataset", "sarcasm", "--method", "joint"], "of joint on sarcasm; there are those of cremad: iprm, aug; "),
        (["--dataset", "digits"], "no paper states settings of iprm on digits"),
        (["--dataset", "sarcasm", "--encode", "image=resnet50,text=bert"], "--paper is not for --encode"),
        (["--config", "best.yaml"], "--paper is not for --config: it is a configuration itself"),
    ],
)
def test_what_no_paper_covers_is_refused_with_what_is(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "best.yaml").write_text("dataset: {name: sarcasm}")
    arguments = [str(tmp_path / word) if word == "best.yaml" else word for word in arguments]
    done = CliRunner().invoke(main, ["--paper", *arguments, "--output", str(tmp_path), "--data-dir", str(tmp_path)])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_several_protocols_are_read_from_one_option() -> None:
    assert protocols(NOTHING) == [None]
    assert protocols(NOTHING | {"protocol": "paper, group"}) == ["paper", "group"]
    for given, message in (("paper,groups", "did you mean 'group'"), ("cv,cv", "names one twice, got 'cv,cv'")):
        with pytest.raises(UsageError, match=message):
            protocols(NOTHING | {"protocol": given})
    with pytest.raises(UsageError, match="--reference is for one protocol"):
        protocols(NOTHING | {"protocol": "paper,group", "references": ("folder",)})


def test_a_setting_of_the_papers_is_never_listed_twice() -> None:
    for dataset, method in PAPERS:
        paths = [setting.path for setting in paper_settings(dataset, method, None)]
        assert len(paths) == len(set(paths))


def train(folder: Path, *arguments: str) -> Result:
    folders = ["--output", str(folder / "results"), "--data-dir", str(folder / "data")]
    return CliRunner().invoke(main, [*arguments, *folders], catch_exceptions=False)


@pytest.mark.slow
def test_the_published_claim_and_the_honest_one_stand_one_under_the_other(tmp_path: Path) -> None:
    asked = ["--dataset", "cremad", "--option", "demo=true", "--method", "aug", "--paper", "--max-epochs", "1"]
    refused = train(tmp_path, *asked, "--protocol", "paper,cv", "--folds", "50")
    assert refused.exit_code == 2  # the second is wrong: nothing of the first was trained
    assert not (tmp_path / "results").exists()
    done = train(tmp_path, *asked, "--protocol", "paper,group")
    assert done.exit_code == 0, done.output
    claim, honest = done.stdout.index("best epoch on test, as published"), done.stdout.index("protocol group (seed 0)")
    assert claim < done.stdout.index("protocol paper (published files") < honest
    assert done.stdout.count("best epoch on test, as published") == done.stdout.count("AUG (NeurIPS 2025) prints") == 1
    assert done.stdout.count("settings of AUG (NeurIPS 2025)") == 1
    both = json.loads(train(tmp_path, *asked, "--protocol", "paper,group", "--resume", "--json").stdout)
    assert [document["results"][0]["selects_on_test"] for document in both] == [True, False]
    assert [Path(document["folder"]).name for document in both] == ["train-cremad-aug-paper", "train-cremad-aug-group"]
    assert {row["path"] for row in both[0]["paper"]["settings"]} >= {"optimizer.lr", "method.check_every_epochs"}
