"""The task-oriented latent dynamics of TD-MPC (Hansen et al., arXiv 2203.04955): six components around one latent state.

Letters: B states, O numbers of an observation, A of an action, L of the latent state, H steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyprune_fast.graph import EntryPoint, Tie

LATENT = [Tie(("encode", "output", 0), (name, "input", 0)) for name in ("next", "act", "value")]
TIES = [*LATENT, Tie(("next", "output", 0), ("next", "input", 0))]


@dataclass(frozen=True)
class Widths:
    """Of a TOLD; the defaults are the official code's, for a cart-pole."""

    observation: int = 5
    action: int = 1
    latent: int = 50
    encoder: int = 256
    hidden: int = 512


class TOLD(nn.Module):
    """Encoder, dynamics, reward, policy and two values. Actions lie in [-1, 1]."""

    def __init__(self, widths: Widths | None = None) -> None:
        super().__init__()
        self.widths = w = widths or Widths()

        def mlp(inputs: int, outputs: int, *first: nn.Module) -> nn.Sequential:
            rest = nn.Linear(w.hidden, w.hidden), nn.ELU(), nn.Linear(w.hidden, outputs)
            return nn.Sequential(nn.Linear(inputs, w.hidden), *(first or (nn.ELU(),)), *rest)

        self.encoder = nn.Sequential(nn.Linear(w.observation, w.encoder), nn.ELU(), nn.Linear(w.encoder, w.latent))
        self.dynamics, self.reward = mlp(w.latent + w.action, w.latent), mlp(w.latent + w.action, 1)
        self.policy = mlp(w.latent, w.action)
        self.q1, self.q2 = (mlp(w.latent + w.action, 1, nn.LayerNorm(w.hidden), nn.Tanh()) for _ in range(2))

    def encode(self, observation: Tensor) -> Tensor:
        """(B, O) to the latent state (B, L)."""
        z: Tensor = self.encoder(observation)
        return z

    def next(self, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The state that an action leads to, (B, L), and its reward, (B, 1)."""
        x = torch.cat([z, action], -1)
        return self.dynamics(x), self.reward(x)

    def act(self, z: Tensor) -> Tensor:
        """The policy's action, (B, A)."""
        return torch.tanh(self.policy(z))

    def value(self, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Two estimates of the return from here on, (B, 1) each."""
        x = torch.cat([z, action], -1)
        return self.q1(x), self.q2(x)

    def forward(self, observation: Tensor, actions: Tensor | None = None) -> tuple[Tensor, ...]:
        """Imagines what actions (B, H, A) lead to, by default one of the policy's.

        Returns:
            H rewards; the policy's action in the last state, and its two values.
        """
        z = self.encode(observation)
        rewards = []
        for action in [self.act(z)] if actions is None else actions.unbind(1):
            z, reward = self.next(z, action)
            rewards.append(reward)
        last = self.act(z)
        return *rewards, last, *self.value(z, last)


def entries(widths: Widths, steps: int | None = None) -> dict[str, EntryPoint]:
    """Its four ways in, for `find_groups` with `TIES`; with a number of steps also the whole that imagines them."""
    observation, z = torch.randn(3, widths.observation), torch.randn(3, widths.latent)
    action = torch.randn(3, widths.action)
    points = {
        "encode": EntryPoint("encode", observation),
        "next": EntryPoint("next", (z, action)),
        "act": EntryPoint("act", z),
        "value": EntryPoint("value", (z, action)),
    }
    if steps:
        points["forward"] = EntryPoint("forward", (observation, torch.randn(3, steps, widths.action)))
    return points
