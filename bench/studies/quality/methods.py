"""Ways to choose channels: a score for every channel, an allocation over the layers, and the number of rounds.

A method gives plans; what is done with a plan (cut, fine-tune, judge) is the laboratory's, the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyprune_fast import AuraInformation, ChannelInformation, score_model
from pyprune_fast.baselines import score_fisher, score_fpgm, score_taylor
from pyprune_fast.demo.batches import Loaders
from pyprune_fast.observe import eval_mode
from pyprune_fast.prune import Target, fast_dtype, group_scores, loss_curves, mean_loss, plan_by_curves, plan_for
from pyprune_fast.scoring import score_random, score_weights
from pyprune_fast.slicing import Group, Plan

Scorer = Callable[[nn.Module, Loaders, Sequence[Group], int], Mapping[str, Tensor]]
CURVE_IMAGES, CURVE_POINTS = 512, 8


def by_layers(scores: Callable[[nn.Module, Loaders, int], Any]) -> Scorer:
    return lambda model, data, groups, seed: group_scores(groups, scores(model, data, seed).layers)


def reversed_(scorer: Scorer) -> Scorer:
    return lambda *arguments: {name: -row for name, row in scorer(*arguments).items()}


def ensemble(*scorers: Scorer) -> Scorer:
    """The mean of ranks."""

    def scores(*arguments: Any) -> dict[str, Tensor]:
        parts = [scorer(*arguments) for scorer in scorers]
        common = set.intersection(*(set(p) for p in parts))
        return {
            n: torch.stack([p[n].argsort(stable=True).argsort().double() for p in parts]).mean(0)
            for n in parts[0]
            if n in common
        }

    return scores


L1 = by_layers(lambda m, d, s: score_weights(m, 1))
L2 = by_layers(lambda m, d, s: score_weights(m, 2))
FPGM = by_layers(lambda m, d, s: score_fpgm(m))
RANDOM = by_layers(lambda m, d, s: score_random(m, s))
TAYLOR = by_layers(lambda m, d, s: score_taylor(m, d.calibration, gate="weight"))
FISHER = by_layers(lambda m, d, s: score_fisher(m, d.calibration))
AURA = by_layers(lambda m, d, s: score_model(m, d.calibration, AuraInformation()))
CHANNEL = by_layers(lambda m, d, s: score_model(m, d.calibration, ChannelInformation()))


def use(model: nn.Module, data: Loaders, groups: Sequence[Group], seed: int) -> dict[str, Tensor]:
    """What the layers that follow make of a channel: deviation of their input times the norm of the weights on it."""
    modules = dict(model.named_modules())
    members = {g.name: [m for m in g.members if m.dim == 1 and m.tensor.endswith(".weight")] for g in groups if not g.fixed}
    names = {m.tensor.removesuffix(".weight") for ms in members.values() for m in ms}
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    seen: dict[str, int] = {}
    handles = []
    for name in names:

        def hook(module: nn.Module, inputs: Any, name: str = name) -> None:
            rows = inputs[0].movedim(1, 0).flatten(1).double()
            sums[name] = sums.get(name, 0) + rows.sum(1)
            squares[name] = squares.get(name, 0) + rows.square().sum(1)
            seen[name] = seen.get(name, 0) + rows.shape[1]

        handles.append(modules[name].register_forward_pre_hook(hook))
    with eval_mode(model):
        for x, _ in data.calibration:
            model(x)
    for h in handles:
        h.remove()
    scores = {}
    for group in groups:
        total = torch.zeros(group.channels, dtype=torch.float64)
        for m in members.get(group.name, ()):
            name = m.tensor.removesuffix(".weight")
            variance = squares[name] / seen[name] - (sums[name] / seen[name]).square()
            weight = modules[name].weight.detach().double().square()
            share = weight.flatten(2).sum((0, 2)) * variance if weight.ndim > 2 else weight.sum(0) * variance
            total += share[m.positions(range(group.channels))].reshape(group.channels, -1).sum(1)
        if members.get(group.name):
            scores[group.name] = total.sqrt()
    return scores


def product(a: Scorer, b: Scorer) -> Scorer:
    def scores(*arguments: Any) -> dict[str, Tensor]:
        x, y = a(*arguments), b(*arguments)
        return {n: x[n] * y[n] for n in x if n in y}

    return scores


@dataclass(frozen=True)
class Method:
    score: Scorer
    allocation: Literal["local", "global", "curves"] = "local"
    rounds: int = 1


METHODS = {
    "l1": Method(L1),
    "l2": Method(L2),
    "fpgm": Method(FPGM),
    "taylor": Method(TAYLOR),
    "fisher": Method(FISHER),
    "fisher curves": Method(FISHER, "curves"),
    "aura+fisher curves": Method(ensemble(AURA, FISHER), "curves"),
    "use": Method(use),
    "use curves": Method(use, "curves"),
    "aura*use": Method(product(AURA, use)),
    "aura*use curves": Method(product(AURA, use), "curves"),
    "random": Method(RANDOM),
    "aura": Method(AURA),
    "aura reversed": Method(reversed_(AURA)),
    "channel": Method(CHANNEL),
    "l1 global": Method(L1, "global"),
    "aura global": Method(AURA, "global"),
    "taylor global": Method(TAYLOR, "global"),
    "l1 curves": Method(L1, "curves"),
    "aura curves": Method(AURA, "curves"),
    "taylor curves": Method(TAYLOR, "curves"),
    "random curves": Method(RANDOM, "curves"),
    "aura x4": Method(AURA, rounds=4),
    "aura+l1": Method(ensemble(AURA, L1)),
    "aura+taylor": Method(ensemble(AURA, TAYLOR)),
    "aura+taylor curves": Method(ensemble(AURA, TAYLOR), "curves"),
    "aura+l1 curves": Method(ensemble(AURA, L1), "curves"),
}


def plan_of(method: Method, model: nn.Module, data: Loaders, groups: Sequence[Group], target: Target, seed: int) -> Plan:
    """The plan of one round."""
    example = next(iter(data.test))[0][:1]
    convolutions = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    scores = {n: r for n, r in method.score(model, data, groups, seed).items() if n in convolutions}
    if method.allocation == "curves":
        loss = partial(mean_loss, loader=data.calibration, images=CURVE_IMAGES, autocast=fast_dtype(), batch_statistics=True)
        curves = loss_curves(model, groups, scores, loss, points=CURVE_POINTS)
        return plan_by_curves(model, groups, scores, curves, target=target, example_inputs=example)
    return plan_for(model, groups, scores, target=target, example_inputs=example, ranking=method.allocation)
