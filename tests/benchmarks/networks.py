"""The networks of the benchmark, written as a user of Flax would write them.

Each takes one example or a batch: inputs are `(..., one example's shape)`. None mixes
examples. Only the tanh CNN is not here: it is the one of the examples.

References:
    Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016.
    Wu, He, "Group Normalization", ECCV 2018.
    Radford, Wu, Child, Luan, Amodei, Sutskever, "Language Models are Unsupervised
        Multitask Learners", 2019: GPT-2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class MLP(nn.Module):
    """Hidden layers of relu units."""

    width: int
    hidden: int = 3
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(..., features)` to logits `(..., num_classes)`."""
        for _ in range(self.hidden):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.num_classes)(x)


class CNN(nn.Module):
    """The CNN of Flax's MNIST example: two 3 x 3 convolutions, mean pools, two layers.

    Convolutions keep the image's size (padding 1); each is followed by relu and the
    mean of 2 x 2 windows.
    """

    channels: tuple[int, int]
    hidden: int
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images `(..., height, width, channels)` to logits `(..., classes)`."""
        for features in self.channels:
            x = nn.avg_pool(nn.relu(nn.Conv(features, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(*x.shape[:-3], -1)))
        return nn.Dense(self.num_classes)(x)


class WideResNet(nn.Module):
    """WRN-depth-widening, group norm in the place of batch norm.

    Three stages of (depth - 4) / 6 blocks each; a block is norm, relu, convolution
    twice, added to its input. Stages two and three halve the image.
    """

    depth: int
    widening: int
    groups: int = 16
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images `(..., height, width, channels)` to logits `(..., classes)`."""
        x = nn.Conv(16, (3, 3), use_bias=False)(x)
        for stage in range(3):
            for block in range((self.depth - 4) // 6):
                stride = 2 if stage and not block else 1
                x = self._block(x, 16 * 2**stage * self.widening, stride)
        x = self._norm_relu(x).mean((-3, -2))
        return nn.Dense(self.num_classes)(x)

    def _block(self, x: jax.Array, features: int, stride: int) -> jax.Array:
        strides = (stride, stride)
        y = self._norm_relu(x)
        if x.shape[-1] != features:
            x = nn.Conv(features, (1, 1), strides, use_bias=False)(y)
        y = nn.Conv(features, (3, 3), strides, use_bias=False)(y)
        return x + nn.Conv(features, (3, 3), use_bias=False)(self._norm_relu(y))

    def _norm_relu(self, x: jax.Array) -> jax.Array:
        # Moments over the last three axes: those of one example.
        return nn.relu(nn.GroupNorm(self.groups, reduction_axes=(-3, -2, -1))(x))


class GPT(nn.Module):
    """A decoder-only transformer: layer norm first, learned positions, gelu, 4x MLP."""

    vocabulary: int
    width: int
    blocks: int
    heads: int
    tied: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Map tokens `(..., positions)` to logits `(..., positions, vocabulary)`."""
        embed = nn.Embed(self.vocabulary, self.width)
        place = (tokens.shape[-1], self.width)
        x = embed(tokens) + self.param("positions", nn.initializers.normal(0.02), place)
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.blocks):
            attention = nn.MultiHeadDotProductAttention(self.heads)
            x = x + attention(nn.LayerNorm()(x), mask=mask)
            x = x + transformer_mlp(nn.LayerNorm()(x))
        x = nn.LayerNorm()(x)
        return embed.attend(x) if self.tied else nn.Dense(self.vocabulary)(x)


def transformer_mlp(x: jax.Array) -> jax.Array:
    """Map `(..., width)` to `(..., width)` by two dense layers, 4 * width units."""
    width = x.shape[-1]
    return nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(x)))


class PositionMLP(nn.Module):
    """A transformer's dense layers without its attention: what taps alone cost."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(..., positions, width)` to logits `(..., num_classes)`."""
        return nn.Dense(self.num_classes)(transformer_mlp(x).mean(-2))


class LSTM(nn.Module):
    """Bytes, embedded, through an LSTM; its last output is classified."""

    width: int
    vocabulary: int = 256
    num_classes: int = 10

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Map tokens `(..., positions)` to logits `(..., num_classes)`."""
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        x = nn.RNN(nn.OptimizedLSTMCell(self.width))(x)
        return nn.Dense(self.num_classes)(x[..., -1, :])


class EmbeddingBag(nn.Module):
    """The mean of the rows of a table that an example names, classified."""

    rows: int
    width: int
    num_classes: int = 10

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Map row numbers `(..., ids)` to logits `(..., num_classes)`."""
        rows = nn.Embed(self.rows, self.width)(ids)
        return nn.Dense(self.num_classes)(jnp.mean(rows, -2))
