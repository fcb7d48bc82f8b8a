"""A release: the plans that a rollout accepted and the weights it left, in one file, valid for one dense model."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyprune_fast.slicing import Cut, Plan, apply
from pyprune_fast.slicing.fingerprint import fingerprint

from .files import load_tensors, save_tensors
from .rollout import AFTER, Rollout, check_bound

FORMAT = "pyprune_fast.release"


@dataclass(frozen=True)
class Release:
    """Plans and weights. Pure data.

    Attributes:
        plans: bound to their weights, in order; see Rollout.plans.
        state: all parameters and buffers after the last one, by name.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> from pyprune_fast.prune import Metric, rollout
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> width = Metric("width", lambda model: model[0].out_features, floor=3)
        >>> done = rollout(model, [Plan.of(model, find_groups(model, x), {"0": [1]})], [width])
        >>> release, cut = Release.of(done), model(x)
        >>> done.undo()
        >>> _ = release.install(model)
        >>> torch.equal(model(x), cut)
        True
    """

    plans: tuple[Plan, ...]
    state: dict[str, Tensor]

    @staticmethod
    def of(rollout: Rollout) -> Release:
        """The release of a rollout, as its model is now.

        Raises:
            ValueError: no stage was accepted, or the model changed since.
        """
        if not rollout.plans:
            raise ValueError("Release.of: rollout: wanted an accepted stage, got none")
        _check_after("Release.of", rollout.model, rollout.plans[-1])
        state = {name: tensor.detach().clone() for name, tensor in _tensors(rollout.model).items()}
        return Release(rollout.plans, state)

    def install(self, model: nn.Module) -> list[Cut]:
        """Turns the dense model into the released one, in place.

        Args:
            model: the very model that the plans are bound to, weights included, on any device.

        Returns:
            The cuts, which bring back the dense model when undone in reverse order.

        Raises:
            ValueError: a model with other weights. It is unchanged then.
        """
        check_bound("Release.install", self.plans[0], fingerprint(model))
        cuts: list[Cut] = []
        try:
            for plan in self.plans:
                cuts.append(apply(model, plan))
            with torch.no_grad():
                for name, tensor in _tensors(model).items():
                    tensor.copy_(self.state[name])
            _check_after("Release.install", model, self.plans[-1])
        except BaseException:
            while cuts:
                cuts.pop().undo()
            raise
        return cuts

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the release to a file, which is replaced in one step."""
        save_tensors({"plans": [plan.to_json() for plan in self.plans], "state": self.state}, path, FORMAT)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Release:
        """Reads a file that `save` wrote; nothing in it is executed.

        Raises:
            ValueError: another file.
        """
        data = load_tensors(path, FORMAT, "Release.load")
        return Release(tuple(Plan.from_json(text) for text in data["plans"]), data["state"])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def _check_after(op: str, model: nn.Module, plan: Plan) -> None:
    if (now := fingerprint(model)) != plan.note.get(AFTER):
        raise ValueError(f"{op}: wanted the weights {str(plan.note.get(AFTER))[:12]} that were accepted, got {now[:12]}")
