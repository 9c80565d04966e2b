"""The loss along lines and planes."""

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import (
    mean_loss,
    mlp_batch,
    mlp_loss,
    mlp_params,
    on_two_devices,
    vector_like,
)

from dpjax.curvature import Private, Public
from dpjax.curvature.landscape import loss_slice

LINE, OTHER = np.linspace(-1.0, 1.0, 5), np.linspace(-0.5, 2.0, 3)


def network_slice(batch=None, params=None, offsets=(LINE, OTHER)):
    batch = Public(mlp_batch()) if batch is None else batch
    params = mlp_params() if params is None else params
    directions = [vector_like(mlp_params(), seed) for seed in range(len(offsets))]
    return loss_slice(mlp_loss, params, batch, directions, offsets)


def rosenbrock(point, a, b):
    return (a - point[0]) ** 2 + b * (point[1] - point[0] ** 2) ** 2


def test_of_a_quadratic_it_is_a_parabola():
    targets = jnp.array([[1.0, 0.0], [3.0, 0.0]])
    curve = loss_slice(
        lambda w, y: jnp.sum((w - y) ** 2),
        jnp.zeros(2),
        Public(targets),
        [jnp.array([2.0, 0.0])],
        [LINE],
    )
    # The mean of (2 a - 1)^2 and (2 a - 3)^2.
    np.testing.assert_allclose(curve.value, 4 * LINE**2 - 8 * LINE + 5, atol=1e-6)
    np.testing.assert_allclose(curve.offsets[0], LINE, atol=1e-7)


def test_r3_a_plane_through_rosenbrock_has_the_first_direction_on_axis_0():
    with jax.enable_x64(True):
        plane = loss_slice(
            rosenbrock,
            jnp.ones(2),
            Public((jnp.ones(1), jnp.full(1, 100.0))),
            [jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])],
            [LINE, OTHER],
        )
        x, y = 1 + LINE[:, None], 1 + OTHER[None]
        expected = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        np.testing.assert_allclose(plane.value, expected, rtol=1e-12)


def test_it_is_the_mean_loss_at_each_point():
    with jax.enable_x64(True):
        params, directions = (
            mlp_params(),
            [vector_like(mlp_params(), i) for i in (0, 1)],
        )
        mean = jax.jit(mean_loss(mlp_loss, mlp_batch()))
        found = network_slice().value
        assert found.shape == (5, 3)
        for i, a in enumerate(LINE):
            for j, b in enumerate(OTHER):
                moved = jax.tree.map(
                    lambda p, d, e: p + a * d + b * e, params, *directions
                )
                np.testing.assert_allclose(found[i, j], mean(moved), rtol=1e-13)


@pytest.mark.slow
def test_three_directions_give_three_axes():
    found = network_slice(offsets=(LINE, OTHER, np.zeros(2)))
    np.testing.assert_array_equal(found.value[..., 0], found.value[..., 1])
    np.testing.assert_allclose(found.value[..., 0], network_slice().value, rtol=1e-6)


def test_jit_and_two_devices_change_nothing():
    batch = mlp_batch(8)
    plain = network_slice(Public(batch))
    jitted = jax.jit(lambda batch: network_slice(Private(batch)))(batch)
    two = network_slice(Public(on_two_devices(batch, ["data"])))
    np.testing.assert_allclose(jitted.value, plain.value, rtol=1e-6)
    np.testing.assert_allclose(two.value, plain.value, rtol=1e-6)
    assert jitted.event == dp_accounting.NonPrivateDpEvent()
    assert plain.event == dp_accounting.NoOpDpEvent()


def test_parameters_in_low_precision_move_by_small_steps():
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), mlp_params())
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), low)
    # In bfloat16 such a step would be lost.
    offsets = (np.array([0.0, 1e-4]),)
    found = network_slice(params=low, offsets=offsets).value
    assert found.dtype == jnp.float32
    assert found[0] != found[1]
    np.testing.assert_array_equal(
        found, network_slice(params=wide, offsets=offsets).value
    )


def test_a_loss_that_is_not_finite_shows_where_it_is():
    curve = loss_slice(
        lambda w, x: jnp.log(w * x),
        jnp.zeros(()),
        Public(jnp.ones(2)),
        [jnp.ones(())],
        [jnp.array([-1.0, 1.0])],
    )
    np.testing.assert_array_equal(np.isnan(curve.value), [True, False])


@pytest.mark.parametrize(
    ("directions", "offsets", "error", "message"),
    [
        ([], [], ValueError, "as many offsets as directions"),
        ([jnp.ones(2)], [LINE, OTHER], ValueError, "as many offsets as directions"),
        ([jnp.ones(2)], [1.0], ValueError, "offsets of shape"),
        ([jnp.ones(2)], [1j * LINE], TypeError, "real offsets"),
        ([jnp.ones(3)], [LINE], ValueError, "shape"),
        ([jnp.arange(2)], [LINE], TypeError, "floating-point"),
    ],
)
def test_what_cannot_be_is_refused(directions, offsets, error, message):
    with pytest.raises(error, match=message):
        loss_slice(jnp.vdot, jnp.ones(2), Public(jnp.ones((3, 2))), directions, offsets)
