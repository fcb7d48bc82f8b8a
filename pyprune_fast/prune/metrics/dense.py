"""Metrics that compare with the dense model: agreement of decisions, flips, and drift of latents.

They read the dense model when they are made, and keep its decisions or latents, never the model: so they may be made for a
model that is cut in place afterwards. `batches` must come in the same order each time (shuffle=False); others are refused.
Surrogates look at the metric's own first batch, whose dense answers are known, and not at the batch they are given.
Letters: N examples, F and G widths of latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_count, describe
from pyprune_fast.fingerprint import fingerprint_tensors
from pyprune_fast.observe import eval_mode

from .estimate import Mean, Rate
from .metric import Metric, Run
from .reading import Batches, Settings, call, checked_outputs, first_tensor, inputs_of, latents, named, pairs


def agreement(batches: Batches, dense: nn.Module, **settings: Unpack[Settings]) -> Metric:
    """Share of examples for which the model decides (highest output) as the dense model did. Labels are not needed.

    Args:
        batches: inputs, or (inputs, anything), in the same order each time.
        dense: read now.
        settings: name, floor, tolerance, confidence; see Metric.

    Returns:
        A metric in [0, 1] with Wilson bounds. Surrogate: mean softmax output of the dense decision.

    Raises:
        ValueError: outputs that are not (N, K); while measuring: other batches than the dense model saw.

    Example:
        >>> batches = [torch.eye(2)]
        >>> agreement(batches, nn.Identity()).measured(nn.Identity()).value
        1.0
    """
    before = _Decisions("agreement", dense, batches)

    def measure(model: nn.Module) -> Rate:
        now = _Decisions("agreement", model, batches).like(before)
        return Rate(int((now == before.chosen).sum()), len(now))

    def surrogate(run: Run, batch: Any) -> Tensor:
        return _chance(run(before.first), before.chosen).mean()

    return Metric(measure=measure, surrogate=surrogate, **named("agreement with the dense model", settings))


def flips(batches: Batches, dense: nn.Module, *, negative: bool = False, **settings: Unpack[Settings]) -> Metric:
    """Share of examples whose answer changed from right to wrong or back, though accuracy may be equal.

    After Dutta et al., arXiv 2407.09141; only from right to wrong: negative flips, Yan et al., CVPR 2021.

    Args:
        batches: (inputs, labels), in the same order each time.
        dense: read now.
        negative: count only what was right and is wrong now.
        settings: name, floor (the most that may flip), tolerance, confidence; see Metric.

    Returns:
        A metric in [0, 1] to be kept low, with Wilson bounds. Surrogate: the chance of a flip under the softmax.

    Raises:
        ValueError: outputs that are not (N, K); while measuring: other batches than the dense model saw.

    Example:
        >>> flips([(torch.eye(2), torch.tensor([0, 0]))], nn.Identity()).measured(nn.Identity()).value
        0.0
    """
    labels = torch.cat([targets.cpu() for _, targets in pairs("flips", batches)])
    before = _Decisions("flips", dense, batches)
    was_right = before.chosen == labels

    def measure(model: nn.Module) -> Rate:
        is_right = _Decisions("flips", model, batches).like(before) == labels
        flipped = was_right & ~is_right if negative else was_right != is_right
        return Rate(int(flipped.sum()), len(flipped))

    def surrogate(run: Run, batch: Any) -> Tensor:
        chance = _chance(run(before.first), labels)
        gained = torch.zeros_like(chance) if negative else chance
        return torch.where(was_right[: len(chance)].to(chance.device), 1 - chance, gained).mean()

    return Metric(
        measure=measure, direction="min", surrogate=surrogate, **named("negative flips" if negative else "flips", settings)
    )


def latent_drift(batches: Batches, dense: nn.Module, layer: str | None = None, **settings: Unpack[Settings]) -> Metric:
    """How far latents moved from the dense model's: 1 - linear CKA (Kornblith et al., ICML 2019).

        CKA = |Y'X|^2 / (|X'X| |Y'Y|),    X (N, F) and Y (N, G) with columns centred, Frobenius norms

    It does not change under rotation and scaling, and compares latents of different widths.

    Args:
        batches: inputs, or (inputs, anything), in the same order each time; a few hundred examples will do.
        dense: read now.
        layer: whose output is the latent; None for the model's own output.
        settings: name, floor (the most that it may drift), tolerance, confidence; see Metric. There is no confidence bound.

    Returns:
        A metric in [0, 1] to be kept low; 1 for latents that do not vary. With `layer=None`, its surrogate is the same formula
        on one batch; a layer's latents cannot be had from the model's outputs, so there is none.

    Raises:
        ValueError: no such layer, or one that is not called once a batch; while measuring: other batches.

    Example:
        >>> latent_drift([torch.rand(8, 3)], nn.Identity()).measured(nn.Linear(3, 3).requires_grad_(False)).value < 1
        True
    """
    before = _Latents("latent_drift", dense, batches, layer)

    def measure(model: nn.Module) -> float:
        return float(1 - linear_cka(before.rows, _Latents("latent_drift", model, batches, layer).like(before)))

    def surrogate(run: Run, batch: Any) -> Tensor:
        now: Tensor = run(before.first).flatten(1)
        return 1 - linear_cka(before.rows[: len(now)].to(now), now)

    return Metric(measure=measure, direction="min", surrogate=None if layer else surrogate, **named("latent drift", settings))


def neighbor_overlap(
    batches: Batches, dense: nn.Module, layer: str | None = None, *, neighbors: int = 10, **settings: Unpack[Settings]
) -> Metric:
    """Share of an example's nearest neighbours among the dense latents that are its neighbours still, mean over examples.

    Euclidean distances among all examples of the batches: N^2 of them.

    Args:
        batches: as in latent_drift.
        dense: read now.
        layer: as in latent_drift.
        neighbors: of each example, less than N.
        settings: name, floor, tolerance, confidence; see Metric. There is no confidence bound: examples share neighbours.

    Returns:
        A metric in [0, 1]. No surrogate.

    Raises:
        ValueError: as in latent_drift, or too few examples.

    Example:
        >>> neighbor_overlap([torch.rand(8, 3)], nn.Identity(), neighbors=2).measured(nn.Identity()).value
        1.0
    """
    check_count("neighbor_overlap", "neighbors", neighbors, 1)
    before = _Latents("neighbor_overlap", dense, batches, layer)
    if len(before.rows) <= neighbors:
        raise ValueError(f"neighbor_overlap: batches: wanted more than {neighbors} examples, got {len(before.rows)}")
    stored = _nearest(before.rows, neighbors)

    def measure(model: nn.Module) -> float:
        now = _nearest(_Latents("neighbor_overlap", model, batches, layer).like(before), neighbors)
        common = (now[:, :, None] == stored[:, None, :]).sum((1, 2))
        return Mean.of(common / neighbors).value

    return Metric(measure=measure, **named("neighbour overlap", settings))


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of (N, F) and (N, G), in [0, 1]: differentiable; 0 where one of them does not vary.

    Example:
        >>> x = torch.rand(5, 3)
        >>> round(float(linear_cka(x, 2 * x.flip(1) + 1)), 5)
        1.0
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"linear_cka: wanted (N, F) and (N, G), got {describe(x)} and {describe(y)}")
    x, y = x - x.mean(0), y - y.mean(0)
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return (y.T @ x).square().sum() / torch.where(scale > 0, scale, torch.ones_like(scale))


def _nearest(rows: Tensor, count: int) -> Tensor:
    """(N, count) indices of each row's nearest others; of equal distances, whichever torch puts first."""
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    return distances.sort(dim=1, stable=True).indices[:, :count]


