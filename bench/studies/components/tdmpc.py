"""A small TD-MPC on Pendulum-v1: planning by MPPI in the latent space of a TOLD, trained by temporal differences.

After Hansen et al., arXiv 2203.04955, and its official code, with these differences: replay is drawn evenly; a plan starts from
nothing, not from the last one, so that the planner is a function of the observation alone. A step is two of the simulator's.
Letters as in `told`; S sampled action sequences.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from told import TOLD, Widths
from torch import Tensor, nn

REPEAT, STEPS = 2, 100  # how long an action is kept, and how many there are in an episode
TORQUE, REWARD = 2.0, 0.1  # the units of actions and of learned rewards


@dataclass(frozen=True)
class Recipe:
    """How an agent is made. `Planner` holds what it also needs in use."""

    widths: Widths = field(default_factory=lambda: Widths(observation=3, latent=32, encoder=128, hidden=128))
    episodes: int = 15
    random_episodes: int = 5
    updates: int = 100
    batch: int = 128
    rate: float = 1e-3


@dataclass(frozen=True)
class Planner:
    """Model predictive path integral: the best sequences of each iteration set mean and deviation of the next."""

    samples: int = 192
    of_policy: int = 16
    elites: int = 24
    iterations: int = 3
    horizon: int = 5
    discount: float = 0.99
    temperature: float = 5.0  # for returns in the unit of learned rewards
    least_deviation: float = 0.05

    @torch.no_grad()
    def __call__(self, model: TOLD, observation: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the first action, (B, A) each, at observations (B, O)."""
        B, A, H = len(observation), model.widths.action, self.horizon
        z = model.encode(observation)
        own = self._of_policy(model, z, chance)
        mean, deviation = z.new_zeros(B, 1, H, A), z.new_ones(B, 1, H, A)
        for _ in range(self.iterations):
            noise = torch.randn(1, self.samples, H, A, generator=chance)
            actions = torch.cat([(mean + deviation * noise).clamp(-1, 1), own], 1)
            worth, best = self._worth(model, z, actions).topk(self.elites, 1)
            weight = (self.temperature * worth).softmax(1)[..., None, None]
            elites = actions.gather(1, best[..., None, None].expand(-1, -1, H, A))
            mean = (weight * elites).sum(1, keepdim=True)
            deviation = (weight * (elites - mean).square()).sum(1, keepdim=True).sqrt().clamp(self.least_deviation, 1)
        return mean[:, 0, 0], deviation[:, 0, 0]

    def _of_policy(self, model: TOLD, z: Tensor, chance: torch.Generator) -> Tensor:
        """Sequences of the policy's own, with some noise, (B, P, H, A)."""
        z = z.repeat_interleave(self.of_policy, 0)
        actions = []
        for _ in range(self.horizon):
            noise = torch.randn(self.of_policy, model.widths.action, generator=chance).repeat(len(z) // self.of_policy, 1)
            actions.append((model.act(z) + self.least_deviation * noise).clamp(-1, 1))
            z, _ = model.next(z, actions[-1])
        return torch.stack(actions, 1).view(-1, self.of_policy, self.horizon, model.widths.action)

    def _worth(self, model: TOLD, z: Tensor, actions: Tensor) -> Tensor:
        """What sequences (B, S, H, A) are worth, (B, S): the rewards of their steps and the value of where they lead."""
        z = z.repeat_interleave(actions.shape[1], 0)
        total = z.new_zeros(len(z), 1)
        for step, action in enumerate(actions.flatten(0, 1).unbind(1)):
            z, reward = model.next(z, action)
            total += self.discount**step * reward
        total += self.discount**self.horizon * torch.minimum(*model.value(z, model.act(z)))
        return total.view(actions.shape[:2])


class Swing(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pendulum-v1 with actions in [-1, 1] that are kept for two steps; the rewards of both are added."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("Pendulum-v1"))

    def step(self, action: Tensor) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's."""
        total, torque = 0.0, TORQUE * action.numpy()
        for _ in range(REPEAT):
            observation, reward, terminated, truncated, info = self.env.step(torque)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


@dataclass
class Replay:
    """Whole episodes: observations (E, T + 1, O), actions (E, T, A), rewards (E, T) in the learned unit."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor

    @classmethod
    def of(cls, episodes: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Replay:
        """From single episodes."""
        return cls(*(torch.stack(parts) for parts in zip(*episodes, strict=True)))

    def draw(self, count: int, horizon: int, chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Stretches drawn evenly: observations (B, H + 1, O), actions (B, H, A), rewards (B, H, 1)."""
        E, T = self.rewards.shape
        episode = torch.randint(E, (count, 1), generator=chance)
        at = torch.randint(T - horizon + 1, (count, 1), generator=chance) + torch.arange(horizon + 1)
        steps = at[:, :-1]
        return self.observations[episode, at], self.actions[episode, steps], self.rewards[episode, steps, None]


class Learner:
    """The official losses: consistency 2, reward 0.5, value 0.1, later steps half as heavy; a target that follows at 0.01."""

    def __init__(self, model: TOLD, planner: Planner, rate: float, seed: int) -> None:
        self.model, self.target, self.planner = model, copy.deepcopy(model).requires_grad_(False), planner
        self.chance = torch.Generator().manual_seed(seed)
        self._world = [p for name, p in model.named_parameters() if not name.startswith("policy")]
        self._adam = torch.optim.Adam(self._world, rate)
        self._adam_policy = torch.optim.Adam(model.policy.parameters(), rate)

    def losses(self, stretch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The world model's loss, one number a stretch, (B,), and the imagined states."""
        observations, actions, rewards = stretch
        with torch.no_grad():
            wanted = self.target.encode(observations[:, 1:])
            z = self.model.encode(observations[:, 1:])
            future = torch.minimum(*self.target.value(z, self.model.act(z)))
            returns = rewards + self.planner.discount * future
        z = self.model.encode(observations[:, 0])
        loss, states = z.new_zeros(len(z)), [z]
        for step, action in enumerate(actions.unbind(1)):
            values = self.model.value(z, action)
            z, reward = self.model.next(z, action)
            states.append(z)
            parts = 2 * (z - wanted[:, step]).square().mean(1) + 0.5 * (reward - rewards[:, step]).square().mean(1)
            parts = parts + 0.1 * sum((value - returns[:, step]).square().mean(1) for value in values)
            loss = loss + 0.5**step * parts
        return loss, states

    def choice(self, states: Sequence[Tensor]) -> Tensor:
        """What the policy's actions are worth in imagined states, (B,): what the policy learns from."""
        values = [torch.minimum(*self.model.value(z, self.model.act(z)))[:, 0] for z in (s.detach() for s in states)]
        return torch.stack([0.5**step * value for step, value in enumerate(values)]).sum(0)

    def update(self, replay: Replay, batch: int) -> None:
        """One step of Adam on all components."""
        loss, states = self.losses(replay.draw(batch, self.planner.horizon, self.chance))
        self._adam.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._world, 10)
        self._adam.step()
        self._adam_policy.zero_grad()
        (-self.choice(states)).mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.policy.parameters(), 10)
        self._adam_policy.step()
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.model.parameters(), strict=True):
                old.lerp_(new, 0.01)


