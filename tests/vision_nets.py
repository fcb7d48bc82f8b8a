"""Convolutional networks as their papers wire them, narrow: same operations, blocks and connections, few channels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate, pad


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1, activation=nn.ReLU):
    """Convolution, BatchNorm and, unless None, an activation."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class VGG(nn.Module):
    """VGG-16 with BatchNorm: thirteen convolutions, a flatten of (C, 2, 2), three linear layers."""

    def __init__(self, plan=(4, 4, 0, 8, 8, 0, 12, 12, 12, 0, 16, 16, 16, 0, 16, 16, 16)):
        super().__init__()
        layers, width = [], 3
        for outputs in plan:
            layers.append(conv_bn(width, outputs) if outputs else nn.MaxPool2d(2))
            width = outputs or width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(width * 4, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 10)
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs, width, stride, groups):
        super().__init__()
        self.conv1 = conv_bn(inputs, width, 3, stride)
        self.conv2 = conv_bn(width, width, activation=None)
        self.shortcut = conv_bn(inputs, width, 1, stride, activation=None) if stride != 1 or inputs != width else nn.Identity()

    def forward(self, x):
        return torch.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, width, stride, groups):
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = conv_bn(inputs, width, 1)
        self.conv2 = conv_bn(width, width, 3, stride, groups)
        self.conv3 = conv_bn(width, outputs, 1, activation=None)
        self.shortcut = (
            conv_bn(inputs, outputs, 1, stride, activation=None) if stride != 1 or inputs != outputs else nn.Identity()
        )

    def forward(self, x):
        return torch.relu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet for ImageNet: a stem with max pooling, four stages; with groups, ResNeXt."""

    def __init__(self, block, depths, width, groups=1):
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1))
        inputs, stages = width, []
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stages.append(block(inputs, width << stage, 2 if stage and not i else 1, groups))
                inputs = (width << stage) * block.expansion
        self.blocks = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x):
        return self.fc(torch.flatten(self.avgpool(self.blocks(self.stem(x))), 1))


class PaddedBlock(nn.Module):
    """A block of ResNet for CIFAR with option A: the shortcut skips every other pixel and pads with silent channels."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.padding = stride, (width - inputs) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return torch.relu(out + x)


class CifarResNet(nn.Module):
    """ResNet-(6n + 2) for CIFAR, option A; n = 9 is ResNet-56."""

    def __init__(self, n=9, width=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs, blocks = width, []
        for stage in range(3):
            for i in range(n):
                blocks.append(PaddedBlock(inputs, width << stage, 2 if stage and not i else 1))
                inputs = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x):
        out = self.blocks(torch.relu(self.bn1(self.conv1(x))))
        return self.linear(nn.functional.avg_pool2d(out, out.size(3)).view(out.size(0), -1))


