"""A TD-MPC agent cut under its return, after arXiv 2507.14882: coefficients of twelve groups by every search, on Pendulum-v1.

    PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 python bench/studies/components/agent.py [--quick]

Agents are trained once a seed (kept in build/agents). The searches measure candidates by a few episodes; all that is reported
is of other episodes, whose starts all models share: return after the cut, return after further training on what the agent has
stored, and the share of actions that stay. Rows of JSON are added to a file, and what is there already is not run again.
`safety.py` does the rest: gate, rollout, how far it can go.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import ROOT, between, resume, table, with_interval
from tdmpc import Learner, Planner, Recipe, Replay, cached, returns, starts, tune
from told import TIES, TOLD, Widths, entries
from torch import Tensor, nn

from pyprune_fast.baselines import score_taylor
from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Allocation, Metric, Problem, Target, group_scores, searches
from pyprune_fast.prune.metrics import Mean, Rate
from pyprune_fast.scoring import score_weights
from pyprune_fast.slicing import Group, apply

KEYS = ("seed", "quick", "importance", "rho", "method")
METHODS = ("uniform", "global", "grid", "gradient", "spsa")
IMPORTANCES = ("taylor", "l2")
DENSE = "none"  # the importance of rows of the dense agent, which the same training makes better, too
CLOSE = 0.1  # actions in [-1, 1] that differ by less are the same
IN_USE = Planner(
    samples=20, of_policy=4, elites=24, iterations=2, horizon=3
)  # as good as the one that trains, and six times as fast
SELECTION, TEST = 50_000, 90_000  # seeds of episodes; those of training are below 10,000


@dataclass(frozen=True)
class Budget:
    """How much of everything."""

    recipe: Recipe = field(default_factory=Recipe)
    planner: Planner = field(default_factory=Planner)
    rhos: tuple[float, ...] = (0.3, 0.5, 0.7)
    tolerance: float = 0.005
    selection: int = 8
    test: int = 20
    samples: int = 256
    gradient: int = 100
    spsa: int = 15
    levels: tuple[float, ...] = (0.0, 0.45, 0.9)  # 3^7 points, of which 22 to 49 are within the tolerance
    updates: int = 100


FULL = Budget()
QUICK = Budget(
    Recipe(Widths(observation=3, latent=8, encoder=16, hidden=16), episodes=3, random_episodes=2, updates=5, batch=16),
    IN_USE, rhos=(0.5,), tolerance=0.02, selection=1, test=1, samples=16, gradient=20, spsa=2, levels=(0.2, 0.7), updates=5,
)  # fmt: skip


@dataclass(frozen=True)
class Agent:
    """A dense agent with what it has seen, and its groups."""

    model: TOLD
    replay: Replay
    groups: Sequence[Group]
    budget: Budget
    seed: int

    @classmethod
    def of(cls, seed: int, budget: Budget, folder: Path) -> Agent:
        """Trained, or read from the folder."""
        model, replay = cached(folder / f"agent-{seed}.safetensors", budget.recipe, budget.planner, seed)
        return cls(model, replay, find(model), budget, seed)

    def stretch(self) -> tuple[Tensor, Tensor, Tensor]:
        """A fixed draw from what is stored: observations, actions, rewards."""
        return self.replay.draw(self.budget.samples, IN_USE.horizon, torch.Generator().manual_seed(self.seed))

    def tuned(self, model: nn.Module) -> None:
        """Goes on training the model on what is stored."""
        assert isinstance(model, TOLD)
        tune(model, self.replay, self.budget.recipe, self.budget.planner, self.budget.updates, self.seed)


def find(model: nn.Module) -> list[Group]:
    """Its groups: eleven inside one of six components, and the latent state, which all of them share."""
    return find_groups(model, points(model), ties=TIES)


def points(model: nn.Module) -> Mapping[str, Any]:
    """Its entry points, as wide as the model is now."""
    assert isinstance(model, TOLD)
    latent = model.dynamics[4].out_features
    assert isinstance(latent, int)
    return entries(Widths(model.widths.observation, model.widths.action, latent), IN_USE.horizon)


def decide(model: nn.Module, observations: Tensor) -> Tensor:
    """The planner's actions, (B, A), with the same chance each time: a function of the observations (B, O)."""
    assert isinstance(model, TOLD)
    return IN_USE(model, observations, torch.Generator().manual_seed(0))[0]


