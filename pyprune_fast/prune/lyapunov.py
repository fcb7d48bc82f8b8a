"""A sampled Lyapunov gate for controllers: does the pruned controller still bring the plant to rest as the dense one does?

The candidate is V(x) = (x - x*)' P (x - x*), with P from the dense controller's closed loop, linearised around x*:

    A' P A - P = -Q,    A = d step / d x at x*,    Q = 1

States are drawn evenly from the level set {V <= c}, and each is followed for some steps. A step outside the ball |x - x*| <= r
violates if

    V(x_t+1) - V(x_t) > -delta |x_t - x*|^2

A start violates if one of its steps does (steps of one start depend on each other, starts do not, so that Wilson's bounds hold
for shares of starts); it settles if it ends inside the ball. This is evidence by sampling, not a proof of stability.
Letters: N starts, D dimensions of the state, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_count, describe
from pyprune_fast.observe import eval_mode

from .metrics.estimate import Rate
from .metrics.metric import Metric

ClosedLoop = Callable[[nn.Module, Tensor], Tensor]
HALVINGS = 30


@dataclass(frozen=True)
class Simulated:
    """What the starts did. Pure data.

    Attributes:
        violations: starts with a violating step.
        settled: starts that ended inside the ball.
        worst_increase: largest V(x_t+1) - V(x_t) + delta |x_t - x*|^2 of a step outside the ball; -inf without such a step.
    """

    violations: Rate
    settled: Rate
    worst_increase: float


@dataclass(frozen=True)
class LyapunovTest:
    """A test of controllers, made from the dense one by `lyapunov_test`. Pure data but for the closed loop.

    Attributes:
        closed_loop: (model, states (N, D) float64) -> next states (N, D): the plant under the model's control.
        target: x*, (D,) float64.
        form: P, (D, D) float64.
        starts: (N, D) float64, drawn from the level set.
        level: c.
        steps, radius, delta: T, r and delta as above.
        dense: what the dense controller did.
    """

    closed_loop: ClosedLoop
    target: Tensor
    form: Tensor
    starts: Tensor
    level: float
    steps: int
    radius: float
    delta: float
    dense: Simulated

    def simulate(self, model: nn.Module) -> Simulated:
        """Follows all starts under a model's control, in eval mode. Deterministic, if the closed loop is.

        A state that is not finite violates, and does not settle.

        Raises:
            ValueError: a closed loop that gives something else than (N, D).
        """
        return _simulate(model, self.closed_loop, self.target, self.form, self.starts, self.steps, self.radius, self.delta)

    def metrics(self, *, more: float = 0.01, share: float = 0.99, confidence: float | None = 0.95) -> tuple[Metric, Metric]:
        """The two metrics of the gate, with Wilson's bounds.

        Args:
            more: violating starts may be so much more frequent than with the dense controller.
            share: settling starts must be so frequent, as a share of the dense controller's.
            confidence: of both bounds.

        Returns:
            "Lyapunov violations", to be kept low, and "settling".
        """
        ceiling, floor = self.dense.violations.value + more, share * self.dense.settled.value
        return (
            Metric("Lyapunov violations", lambda m: self.simulate(m).violations, "min", floor=ceiling, confidence=confidence),
            Metric("settling", lambda m: self.simulate(m).settled, floor=floor, confidence=confidence),
        )


def lyapunov_test(
    dense: nn.Module,
    closed_loop: ClosedLoop,
    target: Tensor,
    *,
    starts: int = 1000,
    level: float = 1.0,
    steps: int = 100,
    radius: float = 0.05,
    delta: float = 0.01,
    seed: int = 0,
) -> LyapunovTest:
    """Makes a test from the dense controller, which must pass it.

    Args:
        dense: the dense controller, read in eval mode.
        closed_loop: (model, states (N, D) float64) -> next states (N, D): one step of the plant under the model's control.
        target: x*, (D,): where the plant shall rest; the dense controller must keep it there.
        starts: N, number of start states.
        level: c; halved until no start of the dense controller violates.
        steps: T, followed from each start.
        radius: r, of the ball inside which the controller has arrived.
        delta: how fast V must fall, in units of Q = 1; 0 <= delta < 1.
        seed: of the starts.

    Returns:
        The test.

    Raises:
        TypeError, ValueError: an argument out of range; a target that does not rest; a closed loop that is not stable at the
            target (spectral radius of A is 1 or more); no level at which the dense controller does not violate.

    Example:
        >>> class Gain(nn.Module):
        ...     def forward(self, x):
        ...         return -0.6 * x
        >>> test = lyapunov_test(Gain(), lambda model, x: x + model(x), torch.zeros(2), steps=10)
        >>> [metric.measured(Gain()).ok for metric in test.metrics()]
        [True, True]
    """
    for name, count in (("starts", starts), ("steps", steps)):
        check_count("lyapunov_test", name, count, 1)
    if not isinstance(target, Tensor) or target.ndim != 1 or not len(target):
        raise ValueError(f"lyapunov_test: target: wanted (D,), got {describe(target)}")
    if not (level > 0 and radius > 0 and 0 <= delta < 1):
        got = f"{level}, {radius}, {delta}"
        raise ValueError(f"lyapunov_test: wanted level > 0, radius > 0 and 0 <= delta < 1, got {got}")
    rest = target.detach().double().cpu()
    with eval_mode(dense):
        form = discrete_lyapunov(_linearised(dense, closed_loop, rest))
    unit = _evenly_in_ball(starts, len(rest), seed)
    # x = x* + sqrt(c) L'^-1 u with P = L L' lies in {V <= c} where |u| <= 1, evenly where u does.
    spread = torch.linalg.solve_triangular(torch.linalg.cholesky(form).T, unit.T, upper=True).T
    for halving in range(HALVINGS):
        c = level / 2**halving
        states = rest + math.sqrt(c) * spread
        found = _simulate(dense, closed_loop, rest, form, states, steps, radius, delta)
        if found.violations.hits == 0:
            return LyapunovTest(closed_loop, rest, form, states, c, steps, radius, delta, found)
    raise ValueError(f"lyapunov_test: level: wanted one at which the dense controller passes, found none down to {c:.3g}")


def discrete_lyapunov(a: Tensor) -> Tensor:
    """P of A' P A - P = -1, by the Kronecker product: (1 - A' x A') vec P = vec 1.

    Args:
        a: (D, D) float64, of spectral radius below 1. The system solved has D^2 unknowns.

    Returns:
        (D, D) float64, symmetric and positive definite.

    Raises:
        ValueError: a spectral radius of 1 or more: then no such P exists.

    Example:
        >>> discrete_lyapunov(torch.tensor([[0.5]]).double())
        tensor([[1.3333]], dtype=torch.float64)
    """
    size = len(a)
    radius = float(torch.linalg.eigvals(a).abs().max())
    if not radius < 1:
        raise ValueError(f"discrete_lyapunov: a: wanted a spectral radius below 1, got {radius:.6g}: not stable at the target")
    identity = torch.eye(size, dtype=a.dtype)
    system = torch.eye(size * size, dtype=a.dtype) - torch.kron(a.T.contiguous(), a.T.contiguous())
    form: Tensor = torch.linalg.solve(system, identity.flatten()).reshape(size, size)
    return (form + form.T) / 2


def _simulate(
    model: nn.Module,
    closed_loop: ClosedLoop,
    target: Tensor,
    form: Tensor,
    starts: Tensor,
    steps: int,
    radius: float,
    delta: float,
) -> Simulated:
    states, worst = starts, -math.inf
    violated, lost = (torch.zeros(len(states), dtype=torch.bool) for _ in range(2))
    with eval_mode(model):
        for _ in range(steps):
            after = _step(closed_loop, model, states)
            lost |= ~after.isfinite().all(1)
            after = torch.where(lost[:, None], states, after)  # not followed any further
            away, there = states - target, after - target
            rise = ((there @ form) * there).sum(1) - ((away @ form) * away).sum(1) + delta * away.square().sum(1)
            outside = away.norm(dim=1) > radius
            violated |= (outside & (rise > 0)) | lost
            worst = max(worst, float(torch.where(outside, rise, -math.inf).max()))
            states = after
    settled = ((states - target).norm(dim=1) <= radius) & ~lost
    return Simulated(Rate(int(violated.sum()), len(starts)), Rate(int(settled.sum()), len(starts)), worst)


def _step(closed_loop: ClosedLoop, model: nn.Module, states: Tensor) -> Tensor:
    after = closed_loop(model, states)
    if not isinstance(after, Tensor) or after.shape != states.shape:
        raise ValueError(f"lyapunov_test: closed_loop: wanted next states {tuple(states.shape)}, got {describe(after)}")
    return after.double().cpu()


def _linearised(model: nn.Module, closed_loop: ClosedLoop, rest: Tensor) -> Tensor:
    """A (D, D), by central differences: column j is the change along state j. float32 controllers leave about 1e-4 in it."""
    h = 1e-3 * max(1.0, float(rest.abs().max()))
    there = _step(closed_loop, model, rest[None])[0]
    if not float((there - rest).norm()) <= h:
        raise ValueError(f"lyapunov_test: target: wanted a state that rests, got one that moves by {(there - rest).norm():.3g}")
    nudges = h * torch.eye(len(rest), dtype=torch.float64)
    difference = _step(closed_loop, model, rest + nudges) - _step(closed_loop, model, rest - nudges)
    return difference.T / (2 * h)


def _evenly_in_ball(count: int, size: int, seed: int) -> Tensor:
    """(count, size) float64, spread evenly over the unit ball."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, size, generator=generator, dtype=torch.float64)
    lengths = torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / size)
    directions /= directions.norm(dim=1, keepdim=True)
    return lengths * directions
