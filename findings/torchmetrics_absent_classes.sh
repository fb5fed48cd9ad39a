#!/usr/bin/env bash
# Macro averages over a test split that lacks classes: torchmetrics 1.9.0 and scikit-learn 1.7.2 disagree, by a lot.
# torchmetrics leaves a class without a positive sample out of the mean (average precision: NaN, dropped; F1: a class that
# is neither true nor predicted); scikit-learn counts it as 0 when it is asked for all K classes. On small test splits
# (one speaker of a cross-validation, say) one and the same predictions score differently in two papers' code.
#
# Seen, 4 classes, of which the test split has 3 (average precision) or 2 (F1):
#   average precision: torchmetrics 0.351, scikit-learn 0.264 (3/4 of it)
#   macro F1: torchmetrics 0.491, scikit-learn over all 4 classes 0.245 (2/4 of it)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 scikit-learn==1.7.2 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from sklearn.metrics import average_precision_score, f1_score
from sklearn.preprocessing import label_binarize
from torchmetrics.classification import MulticlassAveragePrecision, MulticlassF1Score

generator = torch.Generator().manual_seed(0)
scores = torch.softmax(torch.randn(60, 4, generator=generator), dim=1)
three = torch.randint(0, 3, (60,), generator=generator)
ours = float(MulticlassAveragePrecision(4)(scores, three))
theirs = average_precision_score(label_binarize(three.numpy(), classes=range(4)), scores.numpy(), average="macro")
print(f"average precision: torchmetrics {ours:.3f}, scikit-learn {theirs:.3f}")
assert abs(theirs - ours * 3 / 4) < 1e-6

two = torch.randint(0, 2, (60,), generator=generator)
guesses = scores[:, :2].argmax(dim=1)
ours = float(MulticlassF1Score(4)(guesses, two))
theirs = f1_score(two, guesses, labels=range(4), average="macro")
print(f"macro F1: torchmetrics {ours:.3f}, scikit-learn over all 4 classes {theirs:.3f}")
assert abs(theirs - ours * 2 / 4) < 1e-6
PY
