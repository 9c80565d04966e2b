"""An operator over a data set in unequal batches."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    Counted,
    assert_trees_close,
    cross_entropy,
    mlp,
    mlp_batch,
    mlp_loss,
    mlp_params,
    vector_like,
)
from jax.flatten_util import ravel_pytree

from dpjax.curvature import Private, Public
from dpjax.curvature.averaging import average
from dpjax.curvature.fisher import fisher_operator
from dpjax.curvature.ggn import ggn_operator
from dpjax.curvature.hessian import hessian_operator
from dpjax.curvature.matrices import dense


def hessian(batch):
    return hessian_operator(mlp_loss, mlp_params(), batch)


def ggn(batch):
    return ggn_operator(mlp, cross_entropy, mlp_params(), batch)


def fisher(batch):
    return fisher_operator(mlp_loss, mlp_params(), batch)


def cut(batch, sizes, kinds=(Public,)):
    ends = np.cumsum(sizes)
    return [
        kinds[i % len(kinds)](jax.tree.map(lambda leaf: leaf[end - size : end], batch))
        for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


class Loader:
    """Makes its batches anew in every pass."""

    def __init__(self, batches):
        self.passes, self.batches = 0, batches

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


@pytest.mark.parametrize(
    "operator_fn",
    [hessian, *(pytest.param(fn, marks=pytest.mark.slow) for fn in (ggn, fisher))],
)
@pytest.mark.parametrize("sizes", [(5, 1, 4), (10,)])
def test_r14_unequal_batches_give_what_the_full_batch_gives(operator_fn, sizes):
    with jax.enable_x64(True):
        batch, vector = mlp_batch(10), vector_like(mlp_params())
        product = average(operator_fn, cut(batch, sizes))(vector)
        assert_trees_close(product, operator_fn(Public(batch))(vector), atol=1e-15)


def test_the_average_is_not_over_batches():
    loss = Public(jnp.array([1.0, 1.0, 1.0])), Public(jnp.array([5.0]))

    def operator(batch):
        return hessian_operator(lambda w, x: x * w**2 / 2, jnp.zeros(()), batch)

    # (3 * 1 + 1 * 5) / 4, while the mean of the two means is 3.
    assert average(operator, loss)(jnp.ones(())) == 2


def test_each_shape_compiles_once():
    loss = Counted(mlp_loss)

    def operator(batch):
        return hessian_operator(loss, mlp_params(), batch)

    batches = cut(mlp_batch(11), (4, 4, 3))
    matvec, vector = average(operator, batches), vector_like(mlp_params())
    matvec(vector)
    traced = len(loss.calls)
    matvec(vector)
    assert len(loss.calls) == traced
    single = Counted(mlp_loss)
    hessian_operator(single, mlp_params(), batches[0])(vector)
    assert traced == 2 * len(single.calls)


def test_a_product_is_one_pass_and_the_cost_takes_one():
    loader = Loader(cut(mlp_batch(), (4, 2)))
    matvec = average(hessian, loader)
    assert loader.passes == 1
    matvec(mlp_params())
    assert loader.passes == 2


def test_it_is_an_operator_like_any_other_on_the_host():
    batch = mlp_batch()
    matvec = average(hessian, cut(batch, (4, 2)))
    assert not matvec.traceable
    expected = dense(hessian(Public(batch)), mlp_params()).value
    actual = dense(matvec, mlp_params()).value
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kinds", "event"),
    [
        ((Public,), dp_accounting.NoOpDpEvent()),
        ((Private,), dp_accounting.NonPrivateDpEvent()),
        ((Public, Private), dp_accounting.NonPrivateDpEvent()),
        ((Private, Public), dp_accounting.NonPrivateDpEvent()),
    ],
)
def test_one_private_batch_makes_it_private(kinds, event):
    assert average(hessian, cut(mlp_batch(), (2, 2, 2), kinds)).event == event


def test_bare_callables_leave_the_event_unknown():
    matvec = average(lambda batch: jnp.negative, [Public(jnp.ones(2))])
    assert matvec.event is None
    assert matvec(jnp.ones(())) == -1


def test_a_batch_that_turns_private_later_is_refused():
    loader = Loader(cut(mlp_batch(), (4, 2)))
    matvec = average(hessian, loader)
    loader.batches = cut(mlp_batch(), (4, 2), (Public, Private))
    with pytest.raises(ValueError, match="public batches as in the first pass"):
        matvec(mlp_params())


def test_a_batch_that_is_not_finite_makes_the_product_nan():
    x, labels = mlp_batch()
    batches = cut((x.at[5, 0].set(np.nan), labels), (4, 2))
    assert np.isnan(ravel_pytree(average(hessian, batches)(mlp_params()))[0]).any()


def test_what_cannot_be_gone_through_again_is_refused():
    batches = cut(mlp_batch(), (4, 2))
    for once in (iter(batches), (batch for batch in batches)):
        with pytest.raises(TypeError, match="gone through again"):
            average(hessian, once)
    with pytest.raises(ValueError, match="at least one batch"):
        average(hessian, [])
    with pytest.raises(TypeError, match="Public"):
        average(hessian, [mlp_batch()])
