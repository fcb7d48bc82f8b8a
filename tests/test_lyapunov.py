"""The sampled Lyapunov gate: passes a good controller, fails one whose policy was zeroed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pyprune_fast.prune import gate, lyapunov_test
from pyprune_fast.prune.lyapunov import discrete_lyapunov

UPRIGHT = torch.zeros(2)


class Policy(nn.Module):
    """A linear controller of an inverted pendulum, u = -K x, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.gain.weight.copy_(torch.tensor([[-20.0, -6.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain(x.float()).double()


def pendulum(model: nn.Module, x: Tensor) -> Tensor:
    """One step of 0.05 s of angle'' = 9.81 sin(angle) + u, semi-implicit Euler."""
    speed = x[:, 1] + 0.05 * (9.81 * x[:, 0].sin() + model(x)[:, 0])
    return torch.stack([x[:, 0] + 0.05 * speed, speed], 1)


def test_the_equation_is_solved_as_scipy_solves_it() -> None:
    from scipy.linalg import solve_discrete_lyapunov

    a = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a *= 0.9 / torch.linalg.eigvals(a).abs().max()
    form = discrete_lyapunov(a)
    assert torch.allclose(a.T @ form @ a - form, -torch.eye(4, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(form, torch.from_numpy(solve_discrete_lyapunov(a.T.numpy(), torch.eye(4).double().numpy())))
    assert torch.linalg.eigvalsh(form).min() > 0
    with pytest.raises(ValueError, match="wanted a spectral radius below 1, got 1.1"):
        discrete_lyapunov(1.1 * torch.eye(2).double())


def test_passes_the_dense_controller_and_a_near_one_and_fails_a_zeroed_policy() -> None:
    policy = Policy()
    test = lyapunov_test(policy, pendulum, UPRIGHT)
    assert test.dense.violations.value == 0
    assert test.dense.settled.value == 1
    verdict = gate(policy, test.metrics())
    assert verdict.accepted
    assert verdict.table["Lyapunov violations"].statistic == "Wilson over 1,000"
    with torch.no_grad():
        policy.gain.weight.mul_(0.98)
    assert gate(policy, test.metrics()).accepted
    with torch.no_grad():
        policy.gain.weight.zero_()
    verdict = gate(policy, test.metrics())
    assert [row.ok for row in verdict.table.rows] == [False, False]
    assert verdict.table["Lyapunov violations"].value > 0.9
    assert test.simulate(policy).worst_increase > 0


def test_starts_fill_the_level_set_evenly() -> None:
    test = lyapunov_test(Policy(), pendulum, UPRIGHT, starts=4000, level=0.5)
    v = ((test.starts @ test.form) * test.starts).sum(1) / test.level
    assert v.max() <= 1
    # Spread evenly over a set of two dimensions, V / c is uniform: mean 1/2, deviation 1/sqrt(12), within 4 standard errors.
    assert abs(v.mean() - 0.5) < 4 / math.sqrt(12 * 4000)


def test_the_level_shrinks_until_the_dense_controller_passes() -> None:
    """A controller that is only good near the target: pushed beyond a third, it gives up."""

    class Near(Policy):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x.norm(dim=1, keepdim=True) < 0.3, super().forward(x), 0.0)

    test = lyapunov_test(Near(), pendulum, UPRIGHT, level=1e4)
    assert test.level < 1e4
    assert test.dense.violations.hits == 0


def test_states_that_run_away_violate_and_do_not_settle() -> None:
    test = lyapunov_test(nn.Identity(), lambda model, x: 0.5 * model(x), UPRIGHT, starts=10, steps=5)

    class Burst(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full_like(x, math.inf)

    found = test.simulate(Burst())
    assert (found.violations.value, found.settled.value) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"starts": 0}, ValueError, "starts: wanted at least 1"),
        ({"delta": 1.0}, ValueError, "0 <= delta < 1"),
        ({"target": torch.zeros(2, 2)}, ValueError, r"target: wanted \(D,\)"),
        ({"target": torch.tensor([1.0, 0.0])}, ValueError, "wanted a state that rests, got one that moves by"),
        ({"closed_loop": lambda model, x: 1.5 * x}, ValueError, "not stable at the target"),
        ({"closed_loop": lambda model, x: x[:, :1]}, ValueError, r"wanted next states \(1, 2\)"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        lyapunov_test(**{"dense": Policy(), "closed_loop": pendulum, "target": UPRIGHT, **arguments})
