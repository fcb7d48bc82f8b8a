"""Moments of what a layer reads: of the inputs that stay and of those that go, over images and sites, in float64.

Letters: N images, C input channels, T taps of the kernel (1 for a linear layer), k kept and r removed inputs of C * T,
u the (C * T) inputs of one output site: a padded convolution reads its padding there, like any other value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_CHUNK = 2**22  # values in float64 at a time
_CONSTANT = 1e-12  # a variance below this part of the mean square is rounding


def windows(layer: Any, x: Tensor) -> Tensor:
    """A view of what each output site of a convolution (groups = 1, not transposed) or linear layer reads.

    Args:
        layer: nn.Conv1d, nn.Conv2d, nn.Conv3d or nn.Linear.
        x: Its input, (N, C, spatial...) or (..., C).

    Returns:
        (N, sites..., C, taps...), or (..., C) for a linear layer.

    Example:
        >>> windows(nn.Conv2d(2, 5, 3, stride=2, padding=1), torch.zeros(7, 2, 8, 6)).shape
        torch.Size([7, 4, 3, 2, 3, 3])
    """
    if isinstance(layer, nn.Linear):
        return x
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2):
        x = x.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    return x.movedim(1, len(layer.kernel_size) + 1)


class InputMoments:
    """First moments of a layer's inputs over all sites and, if asked for, second moments over a sample of the sites.

    The state does not grow with the number of images: C * T + k * (k + r) float64 values. Deterministic: the sites are drawn by
    a generator of their own, so they depend on the shapes and the order of the batches alone.

    Args:
        layer: As for `windows`.
        kept, removed: int64, input channels that stay and that go.
        sites: How many sites to draw for each image, without replacement in a batch; 0 for no second moments.
    """

    def __init__(self, layer: Any, kept: Tensor, removed: Tensor, sites: int) -> None:
        self.layer, self.kept, self.removed, self.sites = layer, kept, removed, sites
        self._taps = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)  # axes
        self.count = 0  # all sites
        self.rows = 0  # drawn sites
        self._total: Any = 0.0
        self._kept_total: Any = 0.0
        self._removed_total: Any = 0.0
        self._kept_kept: Any = 0.0
        self._kept_removed: Any = 0.0
        self._generator = torch.Generator().manual_seed(0)

    def update(self, x: Tensor) -> None:
        """Takes a batch of the layer's inputs."""
        x = x.detach() if x.ndim >= 2 + self._taps else x.detach()[None]  # an image without its batch axis
        if not x.numel():
            return
        u = windows(self.layer, x)
        leading = u.shape[: u.ndim - 1 - self._taps]
        # Windows of the sum are the sum of the windows, in a fraction of the time.
        whole = windows(self.layer, x.sum(0, dtype=torch.float64)[None])
        self._total = self._total + whole.flatten(0, len(leading) - 1).sum(0)
        self.count += leading.numel()
        if self.sites:
            self._draw(u, leading, min(leading.numel(), self.sites * len(x)))

    def _draw(self, u: Tensor, leading: torch.Size, rows: int) -> None:
        columns = u.numel() // leading.numel()
        order = torch.randperm(leading.numel(), generator=self._generator)[:rows].to(u.device)
        for picked in torch.split(order, max(1, _CHUNK // columns)):
            drawn = u[torch.unravel_index(picked, leading)].double()
            kept, removed = (drawn.index_select(1, part.to(u.device)).flatten(1) for part in (self.kept, self.removed))
            self._kept_total = self._kept_total + kept.sum(0)
            self._removed_total = self._removed_total + removed.sum(0)
            self._kept_kept = self._kept_kept + kept.T @ kept
            self._kept_removed = self._kept_removed + kept.T @ removed
        self.rows += rows

    def finite(self) -> bool:
        """Tells whether every input was a finite number."""
        return bool(torch.isfinite(self._total).all())

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean inputs over all sites: kept (k,) and removed (r,), float64."""
        mean = self._total / self.count
        kept, removed = (mean.index_select(0, part.to(mean.device)).flatten() for part in (self.kept, self.removed))
        return kept, removed

    def prediction(self, ridge: float, centred: bool) -> Tensor:
        """Ridge regression of the removed inputs on the kept ones, over the drawn sites.

            P = S_rk (S_kk + ridge * d * I)^-1,     d = mean of the diagonal of S_kk

        Args:
            ridge: At least 0.
            centred: Whether S are covariances, for a prediction with an intercept, or plain second moments.

        Returns:
            P, (r, k) float64; zeros where the kept inputs are all constant.

        Raises:
            ValueError: Without a ridge the kept inputs' moments have no inverse.
        """
        kept_kept, kept_removed = self._kept_kept / self.rows, self._kept_removed / self.rows
        squares = float(kept_kept.diagonal().mean())
        if centred:
            kept, removed = self._kept_total / self.rows, self._removed_total / self.rows
            kept_kept, kept_removed = kept_kept - torch.outer(kept, kept), kept_removed - torch.outer(kept, removed)
        diagonal = kept_kept.diagonal()
        if float(diagonal.mean()) <= _CONSTANT * squares:
            return torch.zeros_like(kept_removed.T)
        diagonal += ridge * diagonal.mean()
        factor, failed = torch.linalg.cholesky_ex(kept_kept)
        if int(failed):
            text = f"ridge: wanted more than {ridge:g}, or more than {self.rows} sampled sites"
            raise ValueError(f"{text}, got kept inputs that depend on each other linearly")
        return torch.cholesky_solve(kept_removed, factor).T
