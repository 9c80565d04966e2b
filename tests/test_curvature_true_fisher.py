"""The Fisher information against the Gauss-Newton matrix and sums over classes."""

import re

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    assert_trees_close,
    binary_loss,
    cross_entropy,
    linear_model,
    logistic_batch,
    logistic_params,
    logit,
    mlp,
    mlp_batch,
    mlp_loss,
    mlp_params,
    on_two_devices,
    vector_like,
)
from jax.flatten_util import ravel_pytree

from dpjax.curvature import Private, Public
from dpjax.curvature.fisher import fisher_operator
from dpjax.curvature.ggn import ggn_operator
from dpjax.curvature.matrices import dense
from dpjax.curvature.true_fisher import sampled_fisher_operator, true_fisher_operator


def exact(inputs=None, params=None, **options):
    inputs = Public(mlp_batch()[:1]) if inputs is None else inputs
    params = mlp_params() if params is None else params
    options = {"num_classes": 5, **options}
    return true_fisher_operator(mlp, cross_entropy, params, inputs, **options)


def sampled(inputs=None, params=None, **options):
    inputs = Public(mlp_batch()[:1]) if inputs is None else inputs
    params = mlp_params() if params is None else params
    options = {"sample": jax.random.categorical, "key": 0, **options}
    return sampled_fisher_operator(mlp, cross_entropy, params, inputs, **options)


every_operator = pytest.mark.parametrize("operator", [exact, sampled])


def test_r6_of_softmax_regression_equals_the_gauss_newton_matrix():
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x, weights = jnp.asarray(random.normal(size=(6, 3))), random.normal(size=(4, 3))
        fisher = true_fisher_operator(
            linear_model, cross_entropy, weights, Public(x), num_classes=4
        )
        batch = Public((x, jnp.zeros(6, int)))
        ggn = ggn_operator(linear_model, cross_entropy, weights, batch)
        expected = dense(ggn, weights).value
        np.testing.assert_allclose(dense(fisher, weights).value, expected, atol=1e-15)


@pytest.mark.slow
def test_r6_of_a_network_equals_the_gauss_newton_matrix():
    with jax.enable_x64(True):
        params = mlp_params()
        ggn = ggn_operator(mlp, cross_entropy, params, Public(mlp_batch()))
        expected = dense(ggn, params).value
        np.testing.assert_allclose(dense(exact(), params).value, expected, atol=1e-14)


def test_of_two_classes_equals_the_gauss_newton_matrix():
    with jax.enable_x64(True):
        params, batch = logistic_params(), logistic_batch()
        fisher = true_fisher_operator(
            logit, binary_loss, params, Public(batch[:1]), num_classes=2
        )
        ggn = ggn_operator(logit, binary_loss, params, Public(batch))
        expected = dense(ggn, params).value
        np.testing.assert_allclose(dense(fisher, params).value, expected, atol=1e-14)


def test_it_is_the_empirical_fisher_averaged_over_the_model_s_labels():
    with jax.enable_x64(True):
        params, (x, _) = mlp_params(), mlp_batch(1)
        probabilities = jax.nn.softmax(mlp(params, x[0]))
        terms = [
            p
            * dense(
                fisher_operator(mlp_loss, params, Public((x, labels))), params
            ).value
            for p, labels in zip(probabilities, jnp.arange(5)[:, None], strict=True)
        ]
        actual = dense(exact(Public((x,))), params).value
        np.testing.assert_allclose(actual, sum(terms), atol=1e-14)


@pytest.mark.slow
def test_samples_approach_the_exact_matrix_at_their_rate():
    vector = vector_like(mlp_params())
    expected = ravel_pytree(exact()(vector))[0]
    many = [
        ravel_pytree(sampled(key=key, num_samples=1000)(vector))[0] for key in range(8)
    ]
    spread = np.std(many, axis=0, ddof=1) / np.sqrt(8)
    # Student's t of 7 degrees of freedom is within 8 with probability 0.9999.
    np.testing.assert_array_less(
        abs(np.mean(many, axis=0) - expected), 8 * spread + 1e-6
    )
    fewer = ravel_pytree(sampled(key=9, num_samples=10)(vector))[0]
    assert np.linalg.norm(many[0] - expected) < np.linalg.norm(fewer - expected) / 3


def test_samples_are_drawn_once_and_are_a_function_of_the_key():
    vector = vector_like(mlp_params())
    matvec = sampled()
    assert_trees_close(matvec(vector), matvec(vector), rtol=0)
    assert_trees_close(matvec(vector), sampled()(vector), rtol=0)
    assert_trees_close(matvec(vector), sampled(key=jax.random.key(0))(vector), rtol=0)
    other = ravel_pytree(sampled(key=1)(vector))[0]
    assert not np.allclose(ravel_pytree(matvec(vector))[0], other)


