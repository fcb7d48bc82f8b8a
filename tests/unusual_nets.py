"""Networks whose channels go unusual ways: permuted, shuffled, windowed, gated, averaged, expected in a fixed number."""

from __future__ import annotations

import torch
from sequence_nets import SeparateAttention
from torch import nn
from torch.nn.functional import gelu


class ConvNeXtBlock(nn.Module):
    """Depthwise, then everything over the last axis: LayerNorm, two linear layers, layer scale."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width, 1e-6), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(gelu(self.up(y)))).permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self, widths=(8, 12)):
        super().__init__()
        layers = [nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0], 1e-6), ConvNeXtBlock(widths[0])]
        layers += [LayerNorm2d(widths[0], 1e-6), nn.Conv2d(*widths, 2, 2), ConvNeXtBlock(widths[1])]
        self.layers, self.norm, self.head = nn.Sequential(*layers), nn.LayerNorm(widths[1], 1e-6), nn.Linear(widths[1], 10)

    def forward(self, x):
        return self.head(self.norm(self.layers(x).mean((-2, -1))))


class ShuffleUnit(nn.Module):
    """ShuffleNet V2: half of the channels pass, half are computed, then both halves are interleaved."""

    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            *(nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
            *(nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), nn.BatchNorm2d(half)),
            *(nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
        )

    def forward(self, x):
        passed, computed = x.chunk(2, 1)
        x = torch.cat([passed, self.branch(computed)], 1)
        batch, width, height, columns = x.shape
        return x.view(batch, 2, width // 2, height, columns).transpose(1, 2).reshape(batch, width, height, columns)


class Shuffle(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.units = nn.Sequential(ShuffleUnit(width), ShuffleUnit(width))
        self.last, self.fc = nn.Conv2d(width, 12, 1), nn.Linear(12, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.last(self.units(self.stem(x)))).mean((2, 3)))


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs):
        super().__init__()
        self.one = nn.Conv2d(inputs, 4, 1)
        self.three = nn.Sequential(nn.Conv2d(inputs, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))
        self.five = nn.Sequential(nn.Conv2d(inputs, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 5, padding=2))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(inputs, 3, 1))

    def forward(self, x):
        return torch.relu(torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1))


def googlenet():
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(stem, Inception(8), Inception(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


class WindowAttention(nn.Module):
    """Swin's attention: windows of 2 x 2, fused qkv, and a bias for each head and offset."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.table = nn.Parameter(torch.zeros(9, heads))
        offsets = [(a // 2 - b // 2 + 1) * 3 + a % 2 - b % 2 + 1 for a in range(4) for b in range(4)]
        self.register_buffer("index", torch.tensor(offsets))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        windows, tokens, width = x.shape
        qkv = self.qkv(x).reshape(windows, tokens, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].view(tokens, tokens, -1).permute(2, 0, 1)
        attention = (qkv[0] * self.scale @ qkv[1].transpose(-2, -1) + bias).softmax(-1)
        return self.proj((attention @ qkv[2]).transpose(1, 2).reshape(windows, tokens, width))


class SwinBlock(nn.Module):
    def __init__(self, width, heads, shift):
        super().__init__()
        self.shift, self.norm1, self.norm2 = shift, nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.fc1, self.fc2 = WindowAttention(width, heads), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        batch, height, columns, width = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = y.view(batch, height // 2, 2, columns // 2, 2, width).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, width)
        y = self.attn(y).view(batch, height // 2, columns // 2, 2, 2, width).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(y.reshape(batch, height, columns, width), (self.shift, self.shift), (1, 2))
        return x + self.fc2(gelu(self.fc1(self.norm2(x))))


class Swin(nn.Module):
    """Shifted windows, and patch merging: four neighbours side by side, normalised, reduced."""

    def __init__(self, width=8):
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, width, 2, 2), nn.Sequential(SwinBlock(width, 2, 0), SwinBlock(width, 2, 1))
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)
        self.last, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, 10)

    def forward(self, x):
        x = self.blocks(self.patch(x).permute(0, 2, 3, 1))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.head(self.last(self.reduce(self.norm(x))).mean((1, 2)))


class AdaptiveBlock(nn.Module):
    """DiT's block: norms without tensors, then scales, shifts and gates that a condition makes, six to a channel."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, 1e-6, elementwise_affine=False) for _ in range(2))
        self.attention, self.adapt = SeparateAttention(width, heads), nn.Linear(12, 6 * width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, condition):
        adapted = self.adapt(nn.functional.silu(condition)).unsqueeze(1)
        shift1, scale1, gate1, shift2, scale2, gate2 = adapted.chunk(6, -1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.fc2(gelu(self.fc1(self.norm2(x) * (1 + scale2) + shift2)))


class Diffusion(nn.Module):
    """DiT: patches, positions, a condition, and pixels again."""

    def __init__(self, width=16):
        super().__init__()
        self.patch, self.pos_embed = nn.Conv2d(3, width, 4, 4), nn.Parameter(torch.zeros(1, 4, width))
        self.condition = nn.Sequential(nn.Linear(3, 10), nn.SiLU(), nn.Linear(10, 12))
        self.blocks = nn.ModuleList(AdaptiveBlock(width, 4) for _ in range(2))
        self.norm, self.out = nn.LayerNorm(width, 1e-6, elementwise_affine=False), nn.Linear(width, 4 * 4 * 3)

    def forward(self, x):
        condition = self.condition(x.mean((2, 3)))
        y = self.patch(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            y = block(y, condition)
        y = self.out(self.norm(y)).view(-1, 2, 2, 4, 4, 3)
        return torch.einsum("nhwpqc->nchpwq", y).reshape(x.shape)


class Gated(nn.Module):
    """GLU, a highway, and a bilinear product of two features: gates with f(0) != 0."""

    def __init__(self, width=8):
        super().__init__()
        self.first, self.carry, self.other = nn.Linear(6, 2 * width), nn.Linear(6, width), nn.Linear(6, width)
        self.mix, self.head = nn.Linear(width, 10), nn.Linear(10, 3)

    def forward(self, x):
        gate = torch.sigmoid(self.carry(x))
        y = gate * nn.functional.glu(self.first(x), -1) + (1 - gate) * torch.exp(self.other(x))
        return self.head(nn.functional.softplus(self.mix(y)))


class SpatialAttention(nn.Module):
    """CBAM: a map from mean and maximum over the channels, which therefore all matter to each other."""

    def __init__(self, width=6):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, width, 3), nn.Conv2d(2, 1, 3, padding=1)
        self.out = nn.Sequential(nn.Conv2d(width, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))

    def forward(self, x):
        x = torch.sigmoid(self.conv(x))
        gate = self.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))
        return self.out(x * torch.sigmoid(gate))


class Competing(nn.Module):
    """Softmax, a running sum and a sort over features; weights that count positions; a width written into the code."""

    def __init__(self, width=8):
        super().__init__()
        self.chosen, self.summed, self.sorted = (nn.Linear(4, width) for _ in range(3))
        self.placed, self.written, self.free = (nn.Linear(4, width) for _ in range(3))
        self.out = nn.ModuleList(nn.Linear(width, 2) for _ in range(6))

    def forward(self, x):
        features = [self.chosen(x).softmax(-1), self.summed(x).cumsum(-1), self.sorted(x).sort(-1).values]
        placed = self.placed(x)
        features.append(placed * torch.linspace(0, 1, placed.shape[-1]))
        features += [self.written(x).reshape(-1, 8), self.free(x).exp()]
        return sum(out(feature) for out, feature in zip(self.out, features, strict=True))
