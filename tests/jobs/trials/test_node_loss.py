"""A machine of the cluster goes away without a word; what ran on it goes on elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from driving import epochs_of, output_of, several_nodes, start_driver, starts_of, trials_of, wait_for

SEARCH = Path("results/digits-iprm/digits-iprm")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_an_elastic_group_goes_on_with_the_workers_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_PLAN", json.dumps({"digits-iprm/trial-001": {"hold_at": 3}}))
    with several_nodes() as nodes:
        machines = [nodes.add_node(num_cpus=1), nodes.add_node(num_cpus=1)]
        arguments = ["--address", nodes.address, "--trials", "1", "--max-epochs", "5", "--workers", "1:2"]
        process = start_driver(tmp_path, *arguments, "--method", "iprm", "--reference", "none", "--final-seeds", "0")
        trial = tmp_path / SEARCH / "trial-001"
        wait_for(lambda: epochs_of(trial) >= 2, process)
        assert json.loads((trial / "group_sizes.json").read_text()) == [2]
        node = json.loads((trial / "process-worker-1.json").read_text())["node"]
        (machine,) = [machine for machine in machines if machine.node_id == node]
        nodes.remove_node(machine, allow_graceful=False)
        wait_for(lambda: json.loads((trial / "group_sizes.json").read_text()) == [2, 1], process)
        (trial / "held").touch()
        stdout, stderr = output_of(process)
    assert process.returncode == 0, stderr
    (outcome,) = trials_of(tmp_path / SEARCH).values()
    assert (outcome["status"], outcome["epochs"]) == ("done", 5)
    assert starts_of(trial)[-1][1] >= 3, "it started anew"
    assert "1 of 1 runs continued with another number of workers (trial-001 2, 1)" in " ".join(stdout.split())


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_trial_whose_node_is_lost_goes_on_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"digits-iprm/trial-001": {"hold_at": 3}, "digits-iprm/trial-002": {"hold_at": 3}}
    monkeypatch.setenv("STUB_PLAN", json.dumps(plan))  # what runs on a node has the node's environment
    with several_nodes() as nodes:
        machines = [nodes.add_node(num_cpus=1), nodes.add_node(num_cpus=1)]
        arguments = ["--address", nodes.address, "--trials", "2", "--max-epochs", "8", "--scheduler", "fifo"]
        rest = ["--method", "iprm", "--reference", "none", "--final-seeds", "0"]
        process = start_driver(tmp_path, *arguments, *rest)
        lost, other = (tmp_path / SEARCH / name for name in ("trial-001", "trial-002"))
        wait_for(lambda: epochs_of(lost) >= 2 and epochs_of(other) >= 2, process)
        node = json.loads((lost / "process-trial.json").read_text())["node"]
        (machine,) = [machine for machine in machines if machine.node_id == node]
        nodes.remove_node(machine, allow_graceful=False)
        (other / "held").touch()  # when it ends, its node is free for the other
        wait_for(lambda: len(starts_of(lost)) == 2, process)
        (lost / "held").touch()
        _, stderr = output_of(process)
    assert process.returncode == 0, stderr
    assert "trial-001: its process was lost; trying again" in stderr
    assert {trial["status"] for trial in trials_of(tmp_path / SEARCH).values()} == {"done"}
    first, second = starts_of(lost)
    assert first[0] != second[0]
    assert second[1] >= 3, "it started anew"
    assert len(starts_of(other)) == 1, "the trial on the other node was disturbed"
