"""The small network of the tangent experiments, and how its weights are made.

A residual network for grey images of 28 x 28 pixels, pretrained on Fashion-MNIST classes 0 to 4,
each image turned by 0, 90, 180 and 270 degrees (20 classes, which makes it look at direction), so
that classes 5 to 9 and handwritten digits are new to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stockpot.checkpoints import save_state
from stockpot.tasks import read_mnist

FASHION = Path("/usr/share/datasets/fashion-mnist")
MEAN, STD = 0.286, 0.353
OLD_CLASSES = 5


class Block(nn.Module):
    """Two convolutions with BatchNorm around a shortcut (He et al. 2016, the basic block)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """(N, 1, 28, 28) in units of the base's training set -> features (N, 128)."""

    input_shape = (1, 28, 28)
    feature_dim = 128

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.block1 = Block(32, 32, 1)
        self.block2 = Block(32, 64, 2)
        self.block3 = Block(64, 128, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return x.mean((2, 3))


def small_resnet() -> SmallResNet:
    """The network without weights; a recipe names it as ``base.py:small_resnet``."""
    return SmallResNet()


def scaled(images: np.ndarray) -> np.ndarray:
    """Bytes (N, 28, 28) as float32 (N, 1, 28, 28) in the base's units."""
    return ((images.astype(np.float32) / 255 - MEAN) / STD)[:, None]


def pretrain(
    path: Path, fashion: Path = FASHION, *, images: int = 16_000, epochs: int = 2, seed: int = 0
) -> float:
    """Train the base and write its weights to ``path``; returns the accuracy on test images.

    Adam, learning rate 1e-3 with a cosine, batches of 128: about two minutes of one core.
    """
    pixels, labels = read_mnist(fashion)
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    old = np.flatnonzero(labels[:60_000] < OLD_CLASSES)
    rows = generator.permutation(old)[: images // 4]
    x, y = turned(pixels[rows], labels[rows])
    body, head = SmallResNet(), nn.Linear(128, 4 * OLD_CLASSES)
    model = nn.Sequential(body, head)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    steps = epochs * (len(x) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = generator.permutation(len(x))
        for start in range(0, len(x) - 127, 128):
            chosen = order[start : start + 128]
            loss = functional.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    test = 60_000 + np.flatnonzero(labels[60_000:] < OLD_CLASSES)[:1000]
    with torch.no_grad():
        seen, truth = turned(pixels[test], labels[test])
        accuracy = float((model(seen).argmax(1) == truth).float().mean())
    save_state(path, body.state_dict())
    return accuracy


def turned(pixels: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Every image four times, turned by quarter turns; class = 4 * label + quarter turns."""
    x = np.concatenate([np.rot90(pixels, quarter, (1, 2)) for quarter in range(4)])
    y = np.concatenate([4 * labels + quarter for quarter in range(4)])
    return torch.from_numpy(scaled(x)), torch.from_numpy(y)


if __name__ == "__main__":
    import sys

    print(f"accuracy on turned test images: {pretrain(Path(sys.argv[1])):.1%}")
