"""The student: a MobileNetV3-like classifier small enough to ship (under 2 MB in fp32). Needs only torch.

Inverted residuals with depthwise convolutions, squeeze-and-excitation and hard-swish, after
"Searching for MobileNetV3" (Howard et al., 2019): the parts that int8 recipes stumble over.
"""

from typing import NamedTuple

from torch import Tensor, nn


class Block(NamedTuple):
    """One row of the network's table."""

    kernel: int
    expanded: int  # channels inside the block
    out: int
    gated: bool  # squeeze-and-excitation
    smooth: bool  # hard-swish, else ReLU
    stride: int


STEM = 16
HEAD = 288
BLOCKS = (
    Block(3, 16, 16, True, False, 2),
    Block(3, 64, 24, False, False, 2),
    Block(3, 80, 24, False, False, 1),
    Block(5, 96, 40, True, True, 2),
    Block(5, 160, 40, True, True, 1),
    Block(5, 160, 40, True, True, 1),
    Block(5, 192, 64, True, True, 2),
    Block(5, 288, 64, True, True, 1),
)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (divided by stride), and its batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Gate(nn.Module):
    """Squeeze-and-excitation: scale each channel by a function of the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 4)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        scaled: Tensor = x * self.weigh(x)
        return scaled


class InvertedResidual(nn.Module):
    """Widen, filter each channel alone, gate, narrow; added to its input where the shapes agree."""

    def __init__(self, inputs: int, row: Block) -> None:
        super().__init__()
        act = nn.Hardswish if row.smooth else nn.ReLU
        self.shortcut = row.stride == 1 and inputs == row.out
        self.body = nn.Sequential(
            conv(inputs, row.expanded, 1),
            act(),
            conv(row.expanded, row.expanded, row.kernel, row.stride, groups=row.expanded),
            act(),
            Gate(row.expanded) if row.gated else nn.Identity(),
            conv(row.expanded, row.out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, out, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


class Student(nn.Module):
    """(N, 3, H, W) normalised RGB to (N, num_classes) logits; trained at 128 x 128, runs at any size."""

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        rows = [b._replace(expanded=scaled(b.expanded, width), out=scaled(b.out, width)) for b in BLOCKS]
        stem, head = scaled(STEM, width), scaled(HEAD, width)
        inputs = [stem, *(row.out for row in rows)]
        self.features = nn.Sequential(
            conv(3, stem, 3, stride=2),
            nn.Hardswish(),
            *(InvertedResidual(channels, row) for channels, row in zip(inputs, rows, strict=False)),
            conv(inputs[-1], head, 1),
            nn.Hardswish(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(head, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, num_classes), before softmax."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8 (vector units like that) and at least 8."""
    return max(8, int(channels * width + 4) // 8 * 8)


def create_model(num_classes: int, width: float = 1.0) -> nn.Module:
    """An untrained student; `width` multiplies every layer's channels."""
    return Student(num_classes, width)