def _chance(outputs: Tensor, wanted: Tensor) -> Tensor:
    """(N,) softmax output of the first N wanted classes."""
    return outputs.softmax(1).gather(1, wanted[: len(outputs), None].to(outputs.device))[:, 0]


class _Reading:
    """One reading of all batches: `first`, the inputs of the first batch, and what tells another reading's batches apart."""

    def __init__(self, op: str, batches: Batches) -> None:
        self.op = op
        self._batches = batches
        self._digests: list[str] = []
        self.first: Any = None

    def inputs(self) -> Iterator[Any]:
        """The inputs of each batch."""
        for inputs in inputs_of(self.op, self._batches):
            if not self._digests:
                self.first = inputs
            self._digests.append(fingerprint_tensors({"inputs": first_tensor(inputs)}))
            yield inputs

    def check_like(self, before: _Reading) -> None:
        """ValueError unless both read the same batches."""
        if self._digests != before._digests:
            raise ValueError(f"{self.op}: batches: wanted the batches that the dense model saw, in their order, got others")


class _Decisions(_Reading):
    """The class that a model decides for, for every example: `chosen`, (N,) int64 on the CPU."""

    def __init__(self, op: str, model: nn.Module, batches: Batches) -> None:
        super().__init__(op, batches)
        found = []
        with eval_mode(model):
            for inputs in self.inputs():
                outputs = checked_outputs(op, call(model, inputs), len(first_tensor(inputs)))
                found.append(outputs.argmax(1).cpu())
        self.chosen = torch.cat(found)

    def like(self, before: _Decisions) -> Tensor:
        """The decisions; ValueError unless they are for the same batches."""
        self.check_like(before)
        return self.chosen


class _Latents(_Reading):
    """The latents of a model for every example: `rows`, (N, F) float64 on the CPU."""

    def __init__(self, op: str, model: nn.Module, batches: Batches, layer: str | None) -> None:
        super().__init__(op, batches)
        self.rows = latents(op, model, self.inputs(), layer)

    def like(self, before: _Latents) -> Tensor:
        """The latents; ValueError unless they are for the same batches."""
        self.check_like(before)
        return self.rows
