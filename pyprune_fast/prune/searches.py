"""Searches for pruning coefficients: uniform, global, grid, gradient, straight-through, SPSA.

Each proposes candidates to a `Problem`, which measures them hard: the answer is always one that was measured on the cut model.

    soft masks   m_gi = sigmoid((r_gi - alpha_g) / tau),   r_gi = (rank_gi - 1/2) / n_g, ascending by importance
    loss         -M_1 + lambda h + (mu / 2) h^2 + sum_j (max(0, kappa_j + nu_j x_j)^2 - kappa_j^2) / (2 nu_j),
                 h = S(sum_i (1 - m_gi)) - rho,   x_j = floor_j - M_j

M are the metrics' surrogates on the masked model (turned round where less is better). lambda grows by mu h and kappa_j to
max(0, kappa_j + nu_j x_j) every ten steps, and tau falls geometrically; only the coefficients move, the weights are frozen.

Source: after Sundaram et al., arXiv 2507.14882; SPSA: Spall, IEEE Trans. Automatic Control 37 (1992).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_count, describe

from .coefficients import Allocation, Candidate, Problem
from .metrics import Metric, Run

LEVELS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
_CHUNK = 1 << 16


def uniform(problem: Problem) -> Allocation:
    """The same coefficient for all groups, as far as their bounds go."""

    def search() -> None:
        _try(problem, torch.zeros_like(problem.bounds))

    return problem.solve("uniform", search)


def global_ranking(problem: Problem) -> Allocation:
    """One threshold for all groups on their importance, divided by each group's mean."""
    return problem.solve("global", lambda: _hard(problem, problem.threshold(torch.ones_like(problem.bounds))))


def grid(problem: Problem, *, levels: Sequence[float] = LEVELS, cap: int = 20_000) -> Allocation:
    """All combinations of levels whose sparsity is within the tolerance, which needs no forward pass, are measured.

    Args:
        problem: what to solve.
        levels: coefficients to combine.
        cap: most candidates to measure.

    Raises:
        ValueError: more combinations than can be listed (10^8), more feasible ones than the cap, or none. Coefficients can be
            shared by components to have fewer.
    """
    _check_ratios("grid", problem)
    points = len(levels) ** problem.coefficients
    if points > 10**8:
        raise ValueError(
            f"grid: levels: wanted at most 10^8 combinations, got {len(levels)}^{problem.coefficients}; share coefficients"
        )

    def search() -> None:
        feasible = list(_feasible(problem, torch.tensor(levels, dtype=torch.float64), points, cap))
        for counts in feasible:
            problem.measure(counts)
        problem.points = points

    return problem.solve("grid", search)


