"""How far the agent of `agent.py` can be cut, and how safely: gate, Lyapunov test, compression limit, staged rollout.

    PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 python bench/studies/components/safety.py [--quick]

A cut agent passes if, each with 95 % confidence, it loses little return against the dense one in the same episodes, acts as it
does at half of the stored observations, and, started near the upright, lets V fall and settles as often as the dense one does.
In the rollout it is trained on after each stage: then its actions may be others.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from agent import FULL, QUICK, TEST, Agent, arguments, decide, episodes, find, importance, parse, same_action, solve
from record import between, resume, table
from tdmpc import observed, pendulum
from torch import Tensor, nn

from pyprune_fast.prune import LyapunovTest, Metric, compression_limit, lyapunov_test, rollout, stages_by_groups
from pyprune_fast.prune.metrics import Mean
from pyprune_fast.slicing import Plan
from pyprune_fast.slicing.fingerprint import fingerprint

KEYS = ("seed", "quick", "method")
LOST, SAME = 20.0, 0.5  # most return lost in the mean, least share of actions that stay
RADIUS, LEVEL = 0.3, 2.0  # the planner's chance moves it about inside this ball
WITHIN, STAGED = 0.05, 0.5  # of the bisection; what the rollout removes


def loses(agent: Agent, count: int, **settings: Any) -> Metric:
    """Return lost against the dense agent: the mean difference of episodes that both start alike."""
    dense = episodes(agent.model, count, TEST)
    return Metric("return lost", lambda model: Mean.of(dense - episodes(model, count, TEST)), "min", floor=LOST, **settings)


def follow(model: nn.Module, states: Tensor) -> Tensor:
    """The pendulum's next states (N, 2) under the planner."""
    return pendulum(states, decide(model, observed(states)))[0]


@torch.no_grad()
def lyapunov(agent: Agent) -> LyapunovTest:
    """The test near the upright, around the state that the dense planner keeps.

    Raises:
        ValueError: it keeps none, or is not stable there.
    """
    rest = torch.zeros(1, 2, dtype=torch.float64)
    for _ in range(200):
        rest = follow(agent.model, rest)
    return lyapunov_test(agent.model, follow, rest[0], starts=300, level=LEVEL, steps=20, radius=RADIUS)


def judges(agent: Agent) -> tuple[list[Metric], str]:
    """The metrics of the gate, and what is to be said of the Lyapunov test."""
    wanted = [loses(agent, agent.budget.test, confidence=0.95), same_action(agent, floor=SAME, confidence=0.95)]
    try:
        test = lyapunov(agent)
    except ValueError as error:  # an agent that keeps moving near the upright has no such test
        return wanted, str(error)
    return [*wanted, *test.metrics()], f"level {test.level:g}"


def plan_by(agent: Agent, scores: Mapping[str, Tensor], method: str) -> Callable[[float], Plan]:
    """A search's plan for any rho."""
    return lambda rho: solve(agent, scores, rho, method).plan


def trials(keys: Sequence[tuple[Any, ...]], folder: Path) -> Iterator[dict[str, Any]]:
    """The limit of each way to choose coefficients, and a rollout of its plan, for one agent."""
    seed, quick, _ = keys[0]
    agent = Agent.of(seed, QUICK if quick else FULL, folder)
    scores, (wanted, said) = importance(agent, "taylor"), judges(agent)
    before = fingerprint(agent.model)
    for *_, method in keys:
        limit = compression_limit(agent.model, plan_by(agent, scores, method), wanted, within=0.5 if quick else WITHIN)
        row: dict[str, Any] = {"lyapunov": said, "limit": limit.rho, "binding": limit.binding and limit.binding.name}
        row["tried"] = [[round(rho, 4), list(verdict.reasons)] for rho, verdict in limit.tried]
        plan = plan_by(agent, scores, method)(STAGED)
        latent = [group.name for group in agent.groups if group.kind == "coupling" and group.name in plan.remove]
        parts = [[name for name in plan.remove if name not in latent], latent]
        stages = stages_by_groups(plan, find, parts)  # the latent state is frozen first
        few = [loses(agent, max(2, agent.budget.test // 4), confidence=0.95)]
        free = [replace(metric, floor=None, confidence=None) if metric.name == "same action" else metric for metric in wanted]
        done = rollout(agent.model, stages, free, quick=few, tune=agent.tuned)
        row["stages"] = [[stage.accepted, list(stage.last.reasons)] for stage in done.stages]
        done.undo()
        if fingerprint(agent.model) != before:
            raise RuntimeError("safety: wanted the dense agent after undo, got another")
        yield row


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each agent and way to choose coefficients."""
    lines = []
    for row in sorted(rows, key=lambda row: (row["method"], row["seed"])):
        stages = ["passed" if passed else f"failed by {', '.join(map(_name, reasons))}" for passed, reasons in row["stages"]]
        limit = "none" if row["limit"] is None else f"{row['limit']:.2f}"
        lines.append([row["method"], row["seed"], row["lyapunov"], limit, row["binding"] or "", ", then ".join(stages)])
    found = {method: [row["limit"] or 0.0 for row in rows if row["method"] == method] for method in {r["method"] for r in rows}}
    means = ", ".join(f"{method} {statistics.mean(limits):.2f}" for method, limits in sorted(found.items()))
    header = ["coefficients", "agent", "Lyapunov test", "largest rho accepted", "binds", f"rollout to {STAGED}: stages"]
    return f"Largest rho that passes, mean: {means}.\n\n" + table(header, lines)


def _name(reason: str) -> str:
    """The metric that a reason speaks of."""
    return reason.partition(":")[0]


def main() -> None:
    """Runs what is missing, and writes the table."""
    given = parse(arguments("agent-safety.jsonl", __doc__))
    wanted = [(seed, given.quick, method) for seed in given.seeds for method in ("uniform", "gradient")]
    rows = resume(given.file, KEYS, wanted, partial(trials, folder=given.agents), part=2)
    given.docs.write_text(between(given.docs.read_text(), "agent-safety", summary(rows)))


if __name__ == "__main__":
    main()
