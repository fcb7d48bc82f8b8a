"""torch.nn.utils.prune with our scores: masks of whole channels, and the cut that makes what they hide go for good.

A mask keeps a weight's size and doubles its memory; it is for trying out. `mask_plan` masks what a plan would cut,
`plan_of_masks` finds what masks of any origin allow to cut, `remove_masks` makes them permanent; then `slicing.apply` cuts.

The same for torch.ao.pruning, whose pruner of the kind shrinks chains of linear layers and convolutions: see ScoresSparsifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.base_structured_sparsifier import BaseStructuredSparsifier
from torch.nn.utils import prune

from pyprune_fast._checks import describe
from pyprune_fast.graph import find_groups
from pyprune_fast.graph.copies import copy_model
from pyprune_fast.scoring import CONVOLUTIONS, Scores
from pyprune_fast.slicing import Plan

Amount = float | int


class ByScores(prune.BasePruningMethod):  # type: ignore[misc,unused-ignore]
    """Masks the channels of lowest score along one axis; see `by_scores`, which checks its arguments.

    Equal scores go in the order of the channels. On top of other structured masks, `amount` is of the channels that they left.

    Args:
        amount: how many channels, or the fraction of them in [0, 1], rounded to the nearest number.
        dim: the axis.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: Amount, dim: int = 0) -> None:
        self.amount = amount
        self.dim = dim

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask.

        Args:
            t: importance scores, the same for all entries of a channel.
            default_mask: what earlier masks left.
        """
        scores = t.movedim(self.dim, 0).reshape(t.shape[self.dim], -1)[:, 0]
        count = self.amount if isinstance(self.amount, int) else round(self.amount * len(scores))
        mask = default_mask.clone()
        mask.movedim(self.dim, 0)[scores.argsort(stable=True)[:count]] = 0
        return mask


def by_scores(module: nn.Module, name: str, amount: Amount, scores: Tensor, dim: int = 0) -> nn.Module:
    """Masks the channels of lowest score of one parameter: `ln_structured`, for scores of any origin.

    Args:
        module: the layer.
        name: of its parameter, such as "weight".
        amount: how many channels, an int, or the fraction of them, a float in [0, 1].
        scores: (C,), higher keeps, one for each position along `dim`.
        dim: the axis that channels lie on; 0 for outputs, 1 in transposed convolutions.

    Returns:
        The module, with `name_orig`, `name_mask` and the hook that `prune.remove` takes away.

    Raises:
        ValueError: no such parameter, scores of another length or not finite, an amount out of range. Nothing is masked then.

    Example:
        >>> layer = by_scores(nn.Linear(2, 4), "weight", 0.5, torch.tensor([1.0, 4.0, 3.0, 2.0]))
        >>> layer.weight_mask[:, 0]
        tensor([0., 1., 1., 0.])
    """
    held = getattr(module, name, None)
    if not isinstance(held, Tensor) or not -held.ndim <= dim < held.ndim:
        raise ValueError(f"by_scores: name: wanted a parameter with an axis {dim}, got {name!r}, {describe(held)}")
    channels = held.shape[dim]
    if scores.shape != (channels,) or not bool(scores.isfinite().all()):
        raise ValueError(f"by_scores: scores: wanted {channels} finite ones, got {describe(scores)}")
    if isinstance(amount, bool) or not (0 <= amount <= (channels if isinstance(amount, int) else 1)):
        raise ValueError(f"by_scores: amount: wanted a number in 0..{channels} or a fraction in [0, 1], got {amount!r}")
    shape = [channels if axis == dim % held.ndim else 1 for axis in range(held.ndim)]
    spread = scores.detach().to(held.device, torch.float64).view(shape).expand(held.shape)
    ByScores.apply(module, name, amount, dim, importance_scores=spread)  # type: ignore[no-untyped-call]
    return module


def prune_by_scores(model: nn.Module, scores: Scores, amount: Amount | Mapping[str, Amount]) -> nn.Module:
    """Masks the channels of lowest score of every layer that has scores: their filters and their biases.

    Args:
        model: the model.
        scores: as `score_model` gives them.
        amount: how many channels of each layer, or the fraction; or that by layer name.

    Returns:
        The model.

    Raises:
        ValueError: a layer that is no convolution or Linear; see `by_scores`.

    Example:
        >>> from pyprune_fast import score_weights
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> scores = score_weights(model, layers=["0"])
        >>> int(prune_by_scores(model, scores, 0.25)[0].bias_mask.sum())
        3
    """
    modules = dict(model.named_modules())
    if wrong := [name for name in scores.layers if not isinstance(modules.get(name), (*CONVOLUTIONS, nn.Linear))]:
        raise ValueError(f"prune_by_scores: scores: wanted names of convolutions and linear layers, got {wrong}")
    for name, row in scores.layers.items():
        layer: Any = modules[name]
        own = amount[name] if isinstance(amount, Mapping) else amount
        by_scores(layer, "weight", own, row, dim=int(getattr(layer, "transposed", False)))
        if layer.bias is not None:
            by_scores(layer, "bias", own, row)
    return model


def mask_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """Masks all that a plan would cut, of every parameter: the masked model computes what the cut one will.

    Norms over channels are the exception: a LayerNorm of the masked model still counts the masked ones. Buffers have no masks.

    Args:
        model: the model that the plan was made for.
        plan: the plan.

    Returns:
        The model.

    Raises:
        ValueError: a parameter that the model lacks, or of another shape. Nothing is masked then.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masks: dict[str, Tensor] = {}
    for group in plan.groups:
        for member in group.members:
            if member.tensor not in parameters:
                if member.tensor not in dict(model.named_buffers(remove_duplicate=False)):
                    raise ValueError(f"mask_plan: model: wanted a tensor named {member.tensor!r}, got none")
                continue
            held = parameters[member.tensor]
            if tuple(held.shape) != plan.extents[member.tensor]:
                raise ValueError(
                    f"mask_plan: tensor {member.tensor!r}: wanted {plan.extents[member.tensor]}, got {tuple(held.shape)}"
                )
            mask = masks.setdefault(member.tensor, torch.ones_like(held))
            mask.index_fill_(member.dim, member.positions(plan.remove[group.name]).to(mask.device), 0)
    for name, mask in masks.items():
        owner, _, last = name.rpartition(".")
        prune.custom_from_mask(model.get_submodule(owner), last, mask)  # type: ignore[no-untyped-call]
    return model


