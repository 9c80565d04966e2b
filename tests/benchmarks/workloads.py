"""What is measured: models with their parameters, a batch, and one loss.

The loss is a mean over whatever leads its inputs, so that the same function is the loss
of one example, which a private gradient needs, and the mean loss of a batch, which the
plain gradient is taken of.
"""

import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

# The examples are scripts, not a package.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))

import models
import networks


@dataclasses.dataclass(frozen=True)
class Spec:
    """One row of the benchmark: a model and its sizes, all of them.

    Attributes:
        title: How tables call it.
        model: A key of `BUILDERS`.
        sizes: What the builder takes, the batch's size among it.
        tiny: The sizes that replace some of these in a trial of the command.
        gpu: Whether it is for GPUs only.
    """

    title: str
    model: str
    sizes: dict[str, int]
    tiny: dict[str, int]
    gpu: bool = False

    def chosen(self, quick: bool) -> dict[str, int]:
        """Return the sizes to run."""
        return self.sizes | self.tiny if quick else self.sizes


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model that is ready to be differentiated.

    Attributes:
        params: Parameters.
        batch: `(inputs, labels)`, each `(batch, ...)`.
        loss: `loss(params, inputs, labels) -> scalar`, of one example or of a batch.
    """

    params: Any
    batch: tuple[jax.Array, jax.Array]
    loss: Callable[..., jax.Array]

    @property
    def num_params(self) -> int:
        """Return the number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def mlp(batch: int, width: int, hidden: int = 3) -> Workload:
    """Return an MLP on 784 features with `hidden` layers of `width` units."""
    return _workload(networks.MLP(width, hidden), _normal(batch, 784))


def cnn(batch: int, channels: int, hidden: int) -> Workload:
    """Return the 3 x 3 CNN on 28 x 28 images: channels, twice as many, hidden, 10."""
    model = networks.CNN((channels, 2 * channels), hidden)
    return _workload(model, _normal(batch, 28, 28, 1))


def tanh_cnn(batch: int) -> Workload:
    """Return the tanh CNN of the examples on 28 x 28 images."""
    return _workload(models.TanhCNN(10), _normal(batch, 28, 28, 1))


def wide_resnet(batch: int, depth: int, widening: int, side: int) -> Workload:
    """Return a WideResNet on side x side colour images."""
    return _workload(
        networks.WideResNet(depth, widening), _normal(batch, side, side, 3)
    )


def gpt(
    batch: int,
    positions: int,
    width: int,
    blocks: int,
    heads: int,
    vocabulary: int,
    tied: bool,
) -> Workload:
    """Return a GPT; labels are the next tokens, the loss is a mean over positions."""
    tokens = _integers(vocabulary, batch, positions + 1)
    model = networks.GPT(vocabulary, width, blocks, heads, tied)
    return _workload(model, tokens[:, :-1], tokens[:, 1:])


def position_mlp(batch: int, positions: int, width: int) -> Workload:
    """Return the dense layers of one transformer block, without attention."""
    return _workload(networks.PositionMLP(), _normal(batch, positions, width))


def lstm(batch: int, positions: int, width: int) -> Workload:
    """Return an LSTM on bytes."""
    return _workload(networks.LSTM(width), _integers(256, batch, positions))


def embedding_bag(batch: int, rows: int, width: int, ids: int) -> Workload:
    """Return the mean of embedded ids, classified."""
    return _workload(networks.EmbeddingBag(rows, width), _integers(rows, batch, ids))


BUILDERS: dict[str, Callable[..., Workload]] = {
    function.__name__: function
    for function in (
        mlp,
        cnn,
        tanh_cnn,
        wide_resnet,
        gpt,
        position_mlp,
        lstm,
        embedding_bag,
    )
}

_GPT = {"width": 256, "blocks": 4, "heads": 4, "vocabulary": 256, "tied": False}
_GPT2 = {"width": 768, "blocks": 12, "heads": 12, "vocabulary": 50257, "tied": True}
_TINY_GPT = {"batch": 2, "positions": 6, "width": 8, "heads": 2, "blocks": 1}
_CNN = {"channels": 32, "hidden": 256}
_WRN = {"depth": 16, "widening": 4, "side": 32}
_TINY_CNN = {"batch": 4, "channels": 2, "hidden": 8}
_TINY_WRN = {"batch": 2, "depth": 10, "widening": 1, "side": 8}

