"""Return of an agent's episodes, over common seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from torch import nn

from pyprune_fast._checks import check_count
from pyprune_fast.observe import eval_mode

from ..tune import device_of
from .estimate import Mean
from .metric import Metric, seeded
from .reading import Settings, named

Act = Callable[[nn.Module, Any], Any]


def episode_return(
    make_env: Callable[[], Any],
    act: Act,
    *,
    episodes: int = 10,
    seed: int = 0,
    max_steps: int = 1000,
    **settings: Unpack[Settings],
) -> Metric:
    """Mean return of an agent's episodes.

    Episode i starts with `env.reset(seed=seed + i)` and with the random states of torch, NumPy and Python seeded alike, so that
    all models meet the same starts and the same chance (common random numbers).

    Args:
        make_env: gives an environment with the interface of Gymnasium: reset(seed=) -> (observation, info), step(action) ->
            (observation, reward, terminated, truncated, info); closed afterwards if it has a `close`. One serves all episodes.
        act: (model, observation) -> action; called without gradients, the model in eval mode.
        episodes: how many.
        seed: of the first episode.
        max_steps: an episode ends after so many steps at the latest.
        settings: name, floor, tolerance, confidence; see Metric.

    Returns:
        A metric in the units of the reward, with Student's t bounds over episodes. No surrogate: give the agent's own loss on
        stored steps, `replace(metric, surrogate=...)`.

    Raises:
        TypeError, ValueError: a count out of range.

    Example:
        >>> class Walk:
        ...     def reset(self, seed):
        ...         self.left = 3
        ...         return 0.0, {}
        ...     def step(self, action):
        ...         self.left -= 1
        ...         return 0.0, action, self.left == 0, False, {}
        >>> episode_return(Walk, lambda model, observation: 2.0, episodes=4).measured(nn.Identity()).value
        6.0
    """
    check_count("episode_return", "episodes", episodes, 1)
    check_count("episode_return", "seed", seed, 0)
    check_count("episode_return", "max_steps", max_steps, 1)

    def measure(model: nn.Module) -> Mean:
        env = make_env()
        try:
            with eval_mode(model):
                return Mean.of([_episode(env, act, model, seed + i, max_steps) for i in range(episodes)])
        finally:
            if hasattr(env, "close"):
                env.close()

    return Metric(measure=measure, **named("episode return", settings))


def _episode(env: Any, act: Act, model: nn.Module, seed: int, max_steps: int) -> float:
    with seeded(seed, device_of(model)):
        observation, _ = env.reset(seed=seed)
        total = 0.0
        for _ in range(max_steps):
            observation, reward, terminated, truncated, _ = env.step(act(model, observation))
            total += float(reward)
            if terminated or truncated:
                break
    return total
