"""The networks of `networks.py` in PyTorch, of layers that Opacus has rules for.

Layouts are PyTorch's: images are `(batch, channels, height, width)`. It is imported by
`opacus_worker.py` alone, in Opacus's own environment.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from opacus.layers import DPLSTM
from torch import nn


class Residual(nn.Module):
    """A branch, added to its input or to a projection of what `before` makes of it."""

    def __init__(
        self,
        branch: nn.Module,
        before: nn.Module | None = None,
        shortcut: nn.Module | None = None,
    ):
        super().__init__()
        self.branch, self.before, self.shortcut = branch, before, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        y = self.before(x) if self.before else x
        return (self.shortcut(y) if self.shortcut else x) + self.branch(y)


class Attention(nn.Module):
    """Causal self-attention of linear layers, which Opacus has rules for."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(batch, positions, width)` to the same."""
        parts = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class Positions(nn.Module):
    """Embed tokens and add a learned embedding of their places."""

    def __init__(self, vocabulary: int, positions: int, width: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(positions, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map `(batch, positions)` to `(batch, positions, width)`."""
        places = torch.arange(tokens.shape[-1]).repeat(len(tokens), 1)
        return self.tokens(tokens) + self.places(places)


class Apply(nn.Module):
    """A function without parameters, as a layer."""

    def __init__(self, function: Callable[[Any], torch.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> torch.Tensor:
        """Return the function of `x`."""
        return self.function(x)


def mlp(batch: int, width: int) -> tuple[nn.Module, torch.Tensor]:
    """Return the model and a batch of its inputs, as all of these do."""
    sizes = [784, width, width, width]
    layers = [
        layer
        for i, o in itertools.pairwise(sizes)
        for layer in (nn.Linear(i, o), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(batch, 784)


def cnn(batch: int, channels: int, hidden: int) -> tuple[nn.Module, torch.Tensor]:
    """Return the 3 x 3 CNN."""
    layers = [
        *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(2 * channels * 49, hidden), nn.ReLU()),
        nn.Linear(hidden, 10),
    ]
    return nn.Sequential(*layers), torch.randn(batch, 1, 28, 28)


def tanh_cnn(batch: int) -> tuple[nn.Module, torch.Tensor]:
    """Return the tanh CNN of Papernot et al."""
    layers = [
        *(nn.Conv2d(1, 16, 8, 2, padding=3), nn.MaxPool2d(2, 1), nn.Tanh()),
        *(nn.Conv2d(16, 32, 4, 2), nn.MaxPool2d(2, 1), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(512, 32), nn.Tanh(), nn.Linear(32, 10)),
    ]
    return nn.Sequential(*layers), torch.randn(batch, 1, 28, 28)


def wide_resnet(
    batch: int, depth: int, widening: int, side: int
) -> tuple[nn.Module, torch.Tensor]:
    """Return the WideResNet with group norm."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    channels = 16
    for stage in range(3):
        for block in range((depth - 4) // 6):
            features = 16 * 2**stage * widening
            layers.append(_block(channels, features, 2 if stage and not block else 1))
            channels = features
    pool = [_norm_relu(channels), Apply(lambda x: x.mean((-2, -1)))]
    model = nn.Sequential(*layers, *pool, nn.Linear(channels, 10))
    return model, torch.randn(batch, 3, side, side)


def _norm_relu(channels: int) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(16, channels), nn.ReLU())


def _block(channels: int, features: int, stride: int) -> nn.Module:
    conv = functools.partial(nn.Conv2d, bias=False)
    branch = nn.Sequential(
        conv(channels, features, 3, stride, padding=1),
        _norm_relu(features),
        conv(features, features, 3, padding=1),
    )
    if channels == features:
        return Residual(nn.Sequential(_norm_relu(channels), branch))
    return Residual(branch, _norm_relu(channels), conv(channels, features, 1, stride))


def gpt(
    batch: int, positions: int, width: int, blocks: int, heads: int, **rest: int
) -> tuple[nn.Module, torch.Tensor]:
    """Return the GPT, its head not tied."""
    layers: list[nn.Module] = [Positions(rest["vocabulary"], positions, width)]
    for _ in range(blocks):
        hidden = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        for parts in ([Attention(width, heads)], hidden):
            layers.append(Residual(nn.Sequential(nn.LayerNorm(width), *parts)))
    layers += [nn.LayerNorm(width), nn.Linear(width, rest["vocabulary"])]
    tokens = torch.randint(rest["vocabulary"], (batch, positions))
    return nn.Sequential(*layers), tokens


def lstm(batch: int, positions: int, width: int) -> tuple[nn.Module, torch.Tensor]:
    """Return the LSTM on bytes."""
    layers = [nn.Embedding(256, width), DPLSTM(width, width, batch_first=True)]
    last = Apply(lambda outputs: outputs[0][:, -1])
    model = nn.Sequential(*layers, last, nn.Linear(width, 10))
    return model, torch.randint(256, (batch, positions))


def embedding_bag(
    batch: int, rows: int, width: int, ids: int
) -> tuple[nn.Module, torch.Tensor]:
    """Return the mean of embedded ids, classified."""
    mean = Apply(lambda x: x.mean(-2))
    model = nn.Sequential(nn.Embedding(rows, width), mean, nn.Linear(width, 10))
    return model, torch.randint(rows, (batch, ids))


MODELS = {
    model.__name__: model
    for model in (mlp, cnn, tanh_cnn, wide_resnet, gpt, lstm, embedding_bag)
}
