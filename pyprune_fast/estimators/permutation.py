"""Is a channel's information more than chance? A permutation test by image labels.

Letters: C channels, K classes, B blocks of images, P permutations, R sets of tables (one an offset), L levels.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .._checks import check_count, describe
from ..levels import Levels
from ..ops._common import activation, classes
from .aura import AuraInformation
from .base import Estimator
from .entropy import information
from .information import LabelInformation

HASHED = 4096  # values of an image that decide its block
WORKSPACE = 1 << 26  # bytes of tables that are permuted at a time
ROUNDING = 2.0**-44  # nats: informations that are nearer than this are equal; sums of a few hundred roundings of log N


class PermutationResult(NamedTuple):
    """What a permutation test found, each (C,) float64.

    Attributes:
        score: the information with the true labels, in nats; a corrected one may lie below 0.
        mean, std: of the same under permuted labels.
        z: (score - mean) / std; 0 where std is.
        p: (1 + number of permutations with a score at least as high) / (P + 1).
    """

    score: Tensor
    mean: Tensor
    std: Tensor
    z: Tensor
    p: Tensor


class PermutationTest(Estimator):
    """How far a channel's information about the label lies above what labels without meaning would give.

    Pairs, or sites, of one image are alike: to permute *their* labels would call almost any channel significant. Here whole
    images keep one label. Every image belongs to one of B blocks, and a permutation renames the classes inside each block, by
    an own random permutation of 0..K-1: all images of a block that had one label get another one together. With the counts of
    each block and class as state, any number of permutations is only sums of counts, which `result` makes: nothing is drawn
    while counting, and no image is kept.

    Why the null is valid: if labels are independent of the activations, and each image's is drawn with equal chances, renaming
    inside blocks leaves their distribution as it is, whatever the blocks are, as long as labels do not decide them. The B-fold
    product of renamings is a group, so the score with true labels is as likely as any other to be the highest, and
    P(p <= a) <= a holds exactly, for any number of images (Hemerik & Goeman, TEST 27, 2018, for random subsets of a group).
    With unequal classes it holds asymptotically: the score then has the same limiting distribution whatever the shares of
    classes are. An image's block is a hash of its values in all channels at a sample of sites (strongly universal, so blocks
    are as good as random, and of like sizes): the same for any order, any split into batches and any ranks.

    What it cannot do: with P permutations p is at least 1 / (P + 1), and there are K!^(B - 1) different ones. Permuted labels
    keep about 1 / B of the information, so z levels off however informative a channel is (near B / sqrt(2) for two classes,
    higher for more): read p, and rank by `compute`. Copies of an image share a block; where there are only a few different
    images (binary features), blocks tell what is in them, and p is too high.

    `compute` gives score - mean in nats, the information above chance; below 0 it is reported as 0.

    State: B times that of the criterion, (C, B * K, ...). Counting takes two to four times the criterion's time, since its
    tables no longer fit in a cache; `result` adds (P + 1) * B * K numbers a cell, in workspaces of 64 MiB.

    Args:
        levels: as in Estimator.
        num_classes: K; score_model fills it in where it can.
        criterion: what is tested, AuraInformation (default) or ChannelInformation; its own levels and num_classes do not
            matter.
        blocks: B, 2 or more.
        permutations: P, 2 or more, for `compute` and as a default for `result`.
        seed: of the permutations.

    Example:
        >>> import torch
        >>> from pyprune_fast import ChannelInformation, Levels, PermutationTest
        >>> labels = torch.arange(80) % 2
        >>> x = torch.rand(80, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> x[:, 1] += labels[:, None, None]
        >>> test = PermutationTest(Levels.uniform(0, 2, channels=2), num_classes=2, criterion=ChannelInformation())
        >>> test.update(x, labels).result().p < 0.05
        tensor([False,  True])
    """

    needs_labels = True
    savings = "fewer blocks, or what makes the criterion's counts smaller"

    def __init__(
        self,
        levels: Levels | None = None,
        *,
        num_classes: int | None = None,
        criterion: LabelInformation | None = None,
        blocks: int = 16,
        permutations: int = 99,
        seed: int = 0,
    ) -> None:
        criterion = AuraInformation() if criterion is None else criterion
        if not isinstance(criterion, LabelInformation):
            raise TypeError(
                f"PermutationTest: criterion: wanted AuraInformation or ChannelInformation, got {describe(criterion)}"
            )
        super().__init__(levels, num_classes=num_classes, correction=criterion.correction)
        self._criterion = criterion
        self.needs_pairs = criterion.needs_pairs
        self.blocks = check_count("PermutationTest", "blocks", blocks, 2)
        self.permutations = check_count("PermutationTest", "permutations", permutations, 2)
        self.seed = check_count("PermutationTest", "seed", seed, 0)

    def without_pairs(self) -> PermutationTest | None:
        """The same test of what takes the criterion's place where there are no neighbours."""
        criterion = self._criterion.without_pairs()
        if not isinstance(criterion, LabelInformation):
            return None
        fresh = copy.copy(self).reset()
        fresh._criterion, fresh.needs_pairs = criterion, criterion.needs_pairs
        return fresh

    def result(self, permutations: int | None = None, seed: int | None = None) -> PermutationResult:
        """Score, null and significance of every channel. Deterministic.

        Args:
            permutations: P, 2 or more; default as the estimator was made.
            seed: of the permutations, likewise.

        Raises:
            TypeError, ValueError: arguments of the wrong type or out of range; NaN were seen.
            RuntimeError: no update yet.
        """
        P = self.permutations if permutations is None else check_count("PermutationTest", "permutations", permutations, 2)
        return self._result(self.counts, P, self.seed if seed is None else check_count("PermutationTest", "seed", seed, 0))

    def _result(self, counts: Tensor, P: int, seed: int) -> PermutationResult:
        tables = self._criterion.tables(counts)  # (C, R, B * K, cells)
        B, K = self.blocks, tables.shape[2] // self.blocks
        generator = torch.Generator().manual_seed(seed)
        names = torch.rand(P + 1, B, K, generator=generator).argsort(-1)  # of the classes of each block
        names[0] = torch.arange(K)  # the true ones
        parts = (names + K * torch.arange(B)[:, None]).mT.to(counts.device)  # (P + 1, K, B) tables that make one
        bytes_each = 16 * K * tables.shape[1] * tables.shape[3]  # of a permutation of a channel, as float64 and as int64
        some = max(1, min(P + 1, WORKSPACE // max(bytes_each, 1)))
        channels = max(1, WORKSPACE // max(some * bytes_each, 1))
        scores = torch.cat(
            [
                torch.cat([self._informations(few, p) for p in torch.split(parts, some)], dim=1)
                for few in torch.split(tables, channels)
            ]
        )  # (C, P + 1)
        score, null = scores[:, 0], scores[:, 1:]
        mean, std = null.mean(1), null.std(1)
        z = ((score - mean) / std).where(std > 0, 0.0)
        p = (1 + (null >= score[:, None] - ROUNDING).sum(1).double()) / (P + 1)
        return PermutationResult(score, mean, std, z, p)

    def _informations(self, tables: Tensor, parts: Tensor) -> Tensor:
        """The information (C, P) of tables (C, R, B * K, cells), added up as parts (P, K, B) say."""
        C, R, _, cells = tables.shape
        flat = tables.permute(2, 0, 1, 3).flatten(1).double()  # sums below 2^53 are exact
        sums = nn.functional.embedding_bag(parts.flatten(0, 1), flat, mode="sum").to(torch.int64)
        by_channel = sums.view(*parts.shape[:2], C * R, cells).permute(2, 0, 1, 3)  # (C * R, P, K, cells)
        return information(by_channel, 1, self.correction).view(C, R, -1).mean(1)

    def _compute(self, counts: Tensor) -> Tensor:
        result = self._result(counts, self.permutations, self.seed)
        return (result.score - result.mean).clamp(min=0)

    def _shape(self, levels: Levels, axes: int) -> tuple[int, ...]:
        return self._counter(levels)._shape(levels, axes)

    def _count(self, x: Tensor, levels: Levels, labels: Any, nans: Tensor) -> Tensor:
        name = type(self).__name__
        x = activation(name, x, levels)
        labels, K = classes(name, x, labels, self.num_classes, None)
        return self._counter(levels)._count(x, levels, _blocks(x, self.blocks) * K + cast(Tensor, labels), nans)

    def _counter(self, levels: Levels) -> LabelInformation:
        """The criterion, which counts B * K classes into this estimator's counts."""
        counter = self._criterion.with_levels(levels)
        counter.num_classes = self.blocks * (self.num_classes or 1)
        counter._counts = self._counts
        return counter

    def _configuration(self) -> dict[str, object]:
        criterion = {key: value for key, value in self._criterion._configuration().items() if key != "num_classes"}
        return {**super()._configuration(), "criterion": (type(self._criterion).__name__, criterion)}


def _blocks(x: Tensor, blocks: int) -> Tensor:
    """The block of each image, (N,) int64: a multilinear hash of its values (Lemire & Kaser, Computer J. 57, 2014).

    Of the values' float32 mantissas, which scaling by powers of two leaves as they are.
    """
    step = 1
    while x.shape[1] * math.prod(-(-n // step) for n in x.shape[2:]) > HASHED and step < max(x.shape[2:], default=1):
        step += 1
    sampled = x[:, :, *(slice(None, None, step) for _ in x.shape[2:])]
    values = sampled.reshape(len(x), sampled.shape[1:].numel()).float().contiguous()
    mantissas = values.view(torch.int32).to(torch.int64) & 0x7FFFFF
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (values.shape[1] + 1,), generator=generator).to(x.device)
    high = ((mantissas * factors[1:]).sum(1) + factors[0]) >> 32 & 0xFFFFFFFF  # the bits that are evenly spread
    return high * blocks >> 32
