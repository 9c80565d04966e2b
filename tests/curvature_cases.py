"""Losses whose curvature is known, for tests of the operators."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

# The logistic data of the tutorials: the numbers are theirs, as literals.
INPUTS = np.array(
    [[0.52, 1.12, 0.77], [0.88, -1.08, 0.15], [0.52, 0.06, -1.30], [0.74, -2.49, 1.39]]
)
TARGETS = np.array([1, 1, 0, 1])
WEIGHTS = np.array(
    [float.fromhex(w) for w in ("-0x1.894b58p+0", "0x1.ee923ep-1", "0x1.1743aap-1")]
)
BIAS = float.fromhex("0x1.3cc0b4p-3")

# Of the SUM of -log p(target) over the four examples, at the weights and bias above.
HESSIAN = np.array(
    [
        [0.2084076142, -0.0767654337, 0.0464571624],
        [-0.0767654337, 0.7602478424, -0.0650330977],
        [0.0464571624, -0.0650330977, 0.5325056500],
    ]
)
EIGENVALUES = [0.1937282591, 0.517127943, 0.7903049045]
TRACE = 1.5011611066
PRODUCT_WITH_1_MINUS_2_3 = [0.5013099686, -1.7923604117, 1.7740403076]
EIGENVALUES_WITH_BIAS = [0.0030132186, 0.5054439431, 0.6969509689, 0.8291839602]
TRACE_WITH_BIAS = 2.0345920908


def logit(params, x):
    """Return the output of the logistic model, a scalar."""
    return jnp.vdot(params["w"], x) + params["b"]


def binary_loss(logit, target):
    """Return -log p(target) for a target of 0 or 1."""
    return jnp.logaddexp(0.0, logit) - target * logit


def logistic_loss(params, x, target):
    """Return the logistic loss of one example."""
    return binary_loss(logit(params, x), target)


def logistic_loss_of_weights(weights, x, target):
    """Return the loss with the bias held at its value."""
    return logistic_loss({"w": weights, "b": BIAS}, x, target)


def logistic_params():
    """Return the weights and the bias, in the default type."""
    return {"w": jnp.asarray(WEIGHTS), "b": jnp.asarray(BIAS)}


def logistic_batch():
    """Return the four examples, in the default type."""
    return jnp.asarray(INPUTS), jnp.asarray(TARGETS)


def sigmoid(x):
    """Return 1 / (1 + exp(-x)), in float64."""
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def cross_entropy(logits, label):
    """Return the loss of one label, -log softmax(logits)[label]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def linear_model(weights, x):
    """Return the logits of softmax regression; weights `(classes, features)`."""
    return weights @ x


def mlp(params, x):
    """Return the logits of a network with one hidden layer."""
    hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["out"]["w"] + params["out"]["b"]


def mlp_loss(params, x, label):
    """Return the loss of the network for one example."""
    return cross_entropy(mlp(params, x), label)


def mlp_params(seed=0, features=3, width=4, classes=5):
    """Return weights of the network, in the default type."""
    random = np.random.default_rng(seed)

    def layer(fan_in, fan_out):
        w = random.normal(size=(fan_in, fan_out)) / np.sqrt(fan_in)
        return {"w": jnp.asarray(w), "b": jnp.asarray(random.normal(size=fan_out) / 4)}

    return {"hidden": layer(features, width), "out": layer(width, classes)}


def mlp_batch(num_examples=6, seed=1, features=3, classes=5):
    """Return inputs and labels for the network, in the default type."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(num_examples, features))
    return jnp.asarray(x), jnp.asarray(random.integers(0, classes, num_examples))


def vector_like(params, seed=2):
    """Return a random vector shaped like the parameters."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), params
    )


def mean_loss(loss_fn, batch):
    """Return the mean loss of a batch as a function of the parameters."""

    def mean(params):
        return jnp.mean(jax.vmap(lambda *example: loss_fn(params, *example))(*batch))

    return mean


def assert_trees_close(actual, expected, **tolerances):
    """Compare two pytrees leaf by leaf."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerances), actual, expected
    )


@dataclasses.dataclass(frozen=True)
class Counted:
    """A function that counts its calls, that is, how often JAX traces it."""

    function: Callable[..., Any]
    calls: list[int] = dataclasses.field(default_factory=list, hash=False)

    def __call__(self, *args):
        self.calls.append(1)
        return self.function(*args)


def flops(function, *args):
    """Return the floating-point operations of a compiled function."""
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def on_two_devices(tree, spec):
    """Return the arrays on a mesh of two devices, axis 0 split as `spec` says."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    return jax.device_put(tree, sharding)