def episode(env: Swing, seed: int, act: Any) -> tuple[Tensor, Tensor, Tensor]:
    """One episode of a function of the observation (O,): what `Replay` keeps."""
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, done = [torch.from_numpy(observation)], [], [], False
    while not done:
        actions.append(act(observations[-1]))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(torch.from_numpy(observation))
        rewards.append(REWARD * reward)
        done = terminated or truncated
    return torch.stack(observations).float(), torch.stack(actions), torch.tensor(rewards)


def train(recipe: Recipe, planner: Planner, seed: int, report: Any = None) -> tuple[TOLD, Replay]:
    """An agent and what it has seen; the same for the same seed on one thread of one machine."""
    torch.manual_seed(seed)
    model, env, episodes = TOLD(recipe.widths), Swing(), []
    learner = Learner(model, planner, recipe.rate, seed)
    for number in range(recipe.episodes):

        def act(observation: Tensor, first: bool = number < recipe.random_episodes, late: float = number / 20) -> Tensor:
            if first:
                return 2 * torch.rand(recipe.widths.action, generator=learner.chance) - 1
            mean, deviation = planner(model, observation[None], learner.chance)
            noise = deviation.clamp(min=max(planner.least_deviation, 0.5 * (1 - late)))
            return (mean + noise * torch.randn(mean.shape, generator=learner.chance)).clamp(-1, 1)[0]

        episodes.append(episode(env, 1000 * (seed + 1) + number, act))
        if report:
            report(number, float(episodes[-1][2].sum()) / REWARD)
        if number + 1 >= recipe.random_episodes:
            replay = Replay.of(episodes)
            for _ in range(recipe.updates * (recipe.random_episodes if number + 1 == recipe.random_episodes else 1)):
                learner.update(replay, recipe.batch)
    env.close()
    return model.eval().requires_grad_(False), Replay.of(episodes)


