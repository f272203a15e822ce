"""Networks of `first_call` in PyTorch: of `prospr_ops.models` and its Transformer here, else torchvision's."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn
from torch.nn import functional


def network(name: str) -> nn.Module:
    """Builds a network by its name in `NETWORKS`, or in torchvision.models."""
    build = NETWORKS.get(name) or getattr(torchvision.models, name)
    return build()


def lenet5() -> nn.Module:
    """Of 28 x 28 pixels."""
    first = nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    dense = nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
    return nn.Sequential(*first, *second, *dense)


def vgg16() -> nn.Module:
    """Of 32 x 32 pixels, with batch normalisation, global pooling and one dense layer."""
    parts: list[nn.Module] = []
    before = 3
    for i, stage in enumerate(((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)):
        if i:
            parts.append(nn.MaxPool2d(2))
        for channels in stage:
            parts += [*_normalised(before, channels), nn.ReLU()]
            before = channels
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def resnet20() -> nn.Module:
    """Of 32 x 32 pixels; its shortcuts hold no weights."""
    blocks: list[nn.Module] = []
    before = 16
    for channels in (16, 32, 64):
        for _ in range(3):
            blocks.append(_Residual(before, channels))
            before = channels
    stem = *_normalised(3, 16), nn.ReLU()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class _Residual(nn.Module):
    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if before == channels else 2
        self.padding = channels - before
        self.inner = nn.Sequential(
            *_normalised(before, channels, self.stride), nn.ReLU(), *_normalised(channels, channels)
        )

    def forward(self, x: Any) -> Any:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.padding))
        return functional.relu(shortcut + self.inner(x))


def _normalised(before: int, channels: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels)


def transformer(blocks: int = 4, width: int = 64, words: int = 1000) -> nn.Module:
    """Encoder blocks, with the normalisation first, over the mean of positions."""
    return nn.Sequential(
        nn.Embedding(words, width),
        *(_Encoder(width) for _ in range(blocks)),
        _Mean(),
        nn.Linear(width, 10),
    )


class _Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.dense = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        # With its weights: what is faster without them cannot be differentiated twice.
        x = x + self.attention(y, y, y, need_weights=True)[0]
        return x + self.dense(self.second(x))


class _Mean(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.mean(1)


NETWORKS = {"lenet5": lenet5, "resnet20": resnet20, "vgg16": vgg16, "transformer": transformer}
