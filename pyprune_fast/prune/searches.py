"""Searches for pruning coefficients: uniform, global, grid, gradient, straight-through, SPSA.

Each proposes candidates to a `Problem`, which measures them hard: the answer is always one that was measured on the cut model.

    soft masks   m_gi = sigmoid((r_gi - alpha_g) / tau),   r_gi = (rank_gi - 1/2) / n_g, ascending by importance
    loss         L + lambda h + (mu / 2) h^2,              h = S(sum_i (1 - m_gi)) - rho

L is the task's loss on the masked model. lambda grows by mu h every ten steps, and tau falls geometrically; only the
coefficients move, the weights are frozen.

Source: after Sundaram et al., arXiv 2507.14882; SPSA: Spall, IEEE Trans. Automatic Control 37 (1992).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_count

from .allocation import allocate
from .coefficients import Allocation, Problem

Run = Callable[..., Any]  # calls the masked model on inputs
Loss = Callable[[Run, Any], Tensor]  # of the masked model on a batch; lower is better

LEVELS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
_CHUNK = 1 << 16


def uniform(problem: Problem) -> Allocation:
    """The same coefficient for all groups, as far as their bounds go."""

    def search() -> None:
        _try(problem, torch.zeros_like(problem.bounds))

    return problem.solve("uniform", search)


def global_ranking(problem: Problem) -> Allocation:
    """One threshold for all groups on their importance, divided by each group's mean."""

    def search() -> None:
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if problem.fraction(counts(middle)) < problem.target.remove else (low, middle)
        problem.measure(problem.repair(counts(high)))

    def counts(ratio: float) -> dict[str, int]:
        removed = allocate(problem.groups, problem.importance, ratio=ratio, ranking="global")
        alpha = [len(removed.get(g.name, ())) / g.channels for g in problem.groups]
        return problem.harden(problem.bounded(torch.tensor(alpha, dtype=torch.float64)))

    return problem.solve("global", search)


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
    powers = len(levels) ** torch.arange(K)
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
    loss: Loss,
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
        problem: what to solve.
        loss: of the masked model: loss(run, batch), where run(*inputs) calls it, to a scalar tensor; differentiable. For a
            metric in dB, its negative.
        batches: what the loss takes, read again and again; on the model's device.
        steps: of Adam.
        learning_rate: of Adam, on theta, alpha = bound * sigmoid(theta).
        penalty: mu, in units of the loss: 1000 for one in dB.
        tau: temperature at the first step and at the last; never below one channel's width.
        straight_through: whether masks are hard in the forward pass and soft in the backward pass.
        entry: the entry point that run calls.

    Returns:
        The best candidate measured. Deterministic for a deterministic loss.

    Raises:
        ValueError: no batches, or a parameter out of range.
    """
    check_count("gradient", "steps", steps, 1)
    if not 0 < tau[1] <= tau[0]:
        raise ValueError(f"gradient: tau: wanted first >= last > 0, got {tau}")
    feed = _cycle("gradient", batches)

    def search() -> None:
        theta = _start(problem).requires_grad_()
        adam = torch.optim.Adam([theta], lr=learning_rate)
        last = max(tau[1], 1 / float(problem.channels.max()))
        multiplier = 0.0
        for step in range(steps):
            heat = tau[0] * (last / tau[0]) ** (step / max(steps - 1, 1))
            masks = _masks(problem, _alpha(problem, theta), heat, straight_through)
            gap = problem.sparsity(torch.stack([(1 - m).sum() for m in masks.values()])) - problem.target.remove
            total = _task(problem, loss, masks, next(feed), entry).double() + multiplier * gap + penalty / 2 * gap**2
            adam.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            adam.step()
            if step % 10 == 9 or step == steps - 1:
                multiplier += penalty * float(gap.detach())
                with torch.no_grad():
                    _try(problem, _alpha(problem, theta))

    with _frozen(problem.model):
        return problem.solve("straight-through" if straight_through else "gradient", search)


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
    """Theta of the uniform coefficients that meet the target."""
    alpha = problem.project(torch.zeros_like(problem.bounds))
    share = torch.zeros(problem.coefficients, dtype=torch.float64)
    share[problem.keys] = (alpha / problem.bounds.clamp(min=1e-9)).clamp(0.01, 0.99)
    return share.logit()


def _alpha(problem: Problem, theta: Tensor) -> Tensor:
    """Coefficients of all groups, (G,)."""
    return problem.bounds * theta.sigmoid()[problem.keys]


def _try(problem: Problem, alpha: Tensor) -> float:
    """Measures the whole-channel candidate nearest to coefficients of all groups; its objective."""
    candidate = problem.measure(problem.repair(problem.harden(problem.project(alpha))))
    return problem.objective(candidate) - sum(candidate.misses.values())


def _masks(problem: Problem, alpha: Tensor, tau: float, hard: bool) -> dict[str, Tensor]:
    masks = {}
    for g, group in enumerate(problem.groups):
        order = torch.sort(problem.importance[group.name], stable=True).indices.argsort()
        ranks = (order.double() + 0.5) / group.channels
        soft = ((ranks - alpha[g]) / tau).sigmoid()
        masks[group.name] = (ranks > alpha[g]).double() + (soft - soft.detach()) if hard else soft
    return masks


def _task(problem: Problem, loss: Loss, masks: dict[str, Tensor], batch: Any, entry: str) -> Tensor:
    masked = problem.masked()
    like = next(problem.model.parameters())
    kind = torch.promote_types(like.dtype, torch.float32)
    moved = {name: mask.to(like.device, kind) for name, mask in masks.items()}
    found = loss(lambda *args, **kwargs: masked.run(moved, entry, (args, kwargs)), batch)
    if not isinstance(found, Tensor) or found.ndim:
        raise ValueError(f"gradient: loss: wanted a scalar tensor, got {found!r}")
    return found.cpu()


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
