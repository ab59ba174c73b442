"""The architectures of the example zoo as plain PyTorch, under their published weights' names.

Functions for ``kind: function`` entries of a zoo; each returns a network from images to features.

    lite0, lite1, lite2     EfficientNet-Lite (Tan and Le 2019; no squeeze-and-excitation, ReLU6)
    efficientnet_b0         EfficientNet-B0
    mobilenet_v2            MobileNetV2 (Sandler et al. 2018)
    mobilenet_v3_trunk      MobileNetV3-Large (Howard et al. 2019), last stage dilated, as in the
                            segmentation network LRASPP
    resnet18                ResNet-18 (He et al. 2016); ``stride`` 1 keeps the first map large
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

HALF = (0.5, 0.5, 0.5)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: for even inputs, one pixel less on top and left."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        total = kernel - stride
        self.same = (total // 2, total - total // 2) * 2
        if stride == 1:
            self.padding = (kernel // 2, kernel // 2)

    def forward(self, values: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        if self.stride[0] > 1:
            values = nn.functional.pad(values, self.same)
        return super().forward(values)


def lite_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with TensorFlow's constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class LiteBlock(nn.Module):
    """Expand, filter every channel by itself, project; plus the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(inputs, inner, 1), lite_norm(inner)
        self._depthwise_conv = SameConv(inner, inner, kernel, stride, inner)
        self._bn1 = lite_norm(inner)
        self._project_conv, self._bn2 = SameConv(inner, outputs, 1), lite_norm(outputs)
        self._act = nn.ReLU6(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        values = inputs
        if self.expands:
            values = self._act(self._bn0(self._expand_conv(values)))
        values = self._act(self._bn1(self._depthwise_conv(values)))
        values = self._bn2(self._project_conv(values))
        return values + inputs if self.skips else values


class EfficientNetLite(nn.Module):
    """Images (N, 3, H, W) -> features (N, 1280). ``width`` and ``depth`` scale the stages."""

    # repeats, kernel, stride of the first block, expansion, channels in, channels out
    STAGES = (
        (1, 3, 1, 1, 32, 16),
        (2, 3, 2, 6, 16, 24),
        (2, 5, 2, 6, 24, 40),
        (3, 3, 2, 6, 40, 80),
        (3, 5, 1, 6, 80, 112),
        (4, 5, 2, 6, 112, 192),
        (1, 3, 1, 6, 192, 320),
    )
    feature_dim = 1280
    input_mean, input_std = LITE_MEAN, LITE_STD

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), lite_norm(32)
        blocks = []
        last = len(self.STAGES) - 1
        for stage, (repeats, kernel, stride, expansion, inputs, outputs) in enumerate(self.STAGES):
            first = 32 if stage == 0 else rounded(inputs * width)
            wide = rounded(outputs * width)
            count = repeats if stage in (0, last) else math.ceil(repeats * depth)
            blocks.append(LiteBlock(first, wide, kernel, stride, expansion))
            blocks += [LiteBlock(wide, wide, kernel, 1, expansion) for _ in range(count - 1)]
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(rounded(320 * width), 1280, 1), lite_norm(1280)
        self._act = nn.ReLU6(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Global average of the last feature map."""
        values = self._act(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            values = block(values)
        return self._act(self._bn1(self._conv_head(values))).mean((2, 3))


def rounded(channels: float) -> int:
    """To the nearest multiple of 8 that is at least nine tenths of it."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


def unit(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    dilation: int = 1,
    act: type[nn.Module] | None = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Convolution, BatchNorm and, if named, an activation: positions 0, 1 and 2."""
    padding = (kernel - 1) // 2 * dilation
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs, eps=eps),
    ]
    return nn.Sequential(*layers, *([act(inplace=True)] if act else []))


class Residual(nn.Module):
    """``block`` (under the name ``name``) plus its input where shapes agree."""

    def __init__(self, name: str, block: nn.Sequential, skips: bool) -> None:
        super().__init__()
        self.inner, self.skips = name, skips
        self.add_module(name, block)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        values = self._modules[self.inner](inputs)
        return values + inputs if self.skips else values


class MobileNetV2(nn.Module):
    """Images (N, 3, H, W) -> features (N, 1280)."""

    # expansion, channels, repeats, stride
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    feature_dim = 1280

    def __init__(self) -> None:
        super().__init__()
        make = partial(unit, act=nn.ReLU6)
        layers: list[nn.Module] = [make(3, 32, 3, 2)]
        inputs = 32
        for expansion, outputs, repeats, stride in self.STAGES:
            for index in range(repeats):
                step, inner = stride if index == 0 else 1, inputs * expansion
                parts: list[nn.Module] = [make(inputs, inner, 1)] if expansion > 1 else []
                parts.append(make(inner, inner, 3, step, groups=inner))
                parts += [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
                skips = step == 1 and inputs == outputs
                layers.append(Residual("conv", nn.Sequential(*parts), skips))
                inputs = outputs
        self.features = nn.Sequential(*layers, make(320, 1280, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Global average of the last feature map."""
        return self.features(images).mean((2, 3))


class Squeeze(nn.Module):
    """Squeeze-and-excitation: every channel is scaled by what all channels say."""

    def __init__(
        self, channels: int, inner: int, act: type[nn.Module], gate: type[nn.Module]
    ) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return values * self.gate(self.fc2(self.act(self.fc1(values.mean((2, 3), keepdim=True)))))


class EfficientNetB0(nn.Module):
    """Images (N, 3, H, W) -> features (N, 1280)."""

    # expansion, kernel, stride, channels in, channels out, repeats
    STAGES = (
        (1, 3, 1, 32, 16, 1),
        (6, 3, 2, 16, 24, 2),
        (6, 5, 2, 24, 40, 2),
        (6, 3, 2, 40, 80, 3),
        (6, 5, 1, 80, 112, 3),
        (6, 5, 2, 112, 192, 4),
        (6, 3, 1, 192, 320, 1),
    )
    feature_dim = 1280

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = [unit(3, 32, 3, 2, act=nn.SiLU)]
        for expansion, kernel, stride, first, outputs, repeats in self.STAGES:
            blocks = []
            for index in range(repeats):
                inputs, step = (first, stride) if index == 0 else (outputs, 1)
                inner = inputs * expansion
                parts: list[nn.Module] = []
                if expansion > 1:
                    parts.append(unit(inputs, inner, 1, act=nn.SiLU))
                parts.append(unit(inner, inner, kernel, step, groups=inner, act=nn.SiLU))
                parts.append(Squeeze(inner, max(1, inputs // 4), nn.SiLU, nn.Sigmoid))
                parts.append(unit(inner, outputs, 1))
                skips = step == 1 and inputs == outputs
                blocks.append(Residual("block", nn.Sequential(*parts), skips))
            stages.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*stages, unit(320, 1280, 1, act=nn.SiLU))

    def forward(self, images: Tensor) -> Tensor:
        """Global average of the last feature map."""
        return self.features(images).mean((2, 3))


class MobileNetV3Trunk(nn.Module):
    """Images (N, 3, H, W) -> features (N, 960): the average of the last map, of stride 16."""

    # kernel, inner channels, channels out, squeeze, hard swish, stride, dilation
    BLOCKS = (
        (3, 16, 16, False, False, 1, 1),
        (3, 64, 24, False, False, 2, 1),
        (3, 72, 24, False, False, 1, 1),
        (5, 72, 40, True, False, 2, 1),
        (5, 120, 40, True, False, 1, 1),
        (5, 120, 40, True, False, 1, 1),
        (3, 240, 80, False, True, 2, 1),
        (3, 200, 80, False, True, 1, 1),
        (3, 184, 80, False, True, 1, 1),
        (3, 184, 80, False, True, 1, 1),
        (3, 480, 112, True, True, 1, 1),
        (3, 672, 112, True, True, 1, 1),
        (5, 672, 160, True, True, 1, 2),
        (5, 960, 160, True, True, 1, 2),
        (5, 960, 160, True, True, 1, 2),
    )
    feature_dim = 960

    def __init__(self) -> None:
        super().__init__()
        make = partial(unit, eps=1e-3)
        layers: list[nn.Module] = [make(3, 16, 3, 2, act=nn.Hardswish)]
        inputs = 16
        for kernel, inner, outputs, squeeze, hard, stride, dilation in self.BLOCKS:
            act = nn.Hardswish if hard else nn.ReLU
            parts: list[nn.Module] = [make(inputs, inner, 1, act=act)] if inner != inputs else []
            parts.append(
                make(inner, inner, kernel, stride, groups=inner, dilation=dilation, act=act)
            )
            if squeeze:
                parts.append(Squeeze(inner, rounded(inner / 4), nn.ReLU, nn.Hardsigmoid))
            parts.append(make(inner, outputs, 1))
            skips = stride == 1 and inputs == outputs
            layers.append(Residual("block", nn.Sequential(*parts), skips))
            inputs = outputs
        layers.append(make(160, 960, 1, act=nn.Hardswish))
        self.backbone = nn.ModuleDict({str(index): layer for index, layer in enumerate(layers)})

    def forward(self, images: Tensor) -> Tensor:
        """Global average of the last feature map."""
        for layer in self.backbone.values():
            images = layer(images)
        return images.mean((2, 3))


class Basic(nn.Module):
    """Two convolutions plus the input, brought to their shape where it differs."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        if stride > 1 or inputs != outputs:
            self.downsample: nn.Module = unit(inputs, outputs, 1, stride)
        else:
            self.downsample = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        values = self.relu(self.bn1(self.conv1(inputs)))
        return self.relu(self.bn2(self.conv2(values)) + self.downsample(inputs))


class ResNet18(nn.Module):
    """Images (N, 3, H, W) -> features (N, 512)."""

    feature_dim = 512

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for index, (inputs, outputs) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512))):
            first = Basic(inputs, outputs, 1 if index == 0 else 2)
            self.add_module(f"layer{index + 1}", nn.Sequential(first, Basic(outputs, outputs, 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Global average of the last feature map."""
        values = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for index in range(4):
            values = self._modules[f"layer{index + 1}"](values)
        return values.mean((2, 3))


def lite0() -> nn.Module:
    return EfficientNetLite(1.0, 1.0)


def lite1() -> nn.Module:
    return EfficientNetLite(1.0, 1.1)


def lite2() -> nn.Module:
    return EfficientNetLite(1.1, 1.2)


def efficientnet_b0() -> nn.Module:
    return EfficientNetB0()


def mobilenet_v2() -> nn.Module:
    return MobileNetV2()


def mobilenet_v3_trunk() -> nn.Module:
    return MobileNetV3Trunk()


def resnet18(stride: int = 2) -> nn.Module:
    return ResNet18(stride)
