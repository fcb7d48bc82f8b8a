"""The study of the agent, quick: its groups, the band, the gate's undo, and the fast simulator against Gymnasium's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import agent
import plots
import pytest
import safety
import torch
from tdmpc import Recipe, Replay, Swing, cached, episode, tune
from told import TOLD, Widths
from torch import Tensor, nn

from pyprune_fast.prune import gate, metrics
from pyprune_fast.slicing import Plan, apply
from pyprune_fast.slicing.fingerprint import fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module's agents lie."""
    return tmp_path_factory.mktemp("agents")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """As in the study; the number of before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(part: ModuleType, marker: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], str]:
    """The rows and the docs of a quick run, which a second one leaves alone."""
    docs, file = folder / "docs.md", folder / f"{marker}.jsonl"
    docs.write_text(f"<!-- {marker} -->\n<!-- /{marker} -->\n")
    monkeypatch.setattr(sys, "argv", [marker, "--quick", "--file", str(file), "--docs", str(docs), "--agents", str(folder)])
    part.main()
    written = file.read_text()
    part.main()
    assert file.read_text() == written
    return [json.loads(line) for line in written.splitlines()], docs.read_text()


def test_quick(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, docs = run(agent, "agent", folder, monkeypatch)
    *cut, dense = rows
    assert [row["method"] for row in rows] == [*agent.METHODS, "dense"]
    for row in cut:
        assert abs(row["sparsity"] - row["rho"]) <= agent.QUICK.tolerance
        assert len(row["widths"]) == 12
        assert row["tuned"] != row["one_shot"]
        assert row["dense"] == dense["one_shot"]
    assert "| gradient | " in docs
    (folder / "agent.jsonl").write_text("".join(json.dumps(row | {"quick": False}) + "\n" for row in rows))
    plots.main(folder)
    assert ElementTree.parse(folder / "agent.svg").getroot().tag.endswith("svg")


def test_quick_safety(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, docs = run(safety, "agent-safety", folder, monkeypatch)
    assert [row["method"] for row in rows] == ["uniform", "gradient"]
    for row in rows:
        assert [rho for rho, _ in row["tried"]][:1] == [0.9]
        assert row["stages"]
    assert "| gradient | 0 | " in docs


def test_twelve_groups_and_a_gate_that_takes_back(folder: Path) -> None:
    subject = agent.Agent.of(0, agent.QUICK, folder)
    free = [group for group in subject.groups if not group.fixed]
    assert [group.kind for group in free].count("intra") == 11
    (latent,) = (group for group in free if group.kind == "coupling")
    assert (len(free), latent.name, latent.channels) == (12, "encoder.2", 8)
    assert latent.components == ("encoder", "dynamics", "reward", "policy", "q1", "q2")
    before, lost = fingerprint(subject.model), safety.loses(subject, 2, confidence=0.95)
    cut = apply(subject.model, Plan.of(subject.model, subject.groups, {group.name: [0, 2] for group in free}))
    assert subject.model.dynamics[4].out_features == 6
    verdict = gate(cut, [metrics.size(floor=1), lost])
    assert (verdict.accepted, verdict.rolled_back) == (False, True)
    assert fingerprint(subject.model) == before
    assert lost.estimate(subject.model).value == 0


def test_many_episodes_at_once_are_gymnasiums(folder: Path) -> None:
    model = agent.Agent.of(0, agent.QUICK, folder).model

    def act(model: nn.Module, observation: Any) -> Tensor:
        return agent.decide(model, torch.from_numpy(observation)[None])[0]

    single = metrics.episode_return(Swing, act, episodes=2, seed=7).estimate(model)
    assert float(agent.episodes(model, 2, 7).mean()) == pytest.approx(single.value, rel=1e-4)


def test_the_cache_gives_the_agent_back_and_not_another(folder: Path) -> None:
    path = folder / "cached.safetensors"
    small = Recipe(Widths(observation=3, latent=4, encoder=4, hidden=4), episodes=1, random_episodes=1, updates=1, batch=4)
    model, replay = cached(path, small, agent.IN_USE, 3)
    again, stored = cached(path, small, agent.IN_USE, 3)
    assert fingerprint(model) == fingerprint(again)
    assert all(torch.equal(a, b) for a, b in zip(vars(replay).values(), vars(stored).values(), strict=True))
    other, _ = cached(path, small, agent.IN_USE, 4)
    assert fingerprint(other) != fingerprint(model)


def test_training_on_what_is_stored_learns_the_rewards() -> None:
    torch.manual_seed(0)
    chance = torch.Generator().manual_seed(0)
    env = Swing()
    seen = [episode(env, seed, lambda observation: 2 * torch.rand(1, generator=chance) - 1) for seed in range(2)]
    env.close()
    replay = Replay.of(seen)
    recipe = Recipe(Widths(observation=3, latent=8, encoder=16, hidden=16), batch=32, rate=6e-3)
    model = TOLD(recipe.widths).requires_grad_(False)

    def error() -> float:
        z = model.encode(replay.observations[:, :-1].flatten(0, 1))
        return float((model.next(z, replay.actions.flatten(0, 1))[1][:, 0] - replay.rewards.flatten()).square().mean())

    before = error()
    tune(model, replay, recipe, agent.IN_USE, 100, seed=0)
    assert error() < 0.2 * before
