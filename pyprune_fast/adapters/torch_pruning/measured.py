"""Importances of what layers compute on data: information about the label, entropy, or any scores of this package.

Scores belong to layers, by module. When a pruner cuts layers, their scores follow: which channels went is read in the pruner's
own history, and what it means for each layer in the group that was scored before.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from pyprune_fast import ops
from pyprune_fast.distributed import Group as ProcessGroup
from pyprune_fast.estimators import AuraEntropy, AuraInformation, ChannelInformation, Estimator
from pyprune_fast.observe import Tap
from pyprune_fast.parallel import unwrapped
from pyprune_fast.scoring import CONVOLUTIONS, Scores, by_output, score_model

from .groups import Entry, Positions, is_out
from .importance import TINY, GroupImportance, Normalizer, Reduction


class _Row(NamedTuple):
    """A layer's scores."""

    name: str
    scores: Tensor  # (C,) float32 on the CPU


class _Part(NamedTuple):
    """Which of a layer's positions go with which channels of a group's root."""

    layer: weakref.ref[nn.Module]
    positions: Positions
    channels: Positions


class _History:
    """A pruner's history, up to where it was read, and the groups scored since: (root's name, out) -> layers."""

    def __init__(self, entries: list[Any]) -> None:
        self.entries = entries
        self.read = len(entries)
        self.groups: dict[tuple[str, bool], list[_Part]] = {}


class ScoresImportance(GroupImportance):
    """Any scores of layers' channels where Torch-Pruning wants an importance: those of this package's functions, or your own.

    A group's score is reduced from those of the layers that make its channels (`group_reduction`); layers without scores do not
    count, and a group without any is left whole. Channels with equal scores of 0, as dead ones have, go in the order of their
    filters' sizes.

    Scores follow the model through cuts by pruners that were given this object, by `step` here or by Torch-Pruning's own, one
    step after the other; weights may be trained in between. Any other change of widths is refused until new scores are taken.

    Args:
        group_reduction, normalizer: see GroupImportance.

    Raises:
        ValueError: another group_reduction or normalizer.

    Example:
        >>> import torch_pruning as tp
        >>> from pyprune_fast.baselines import score_fpgm
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> importance = ScoresImportance().take(model, score_fpgm(model))
        >>> pruner = tp.pruner.MagnitudePruner(model, torch.zeros(1, 1, 8, 8), importance=importance, ignored_layers=[model[2]])
        >>> pruner.step()
        >>> model[2].in_channels
        2
    """

    def __init__(self, group_reduction: Reduction = "mean", normalizer: Normalizer = "mean") -> None:
        super().__init__(group_reduction, normalizer)
        self.scores: Scores | None = None
        self._rows: weakref.WeakKeyDictionary[nn.Module, _Row] = weakref.WeakKeyDictionary()
        self._histories: list[_History] = []

    @torch.no_grad()
    def take(self, model: nn.Module, scores: Scores) -> Self:
        """Take over scores of a model's layers, in place of all that were there.

        Args:
            model: the model that will be pruned; in DistributedDataParallel or not.
            scores: of it: layer name -> (C,) finite, >= 0, higher keeps.

        Returns:
            self; `.scores` is what was taken.

        Raises:
            ValueError: a layer that is no convolution or Linear of the model, or scores that are not one for each channel,
                finite and >= 0. Then nothing is taken.
        """
        where = type(self).__name__
        modules = dict(unwrapped(model).named_modules())
        rows: dict[nn.Module, _Row] = {}
        for name, values in scores.layers.items():
            layer = modules.get(name)
            if not isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
                raise ValueError(f"{where}: scores: wanted names of convolutions and linear layers, got {name!r}")
            if values.shape != (channels := _channels(layer),) or not bool((values.isfinite() & (values >= 0)).all()):
                raise ValueError(f"{where}: scores: layer {name!r}: wanted {channels} finite ones >= 0, got {values}")
            sizes = ops.norms(by_output(layer, layer.weight), 2)[0].cpu()
            vector = values.detach().to("cpu", torch.float32)
            rows[layer] = _Row(name, torch.where(vector < TINY, TINY * (1 + sizes / sizes.max().clamp(min=TINY)), vector))
        self._rows = weakref.WeakKeyDictionary(rows)
        self._histories = []
        self.scores = scores
        return self

    def _begin(self, group: Any, entries: Sequence[Entry]) -> None:
        if self.scores is None:
            raise RuntimeError(f"{type(self).__name__}: wanted scores before the first group: fit or take, got none")
        for history in self._histories:
            self._follow(history)
        graph = getattr(group, "_DG", None)
        if graph is None or not hasattr(graph, "_pruning_history"):
            return  # an old version, whose cuts cannot be followed: scores of cut layers are then refused
        known = [history for history in self._histories if history.entries is graph._pruning_history]
        if not known:
            known = [_History(graph._pruning_history)]
            self._histories += known
        channels = np.asarray(group[0][1], np.int64)
        root = (graph._module2name[group[0][0].target.module], is_out(group[0][0].handler))
        known[0].groups[root] = [_part(entry, channels) for entry in entries if entry.out]

    def _follow(self, history: _History) -> None:
        """Takes away the scores of the channels that went since the history was last read."""
        if len(history.entries) < history.read:
            raise RuntimeError(
                f"{type(self).__name__}: wanted the pruner's history to grow, got {len(history.entries)} entries after "
                f"{history.read}: after an undo, fit or take scores anew"
            )
        gone: dict[nn.Module, list[Positions]] = {}
        for root, out, channels in history.entries[history.read :]:
            for part in history.groups.pop((root, bool(out)), []):
                if (layer := part.layer()) is not None:
                    gone.setdefault(layer, []).append(part.positions[np.isin(part.channels, np.asarray(channels))])
        history.read = len(history.entries)
        for layer, positions in gone.items():
            row = self._rows[layer]
            stays = torch.ones(len(row.scores), dtype=torch.bool)
            stays[torch.from_numpy(np.concatenate(positions))] = False
            self._rows[layer] = row._replace(scores=row.scores[stays])

    def _may_score(self, module: Any) -> bool:
        return isinstance(module, nn.Module) and module in self._rows

    def _vectors(self, entry: Entry) -> list[Tensor]:
        row = self._rows.get(entry.module) if entry.out else None
        if row is None:
            return []
        if len(row.scores) != (channels := _channels(entry.module)):
            raise RuntimeError(
                f"{type(self).__name__}: layer {row.name!r}: wanted scores of its {channels} channels, got {len(row.scores)}: "
                "it was cut in a way that could not be followed; fit or take scores anew"
            )
        return [row.scores.to(entry.module.weight.device)]


