import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

from dpjax import check_example_independence
from dpjax.clipping import ExampleDependenceError

X = jax.random.normal(jax.random.key(0), (8, 5))
Y = jnp.arange(8) % 3
PARAMS = jax.random.normal(jax.random.key(1), (5, 3))


def cross_entropy(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(x @ params, y)


def batch_norm_loss(params, x, y):
    return cross_entropy(params, (x - x.mean(0)) / (x.std(0) + 1e-3), y).mean()


def contrastive_loss(params, x, y):
    del y
    z = x @ params
    logits = z @ z.T
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.arange(len(x))
    ).mean()


def rank_loss(params, x, y):
    del y
    scores = x @ params[:, 0]
    return jnp.sum(jnp.maximum(0, 1 - scores[:-1] + scores[1:]))


MIXING = {
    "batch norm": batch_norm_loss,
    "contrastive": contrastive_loss,
    "pairs of neighbours": rank_loss,
    "batch norm, losses by row": lambda p, x, y: cross_entropy(p, x - x.mean(0), y),
    "weighted by the batch": lambda p, x, y: (
        cross_entropy(p, x, y).sum() / jnp.sum(jnp.abs(x))
    ),
    "only the gradient mixes": lambda p, x, y: (
        jnp.sum(jax.lax.stop_gradient(x.mean(0)) @ (p - jax.lax.stop_gradient(p)))
        * jnp.mean(x)
        + cross_entropy(p, x, y).sum()
    ),
}

INDEPENDENT = {
    "mean": lambda p, x, y: cross_entropy(p, x, y).mean(),
    "sum": lambda p, x, y: cross_entropy(p, x, y).sum(),
    "losses by row": cross_entropy,
    "sum with weight decay": lambda p, x, y: (
        cross_entropy(p, x, y).sum() + 0.1 * jnp.sum(p**2)
    ),
    "layer norm": lambda p, x, y: cross_entropy(
        p, (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True), y
    ).mean(),
    "loss of one example": lambda p, x, y: (
        jnp.sum((x @ p)[y] ** 2) if x.ndim == 1 else 1 / 0
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_loss_that_mixes_examples_is_refused(name):
    with pytest.raises(ExampleDependenceError, match="depends on no other"):
        check_example_independence(MIXING[name], PARAMS, X, Y)


@pytest.mark.parametrize("name", sorted(set(INDEPENDENT) - {"loss of one example"}))
def test_an_independent_loss_passes(name):
    check_example_independence(INDEPENDENT[name], PARAMS, X, Y)


def test_a_loss_that_takes_one_example_only_passes():
    def one_example(params, x, y):
        if x.shape != (5,):
            raise ValueError("one example only")
        return cross_entropy(params, x, y)

    check_example_independence(one_example, PARAMS, X, Y)


def test_flax_batch_norm_is_found_and_group_norm_passes():
    for norm, mixes in (
        (nn.BatchNorm(False, use_bias=False), True),
        (nn.LayerNorm(), False),
    ):
        variables = norm.init(jax.random.key(0), X)

        def norm_loss(params, x, norm=norm, variables=variables):
            out = norm.apply(variables | {"params": params}, x, mutable=["batch_stats"])
            return jnp.mean(jnp.sum(jnp.tanh(out[0]) ** 2, axis=1))

        if mixes:
            with pytest.raises(ExampleDependenceError):
                check_example_independence(norm_loss, variables["params"], X)
        else:
            check_example_independence(norm_loss, variables["params"], X)


def test_aux_is_set_aside():
    def with_aux(params, x, y):
        return cross_entropy(params, x, y).mean(), x.mean(0)

    check_example_independence(with_aux, PARAMS, X, Y, has_aux=True)


def test_one_example_is_too_few_to_compare():
    with pytest.raises(ValueError, match="at least 2"):
        check_example_independence(cross_entropy, PARAMS, X[:1], Y[:1])


def test_a_loss_gets_arrays_of_jax():
    def updated(params, x):
        return jnp.tanh(x.at[:, 0].multiply(0.0) @ params)

    x = jnp.arange(20.0).reshape(5, 4) / 7
    check_example_independence(updated, jnp.ones(4), x)
    check_example_independence(lambda p, x: jnp.sum(updated(p, x)), jnp.ones(4), x)