def episodes(model: nn.Module, count: int, first: int) -> Tensor:
    """Returns of episodes whose seeds count up from the first one, (count,): those of `metrics.episode_return`, all at once."""
    return returns(partial(decide, model), starts(range(first, first + count)))


def same_action(agent: Agent, **settings: Any) -> Metric:
    """The share of stored observations at which a model acts as the dense agent does."""
    observations = agent.stretch()[0][:, 0]
    wanted = decide(agent.model, observations)

    def measure(model: nn.Module) -> Rate:
        near = (decide(model, observations) - wanted).abs().amax(1) < CLOSE
        return Rate(int(near.sum()), len(near))

    return Metric("same action", measure, **settings)


def fidelity(run: Callable[..., tuple[Tensor, ...]], batch: Sequence[Tensor]) -> Tensor:
    """How near imagined rewards, action and values are to the dense agent's, in decibels: what the gradient follows."""
    observations, actions, *wanted = batch
    pairs = zip(run(observations, actions), wanted, strict=True)
    error = torch.stack([(got - want).square().mean() / want.var() for got, want in pairs]).mean()
    return -10 * torch.log10(error + 1e-6)


@torch.no_grad()
def batches(agent: Agent) -> list[tuple[Tensor, ...]]:
    """Stored observations and actions with what the dense agent imagines of them."""
    observations, actions, _ = agent.stretch()
    given = observations[:, 0], actions
    return [(*given, *agent.model(*given))]


class Losses(nn.Module):
    """All that a TD-MPC learns from, for single stretches by number: what Taylor's scores are the gradient of."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.model = agent.model
        self._learner, self._stretch = Learner(agent.model, IN_USE, 0.0, agent.seed), agent.stretch()

    def forward(self, number: Tensor) -> Tensor:
        """(B,) numbers to (B,) losses."""
        observations, actions, rewards = (part[number] for part in self._stretch)
        loss, states = self._learner.losses((observations, actions, rewards))
        return loss - self._learner.choice(states)


def importance(agent: Agent, kind: str) -> dict[str, Tensor]:
    """Scores of all groups' channels."""
    if kind == "l2":
        return group_scores(agent.groups, score_weights(agent.model, 2).layers)
    single = [(torch.tensor([i]), torch.tensor([i])) for i in range(agent.budget.samples)]
    layers = score_taylor(Losses(agent), single, loss=lambda losses, _: losses.mean(), gate="weight").layers
    return group_scores(agent.groups, {name.removeprefix("model."): scores for name, scores in layers.items()})


def problem(agent: Agent, scores: Mapping[str, Tensor], rho: float, **settings: Any) -> Problem:
    """Coefficients for the best return of a few episodes at this sparsity in parameters."""
    chosen_by = partial(episodes, count=agent.budget.selection, first=SELECTION)
    objective = Metric("return", lambda model: Mean.of(chosen_by(model).tolist()), surrogate=fidelity)
    return Problem(
        agent.model, agent.groups, scores, points(agent.model), metrics=[objective], target=Target("parameters", rho),
        tolerance=agent.budget.tolerance, ties=TIES, **settings,
    )  # fmt: skip


def solve(agent: Agent, scores: Mapping[str, Tensor], rho: float, method: str) -> Allocation:
    """By one of the searches; the grid shares a coefficient among groups of the same components."""
    budget, posed = agent.budget, problem(agent, scores, rho, share="component" if method == "grid" else "group")
    search: dict[str, Callable[[Problem], Allocation]] = {
        "uniform": searches.uniform,
        "global": searches.global_ranking,
        "grid": partial(searches.grid, levels=budget.levels),
        "gradient": partial(searches.gradient, batches=batches(agent), steps=budget.gradient),
        "spsa": partial(searches.spsa, steps=budget.spsa, seed=agent.seed),
    }
    return search[method](posed)


def trials(keys: Sequence[tuple[Any, ...]], folder: Path) -> Iterator[dict[str, Any]]:
    """All that is wanted of one agent with one importance."""
    seed, quick, kind, *_ = keys[0]
    agent = Agent.of(seed, QUICK if quick else FULL, folder)
    if kind == DENSE:
        yield from (measured(agent, agent.model) for _ in keys)
        return
    scores, dense = importance(agent, kind), float(episodes(agent.model, agent.budget.test, TEST).mean())
    for *_, rho, method in keys:
        yield {"dense": dense, **judged(agent, solve(agent, scores, rho, method))}


