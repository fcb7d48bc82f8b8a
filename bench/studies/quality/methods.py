"""The methods that the laboratory compares: arguments of Pruner, each under a name; and the scores that only live here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyprune_fast.baselines import score_taylor
from pyprune_fast.demo.batches import Loaders
from pyprune_fast.graph import find_groups
from pyprune_fast.observe import eval_mode
from pyprune_fast.prune import score
from pyprune_fast.scoring import Scores

Batches = Iterable[tuple[Tensor, Tensor]]
Scorer = Callable[[nn.Module, Batches, Sequence[str], int], Scores]


@dataclass(frozen=True)
class Method:
    """A way to prune.

    Attributes:
        criterion: a criterion's name, or a function of model, calibration batches, layers and seed.
        options: further arguments of Pruner.
    """

    criterion: str | Scorer
    options: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self, data: Loaders, layers: Sequence[str], seed: int) -> dict[str, Any]:
        """What Pruner is to be called with, beside model, data, target and budget."""

        def scores(model: nn.Module) -> Scores:
            assert not isinstance(self.criterion, str)
            return self.criterion(model, data.calibration, layers, seed)

        criterion = self.criterion if isinstance(self.criterion, str) else scores
        return {"criterion": criterion, "layers": layers, "seed": seed, **self.options}


def by_name(name: str) -> Scorer:
    """A criterion of the library."""
    return lambda model, batches, layers, seed: score(model, batches, name, layers=layers, seed=seed)


def taylor(model: nn.Module, batches: Batches, layers: Sequence[str], seed: int) -> Scores:
    """By the gates of filters, also where a BatchNorm follows."""
    return score_taylor(model, batches, gate="weight", layers=layers)


def mean_rank(*scorers: Scorer) -> Scorer:
    """An ensemble: the mean of the ranks that several criteria give."""

    def scores(model: nn.Module, batches: Batches, layers: Sequence[str], seed: int) -> Scores:
        found = [scorer(model, batches, layers, seed).layers for scorer in scorers]
        ranks = {layer: [f[layer].argsort(stable=True).argsort().double() for f in found] for layer in found[0]}
        return Scores({layer: torch.stack(rows).mean(0) for layer, rows in ranks.items()}, "mean rank")

    return scores


def product(a: Scorer, b: Scorer) -> Scorer:
    """Both have to be large."""

    def scores(model: nn.Module, batches: Batches, layers: Sequence[str], seed: int) -> Scores:
        one, other = (scorer(model, batches, layers, seed).layers for scorer in (a, b))
        return Scores({layer: row * other[layer] for layer, row in one.items() if layer in other}, "product")

    return scores


def use(model: nn.Module, batches: Batches, layers: Sequence[str], seed: int) -> Scores:
    """What the layers that follow make of a channel: the deviation of their input times the norm of the weights on it."""
    example = next(iter(batches))[0][:1]
    groups = [group for group in find_groups(model, example) if not group.fixed and set(group.layers) & set(layers)]
    readers = {g.name: [m for m in g.members if m.dim == 1 and m.tensor.endswith(".weight")] for g in groups}
    names = {member.tensor.removesuffix(".weight") for members in readers.values() for member in members}
    moments: dict[str, Tensor] = {}

    def hook(name: str, module: nn.Module, inputs: Any) -> None:
        rows = inputs[0].movedim(1, 0).flatten(1).double()
        added = torch.stack([torch.full_like(rows[:, 0], rows.shape[1]), rows.sum(1), rows.square().sum(1)])
        moments[name] = moments.get(name, 0) + added

    handles = [model.get_submodule(name).register_forward_pre_hook(partial(hook, name)) for name in names]
    try:
        with eval_mode(model):
            for inputs, _ in batches:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for group in groups:
        total = torch.zeros(group.channels, dtype=torch.float64)
        for member in readers[group.name]:
            name = member.tensor.removesuffix(".weight")
            count, first, second = moments[name]
            weight: Any = model.get_submodule(name).weight
            squares = weight.detach().double().square().movedim(1, 0).flatten(1).sum(1)
            shares = squares * (second / count - (first / count).square())
            total += shares[member.positions(range(group.channels))].reshape(group.channels, -1).sum(1)
        found.update(dict.fromkeys(group.layers, total.sqrt()))
    return Scores(found, "use")


SAE, L1, FISHER = by_name("sae"), by_name("l1"), by_name("fisher")
CURVES = {"ranking": "curves"}

METHODS = {
    "l1": Method("l1"),
    "l2": Method("l2"),
    "fpgm": Method("fpgm"),
    "taylor": Method(taylor),
    "random": Method("random"),
    "sae": Method("sae"),
    "sae reversed": Method("reversed sae"),
    "default": Method("default"),
    # What was tried on the way.
    "fisher, local": Method("fisher"),
    "use, local": Method(use),
    "sae x use, local": Method(product(SAE, use)),
    "l1, curves": Method("l1", CURVES),
    "taylor, curves": Method(taylor, CURVES),
    "random, curves": Method("random", CURVES),
    "sae, curves": Method("sae", CURVES),
    "use, curves": Method(use, CURVES),
    "sae x use, curves": Method(product(SAE, use), CURVES),
    "ranks of sae and fisher, curves": Method(mean_rank(SAE, FISHER), CURVES),
    "l1, global": Method("l1", {"ranking": "global"}),
    "sae, global": Method("sae", {"ranking": "global"}),
    "ranks of sae and l1, local": Method(mean_rank(SAE, L1)),
    "sae, 4 rounds": Method("sae", {"rounds": 4}),
    "default, 4 rounds": Method("default", {"rounds": 4}),
    "fisher, curves": Method("fisher", CURVES),
    "fisher, least squares": Method("fisher", {"compensation": "least_squares"}),
    "l1, mean": Method("l1", {"compensation": "mean"}),
    "l1, least squares": Method("l1", {"compensation": "least_squares"}),
    "sae, least squares": Method("sae", {"compensation": "least_squares"}),
    "mrmr, local": Method("mrmr"),
    "cmim, local": Method("cmim"),
    "diversity, local": Method("diversity"),
}
