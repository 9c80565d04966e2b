"""The models of the examples, fast to train under per-example gradients on a CPU.

Every model takes one example or a batch of them: images are `(..., height, width,
channels)`, tables `(..., features)`. None mixes examples: there is no batch norm, and
group norm takes its moments within one example, so that no statistic of the data is
released.

References:
    Papernot, Thakurta, Song, Chien, Erlingsson, "Tempered Sigmoid Activations for Deep
        Learning with Differential Privacy", AAAI 2021: the tanh CNN.
    Tramer, Boneh, "Differentially Private Learning Needs Better Features (or Much More
        Data)", ICLR 2021: the heads on scattering features.
    Wu, He, "Group Normalization", ECCV 2018.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
from patch_conv import PatchConv, max_pool, mean_pool


def _normalize(groups: int, *, name: str) -> nn.GroupNorm:
    # Moments over the last three axes only: those of one example.
    return nn.GroupNorm(
        num_groups=groups,
        epsilon=1e-5,
        use_scale=False,
        use_bias=False,
        reduction_axes=(-3, -2, -1),
        name=name,
    )


def _centre(x: jax.Array) -> jax.Array:
    # About zero mean and unit variance for drawings, by constants that are public: the
    # moments of the data itself would be private.
    return 3 * x - 0.75


def _flatten(x: jax.Array) -> jax.Array:
    # One axis is a row of a table, two a batch of rows, three or four are images.
    return x.reshape(*x.shape[:-3], -1) if x.ndim >= 3 else x


class TanhCNN(nn.Module):
    """The CNN of Papernot et al. for 28 x 28 images: 26,010 parameters for 10 classes.

    Convolution 8 x 8, 16 channels, stride 2, padding 3; 2 x 2 max-pooling of stride 1;
    convolution 4 x 4, 32 channels, stride 2; pooling again; 32 units; one a class; tanh
    between them. The tanh is applied after the pooling: as it grows, the function is
    that of the paper, on fewer values.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images `(..., 28, 28, channels)` to logits `(..., num_classes)`."""
        x = PatchConv(16, 8, stride=2, padding=3, name="conv_0")(_centre(x))
        x = nn.tanh(max_pool(x))
        x = nn.tanh(max_pool(PatchConv(32, 4, stride=2, name="conv_1")(x)))
        x = nn.tanh(nn.Dense(32, name="hidden")(_flatten(x)))
        return nn.Dense(self.num_classes, name="logits")(x)


class GroupNormCNN(nn.Module):
    """Two convolutions with fixed group norm, for few examples of 28 x 28.

    Convolution 8 x 8, 16 channels, stride 2, padding 3; convolution 3 x 3, 32 channels,
    padding 1; after each group norm without parameters, relu, and the mean of 2 x 2
    windows; one a class. It has 8,570 parameters for 10 classes: where examples are
    few, every parameter that is left out is noise that is left out.
    """

    num_classes: int
    groups: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images `(..., 28, 28, channels)` to logits `(..., num_classes)`."""
        for index, (features, *shape) in enumerate(((16, 8, 2, 3), (32, 3, 1, 1))):
            conv = PatchConv(features, *shape, name=f"conv_{index}")
            norm = _normalize(self.groups, name=f"norm_{index}")
            x = mean_pool(nn.relu(norm(conv(x))))
        return nn.Dense(self.num_classes, name="logits")(_flatten(x))


class MLP(nn.Module):
    """Two hidden layers of tanh units, for tables (images are flattened)."""

    num_classes: int
    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(..., features)` to logits `(..., num_classes)`."""
        x = nn.tanh(nn.Dense(self.width, name="hidden_0")(_flatten(x)))
        x = nn.tanh(nn.Dense(self.width, name="hidden_1")(x))
        return nn.Dense(self.num_classes, name="logits")(x)


class Linear(nn.Module):
    """Multinomial logistic regression, begun at zero."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(..., features)` or images to logits `(..., num_classes)`."""
        zeros = nn.initializers.zeros_init()
        return nn.Dense(self.num_classes, kernel_init=zeros, name="logits")(_flatten(x))


class ScatterLinear(nn.Module):
    """Logistic regression on scattering coefficients with fixed group norm."""

    num_classes: int
    groups: int = 27

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(..., rows, columns, channels)` to logits `(..., num_classes)`."""
        x = _normalize(self.groups, name="norm")(x)
        return Linear(self.num_classes, name="linear")(x)


class ScatterCNN(nn.Module):
    """The CNN of Tramer and Boneh on scattering coefficients of 28 x 28 images.

    Fixed group norm; convolution 3 x 3, 16 channels, stride 2, padding 1; convolution
    3 x 3, 32 channels, padding 1; 32 units; one a class; tanh between them.
    """

    num_classes: int
    groups: int = 27

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `(..., 7, 7, channels)` to logits `(..., num_classes)`."""
        x = _normalize(self.groups, name="norm")(x)
        x = nn.tanh(PatchConv(16, 3, stride=2, padding=1, name="conv_0")(x))
        x = nn.tanh(PatchConv(32, 3, padding=1, name="conv_1")(x))
        x = nn.tanh(nn.Dense(32, name="hidden")(_flatten(x)))
        return nn.Dense(self.num_classes, name="logits")(x)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "tanh_cnn": TanhCNN,
    "group_norm_cnn": GroupNormCNN,
    "mlp": MLP,
    "linear": Linear,
    "scatter_linear": ScatterLinear,
    "scatter_cnn": ScatterCNN,
}
"""The names that `make` takes."""

SCATTERING_MODELS = frozenset({"scatter_linear", "scatter_cnn"})
"""Those that take `scattering.scatter(images)` instead of images."""


def make(name: str, num_classes: int) -> nn.Module:
    """Return a model by name.

    Args:
        name: A key of `MODELS`.
        num_classes: Number of logits, at least 2.

    Raises:
        ValueError: If the name is unknown, or there are fewer than two classes.
    """
    if name not in MODELS:
        known = ", ".join(repr(known) for known in MODELS)
        raise ValueError(f"Expected one of {known}, got name={name!r}.")
    if num_classes < 2:
        raise ValueError(f"Expected an integer >= 2, got num_classes={num_classes!r}.")
    return MODELS[name](num_classes)