class SqueezeExcite(nn.Module):
    """One factor for every channel, computed from the means of all of them."""

    def __init__(self, width, hidden, activation, gate):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)
        self.activation, self.gate = activation(), gate()

    def forward(self, x):
        return x * self.gate(self.fc2(self.activation(self.fc1(self.pool(x)))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, perhaps squeeze-excite, project: the block of MobileNetV2, V3 and EfficientNet."""

    def __init__(self, inputs, expanded, outputs, kernel, stride, activation, excite=None):
        super().__init__()
        self.adds = stride == 1 and inputs == outputs
        layers = [conv_bn(inputs, expanded, 1, activation=activation)] if expanded != inputs else []
        layers.append(conv_bn(expanded, expanded, kernel, stride, expanded, activation))
        layers += [excite(inputs, expanded)] if excite else []
        self.layers = nn.Sequential(*layers, conv_bn(expanded, outputs, 1, activation=None))

    def forward(self, x):
        return x + self.layers(x) if self.adds else self.layers(x)


class Mobile(nn.Module):
    """Stem, inverted residuals, a last 1x1 convolution, a classifier.

    A row is (expansion, outputs, repeats, kernel, stride, squeeze-excite, activation).
    """

    def __init__(self, rows, excite, last, classifier, activation, stem=4):
        super().__init__()
        layers, inputs = [conv_bn(3, stem, 3, 2, activation=activation)], stem
        for expansion, outputs, repeats, kernel, stride, squeezed, act in rows:
            for i in range(repeats):
                step, excited = stride if not i else 1, excite if squeezed else None
                layers.append(InvertedResidual(inputs, expansion * inputs, outputs, kernel, step, act, excited))
                inputs = outputs
        self.features = nn.Sequential(*layers, conv_bn(inputs, last, 1, activation=activation))
        self.classifier = classifier

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


def mobilenet_v2():
    act = nn.ReLU6
    rows = [(1, 4, 1, 1), (6, 4, 2, 2), (6, 6, 2, 2), (6, 8, 2, 2), (6, 8, 2, 1), (6, 10, 2, 2), (6, 12, 1, 1)]
    rows = [(t, c, n, 3, s, False, act) for t, c, n, s in rows]
    return Mobile(rows, None, 32, nn.Sequential(nn.Dropout(), nn.Linear(32, 10)), act)


def mobilenet_v3():
    act, relu = nn.Hardswish, nn.ReLU

    def excite(inputs, width):
        return SqueezeExcite(width, max(4, width // 4), nn.ReLU, nn.Hardsigmoid)

    rows = [(1, 4, 1, 3, 2, True, relu), (4, 6, 1, 3, 2, False, relu), (3, 6, 1, 3, 1, False, relu)]
    rows += [(4, 8, 1, 5, 2, True, act), (6, 8, 2, 5, 1, True, act), (3, 10, 2, 5, 1, True, act), (6, 12, 3, 5, 2, True, act)]
    head = nn.Sequential(nn.Linear(24, 20), nn.Hardswish(), nn.Dropout(), nn.Linear(20, 10))
    return Mobile(rows, excite, 24, head, act)


def efficientnet_b0():
    act = nn.SiLU

    def excite(inputs, width):
        return SqueezeExcite(width, max(2, inputs // 4), nn.SiLU, nn.Sigmoid)

    rows = [(1, 4, 1, 3, 1), (6, 6, 2, 3, 2), (6, 6, 2, 5, 2), (6, 8, 2, 3, 2)]
    rows += [(6, 8, 2, 5, 1), (6, 10, 2, 5, 2), (6, 12, 1, 3, 1)]
    rows = [(t, c, n, k, s, True, act) for t, c, n, k, s in rows]
    return Mobile(rows, excite, 32, nn.Sequential(nn.Dropout(), nn.Linear(32, 10)), act)


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features):
        x = self.conv1(torch.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(torch.relu(self.norm2(x)))


class DenseBlock(nn.Module):
    def __init__(self, inputs, depth, growth):
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(inputs + i * growth, growth) for i in range(depth))

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """DenseNet-BC: every layer reads all before it; transitions halve the channels."""

    def __init__(self, depths=(2, 3, 3, 2), growth=4):
        super().__init__()
        width = 2 * growth
        stem = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        self.stem, stages = nn.Sequential(*stem), []
        for i, depth in enumerate(depths):
            stages.append(DenseBlock(width, depth, growth))
            width += depth * growth
            if i + 1 < len(depths):
                half = nn.Conv2d(width, width // 2, 1, bias=False)
                stages.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), half, nn.AvgPool2d(2, 2)))
                width //= 2
        self.stages, self.norm = nn.Sequential(*stages), nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stages(self.stem(x))))
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(x, (1, 1)), 1))


class UNet(nn.Module):
    """Contracting and expanding paths with skips by concat; ``norm`` makes the normalisation of so many channels."""

    def __init__(self, norm=nn.BatchNorm2d, width=8):
        super().__init__()

        def double(inputs, outputs):
            first = [nn.Conv2d(inputs, outputs, 3, padding=1), norm(outputs), nn.ReLU()]
            return nn.Sequential(*first, nn.Conv2d(outputs, outputs, 3, padding=1), norm(outputs), nn.ReLU())

        self.pool = nn.MaxPool2d(2)
        self.down1, self.down2, self.bottom = double(3, width), double(width, 2 * width), double(2 * width, 4 * width)
        self.up2, self.join2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), double(4 * width, 2 * width)
        self.up1, self.join1 = nn.ConvTranspose2d(2 * width, width, 2, 2), double(2 * width, width)
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.join2(torch.cat([second, self.up2(self.bottom(self.pool(second)))], 1))
        return self.out(self.join1(torch.cat([first, self.up1(x)], 1)))


class Style(nn.Module):
    """Fast style transfer: reflection padding, InstanceNorm, residual blocks, upsampling to the input's size."""

    def __init__(self, width=8, blocks=2, affine=True):
        super().__init__()

        def conv(inputs, outputs, kernel, stride=1):
            layers = [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(inputs, outputs, kernel, stride)]
            return nn.Sequential(*layers, nn.InstanceNorm2d(outputs, affine=affine))

        self.stem, self.down = conv(3, width, 5), conv(width, 2 * width, 3, 2)
        self.first = nn.ModuleList(conv(2 * width, 2 * width, 3) for _ in range(blocks))
        self.second = nn.ModuleList(conv(2 * width, 2 * width, 3) for _ in range(blocks))
        self.up = conv(2 * width, width, 3)
        self.out = nn.Sequential(nn.Conv2d(width, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1))

    def forward(self, x):
        y = torch.relu(self.down(torch.relu(self.stem(x))))
        for first, second in zip(self.first, self.second, strict=True):
            y = y + second(torch.relu(first(y)))
        return self.out(torch.relu(self.up(interpolate(y, size=x.shape[2:], mode="nearest"))))


class Super(nn.Module):
    """SRResNet: PReLU with one slope a channel, a long skip, PixelShuffle."""

    def __init__(self, width=8, blocks=2):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, padding=2), nn.PReLU(width))
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_bn(width, width, activation=None), nn.PReLU(width), conv_bn(width, width, activation=None))
            for _ in range(blocks)
        )
        self.body = conv_bn(width, width, activation=None)
        self.up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(width))
        self.out = nn.Conv2d(width, 3, 5, padding=2)

    def forward(self, x):
        x = self.stem(x)
        y = x
        for block in self.blocks:
            y = y + block(y)
        return self.out(self.up(x + self.body(y)))


def waves():
    """A 1d convolutional network for signals: strided, dilated, grouped, pooled over time."""
    return nn.Sequential(
        *(nn.Conv1d(2, 8, 9, 4, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(8, 12, 3, padding=2, dilation=2), nn.BatchNorm1d(12), nn.ELU()),
        *(nn.Conv1d(12, 12, 3, padding=1, groups=12), nn.Conv1d(12, 16, 1), nn.GroupNorm(4, 16), nn.SiLU()),
        *(nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(32, 5)),
    )


def volumes():
    """C3D: 3d convolutions and pools, a flatten of (C, T, H, W), linear layers."""
    return nn.Sequential(
        *(nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d((1, 2, 2))),
        *(nn.Conv3d(6, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 8, 12), nn.ReLU(), nn.Linear(12, 4)),
    )
