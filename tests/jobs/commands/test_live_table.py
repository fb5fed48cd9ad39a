from __future__ import annotations

import io

from rich.console import Console

from rayjobs.cli.terminal import WIDTH, short_settings
from rayjobs.commands.live_table import Display


def shown(display: Display, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(display._table())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_table_fits_80_columns_whatever_the_names_and_keeps_every_number() -> None:
    long = "avdigits+image=noisy-joint_unimodal-sum_of_all_the_logits/fold-5"
    stages = {long: 12, "digits-iprm": 1000, "digits final models": 9}
    display = Display(stages, live=True)
    display.start(long)
    for number in range(12):
        for _ in range(1000):
            display.epoch(long, "", {"epoch": 1, "val/fused/accuracy": 0.9876})
        display._lines[long].done += number < 10
        display._lines[long].failed += number >= 10
    display._lines[long].seconds = 360_000  # 100 hours
    for width in (80, 200):
        lines = shown(display, width)
        assert max(map(len, lines)) <= WIDTH
        (line,) = [line for line in lines if line.startswith("✓ avdigits")]
        assert line.split()[2:] == ["10", "of", "12", "2", "98.8%", "12000", "100", "h", "00", "m"]
        assert "…" in line
        assert [line.split()[:2] for line in lines[2:]] == [["digits-iprm", "0"], ["digits", "final"]]
        assert lines[2].split()[1:] == ["0", "of", "1000"]


def test_a_trial_is_shown_where_there_is_no_terminal_and_a_failure_always() -> None:
    for live, expected in ((False, ["iprm: 2 trials", "iprm first (1 of 2)", "iprm second [red] (2 of 2)"]),
                           (True, ["iprm second [red] (2 of 2)"])):  # fmt: skip
        display = Display({"iprm": 2}, live=live)
        display.console = Console(file=io.StringIO(), width=80, highlight=False)
        display.start("iprm")
        display.ended("iprm", "first", failed=False)
        display.ended("iprm", "second [red]", failed=True)
        assert display.console.file.getvalue().splitlines() == expected  # type: ignore[attr-defined]


def test_running_trials_are_shown_one_by_one_within_80_columns() -> None:
    display = Display({"digits-iprm": 12}, live=True)
    display.start("digits-iprm")
    for number in range(1, 11):
        display.began(
            "digits-iprm", f"trial-{number:03d}", short_settings({"optimizer.lr": 0.013159, "a.alpha": 1}), 24
        )
    row = {"epoch": 7.0, "val/fused/accuracy": 0.971, "val/image/accuracy": 0.954, "val/image/probe_accuracy": 0.2,
           "val/audio/probe_accuracy": 0.838, "train/image/accuracy": 0.1}  # fmt: skip
    display.epoch("digits-iprm", "trial-001", row)
    display.began("digits-iprm", "trial-002", "lr 0.01", 24)  # its process was lost
    for width in (80, 200):
        lines = shown(display, width)
        assert max(map(len, lines)) <= WIDTH
        assert lines[2].split() == ["running", "settings", "own,", "%", "fused", "epoch"]
        first = "trial-001 lr 0.0132 alpha 1 image 95 audio 84 97.1% 7 of 24"
        assert lines[3].split() == first.split()
        assert lines[4].split() == ["trial-002", "lr", "0.01", "again"]
        assert lines[5].split()[-1] == "starts"
        assert lines[-1].split() == ["and", "2", "more"]
    for number in range(2, 11):
        display.ended("digits-iprm", "", failed=False, name=f"trial-{number:03d}")
    assert [line.split()[0] for line in shown(display, 80)[3:]] == ["trial-001"]
    display.ended("digits-iprm", "", failed=True, name="trial-001")
    assert not any("running" in line for line in shown(display, 80))