SPECS = {
    "mlp_256": Spec(
        "MLP 784-1024-1024-1024-10",
        "mlp",
        {"batch": 256, "width": 1024},
        {"batch": 4, "width": 8},
    ),
    "mlp_1024": Spec(
        "MLP 784-1024-1024-1024-10",
        "mlp",
        {"batch": 1024, "width": 1024},
        {"batch": 8, "width": 8},
    ),
    "cnn_64": Spec("3x3 CNN 32-64-256", "cnn", {"batch": 64, **_CNN}, _TINY_CNN),
    "cnn_512": Spec("3x3 CNN 32-64-256", "cnn", {"batch": 512, **_CNN}, _TINY_CNN),
    "tanh_cnn_512": Spec("tanh CNN", "tanh_cnn", {"batch": 512}, {"batch": 4}),
    "wrn_16_4": Spec(
        "WRN-16-4, group norm", "wide_resnet", {"batch": 64, **_WRN}, _TINY_WRN
    ),
    "gpt_64": Spec(
        "GPT, 4 blocks, T=64",
        "gpt",
        {"batch": 16, "positions": 64, **_GPT},
        _TINY_GPT,
    ),
    "gpt_256": Spec(
        "GPT, 4 blocks, T=256",
        "gpt",
        {"batch": 16, "positions": 256, **_GPT},
        _TINY_GPT,
    ),
    "lstm": Spec(
        "LSTM 256, T=64",
        "lstm",
        {"batch": 64, "positions": 64, "width": 256},
        {"batch": 2, "positions": 3, "width": 4},
    ),
    "embedding_bag": Spec(
        "embedding bag, 50,000 rows",
        "embedding_bag",
        {"batch": 256, "rows": 50_000, "width": 64, "ids": 32},
        {"batch": 4, "rows": 50, "width": 4, "ids": 3},
    ),
    "gpt2_small": Spec(
        "GPT-2 small, T=1024",
        "gpt",
        {"batch": 8, "positions": 1024, **_GPT2},
        _TINY_GPT | {"vocabulary": 64},
        gpu=True,
    ),
    "wrn_28_10": Spec(
        "WRN-28-10, group norm",
        "wide_resnet",
        {"batch": 64, "depth": 28, "widening": 10, "side": 32},
        _TINY_WRN,
        gpu=True,
    ),
}
"""The rows, by the names that `--models` takes."""


def build(model: str, sizes: dict[str, int]) -> Workload:
    """Return the workload of a model at these sizes; its numbers are always the same.

    Raises:
        ValueError: If the model is unknown.
    """
    if model not in BUILDERS:
        known = ", ".join(repr(known) for known in BUILDERS)
        raise ValueError(f"Expected one of {known}, got model={model!r}.")
    return BUILDERS[model](**sizes)


def _workload(model: nn.Module, inputs: jax.Array, labels: Any = None) -> Workload:
    if labels is None:
        labels = _integers(10, len(inputs))
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs[0])
    params = jax.tree_util.tree_map_with_path(_parameter, shapes)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return Workload(params, (inputs, labels), loss)


def _parameter(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Return a parameter of a usual size; to compile Flax's own takes a while."""
    if len(shape.shape) < 2:
        is_scale = jax.tree_util.keystr(path).endswith("['scale']")
        return jnp.full(shape.shape, float(is_scale))
    fan_in = math.prod(shape.shape[:-1])
    return _normal(*shape.shape) / math.sqrt(fan_in)


def _normal(*shape: int) -> jax.Array:
    return jax.device_put(np.random.default_rng(0).normal(size=shape).astype("f4"))


def _integers(end: int, *shape: int) -> jax.Array:
    return jax.device_put(
        np.random.default_rng(0).integers(end, size=shape, dtype="i4")
    )
