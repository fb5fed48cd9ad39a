from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, recall_score

from mmcore.evaluation.metrics import (
    calibration_error,
    confusion_matrix,
    evaluate_logits,
    macro_f1,
    mean_average_precision,
)


def _sample(num_samples: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num_samples,), generator=generator)
    logits = torch.randn(num_samples, num_classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(num_samples), labels] += 1
    return logits, labels


def _naive_ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for index in range(15):
        low, high = index / 15, (index + 1) / 15
        chosen = (confidence >= low) & ((confidence < high) | (index == 14))
        if chosen.any():
            total += chosen.mean() * abs(confidence[chosen].mean(dtype=np.float64) - right[chosen].mean())
    return total


@pytest.mark.parametrize(("num_samples", "num_classes"), [(400, 10), (57, 3), (200, 2)])
def test_metrics_equal_scikit_learn(num_samples: int, num_classes: int) -> None:
    logits, labels = _sample(num_samples, num_classes)
    metrics = evaluate_logits(logits, labels, num_classes)
    probabilities, truth = logits.softmax(dim=1).numpy(), labels.numpy()
    answers, classes = probabilities.argmax(axis=1), range(num_classes)
    assert metrics["accuracy"] == (answers == truth).mean()
    assert metrics["macro_f1"] == pytest.approx(f1_score(truth, answers, labels=list(classes), average="macro"))
    precisions = [average_precision_score(truth == index, probabilities[:, index]) for index in classes]
    # scikit-learn sums in float64, torchmetrics in float32.
    assert metrics["map"] == pytest.approx(np.mean(precisions), rel=1e-6)
    assert metrics["ece"] == pytest.approx(_naive_ece(probabilities, truth), abs=1e-7)
    recalls = recall_score(truth, answers, labels=list(classes), average=None)
    assert [metrics[f"class_{index}/accuracy"] for index in classes] == pytest.approx(list(recalls))


def test_cheap_path_has_the_same_values() -> None:
    logits, labels = _sample(100, 5)
    cheap = evaluate_logits(logits.bfloat16(), labels, 5, full=False)
    full = evaluate_logits(logits.bfloat16(), labels, 5)
    assert list(cheap) == ["accuracy", "macro_f1"]
    assert cheap == {name: full[name] for name in cheap}


def test_class_without_samples() -> None:
    logits, labels = _sample(90, 4)
    labels[labels == 2] = 0
    answers = logits.argmax(dim=1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning per evaluation would fill the log
        metrics = evaluate_logits(logits, labels, 4)
    assert "class_2/accuracy" not in metrics
    assert metrics["macro_f1"] == pytest.approx(
        f1_score(labels.numpy(), answers, labels=[0, 1, 2, 3], average="macro", zero_division=0)
    )
    present = [average_precision_score(labels.numpy() == i, logits.softmax(1).numpy()[:, i]) for i in (0, 1, 3)]
    assert metrics["map"] == pytest.approx(np.mean(present), rel=1e-6)


def test_class_neither_present_nor_predicted_counts_as_zero_in_macro_f1() -> None:
    answers = torch.tensor([0, 1, 0, 1])
    assert macro_f1(confusion_matrix(answers, answers, 4)).item() == 0.5


def test_one_sample() -> None:
    metrics = evaluate_logits(torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([1]), 3)
    assert metrics["accuracy"] == metrics["map"] == metrics["class_1/accuracy"] == 1
    assert metrics["macro_f1"] == pytest.approx(1 / 3)
    assert metrics["ece"] == pytest.approx(1 - torch.tensor([0.0, 2.0, 0.0]).softmax(0)[1].item())
    assert set(metrics) == {"accuracy", "macro_f1", "map", "ece", "class_1/accuracy"}


def test_exact_ties_answer_the_first_class_and_share_one_threshold() -> None:
    metrics = evaluate_logits(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1]), 2)
    assert metrics["accuracy"] == 0.25
    assert metrics["map"] == pytest.approx((0.25 + 0.75) / 2)  # precision at the only threshold: the class's share
    assert metrics["ece"] == pytest.approx(0.25)


def test_certain_answers_fall_into_the_last_bin() -> None:
    probabilities = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    assert calibration_error(probabilities, torch.tensor([0, 1, 2, 0])).item() == pytest.approx(0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_calibration_error_has_15_bins_edges_belong_above_and_one_to_the_last(dtype: torch.dtype) -> None:
    # Every edge there can be of 15 classes, certain answers (right and wrong) and their neighbours in the last bin.
    confidence = [index / 15 for index in range(1, 16)] + [1.0, 1.0, 14.5 / 15, 0.97, 0.4, 0.45, 0.3]
    first = torch.tensor(confidence, dtype=dtype)
    probabilities = torch.zeros(len(first), 15, dtype=dtype)
    probabilities[:, 0] = first
    probabilities[:, 1:] = ((1 - first) / 14)[:, None]
    labels = torch.tensor([index % 2 for index in range(len(first))])
    expected = _naive_ece(probabilities.numpy(), labels.numpy())
    assert calibration_error(probabilities, labels).item() == pytest.approx(expected, abs=1e-12)


def test_a_certain_wrong_answer_and_a_doubtful_right_one_share_the_last_bin() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.95, 0.05]])
    # (2 + 0.95) / 3 confident, 2 of 3 right: one bin; a sixteenth would give (0 + |1 - 0| + ...) apart
    found = calibration_error(probabilities, torch.tensor([0, 1, 0])).item()
    assert found == pytest.approx(abs(2.95 - 2) / 3)


def test_rankings_are_perfect_whatever_the_scale() -> None:
    labels = torch.arange(12) % 3
    assert mean_average_precision((torch.eye(3)[labels] * 5).softmax(dim=1), labels).item() == 1
    assert evaluate_logits(torch.eye(3)[labels] * 1e-3, labels, 3)["map"] == 1


def test_a_nan_is_never_an_answer() -> None:
    logits = torch.eye(3)
    logits[1, 2] = torch.nan
    metrics = evaluate_logits(logits, torch.arange(3), 3)
    assert all(math.isnan(metrics[name]) for name in ("accuracy", "macro_f1", "map", "ece"))


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        evaluate_logits(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 3)
