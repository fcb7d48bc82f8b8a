"""Metrics of classifiers: accuracy, recall of classes, recall at a fixed rate of false alarms, cost of errors.

All read `batches` of (inputs, labels), labels (N,) integers, each time they measure; the model gives (N, K) outputs and runs in
eval mode. Their surrogates put the softmax in the place of the decision: the value expected if decisions were drawn from it.
Letters: N examples, K classes.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_count, describe

from .estimate import Mean, Rate, Worst
from .metric import Metric, Run
from .reading import Batches, Settings, checked_labels, class_outputs, named


def accuracy(batches: Batches, **settings: Unpack[Settings]) -> Metric:
    """Share of examples whose highest output is their label.

    Args:
        batches: (inputs, labels), can be read again and again.
        settings: name, floor, tolerance, confidence; see Metric.

    Returns:
        A metric in [0, 1] with Wilson bounds.

    Example:
        >>> metric = accuracy([(torch.eye(3), torch.tensor([0, 1, 0]))], floor=0.5)
        >>> metric.measured(nn.Identity()).reason
        'accuracy: 0.666667 >= 0.5, by 0.1667'
    """

    def measure(model: nn.Module) -> Rate:
        hits = trials = 0
        for outputs, labels in class_outputs("accuracy", model, batches):
            hits += int((outputs.argmax(1) == labels).sum())
            trials += len(labels)
        return Rate(hits, trials)

    def surrogate(run: Run, batch: Any) -> Tensor:
        return _chance_of_label(run, batch).mean()

    return Metric(measure=measure, surrogate=surrogate, **named("accuracy", settings))


def recall(batches: Batches, of: int | None = None, **settings: Unpack[Settings]) -> Metric:
    """Share of a class's examples that are found, or the smallest such share of all classes that occur.

    Args:
        batches: (inputs, labels), can be read again and again.
        of: the class; None for the worst of all.
        settings: name, floor, tolerance, confidence; see Metric.

    Returns:
        A metric in [0, 1] with Wilson bounds; for the worst class, its lower bound holds for all classes together (Bonferroni).

    Raises:
        ValueError: while measuring: no example of the class.

    Example:
        >>> batches = [(torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 1]))]
        >>> [recall(batches, of=k).measured(nn.Identity()).value for k in (0, 1, 2, None)]
        [1.0, 0.5, 1.0, 0.5]
    """
    if of is not None:
        check_count("recall", "of", of, 0)

    def measure(model: nn.Module) -> Rate | Worst:
        hits = trials = torch.zeros((), dtype=torch.int64)
        for outputs, labels in class_outputs("recall", model, batches):
            classes = outputs.shape[1]
            found = labels[outputs.argmax(1) == labels]
            hits = hits + torch.bincount(found, minlength=classes).cpu()
            trials = trials + torch.bincount(labels, minlength=classes).cpu()
        counts = list(zip(hits.tolist(), trials.tolist(), strict=True))
        if of is None:
            return Worst(tuple(Rate(hit, trial) for hit, trial in counts if trial))
        if of >= len(counts) or not counts[of][1]:
            raise ValueError(f"recall: batches: wanted examples of class {of}, got none")
        return Rate(*counts[of])

    def surrogate(run: Run, batch: Any) -> Tensor:
        chance, labels = _chance_of_label(run, batch), batch[1]
        wanted = labels.unique().tolist() if of is None else [of]
        means = [chance[labels.to(chance.device) == k].mean() for k in wanted]
        return torch.stack(means).min()

    name = "recall of the worst class" if of is None else f"recall of class {of}"
    return Metric(measure=measure, surrogate=surrogate, **named(name, settings))


def recall_at_false_alarms(batches: Batches, rate: float, *, positive: int = 1, **settings: Unpack[Settings]) -> Metric:
    """Share of positives found by the threshold that raises at most this rate of false alarms among the negatives.

    An example's score is its log-odds for the positive class, output_p - logsumexp of the others. The threshold is the lowest
    at which at most floor(rate * negatives) negatives score above it: a point of the ROC curve.

    Args:
        batches: (inputs, labels), can be read again and again.
        rate: of false alarms, in [0, 1).
        positive: the class that shall be found; all others are negatives.
        settings: name, floor, tolerance, confidence; see Metric.

    Returns:
        A metric in [0, 1] with Wilson bounds over the positives, which take the threshold as given. No surrogate.

    Raises:
        ValueError: a rate outside [0, 1); while measuring: no positives, or no negatives.

    Example:
        >>> outputs = torch.tensor([[0.0, 3.0], [0.0, 1.0], [0.0, 2.0], [0.0, -1.0]])
        >>> recall_at_false_alarms([(outputs, torch.tensor([1, 1, 0, 0]))], 0.0).measured(nn.Identity()).value
        0.5
    """
    if not 0 <= rate < 1:
        raise ValueError(f"recall_at_false_alarms: rate: wanted a number in [0, 1), got {rate}")
    check_count("recall_at_false_alarms", "positive", positive, 0)

    def measure(model: nn.Module) -> Rate:
        scores, truth = [], []
        for outputs, labels in class_outputs("recall_at_false_alarms", model, batches):
            if positive >= outputs.shape[1]:
                raise ValueError(f"recall_at_false_alarms: positive: wanted a class of {describe(outputs)}, got {positive}")
            others = torch.cat([outputs[:, :positive], outputs[:, positive + 1 :]], 1).double()
            scores.append(outputs[:, positive].double() - others.logsumexp(1))
            truth.append(labels == positive)
        score, is_positive = torch.cat(scores), torch.cat(truth)
        hits, alarms = score[is_positive], score[~is_positive].sort(descending=True).values
        if not len(hits) or not len(alarms):
            got = f"{len(hits)} positives, {len(alarms)} negatives"
            raise ValueError(f"recall_at_false_alarms: batches: wanted positives and negatives, got {got}")
        threshold = alarms[math.floor(rate * len(alarms))]
        return Rate(int((hits > threshold).sum()), len(hits))

    return Metric(measure=measure, **named(f"recall at {rate:.4g} false alarms", settings))


def cost(batches: Batches, matrix: Tensor, **settings: Unpack[Settings]) -> Metric:
    """Mean cost of the decisions, where errors cost unequally: a missed defect is dearer than a false alarm.

    Args:
        batches: (inputs, labels), can be read again and again.
        matrix: (K, K), the cost of deciding column j for an example of row i.
        settings: name, floor (the most that it may cost), tolerance, confidence; see Metric.

    Returns:
        A metric to be kept low, in the matrix's units an example, with Student's t bounds.

    Raises:
        ValueError: a matrix that is not square and finite; while measuring: outputs of another K.

    Example:
        >>> missed_is_dear = torch.tensor([[0.0, 1.0], [20.0, 0.0]])
        >>> cost([(torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 1, 1, 0]))], missed_is_dear).measured(nn.Identity()).value
        5.25
    """
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"cost: matrix: wanted (K, K), got {describe(matrix)}")
    if not bool(matrix.isfinite().all()):
        raise ValueError("cost: matrix: wanted finite costs, got others")

    def measure(model: nn.Module) -> Mean:
        paid = []
        for outputs, labels in class_outputs("cost", model, batches):
            if outputs.shape[1] != len(matrix):
                raise ValueError(f"cost: model: wanted outputs (N, K = {len(matrix)}), got {describe(outputs)}")
            paid.append(matrix[labels.cpu(), outputs.argmax(1).cpu()].double())
        return Mean.of(torch.cat(paid))

    def surrogate(run: Run, batch: Any) -> Tensor:
        outputs: Tensor = run(batch[0])
        rows = matrix.to(outputs)[checked_labels("cost", batch[1].to(outputs.device), len(matrix))]
        return (outputs.softmax(1) * rows).sum(1).mean()

    return Metric(measure=measure, direction="min", surrogate=surrogate, **named("cost", settings))


def _chance_of_label(run: Run, batch: Any) -> Tensor:
    """(N,) softmax output of each example's label."""
    outputs: Tensor = run(batch[0])
    return outputs.softmax(1).gather(1, batch[1].to(outputs.device)[:, None])[:, 0]
