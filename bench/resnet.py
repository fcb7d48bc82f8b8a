"""ResNet-50 (He et al. 2016; version 1.5) in plain torch, untrained: for what counting costs beside a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from limits import fastest
from torch import Tensor, nn

from pyprune_fast import Levels, ops

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, inner width, stride of the first block
EXPANSION = 4


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.inner = nn.Sequential(
            *(convolution(inputs, width, 1), nn.ReLU(inplace=True)),
            *(convolution(width, width, 3, stride), nn.ReLU(inplace=True)),
            convolution(width, outputs, 1),
        )
        self.shortcut = convolution(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, 4 width, H / stride, W / stride)."""
        y: Tensor = self.inner(x) + self.shortcut(x)
        return y.relu_()


def resnet50() -> nn.Sequential:
    """(N, 3, 224, 224) -> (N, 1000), with 53 convolutions."""
    layers: list[nn.Module] = [convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for blocks, width, stride in STAGES:
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = EXPANSION * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def share(batch: int, side: int, repeats: int, L: int = 16) -> list[dict[str, Any]]:
    """Time to count the outputs of all convolutions, as a share of the float32 forward pass of the same batch, in one run.

    The outputs are kept, so that only counting is timed; with what AuraEntropy does at the end, the entropies of all tables,
    in a row of its own. One thread.
    """
    torch.manual_seed(0)
    model, images = resnet50().eval(), torch.randn(batch, 3, side, side)
    kept: list[Tensor] = []
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    # A copy, since what follows may work in place.
    hooks = [module.register_forward_hook(lambda _m, _x, y: kept.append(y.clone())) for module in convolutions]
    with torch.inference_mode():
        model(images)
        for hook in hooks:
            hook.remove()
        levels = [Levels.quantiles(x.movedim(1, 0).flatten(1)[:, :4096].contiguous(), L) for x in kept]
        counts = [ops.aura_counts(x, q) for x, q in zip(kept, levels, strict=True)]
        merged = [ops.aura_counts(x, q, neighborhood="moore", merge_offsets=True) for x, q in zip(kept, levels, strict=True)]

        def axial() -> None:
            for x, q, into in zip(kept, levels, counts, strict=True):
                ops.aura_counts(x, q, into=into)

        def moore() -> None:
            for x, q, into in zip(kept, levels, merged, strict=True):
                ops.aura_counts(x, q, neighborhood="moore", merge_offsets=True, into=into)

        calls = {
            "forward": lambda: model(images),
            "aura axial": axial,
            "aura merged radius 1": moore,
            "entropy": lambda: [ops.entropy(c.flatten(-2)) for c in counts],
            "extremes": lambda: [ops.extremes(x) for x in kept],
            "read": lambda: [x.max() for x in kept],
        }
        times = fastest(calls, repeats)
    row = {"batch": batch, "side": side, "convolutions": len(kept), "L": L, "values": sum(x.numel() for x in kept)}
    forward = times.pop("forward")
    return [{**row, "op": op, "forward_s": forward, "of_forward": t / forward} for op, t in times.items()]