def test_examples_have_samples_of_their_own():
    x = jnp.zeros((200, 3))
    targets = sampled(Public((x,)), num_samples=3).operands[1][-1]
    assert targets.shape == (200, 3)
    # The same output for all: rows of equal labels would be as likely as (1/2)^3.
    assert len(np.unique(targets, axis=0)) > 20
    assert not np.array_equal(targets[:, 0], targets[:, 1])


def test_sampled_numbers_give_the_information_of_a_normal_mean():
    def sample(key, mean):
        return mean + jax.random.normal(key)

    x = jnp.array([1.0, 2.0])
    matvec = sampled_fisher_operator(
        jnp.multiply,
        lambda output, y: (output - y) ** 2 / 2,
        jnp.ones(()),
        Public(x),
        sample=sample,
        key=0,
        num_samples=20_000,
    )
    # E x^2 = 2.5; the mean of 20,000 squares has a standard error of 1 %.
    np.testing.assert_allclose(matvec(jnp.ones(())), 2.5, rtol=0.05)


@every_operator
def test_r14_it_is_symmetric_and_positive(operator):
    with jax.enable_x64(True):
        matrix = dense(operator(), mlp_params()).value
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-15)
        assert np.linalg.eigvalsh(matrix).min() > -1e-14


@pytest.mark.slow
@every_operator
def test_r14_two_devices_give_what_one_gives(operator):
    inputs, vector = mlp_batch(8)[:1], vector_like(mlp_params())
    matvec = operator(Public(on_two_devices(inputs, ["data"])))
    assert len(matvec.operands[1][0].sharding.device_set) == 2
    product = matvec(on_two_devices(vector, []))
    assert_trees_close(product, operator(Public(inputs))(vector), atol=1e-6)


@pytest.mark.slow
@every_operator
def test_pieces_and_jit_change_nothing(operator):
    vector = vector_like(mlp_params())
    pieces = jax.jit(lambda v: operator(microbatch_size=4)(v))(vector)
    assert_trees_close(pieces, operator()(vector), atol=1e-6)


@pytest.mark.slow
@every_operator
def test_parameters_in_low_precision_are_cast_up(operator):
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), mlp_params())
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), low)
    product = operator(params=low)(low)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(product)} == {"float32"}
    assert_trees_close(product, operator(params=wide)(wide), rtol=1e-6)


@every_operator
def test_an_example_that_is_not_finite_makes_the_product_nan(operator):
    for index in (0, 5):
        x = mlp_batch()[0].at[index, 0].set(np.nan)
        product = operator(Public((x,)))(mlp_params())
        assert np.isnan(ravel_pytree(product)[0]).any()


@every_operator
def test_the_event_is_that_of_the_inputs(operator):
    assert operator().event == dp_accounting.NoOpDpEvent()
    private = operator(Private(mlp_batch()[:1]))
    assert private.event == dp_accounting.NonPrivateDpEvent()


@every_operator
def test_what_cannot_be_is_refused(operator):
    with pytest.raises(TypeError, match="floating-point"):
        operator(params=jnp.arange(3))
    with pytest.raises(TypeError, match="Public"):
        operator(mlp_batch()[:1])


@pytest.mark.parametrize("num_classes", [3, 7])
def test_probabilities_that_do_not_add_up_to_one_are_refused(num_classes):
    # Three of the five classes, or the last of them counted three times.
    def loss(logits, label):
        return jax.nn.logsumexp(logits) - logits[jnp.minimum(label, 4)]

    def refused(source):
        batch = source(mlp_batch()[:1])
        with pytest.raises(ValueError, match="sum of its probabilities") as error:
            true_fisher_operator(
                mlp, loss, mlp_params(), batch, num_classes=num_classes
            )
        return str(error.value)

    # An error has no event, so it says no number of private data.
    assert re.search(r"probabilities=\d", refused(Public))
    assert not re.search(r"probabilities='?\d", refused(Private))


@pytest.mark.parametrize(
    ("operator", "options", "error", "message"),
    [
        (exact, {"num_classes": 1}, ValueError, "num_classes"),
        (exact, {"num_classes": 2.0}, TypeError, "num_classes"),
        (sampled, {"num_samples": 0}, ValueError, "num_samples"),
        (sampled, {"key": 1.5}, TypeError, "key"),
    ],
)
def test_options_are_checked(operator, options, error, message):
    with pytest.raises(error, match=message):
        operator(**options)