def measured(agent: Agent, model: TOLD) -> dict[str, Any]:
    """What a model does in the test episodes, and what a copy that is trained on does."""
    row: dict[str, Any] = {"one_shot": float(episodes(model, agent.budget.test, TEST).mean())}
    row["same_action"] = same_action(agent).estimate(model).value
    agent.tuned(trained := copy.deepcopy(model))
    return row | {"tuned": float(episodes(trained, agent.budget.test, TEST).mean())}


def judged(agent: Agent, found: Allocation) -> dict[str, Any]:
    """What a plan does in the test episodes, on a copy."""
    pruned = copy.deepcopy(agent.model)
    apply(pruned, found.plan, undo=False)
    row = measured(agent, pruned) | {"selected": found.candidate.table.rows[0].value}
    left = sum(p.numel() for p in pruned.parameters()) / sum(p.numel() for p in agent.model.parameters())
    assert abs(found.candidate.sparsity - (1 - left)) < 1e-12
    counts = {"evaluations": found.evaluations, "points": found.points, "widths": dict(found.coefficients)}
    return row | {"sparsity": found.candidate.sparsity, "seconds": round(found.seconds, 2)} | counts


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for each importance: return after the cut / after more training, mean and 95 % interval over agents."""
    cells: dict[str, dict[tuple[str, float], list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["importance"]][row["method"], row["rho"]].append(row)
    dense = _cell(cells.pop(DENSE, {}).get(("dense", 0.0), []))
    parts = [f"Dense agents: {dense}."]
    for kind, found in cells.items():
        rhos = sorted({rho for _, rho in found})
        run = [name for name in METHODS if any((name, rho) in found for rho in rhos)]
        lines = [[name, *(_cell(found[name, rho]) for rho in rhos), _cost(found, name)] for name in run]
        header = ["method", *(f"rho {rho}" for rho in rhos), "candidates measured; seconds"]
        parts.append(f"**{kind}**\n\n" + table(header, lines))
    return "\n\n".join(parts)


def _cell(rows: Sequence[Mapping[str, Any]]) -> str:
    return " / ".join(with_interval([row[when] for row in rows]) for when in ("one_shot", "tuned")) if rows else ""


def _cost(found: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]], name: str) -> str:
    rows = [row for (method, _), cell in found.items() if method == name for row in cell]
    return " ; ".join(f"{statistics.mean(row[key] for row in rows):.0f}" for key in ("evaluations", "seconds")) if rows else ""


def arguments(file: str, description: str | None) -> argparse.ArgumentParser:
    """What both parts of the study take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny agent, hardly trained: shows that all runs, says nothing")
    parser.add_argument("--seeds", type=int, nargs="+", help="of agents; default 0 1 2, quick 0")
    parser.add_argument("--file", type=Path, default=ROOT / "bench" / "results" / file)
    parser.add_argument("--agents", type=Path, default=ROOT / "build" / "agents")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "coefficients.md")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with seeds in any case; from here on, one thread."""
    given = parser.parse_args()
    given.seeds = given.seeds or ([0] if given.quick else [0, 1, 2])
    torch.set_num_threads(1)
    return given


def main() -> None:
    """Runs what is missing, and writes the table."""
    parser = arguments("agent.jsonl", __doc__)
    parser.add_argument("--importances", nargs="*", choices=IMPORTANCES, help="default all, quick the first one")
    given = parse(parser)
    budget = QUICK if given.quick else FULL
    kinds = given.importances if given.importances is not None else IMPORTANCES[: 1 if given.quick else None]
    wanted = [
        (seed, given.quick, kind, rho, method)
        for kind in kinds
        for seed in given.seeds
        for rho in budget.rhos
        for method in METHODS
    ]
    wanted += [(seed, given.quick, DENSE, 0.0, "dense") for seed in given.seeds]
    rows = resume(given.file, KEYS, wanted, lambda keys: trials(keys, given.agents), part=3)
    given.docs.write_text(between(given.docs.read_text(), "agent", summary(rows)))


if __name__ == "__main__":
    main()
