"""Anytime scoring: a pass over the data that ends once it is settled which channels fall below the cut.

Batches are dealt in turn to G groups of counts. The groups sum to the counts of a plain pass over the same images, bit for
bit; leaving out one after the other gives the uncertainty of each channel's place beside the cut, in any score, by the
delete-a-group jackknife with groups of unequal sizes (Busing, Meijer & van der Leeden 1999):

    var = 1/G sum_g (h_g S - (h_g - 1) S_g - S_J)^2 / (h_g - 1),     S_J = G S - sum_g (1 - m_g / n) S_g,     h_g = n / m_g

Letters: C channels, G groups, m_g images of group g, n of all, S a statistic of all images, S_g without group g.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ._checks import describe
from .estimators import Estimator
from .inputs import images_of
from .observe import named

GROUPS = 8
MIN_IMAGES = 512  # before the first check, so that no few images end a pass
# The next check comes after a quarter more batches. With closer ones, channels that are all but equal are told apart by chance
# more often than promised.
GROWTH = 4

Batch = TypeVar("Batch", bound=tuple[Any, ...])


class Anytime:
    """Deals batches to groups of estimators, and stops reading when the decision is settled.

    Settled means: in every layer the channels of lowest score, round(remove * C) of them, are expected to be the same as
    after the full pass, but for a share of at most 1 - confidence. That expectation comes from Student's t distribution of
    each channel's distance to the cut, half way between the last score below it and the first above. Where the number of
    batches is known, the variance is that of the images still unread (finite population correction); where it is not, that
    of endless data, which stops later. A pass is not ended before every group has data, MIN_IMAGES images were read, every
    class was seen (so that images sorted by class are read to the end), and two checks in a row agreed. Checks are at growing
    distances, a quarter of what was read. Channels that are equal in every group (dead ones, copies) are told apart by their
    index, now as after the full pass.

    Args:
        estimators: layer name -> its estimator, with levels and without counts; left alone. Any Estimator.
        confidence: expected overlap of the channels removed with those that the full pass removes, in (0, 1).
        remove: fraction of each layer's channels that falls below the cut, in [0, 1).
        batches: number of batches of the full pass, None where unknown.

    Raises:
        TypeError, ValueError: confidence or remove of the wrong type or out of range.
    """

    def __init__(self, estimators: Mapping[str, Estimator], confidence: float, remove: float, batches: int | None) -> None:
        self.confidence, self.remove = checked_settings(confidence, remove)
        self.batches = batches
        self.observers = {layer: Dealt(estimator) for layer, estimator in estimators.items()}
        self.settled = False
        self.seconds = 0.0
        self.overlap: dict[str, float] = dict.fromkeys(estimators, 0.0)  # expected, at each layer's last check
        self.standard_errors: dict[str, Tensor] = {}
        self._sizes = [0] * GROUPS
        self._read = 0  # batches
        self._classes: set[int] = set()
        self._wanted_classes = max((e.num_classes or 0 for e in estimators.values() if e.needs_labels), default=0)

    def until_settled(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches (inputs, labels), until the decision is settled. Each is to be observed before the next is asked for."""
        agreed, next_check = 0, GROUPS
        for batch in batches:
            for observer in self.observers.values():
                observer.turn = self._read % GROUPS
            yield batch
            self._sizes[self._read % GROUPS] += images_of(batch[0])
            self._read += 1
            start = time.perf_counter()
            if len(self._classes) < self._wanted_classes:
                self._classes |= set(batch[1].tolist())
            if self._read >= next_check and self._ready():
                agreed = agreed + 1 if self._agrees() else 0
                next_check = self._read + max(1, self._read // GROWTH)
            self.settled = agreed == 2
            self.seconds += time.perf_counter() - start
            if self.settled:
                return

    def merged(self) -> dict[str, Estimator]:
        """The estimators of all images read. Sets `standard_errors` and `overlap` too: see Scores."""
        start = time.perf_counter()
        estimators = {}
        for layer, observer in self.observers.items():
            estimators[layer] = observer.total()
            replicates = named(layer, observer.replicates, self._sizes)
            self.standard_errors[layer] = jackknife_variance(replicates, self._sizes).sqrt()
            self.overlap[layer] = self._overlap(replicates) if self.settled else 1.0
        self.seconds += time.perf_counter() - start
        return estimators

    @property
    def images(self) -> int:
        """The images read."""
        return sum(self._sizes)

    @property
    def images_saved(self) -> int | None:
        """The images not read, as many a batch as in those read; None where the number of batches is unknown."""
        if not self.settled:
            return 0
        return None if self.batches is None else round(self.images * (self.batches / self._read - 1))

    def _ready(self) -> bool:
        # A loader may hold more than it says; then it is read to its end.
        more = self.batches is None or self._read < self.batches
        return more and min(self._sizes) > 0 and self.images >= MIN_IMAGES and len(self._classes) >= self._wanted_classes

    def _agrees(self) -> bool:
        """Whether all layers reach the confidence; asked from the least certain on, up to the first that does not."""
        for layer in sorted(self.overlap, key=self.overlap.__getitem__):
            observer = self.observers[layer]
            self.overlap[layer] = self._overlap(named(layer, observer.replicates, self._sizes))
            if self.overlap[layer] < self.confidence:
                return False
        return True

    def _overlap(self, replicates: Tensor) -> float:
        unread = 1.0 if self.batches is None else 1 - self._read / self.batches
        return expected_overlap(replicates, self._sizes, round(self.remove * replicates.shape[1]), unread)


class Dealt:
    """An observer that deals batches to GROUPS estimators; `turn` says whose turn it is."""

    def __init__(self, estimator: Estimator) -> None:
        assert estimator.levels is not None
        self.groups = [estimator.with_levels(estimator.levels) for _ in range(GROUPS)]
        self.turn = 0
        self.needs_pairs = estimator.needs_pairs

    def update(self, x: Any, labels: Any = None) -> None:
        """Give a batch to the group whose turn it is."""
        self.groups[self.turn].update(x, labels)

    def total(self) -> Estimator:
        """The estimator of all batches."""
        first = self.groups[0]
        assert first.levels is not None
        return first.with_levels(first.levels).merge(*self.groups)

    def replicates(self, sizes: list[int]) -> Tensor:
        """(1 + G, C) float64 on the CPU: the score of all batches, then without each of the groups; NaN without one's data."""
        total = self.total()
        scores, state = [total.compute()], total.state_dict()
        for group, size in zip(self.groups, sizes, strict=True):
            if 0 < size < sum(sizes):
                # Counts are additive, so they can be taken away too.
                part = group.state_dict()
                rest = state | {key: state[key] - part[key] for key in state if key != "edges"}
                scores.append(total.load_state_dict(rest).compute())
            else:
                scores.append(torch.full_like(scores[0], torch.nan))
        return torch.stack(scores).cpu()


def checked_settings(confidence: object, remove: object) -> tuple[float, float]:
    """Both, as numbers; TypeError or ValueError unless confidence is in (0, 1) and remove in [0, 1)."""
    return (
        _checked("confidence", confidence, "a number in (0, 1), with remove", lambda v: 0 < v < 1),
        _checked("remove", remove, "a fraction in [0, 1), with confidence", lambda v: 0 <= v < 1),
    )


def _checked(name: str, value: object, wanted: str, inside: Callable[[float], bool]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"score_model: {name}: wanted {wanted}, got {describe(value)}")
    if not inside(value):
        raise ValueError(f"score_model: {name}: wanted {wanted}, got {value}")
    return value


def jackknife_variance(replicates: Tensor, sizes: list[int]) -> Tensor:
    """The variance of a statistic of all images: delete-a-group jackknife, see the formula above.

    Args:
        replicates: (1 + G, C) float64, the statistic of all images, then without group 0, 1, ...
        sizes: m_g, images of each group, all positive; otherwise the result is NaN.

    Returns:
        (C,) float64. For a mean of independent images it is unbiased, whatever the sizes.

    Example:
        >>> import torch
        >>> groups = torch.tensor([[1.0], [2.0], [6.0]]).double()  # means of equal groups
        >>> without = (groups.sum() - groups) / 2
        >>> jackknife_variance(torch.cat([groups.mean(0, keepdim=True), without]), [5, 5, 5]) == groups.var() / 3
        tensor([True])
    """
    everything, without = replicates[0], replicates[1:]
    share = torch.tensor(sizes, dtype=torch.float64)[:, None] / max(sum(sizes), 1)
    h = 1 / share
    center = len(sizes) * everything - ((1 - share) * without).sum(0)
    return ((h * everything - (h - 1) * without - center) ** 2 / (h - 1)).mean(0)


def expected_overlap(replicates: Tensor, sizes: list[int], count: int, unread: float) -> float:
    """The share of the `count` lowest channels that is expected to be among the lowest after the full pass too.

    Args:
        replicates: (1 + G, C) float64, scores of all images, then without group 0, 1, ...
        sizes: images of each group, all positive.
        count: channels below the cut, 0..C.
        unread: share of the full pass that is still unread, in (0, 1]; 1 where the full pass is endless.

    Returns:
        1 - E[channels on the wrong side] / (2 count): each channel that leaves is one that enters. In [0, 1].

    Example:
        >>> import torch
        >>> scores = torch.tensor([0.0, 1.0, 2.0, 3.0]).double().expand(9, 4)
        >>> expected_overlap(scores, [1] * 8, 2, unread=0.5)
        1.0
    """
    channels = replicates.shape[1]
    if not 0 < count < channels:
        return 1.0
    ordered = replicates.sort(1).values
    cut = (ordered[:, count - 1] + ordered[:, count]) / 2
    distance = replicates - cut[:, None]
    deviation = (jackknife_variance(distance, sizes) * unread).sqrt()
    wrong = torch.where(deviation > 0, upper_tail(distance[0].abs() / deviation, len(sizes) - 1), 0.0)
    return 1 - float(wrong.sum()) / (2 * count)


def upper_tail(t: Tensor, freedom: int) -> Tensor:
    """P(T > t) of Student's t distribution with an odd number of degrees of freedom (Abramowitz & Stegun 26.7.3).

    Example:
        >>> import torch
        >>> round(upper_tail(torch.tensor(1.8946), 7).item(), 4)  # the table's 95 % point
        0.05
    """
    angle = torch.atan(t / math.sqrt(freedom))
    term = angle.cos()
    total = term if freedom > 1 else torch.zeros_like(term)
    for j in range(3, freedom, 2):
        term = term * angle.cos() ** 2 * (j - 1) / j
        total = total + term
    return 0.5 - (angle + angle.sin() * total) / math.pi