def remove_masks(model: nn.Module) -> nn.Module:
    """Makes all masks permanent (`prune.remove`): parameters are plain, with zeros where masked. Returns the model."""
    for module in model.modules():
        for name in _masked(module):
            prune.remove(module, name)  # type: ignore[no-untyped-call]
    return model


def plan_of_masks(model: nn.Module, example_inputs: Any, **options: Any) -> Plan:
    """The plan that cuts what masks hide: the channels that every layer which makes them has masked, filter and bias.

    Channels that some layer of their group goes on making stay, as does what is masked one by one. Where a BatchNorm follows, a
    masked channel is not zero but the norm's shift: cutting it changes what is computed, unless the norm is masked too
    (`mask_plan`).

    Args:
        model: a model with masks, of torch.nn.utils.prune; it is not changed.
        example_inputs: see `find_groups`.
        options: see `find_groups`.

    Returns:
        The plan, for `slicing.apply(remove_masks(model), plan)`.

    Raises:
        ValueError: no mask at all; see `find_groups`.

    Example:
        >>> from pyprune_fast import score_weights
        >>> from pyprune_fast.slicing import apply
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> model = prune_by_scores(model, score_weights(model, layers=["0"]), 0.25)
        >>> plan = plan_of_masks(model, torch.zeros(1, 2))
        >>> _ = apply(remove_masks(model), plan)
        >>> model[2].in_features
        3
    """
    if not any(_masked(module) for module in model.modules()):
        raise ValueError("plan_of_masks: model: wanted masks of torch.nn.utils.prune, got none")
    plain = copy_model(model, lambda name, tensor: tensor.detach())
    for module in plain.modules():
        for name in _masked(module):  # as prune.remove does it; the copy has no hooks for it to find
            held, mask = module._parameters.pop(f"{name}_orig"), module._buffers.pop(f"{name}_mask")
            assert held is not None
            assert mask is not None
            delattr(module, name)
            setattr(module, name, nn.Parameter(held.detach() * mask, requires_grad=held.requires_grad))
    groups = [group for group in find_groups(plain, example_inputs, **options) if not group.fixed]
    tensors = dict(plain.named_parameters(remove_duplicate=False))
    remove = {}
    for group in groups:
        made = torch.ones(group.channels, dtype=torch.bool)
        own = [m for m in group.members if m.tensor.rpartition(".")[0] in group.layers and m.tensor in tensors]
        for member in own:
            value = tensors[member.tensor].detach()
            if value.ndim == 1 or member.dim == _outputs(plain.get_submodule(member.tensor.rpartition(".")[0])):
                along = value.movedim(member.dim, 0)[member.positions(range(group.channels))]
                made &= (along == 0).reshape(group.channels, -1).all(1).cpu()
        if own and bool(made.any()) and not bool(made.all()):
            remove[group.name] = made.nonzero().flatten().tolist()
    return Plan.of(plain, groups, remove, note={"source": "masks"})