def _feasible(problem: Problem, levels: Tensor, points: int, cap: int) -> Iterator[dict[str, int]]:
    K, seen = problem.coefficients, set()
    powers = len(levels) ** torch.arange(K - 1, -1, -1)  # the last group changes most often: `sharing` keeps the layers before
    for start in range(0, points, _CHUNK):
        number = torch.arange(start, min(start + _CHUNK, points))
        alpha = problem.bounded(levels[number[:, None] // powers % len(levels)][:, problem.keys])
        counts = (alpha * problem.channels).round()
        gap = (problem.sparsity(counts) - problem.target.remove).abs()
        for row in alpha[gap <= problem.tolerance]:
            hard = problem.harden(row)
            key = tuple(hard.values())
            if key in seen or abs(problem.fraction(hard) - problem.target.remove) > problem.tolerance:
                continue
            seen.add(key)
            if len(seen) > cap:
                raise ValueError(f"grid: cap: wanted at most {cap} combinations within the tolerance, got more of {points}")
            yield hard
    if not seen:
        raise ValueError(f"grid: levels: wanted some combination within the tolerance of the target, got none of {points}")


def gradient(
    problem: Problem,
    batches: Iterable[Any],
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    penalty: float = 1000.0,
    tau: tuple[float, float] = (0.1, 0.02),
    straight_through: bool = False,
    entry: str = "forward",
) -> Allocation:
    """Adam on the coefficients through soft masks; every tenth step a candidate is hardened and measured.

    Args:
        problem: what to solve. Its objective has a surrogate; floors whose metrics have one are followed too, and all floors
            are held against what is measured.
        batches: what the surrogates take, read again and again; on the model's device.
        steps: of Adam.
        learning_rate: of Adam, on theta, alpha = bound * sigmoid(theta).
        penalty: mu, for an objective in dB 1000; scale it with the objective's units. nu is a tenth of it by floor_j^2.
        tau: temperature at the first step and at the last; never below one channel's width.
        straight_through: whether masks are hard in the forward pass and soft in the backward pass.
        entry: the entry point that surrogates call.

    Returns:
        The best candidate measured. Deterministic for deterministic metrics.

    Raises:
        ValueError: no batches, an objective without a surrogate, or a parameter out of range.
    """
    _check_ratios("gradient", problem)
    check_count("gradient", "steps", steps, 1)
    if not 0 < tau[1] <= tau[0]:
        raise ValueError(f"gradient: tau: wanted first >= last > 0, got {tau}")
    if problem.objective.surrogate is None:
        raise ValueError(f"gradient: problem: wanted an objective with a surrogate, got {problem.objective.name!r} without")
    feed = _cycle("gradient", batches)

    def search() -> None:
        theta = _start(problem).requires_grad_()
        adam = torch.optim.Adam([theta], lr=learning_rate)
        last = max(tau[1], 1 / float(problem.channels.max()))
        multiplier = 0.0
        floors = [_Floor(m, penalty) for m in (problem.objective, *problem.floors) if m.surrogate and m.floor is not None]
        for step in range(steps):
            heat = tau[0] * (last / tau[0]) ** (step / max(steps - 1, 1))
            masks = _masks(problem, _alpha(problem, theta), heat, straight_through)
            gap = problem.sparsity(torch.stack([(1 - m).sum() for m in masks.values()])) - problem.target.remove
            run, batch = _run(problem, masks, entry), next(feed)
            loss = multiplier * gap + penalty / 2 * gap**2 - _turned(problem.objective, run, batch)
            loss = loss + sum(floor.loss(run, batch) for floor in floors)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            if step % 10 == 9 or step == steps - 1:
                multiplier += penalty * float(gap.detach())
                for floor in floors:
                    floor.update()
                with torch.no_grad():
                    _try(problem, _alpha(problem, theta))

    with _frozen(problem.model):
        return problem.solve("straight-through" if straight_through else "gradient", search)


class _Floor:
    """One floor's term of the augmented Lagrangian."""

    def __init__(self, metric: Metric, penalty: float) -> None:
        assert metric.floor is not None
        self._metric, self._multiplier, self._missing = metric, 0.0, 0.0
        self._floor = metric.floor if metric.direction == "max" else -metric.floor
        self._weight = penalty / 10 / (metric.floor**2 or 1.0)

    def loss(self, run: Run, batch: Any) -> Tensor:
        missing = self._floor - _turned(self._metric, run, batch)
        self._missing = float(missing.detach())
        pushed = (self._multiplier + self._weight * missing).clamp(min=0)
        return (pushed**2 - self._multiplier**2) / (2 * self._weight)

    def update(self) -> None:
        self._multiplier = max(0.0, self._multiplier + self._weight * self._missing)


def spsa(problem: Problem, *, steps: int = 150, size: float = 0.1, learning_rate: float = 0.2, seed: int = 0) -> Allocation:
    """Simultaneous perturbation: two hard candidates a step, on opposite sides, tell the slope along a random direction.

    For metrics without gradients. Args: size of the perturbation and of the step, in theta; both fall as Spall recommends
    (k^-0.101 and k^-0.602).
    """
    check_count("spsa", "steps", steps, 1)
    generator = torch.Generator().manual_seed(seed)

    def search() -> None:
        theta = _start(problem)
        scale = 0.0
        for step in range(steps):
            side = torch.randint(0, 2, theta.shape, generator=generator).double() * 2 - 1
            reach = size / (step + 1) ** 0.101
            ends = [_try(problem, _alpha(problem, theta + sign * reach * side)) for sign in (1, -1)]
            slope = (ends[0] - ends[1]) / (2 * reach)
            if not math.isfinite(slope):
                continue
            scale = max(scale, abs(slope))
            if scale:
                theta = theta + learning_rate / (step + 1) ** 0.602 * slope / scale * side
        _try(problem, _alpha(problem, theta))

    return problem.solve("spsa", search)


def _start(problem: Problem) -> Tensor:
    """Theta of the best of uniform coefficients, one threshold, and the problem's own start: no search ends below them.

    Where coefficients are shared, each is the mean over its groups. Importances that cannot be compared between groups
    (negative, infinite) have no threshold.
    """
    starts = [problem.project(torch.zeros_like(problem.bounds))]
    if problem.start is not None:
        starts.insert(0, problem.start)  # of equals, the first is taken
    if problem.comparable:
        starts.append(problem.threshold(torch.ones_like(problem.bounds)))
    alpha = max(starts, key=lambda start: _hard(problem, start).worth)
    share = torch.zeros(problem.coefficients, dtype=torch.float64)
    if problem.allocation == "importance_weight":
        return share  # equal weights
    share.index_add_(0, problem.keys, alpha / problem.bounds.clamp(min=1e-9))
    return (share / problem.keys.bincount()).clamp(0.01, 0.99).logit()


def _check_ratios(where: str, problem: Problem) -> None:
    if problem.allocation != "ratio":
        raise ValueError(f"{where}: problem: wanted allocation 'ratio', got {problem.allocation!r}; spsa takes it")


def _alpha(problem: Problem, theta: Tensor) -> Tensor:
    """Coefficients of all groups, (G,)."""
    most = 1.0 if problem.allocation == "importance_weight" else problem.bounds
    return most * theta.sigmoid()[problem.keys]


def _try(problem: Problem, alpha: Tensor) -> float:
    """Measures the whole-channel candidate nearest to coefficients of all groups; what it is worth, in one number."""
    return sum(_hard(problem, problem.project(alpha)).worth)


def _hard(problem: Problem, alpha: Tensor) -> Candidate:
    """Measures the whole-channel candidate of coefficients of all groups, repaired."""
    return problem.measure(problem.repair(problem.harden(alpha)))


def _masks(problem: Problem, alpha: Tensor, tau: float, hard: bool) -> dict[str, Tensor]:
    masks = {}
    for g, group in enumerate(problem.groups):
        order = torch.sort(problem.importance[group.name], stable=True).indices.argsort()
        ranks = (order.double() + 0.5) / group.channels
        soft = ((ranks - alpha[g]) / tau).sigmoid()
        masks[group.name] = (ranks > alpha[g]).double() + (soft - soft.detach()) if hard else soft
    return masks


def _run(problem: Problem, masks: dict[str, Tensor], entry: str) -> Run:
    """Calls the masked model on inputs."""
    masked, like = problem.masked(), next(problem.model.parameters())
    kind = torch.promote_types(like.dtype, torch.float32)
    moved = {name: mask.to(like.device, kind) for name, mask in masks.items()}
    return lambda *args, **kwargs: masked.run(moved, entry, (args, kwargs))


def _turned(metric: Metric, run: Run, batch: Any) -> Tensor:
    """A metric's surrogate, turned so that more is better: float64 on the CPU."""
    assert metric.surrogate is not None
    value = metric.surrogate(run, batch)
    if not isinstance(value, Tensor) or value.ndim:
        raise ValueError(f"gradient: surrogate of {metric.name!r}: wanted a scalar tensor, got {describe(value)}")
    return value.to("cpu", torch.float64) * (1 if metric.direction == "max" else -1)


def _cycle(where: str, batches: Iterable[Any]) -> Iterator[Any]:
    if next(iter(batches), None) is None:
        raise ValueError(f"{where}: batches: wanted at least one, got none")
    return itertools.chain.from_iterable(itertools.repeat(batches))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """In eval mode, and no gradient is computed for the weights."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    modes = [(m, m.training) for m in model.modules()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
