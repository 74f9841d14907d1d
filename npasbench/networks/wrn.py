"""Wide residual networks WRN-d-w for small images, without dropout (Zagoruyko and Komodakis, BMVC 2016).

N = (d - 4) / 6 blocks a stage, channels 16, 16w, 32w, 64w, strides 1, 2, 2; a 3x3 stem without norm,
pre-activation basic blocks, then BatchNorm, ReLU, global average pool and a linear classifier.
"""

from __future__ import annotations

import functools
import math
import re

from torch import Tensor, nn
from torch.nn import functional as F

from npasbench.errors import UsageError
from npasbench.problem import Architecture

SMALLEST_DEPTH = 10
LARGEST_DEPTH = 100


def wide_resnet(name: str, *, classes: int, channels: int) -> Architecture:
    """The architecture called ``wrn-<depth>-<width>``, for inputs ``[channels, any height, any width]``.

    Its width setting multiplies every channel count, the stem's 16 included; its depths are 10, 16, ..., 100.

    Raises:
        UsageError: for another form of name, width 0, or a depth that is not 6N + 4, with the nearest that are.
    """
    match = re.fullmatch(r"wrn-(\d+)-(\d+)", name)
    if match is None:
        raise UsageError(f"'{name}' is not of the form wrn-<depth>-<width>, such as wrn-16-2.")
    depth, widen = int(match[1]), int(match[2])
    _check_depth(name, depth)
    if widen < 1:
        raise UsageError(f"'{name}' has width 0; the width is a whole number from 1 up.")
    depths = tuple(range(SMALLEST_DEPTH, max(LARGEST_DEPTH, depth) + 1, 6))
    factory = functools.partial(_create, widen=widen, classes=classes, channels=channels, depth=depth)
    return Architecture(name, factory, scales=True, depth=depth, depths=depths)


class WideResNet(nn.Module):
    """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``.

    ``stages`` holds the output channels of the stem and of the three stages.
    """

    def __init__(self, depth: int, stages: tuple[int, int, int, int], *, classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.stem = nn.Conv2d(channels, stages[0], 3, padding=1, bias=False)
        self.stages = nn.ModuleList(
            _stage(blocks, before, after, stride)
            for before, after, stride in zip(stages[:3], stages[1:], (1, 2, 2), strict=True)
        )
        self.norm = nn.BatchNorm2d(stages[3])
        self.classifier = nn.Linear(stages[3], classes)
        self.apply(_initialise)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[batch, channels, height, width] -> [batch, classes]``."""
        maps: Tensor = self.stem(inputs)
        for stage in self.stages:
            maps = stage(maps)
        pooled = F.relu(self.norm(maps)).mean(dim=(2, 3))  # [batch, channels]
        logits: Tensor = self.classifier(pooled)
        return logits


class Block(nn.Module):
    """Pre-activation basic block: ``conv2(relu(norm2(conv1(o)))) + shortcut`` with ``o = relu(norm1(x))``.

    The shortcut is ``x`` itself, or a 1x1 convolution of ``o`` where channels or resolution change.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        # A narrowed network may have equal channels on both sides of a stride, so the stride counts too.
        changes = before != after or stride != 1
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        """``[batch, before, height, width] -> [batch, after, height / stride, width / stride]``."""
        activated = F.relu(self.norm1(maps))
        residual: Tensor = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        return residual + (maps if self.shortcut is None else self.shortcut(activated))


def _stage(blocks: int, before: int, after: int, stride: int) -> nn.Sequential:
    rest = (Block(after, after, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(before, after, stride), *rest)


def _create(*, widen: int, classes: int, channels: int, depth: int, width: float = 1.0) -> WideResNet:
    stem, *rest = (_scaled(count, width) for count in (16, 16 * widen, 32 * widen, 64 * widen))
    return WideResNet(depth, (stem, rest[0], rest[1], rest[2]), classes=classes, channels=channels)


def _scaled(channels: int, width: float) -> int:
    """Rounded half up, so that it never falls when ``width`` grows; at least one channel."""
    return max(1, math.floor(channels * width + 0.5))


def _check_depth(name: str, depth: int) -> None:
    if depth >= SMALLEST_DEPTH and depth % 6 == 4:
        return
    below = max(SMALLEST_DEPTH, depth - (depth - 4) % 6)
    nearest = f"{below}" if depth < SMALLEST_DEPTH else f"{below} and {below + 6}"
    raise UsageError(f"'{name}' has depth {depth}; depths are 6N + 4 from {SMALLEST_DEPTH} up; nearest: {nearest}.")


def _initialise(module: nn.Module) -> None:
    """Kaiming-normal by fan-in for convolutions and the classifier; norms 1 and 0 (torch's own), bias 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
