#!/usr/bin/env bash
# torchmetrics 1.9.0, MulticlassCalibrationError: whether scores are logits is guessed from their values, batch by batch.
# Logits that happen to lie within [0, 1] (a network at its start, or a head behind a sigmoid) are taken for probabilities
# as they are, others go through a softmax. The calibration error of a model therefore depends on a constant added to its
# logits, which changes no probability, and may mix both readings in one epoch.
#
# Seen, 60 rows of logits drawn from [0, 1):
#   as they are 0.557, all logits minus 2 0.076, softmax first 0.076
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from torchmetrics.classification import MulticlassCalibrationError

generator = torch.Generator().manual_seed(0)
logits, labels = torch.rand(60, 4, generator=generator), torch.randint(0, 3, (60,), generator=generator)


def error(scores: torch.Tensor) -> float:
    return float(MulticlassCalibrationError(num_classes=4, n_bins=15)(scores, labels))


plain, shifted, softmax = error(logits), error(logits - 2), error(torch.softmax(logits, dim=1))
print(f"as they are {plain:.3f}, all logits minus 2 {shifted:.3f}, softmax first {softmax:.3f}")
assert abs(shifted - softmax) < 1e-6
assert abs(plain - softmax) > 0.1
PY