class ScoresSparsifier(BaseStructuredSparsifier):  # type: ignore[misc,unused-ignore]
    """torch.ao.pruning's structured pruner with our scores, in place of its SaliencyPruner (L1).

    `prepare(model, config)`, `step()`, then `prune()`, which removes the masked outputs of Linear and Conv2d layers in the
    chains that its FX patterns know. torch.ao.pruning calls this experimental.

    Args:
        scores: layer name -> (C,), higher keeps, as `score_model(...).layers`.
        sparsity_level: fraction of each layer's channels that goes, rounded down, as its own pruners do; the config may
            say otherwise for a layer.

    Raises:
        ValueError: on `step`, a layer of the config without scores, or with others than one for each output.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> pruner = ScoresSparsifier({"0": torch.tensor([1.0, 4.0, 3.0, 2.0])}, sparsity_level=0.5)
        >>> pruner.prepare(model, [{"tensor_fqn": "0.weight"}])
        >>> pruner.step()
        >>> pruner.prune().get_submodule("2").in_features
        2
    """

    def __init__(self, scores: Mapping[str, Tensor], sparsity_level: float = 0.5) -> None:
        super().__init__({"sparsity_level": sparsity_level})  # type: ignore[no-untyped-call,unused-ignore]
        self.scores = scores

    def update_mask(self, module: nn.Module, tensor_name: str, **kwargs: Any) -> None:
        """Called by `step` for each layer of the config."""
        mask = getattr(module.parametrizations, tensor_name)[0].mask
        layer = kwargs["module_fqn"]
        row = self.scores.get(layer)
        if row is None or row.shape != mask.shape:
            raise ValueError(f"ScoresSparsifier: scores: layer {layer!r}: wanted {tuple(mask.shape)}, got {describe(row)}")
        mask.data[row.argsort(stable=True)[: int(len(mask) * kwargs["sparsity_level"])]] = False


def _masked(module: nn.Module) -> list[str]:
    """The parameters of a module that are under a mask."""
    return [key.removesuffix("_orig") for key in module._parameters if f"{key.removesuffix('_orig')}_mask" in module._buffers]


def _outputs(layer: Any) -> int:
    """The axis of a layer's weight that its outputs lie on."""
    return int(getattr(layer, "transposed", False))