def tune(model: TOLD, replay: Replay, recipe: Recipe, planner: Planner, updates: int, seed: int) -> None:
    """Goes on training on what is stored, without the environment."""
    model.requires_grad_(True)
    learner = Learner(model, planner, recipe.rate / 3, seed)
    for _ in range(updates):
        learner.update(replay, recipe.batch)
    model.requires_grad_(False)


def cached(path: Path, recipe: Recipe, planner: Planner, seed: int) -> tuple[TOLD, Replay]:
    """The agent from a file of safetensors, trained and written if there is none of this recipe."""
    made = json.dumps([asdict(recipe), asdict(planner), seed])
    if path.exists():
        with safe_open(path, "pt") as file:
            if file.metadata()["made"] == made:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                model = TOLD(recipe.widths)
                model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
                return model.eval().requires_grad_(False), Replay(*(tensors[name] for name in Replay.__annotations__))
    model, replay = train(recipe, planner, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()} | vars(replay)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"made": made})
    return model, replay


def pendulum(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """`Swing` for many states at once: angles and speeds (N, 2) in float64, actions (N, 1); the next ones, and rewards (N,)."""
    angle, speed = states.unbind(1)
    torque, total = TORQUE * actions[:, 0].to(states.dtype).clamp(-1, 1), torch.zeros_like(angle)
    for _ in range(REPEAT):
        lean = (angle + math.pi) % (2 * math.pi) - math.pi
        total = total - (lean**2 + 0.1 * speed**2 + 0.001 * torque**2)
        speed = (speed + (15 * torch.sin(angle) + 3 * torque) * 0.05).clamp(-8, 8)
        angle = angle + 0.05 * speed
    return torch.stack([angle, speed], 1), total


def observed(states: Tensor) -> Tensor:
    """What the agent sees of states (N, 2): (N, 3) float32."""
    return torch.stack([states[:, 0].cos(), states[:, 0].sin(), states[:, 1]], 1).float()


def starts(seeds: Sequence[int]) -> Tensor:
    """Where Pendulum-v1 starts episodes of these seeds, (N, 2) float64."""
    env = Swing()
    states = []
    for seed in seeds:
        env.reset(seed=seed)
        states.append(torch.from_numpy(env.unwrapped.state))  # type: ignore[attr-defined]
    env.close()
    return torch.stack(states)


@torch.no_grad()
def returns(decide: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """What episodes from these starts return, (N,), all at once, if actions follow from observations (N, O)."""
    total = torch.zeros(len(states), dtype=torch.float64)
    for _ in range(STEPS):
        states, reward = pendulum(states, decide(observed(states)))
        total += reward
    return total
