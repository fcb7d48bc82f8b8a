"""Small networks, each with one structure that pruning has to understand, and a masked twin to compare a cut with."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(3, 6, 1)
        self.mix = nn.Conv2d(10, 10, 1)
        self.deep = nn.Conv2d(10, 10, 3, groups=10, padding=1)
        self.bn = nn.BatchNorm2d(10)
        self.head = nn.Linear(10 * 4, 5)

    def forward(self, x):
        y = torch.cat([self.a(x), self.b(x)], 1).relu()
        y = self.bn(self.deep(y + self.mix(y)))
        return self.head(nn.functional.adaptive_avg_pool2d(y, 2).flatten(1))


class ChannelsLast(nn.Module):
    """A flatten of (H, W, C)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x):
        return self.head(self.conv(x).relu().permute(0, 2, 3, 1).flatten(1))


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.policy = nn.Linear(8, 7)
        self.action = nn.Linear(7, 2)
        self.value = nn.Linear(8, 1)

    def forward(self, x):
        z = self.trunk(x).relu()
        return {"action": self.action(self.policy(z).tanh()), "value": self.value(z)}


class Tied(nn.Module):
    """Token embedding and output layer share one tensor."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 8)
        self.back = nn.Linear(8, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        z = self.embed(x)
        return self.out(z + self.back(self.hidden(z).relu()))


class Scaled(nn.Module):
    """A plain parameter and an input that is concatenated to features."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.second = nn.Linear(4 + 8, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        z = torch.cat([x, self.first(x) * self.scale], 1)
        return self.last(self.second(z).relu())


class Reused(nn.Module):
    """One layer called twice in a row."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.again = nn.Linear(8, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.again(self.again(self.first(x)).relu()).relu())


def image(n=2, size=4):
    return torch.randn(n, 3, size, size)


NETS = {
    "chain": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6, 7),
            nn.ReLU(),
            nn.Linear(7, 2),
        ),
        image(size=8),
    ),
    "relu_before_bn": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.BatchNorm2d(8),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(72, 6),
            nn.PReLU(6),
            nn.Linear(6, 2),
        ),
        image(size=8),
    ),
    "residual": lambda: (Residual(), image()),
    "concat": lambda: (Concat(), image()),
    "depthwise": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 8, 1),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 3, groups=8, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 6, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        ),
        image(),
    ),
    "channels_last_flatten": lambda: (ChannelsLast(), image()),
    "conv1d": lambda: (
        nn.Sequential(nn.Conv1d(3, 8, 3), nn.InstanceNorm1d(8, affine=True), nn.Flatten(), nn.Linear(48, 2)),
        torch.randn(2, 3, 8),
    ),
    "conv3d": lambda: (
        nn.Sequential(nn.Conv3d(3, 8, 3), nn.GroupNorm(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)),
        torch.randn(2, 3, 4, 4, 4),
    ),
    "transposed": lambda: (
        nn.Sequential(
            nn.ConvTranspose2d(3, 8, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 8, 2, groups=8),
            nn.ConvTranspose2d(8, 6, 2),
            nn.ReLU(),
            nn.Conv2d(6, 2, 1),
        ),
        image(),
    ),
    "layernorm": lambda: (
        nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 2)),
        torch.randn(3, 4),
    ),
    "heads": lambda: (Heads(), torch.randn(3, 6)),
    "tied": lambda: (Tied(), torch.randint(0, 11, (2, 5))),
    "scaled": lambda: (Scaled(), torch.randn(3, 4)),
    "reused": lambda: (Reused(), torch.randn(3, 4)),
}


def build(name):
    """The network in eval mode with lively weights and statistics, and an input."""
    torch.manual_seed(0)
    model, x = NETS[name]()
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.dtype.is_floating_point and tensor.ndim < 2:
            tensor.data.uniform_(0.5, 1.5)
    return model.eval(), x


def masked(model, group, channels):
    """A twin whose layers put out zeros for these channels and whose consumers do not read them.

    The second matters: behind conv -> relu -> bn a silent channel is a constant, not zero.
    """
    twin = copy.deepcopy(model)
    for member in group.members:
        owner, _, name = member.tensor.rpartition(".")
        layer = twin.get_submodule(owner)
        deep = getattr(layer, "groups", 1) > 1
        reads = isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and name == "weight" and not deep
        if reads and member.dim == (0 if getattr(layer, "transposed", False) else 1):
            getattr(layer, name).data.index_fill_(member.dim, member.positions(channels), 0)

    def silence(layer, args, out):
        out = out.clone()
        sequence = isinstance(layer, nn.Linear | nn.Embedding)
        out.index_fill_(-1 if sequence else 1, torch.tensor(channels, dtype=torch.int64), 0)
        return out

    for name in group.layers:
        twin.get_submodule(name).register_forward_hook(silence)
    return twin


def outputs(model, x):
    with torch.no_grad():
        out = model(x)
    return list(out.values()) if isinstance(out, dict) else [out]
