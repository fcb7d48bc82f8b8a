"""Model and data in, scores per layer and channel out. Higher keeps, whatever the criterion."""

from __future__ import annotations

import functools
import itertools
import operator
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from . import ops
from ._checks import check_count, describe
from .anytime import GROUPS, Anytime, checked_settings
from .class_chunks import ClassChunks, check_class_chunk, check_memory
from .distributed import Group, agree, all_merge, each, first_batches, first_example, merge_calibrations
from .estimators import AuraInformation, ChunkedInformation, Estimator, LevelCalibration
from .observe import Observation, Observer, Tap, eval_mode, find_taps, named, observe
from .parallel import Turns, state_facts, unwrapped, whole

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Scores:
    """Scores of a model's channels.

    Attributes:
        layers: layer name -> (C,) float64 on the CPU, higher keeps.
        criterion: what was computed.
        images: how many images were counted; 0 for scores of weights.
        seconds: time spent scoring, forward passes left out.
        forward_seconds: time of the forward passes in which the scoring took place.
        estimators: layer name -> its estimator, for its counts and levels; empty for weights and chunks of classes.
        settled: whether the pass was ended before the loader, since what falls below the cut was settled; None where that was
            not asked for (no `confidence`).
        images_saved: how many images were not read, were the batches left as large as those read; None where the loader has
            no length.
        standard_errors: layer name -> (C,) float64, standard error of each score over images drawn like those read; NaN where
            the loader had fewer than 8 batches. Empty without `confidence`, as is `overlap`.
        overlap: layer name -> expected share of the channels below the cut that the full pass would put there too; 1 where
            this was the full pass.
    """

    layers: Mapping[str, Tensor]
    criterion: str
    images: int = 0
    seconds: float = 0.0
    forward_seconds: float = 0.0
    estimators: Mapping[str, Estimator] = field(default_factory=dict, repr=False)
    settled: bool | None = None
    images_saved: int | None = 0
    standard_errors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    overlap: Mapping[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Scoring time as a fraction of the forward passes' time; 0 without any."""
        return self.seconds / self.forward_seconds if self.forward_seconds else 0.0


def score_model(
    model: nn.Module,
    loader: Iterable[Any],
    criterion: Estimator | None = None,
    *,
    layers: Sequence[str] | None = None,
    tap: Tap = "activation",
    num_levels: int | None = None,
    calibration_images: int = 512,
    zero_bin: bool = True,
    class_chunk: int | None = None,
    max_bytes: int = Estimator.max_bytes,
    confidence: float | None = None,
    remove: float | None = None,
    progress: bool = False,
    group: Group | None = None,
) -> Scores:
    """Score every channel of a model on data.

    The first `calibration_images` fix the levels of each layer; then all batches, those included, are counted. The model runs
    in eval mode, without gradients, and is left as it was, whatever happens. Batches are moved to the model's device.

    With `group`, its ranks score together: each counts its own batches, counts are added in the end, and every rank returns the
    scores of all the data. Ranks may hold any numbers of batches, also none. Where batch i of one process is batch i // W of
    rank i % W (W ranks), levels and counts are those of that process bit for bit, if the model's outputs are; otherwise the
    levels come from other images, those that stand first in that order.

    With `confidence` the pass ends once it is settled which channels of each layer fall below the cut; see Anytime. The scores
    are those of a plain pass over the images read. The images must come in random order.

    Args:
        model: any module that takes a batch of inputs. One in DistributedDataParallel or torch.compile's wrapper is scored by
            the names it has inside, uncompiled; FSDP2 (fully_shard) and tensor-parallel models as the plain model is.
        loader: an iterable of (inputs, labels) batches, read once (but see class_chunk); labels (N,) integers. Criteria without
            labels also take batches that are just inputs.
        criterion: an Estimator without levels; default AuraInformation(). One without num_classes gets it from the model's
            output (N, K).
        layers: names of the layers to score; default all convolutions, and linear layers where the criterion needs no
            neighbouring sites. Maps of one site are scored by `criterion.without_pairs()`.
        tap: where a layer's channels are seen, "activation" or "layer"; see find_taps.
        num_levels: L; default 16, or 8 for maps of 4 sites or fewer.
        calibration_images: how many images fix the levels.
        zero_bin: see Levels.quantiles.
        class_chunk: count so many classes at a time, for AuraInformation and ChannelInformation: counts take class_chunk / K of
            the memory. The loader is read once more for every chunk and must give the same images each time; every image still
            runs through the model once. The scores are those of one pass up to rounding, if the model's outputs do not depend
            on what shares a batch. See ChunkedInformation.
        max_bytes: how much the counts of all layers may take together; more is refused before anything is counted.
        confidence: expected share of the channels below the cut that the full pass would put there too, in (0, 1), to be
            reached in every layer; None reads all batches. It takes 8 sets of counts. In one process, without class_chunk.
        remove: where the cut is: the fraction of each layer's channels that will go, round(remove * C) of C, in [0, 1). To be
            given with `confidence`, and has no default: settled for one cut says nothing of another.
        progress: whether to show a progress bar.
        group: the ranks that hold different data, as torch.distributed.group.WORLD; default this process alone.

    Returns:
        Scores. Deterministic for the same model outputs. Seconds are this rank's own.

    Raises:
        TypeError: a batch of the wrong form.
        ValueError: an empty loader, an unknown layer, labels missing or out of range, NaN activations (layer and channels are
            named), a model that runs none of the layers, counts of more than max_bytes, a criterion or a loader that
            class_chunk cannot take, more than one of class_chunk, confidence and group; confidence or remove out of range;
            ranks of a group that differ in weights, layers or criterion.
        RuntimeError: a rank of the group died, or stayed away for longer than the group's timeout.

    Example:
        >>> import torch
        >>> from pyprune_fast import score_model
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
        >>> batches = [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2) for _ in range(4)]
        >>> score_model(model, batches).layers["0"].shape
        torch.Size([4])
    """
    criterion = AuraInformation() if criterion is None else criterion
    if not isinstance(criterion, Estimator):
        raise TypeError(f"score_model: criterion: wanted an Estimator, got {describe(criterion)}")
    check_count("score_model", "calibration_images", calibration_images, 1)
    settings = None if confidence is None and remove is None else checked_settings(confidence, remove)
    given = {"class_chunk": class_chunk, "confidence": settings, "group": group}
    if len(names := [name for name, value in given.items() if value is not None]) > 1:
        raise ValueError(f"score_model: {', '.join(names)}: wanted one of them at most, got {len(names)}")
    if class_chunk is not None:
        check_class_chunk(class_chunk, criterion, loader)
    length = operator.length_hint(loader, -1)  # -1 where it does not say
    wrapped, model = model, unwrapped(model)
    batches = _Batches(model, loader, criterion.needs_labels)
    first, read = first_batches(iter(batches), lambda batch: len(batch[0]), calibration_images, group)
    example = first_example(next((inputs[:1] for inputs, _ in first if len(inputs)), None), group)
    if example is None:
        raise ValueError("score_model: loader: wanted at least one image, got none")
    example = example.to(batches.device)
    with eval_mode(wrapped):
        output = (model if group is None else wrapped)(example)  # a pass gives DistributedDataParallel's ranks equal buffers
    num_classes = output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else None
    if group is not None:
        agree("score_model", state_facts(model), group)
    criteria, axes = _criteria(model, layers, criterion, example)
    taps = find_taps(model, list(criteria), example, tap)

    with eval_mode(model):
        run = functools.partial(_run, model, taps=taps, turns=Turns(model, group), example=example)
        calibrations = {layer: LevelCalibration(num_levels, zero_bin=zero_bin) for layer in taps}
        forward, observation = run(first, calibrations)
        calibrations = calibrations if group is None else merge_calibrations(calibrations, group)
        estimators = {
            layer: criteria[layer].with_levels(named(layer, calibration.compute).to(batches.device), num_classes)
            for layer, calibration in calibrations.items()
        }
        check_memory(estimators, axes, class_chunk, max_bytes, 1 if settings is None else GROUPS)
        anytime = Anytime(estimators, *settings, length if length >= 0 else None) if settings is not None else None
        everything = itertools.chain(first, read, batches)
        bar = "scoring" if progress else None
        if anytime is not None:
            more, counted = run(anytime.until_settled(everything), anytime.observers, bar=bar)
            estimators = anytime.merged()
            scored, images = dict[str, Estimator | ChunkedInformation](estimators), anytime.images
        elif class_chunk is None:
            more, counted = run(everything, estimators, bar=bar)
            estimators = estimators if group is None else all_merge(estimators, group)
            scored, images = dict[str, Estimator | ChunkedInformation](estimators), sum(each(batches.images, group))
        else:
            chunks = ClassChunks(estimators, class_chunk, lambda: _Batches(model, loader, True))
            more, counted = run(chunks.batches(), chunks.observers, bar=bar)
            scored, images, estimators = dict(chunks.informations), chunks.images, {}
    start = time.perf_counter()
    results = {layer: named(layer, estimator.compute).cpu() for layer, estimator in scored.items()}
    finish = time.perf_counter() - start
    seconds = observation.seconds + counted.seconds + finish
    scores = Scores(results, type(criterion).__name__, images, seconds, forward + more, estimators)
    if anytime is None:
        return scores
    return replace(
        scores,
        seconds=seconds + anytime.seconds,
        settled=anytime.settled,
        images_saved=anytime.images_saved,
        standard_errors=anytime.standard_errors,
        overlap=anytime.overlap,
    )


def score_weights(model: nn.Module, norm: int = 1, *, layers: Sequence[str] | None = None) -> Scores:
    """Score channels by the p-norm of their weights: the usual magnitude criterion (Li et al., arXiv 1608.08710 for p = 1).

    Args:
        model: any module.
        norm: p, 1 or 2.
        layers: names of layers; default all convolutions and linear layers.

    Returns:
        Scores; sums are accumulated in float32 or wider.

    Raises:
        ValueError: another norm, or an unknown layer.

    Example:
        >>> import torch
        >>> score_weights(torch.nn.Sequential(torch.nn.Linear(2, 3))).layers["0"].shape
        torch.Size([3])
    """
    if norm not in (1, 2):
        raise ValueError(f"score_weights: norm: wanted 1 or 2, got {norm!r}")
    model, scores = unwrapped(model), {}
    for name in weighted_layers(model, layers):
        layer = model.get_submodule(name)
        sums = ops.norms(by_output(layer, layer.weight), norm)[0].double().cpu()
        scores[name] = sums if norm == 1 else sums.sqrt()
    return Scores(scores, f"L{norm}")


def score_random(model: nn.Module, seed: int = 0, *, layers: Sequence[str] | None = None) -> Scores:
    """Score channels at random: the control that every study needs.

    Returns:
        Scores in [0, 1), the same for the same seed and layer names.

    Example:
        >>> import torch
        >>> score_random(torch.nn.Sequential(torch.nn.Linear(2, 3)), seed=1).layers["0"].shape
        torch.Size([3])
    """
    generator = torch.Generator().manual_seed(seed)
    model, scores = unwrapped(model), {}
    for name in weighted_layers(model, layers):
        layer = model.get_submodule(name)
        channels = layer.out_channels if isinstance(layer, CONVOLUTIONS) else layer.out_features
        scores[name] = torch.rand(channels, generator=generator, dtype=torch.float64)  # type: ignore[arg-type]
    return Scores(scores, "random")


def weighted_layers(model: nn.Module, layers: Sequence[str] | None) -> list[str]:
    """The named layers, checked; by default all convolutions and linear layers."""
    kinds = (*CONVOLUTIONS, nn.Linear)
    names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    if layers is None:
        return names
    if unknown := [name for name in layers if name not in names]:
        raise ValueError(f"layers: wanted names of convolutions or linear layers, got {unknown}")
    return list(layers)


def by_output(layer: nn.Module, weight: Any) -> Tensor:
    """A layer's weight, or anything of its shape, with output channels first: (out, in / groups, ...); DTensors made whole."""
    weight = whole(weight)
    if isinstance(layer, CONVOLUTIONS) and layer.transposed:  # (in, out / groups, ...)
        weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight  # type: ignore[no-any-return]


def _criteria(
    model: nn.Module, layers: Sequence[str] | None, criterion: Estimator, example: Tensor
) -> tuple[dict[str, Estimator], dict[str, int]]:
    """The criterion of each layer to score, or what takes its place where maps have one site; the maps' spatial axes."""
    sites: dict[str, int] = {}
    axes: dict[str, int] = {}

    class Sites:
        def __init__(self, name: str) -> None:
            self.name = name

        def update(self, x: Tensor, labels: object = None) -> None:
            sites[self.name], axes[self.name] = x.shape[2:].numel(), x.ndim - 2

    names = weighted_layers(model, layers)
    with eval_mode(model), observe(model, {name: Sites(name) for name in names}):
        model(example)
    criteria: dict[str, Estimator] = {}
    for name in names:
        chosen = criterion if sites.get(name, 0) > 1 else criterion.without_pairs()
        by_default = isinstance(model.get_submodule(name), CONVOLUTIONS) or not criterion.needs_pairs
        if name in sites and chosen is not None and (layers is not None or by_default):
            criteria[name] = chosen
        elif layers is not None:
            why = "that the model runs" if name not in sites else "with maps of several sites"
            raise ValueError(f"score_model: layers: wanted layers {why}, got {name!r}")
    if not criteria:
        raise ValueError("score_model: model: wanted layers that the criterion can score, got none")
    return criteria, axes


class _Batches:
    """The loader's batches, checked and on the model's device. Read once; `images` counts what has been counted."""

    def __init__(self, model: nn.Module, loader: Iterable[Any], needs_labels: bool) -> None:
        self._iterator = iter(loader)
        self._needs_labels = needs_labels
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.images = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for batch in self._iterator:
            parts = list(batch) if isinstance(batch, tuple | list) else [batch]
            inputs, labels = (*parts, None, None)[:2]
            if not isinstance(inputs, Tensor) or not (labels is None or isinstance(labels, Tensor)):
                raise TypeError(f"score_model: loader: wanted batches (inputs, labels) of tensors, got {describe(batch)}")
            if self._needs_labels and labels is None:
                raise ValueError("score_model: loader: wanted batches (inputs, labels), since the criterion needs labels")
            self.images += inputs.shape[0]
            yield inputs.to(self.device), None if labels is None else labels.to(self.device)


def _run(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    observers: Mapping[str, Observer],
    *,
    taps: Mapping[str, str],
    turns: Turns,
    example: Tensor,
    bar: str | None = None,
) -> tuple[float, Observation]:
    """Forward passes with observers at the taps: seconds of the passes themselves, and the observation."""
    from tqdm import tqdm

    seconds = 0.0
    with observe(model, observers, taps=taps) as observation:
        for inputs, labels in tqdm(batches, desc=bar, unit="batch", disable=bar is None):
            turns.take()
            observation.labels = labels
            start = time.perf_counter()
            model(inputs)
            seconds += time.perf_counter() - start
    turns.finish(lambda: model(example))
    return seconds - observation.seconds, observation
