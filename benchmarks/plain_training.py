"""Whole trainings of IPRM on `digits` in a plain loop, one after another: what a search is compared with.

Run by `trials.py`, once per core. Each training: batches from tensors in memory, an evaluation of the validation split
after each epoch, the best weights kept in memory. Nothing is logged, nothing is written.

    python benchmarks/plain_training.py '{"directory": "data/digits", "epochs": 2, "runs": [{"lr": 0.1, "alpha": 0.8}]}'
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping

import torch
from plain import PlainIprm, digits_parts
from torch import Tensor

from mmcore.assembly.config import complete_config, parse_config
from mmcore.config.schema import RunConfig
from mmcore.data.prepared.columns import to_batch
from mmcore.data.prepared.store import PreparedDataset

BATCH_SIZE, EVAL_BATCH_SIZE = 64, 256


def train(data, splits: Mapping[str, Tensor], config: RunConfig, epochs: int, lr: float, alpha: float) -> float:
    """Trains one model; returns its best validation accuracy."""
    torch.manual_seed(0)
    model = PlainIprm(*digits_parts(config), alpha=alpha)
    model.start(lr)
    best, best_state = -1.0, {}
    for _ in range(epochs):
        model.train()
        order = splits["train"][torch.randperm(len(splits["train"]))]
        for rows in order.split(BATCH_SIZE):
            model.step({name: x[rows] for name, x in data.inputs.items()}, data.labels[rows])
        accuracy = evaluate(model, data, splits["val"])
        if accuracy > best:
            best, best_state = accuracy, copy.deepcopy(model.state_dict())
    assert best_state
    return best


@torch.no_grad()
def evaluate(model: PlainIprm, data, rows: Tensor) -> float:
    """Returns the accuracy on some rows."""
    model.eval()
    correct = 0
    for part in rows.split(EVAL_BATCH_SIZE):
        first, second = model.preprocess({name: x[part] for name, x in data.inputs.items()})
        logits = model.fused(model.first(first), model.second(second))
        correct += int((logits.argmax(dim=1) == data.labels[part]).sum())
    return correct / len(rows)


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    prepared = PreparedDataset.open(task["directory"])
    config = complete_config(parse_config({"dataset": {"name": "digits"}, "method": {"name": "iprm"}}))
    data = to_batch(prepared.read_table(), prepared.spec)
    assignment = prepared.assign(config.protocol)
    splits = {name: torch.from_numpy(assignment.rows(name)) for name in ("train", "val")}
    print(json.dumps([train(data, splits, config, task["epochs"], **run) for run in task["runs"]]))


if __name__ == "__main__":
    main()