class InformationImportance(ScoresImportance):
    """Base of the importances that score a model on data, by an estimator of this package.

    Args:
        criterion: an estimator without levels, configured as you like; default the class's own.
        group_reduction, normalizer: see GroupImportance.

    Raises:
        TypeError: a criterion of another class.
        ValueError: another group_reduction or normalizer.
    """

    criterion_class: ClassVar[type[Estimator]]

    def __init__(
        self,
        criterion: Estimator | None = None,
        *,
        group_reduction: Reduction = "mean",
        normalizer: Normalizer = "mean",
    ) -> None:
        super().__init__(group_reduction, normalizer)
        wanted = self.criterion_class
        if criterion is not None and not isinstance(criterion, wanted):
            raise TypeError(
                f"{type(self).__name__}: criterion: wanted {wanted.__name__} or None, got {type(criterion).__name__}"
            )
        self.criterion = wanted() if criterion is None else criterion

    def fit(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *,
        process_group: ProcessGroup | None = None,
        layers: Sequence[str] | None = None,
        tap: Tap = "activation",
        num_levels: int | None = None,
        calibration_images: int = 512,
        progress: bool = False,
    ) -> Self:
        """Score the model's layers on data: levels are calibrated on the first images, then all are counted.

        Args:
            model: the model that will be pruned; it is left as it was.
            loader: an iterable of (inputs, labels) batches, read once.
            process_group: ranks that hold different data, as torch.distributed.group.WORLD; all get the same scores.
            layers: names of the layers to score; default all that the criterion can.
            tap: where a layer's channels are seen, "activation" or "layer"; see find_taps.
            num_levels: L; default 16, or 8 for maps of 4 sites or fewer.
            calibration_images: how many images fix the levels.
            progress: whether to show a progress bar.

        Returns:
            self; `.scores` are those of `score_model`.

        Raises:
            TypeError, ValueError, RuntimeError: see score_model. Scores from before are kept then.
        """
        scores = score_model(
            model,
            loader,
            self.criterion,
            layers=layers,
            tap=tap,
            num_levels=num_levels,
            calibration_images=calibration_images,
            progress=progress,
            group=process_group,
        )
        return self.take(model, scores)


class AuraInformationImportance(InformationImportance):
    """What neighbouring values of a channel say about the label; see AuraInformation. For convolutions.

    Example:
        >>> import torch_pruning as tp
        >>> from pyprune_fast.demo.toy import data, model
        >>> net, example = model(), next(iter(data().calibration))[0][:1]
        >>> importance = AuraInformationImportance().fit(net, data().calibration)
        >>> pruner = tp.pruner.MagnitudePruner(net, example, importance=importance, ignored_layers=[net[-1]])
        >>> pruner.step()
        >>> net[0].out_channels
        4
    """

    criterion_class = AuraInformation


class AuraEntropyImportance(InformationImportance):
    """The entropy of neighbouring values of a channel; see AuraEntropy. For convolutions; needs no labels."""

    criterion_class = AuraEntropy


class ChannelInformationImportance(InformationImportance):
    """What a channel's values say about the label; see ChannelInformation. For convolutions and linear layers."""

    criterion_class = ChannelInformation


def _channels(layer: Any) -> int:
    return int(layer.out_channels if isinstance(layer, CONVOLUTIONS) else layer.out_features)


def _part(entry: Entry, channels: Positions) -> _Part:
    positions = np.arange(len(channels)) if entry.positions is None else entry.positions
    return _Part(weakref.ref(entry.module), positions, channels if entry.channels is None else channels[entry.channels])
