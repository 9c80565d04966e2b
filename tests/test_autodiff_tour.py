"""Rows S1 to S22 of the two tutorials, as examples/autodiff_tour.py finds them.

The numbers are the tutorials' own where they print any, and closed forms elsewhere;
inputs are literals.
"""

import os
import pathlib
import subprocess
import sys

import autodiff_tour as tour
import jax
import jax.numpy as jnp
import numpy as np
import pytest

SCRIPT = pathlib.Path(tour.__file__)

# What the tutorial drew, to the last bit, and what it printed, in float32.
W_HEX = ("-0x1.894b58p+0", "0x1.ee923ep-1", "0x1.1743aap-1")
B_HEX = "0x1.3cc0b4p-3"
JACOBIAN_W_ROW_0 = [0.10874642, 0.23422305, 0.16102834]
JACOBIAN_B = [0.20912772, 0.09280407, 0.16874795, 0.06275126]

X = np.array(
    [[0.52, 1.12, 0.77], [0.88, -1.08, 0.15], [0.52, 0.06, -1.30], [0.74, -2.49, 1.39]]
)
W = np.array([float.fromhex(w) for w in W_HEX])
P = 1 / (1 + np.exp(-(X @ W + float.fromhex(B_HEX))))


@pytest.fixture(scope="module")
def jacobians():
    return tour.jacobians()


@pytest.fixture(scope="module")
def hessians():
    return tour.hessians()


@pytest.fixture(scope="module")
def td():
    return tour.td_learning()


@pytest.fixture(scope="module")
def per_example():
    return tour.per_example_gradients()


# Higher derivatives and Hessians.


def test_s1_four_derivatives_of_a_cubic():
    # 3x^2 + 4x - 3, 6x + 4, 6, 0 at x = 1.
    found = tour.higher_derivatives()
    assert found == {"f'": 4.0, "f''": 10.0, "f'''": 6.0, "f''''": 0.0}


def test_s2_hessian_of_a_square_is_twice_the_identity(hessians):
    np.testing.assert_array_equal(hessians["dpjax.hessian"], 2 * np.eye(3))


@pytest.mark.parametrize("order", ["forward over reverse", "reverse over forward"])
def test_s3_hessian_is_the_same_in_either_order(hessians, order):
    np.testing.assert_allclose(hessians[order], hessians["dpjax.hessian"], atol=1e-6)
    np.testing.assert_allclose(hessians[order], 2 * np.eye(3), atol=1e-6)


# Gradients through gradients.


def test_s4_meta_gradient_of_maml():
    # a p (1 - r a)^2 = 2 x 1.5 x 0.8^2; to first order the last factor is 0.8.
    found = tour.maml()
    np.testing.assert_allclose(found["grad of f(p')"], 1.92, rtol=1e-6)
    np.testing.assert_allclose(found["by dpjax.hvp"], 1.92, rtol=1e-6)
    np.testing.assert_allclose(found["first order"], 2.4, rtol=1e-6)


def test_s5_value_target_and_td_error(td):
    found = [td["value"], td["target"], td["TD error"]]
    np.testing.assert_allclose(found, [-0.1, 1.1, 1.2], rtol=1e-6)


def test_s6_gradient_with_a_moving_target(td):
    expected = 2 * 1.2 * (tour.S_T - tour.S_TM1)
    np.testing.assert_allclose(td["grad, moving target"], expected, rtol=1e-6)
    np.testing.assert_allclose(td["grad, moving target"], [2.4, -2.4, 2.4], rtol=1e-6)


def test_s7_gradient_of_the_squared_error_with_a_fixed_target(td):
    np.testing.assert_allclose(td["grad, fixed target"], [-2.4, -4.8, 2.4], rtol=1e-6)


def test_s8_gradient_of_minus_half_the_squared_error_is_the_update(td):
    np.testing.assert_allclose(td["grad of -1/2 loss"], [1.2, 2.4, -1.2], rtol=1e-6)


def test_s9_update_is_the_td_error_times_the_gradient_of_the_value(td):
    update = td["TD error times grad v"]
    np.testing.assert_allclose(update, [1.2, 2.4, -1.2], rtol=1e-6)
    np.testing.assert_allclose(td["grad of -1/2 loss"], update, rtol=1e-6)
    np.testing.assert_allclose(td["grad, fixed target"], -2 * update, rtol=1e-6)


def test_s10_stop_gradient_leaves_the_value_unchanged(td):
    np.testing.assert_allclose(td["loss, moving target"], 1.44, rtol=1e-6)
    np.testing.assert_allclose(td["loss, fixed target"], 1.44, rtol=1e-6)


def test_s11_straight_through_keeps_the_value():
    found = tour.straight_through()
    assert found["value, round"] == found["value, straight through"] == 3.0


def test_s12_straight_through_has_the_slope_of_the_identity():
    found = tour.straight_through()
    assert found["slope, round"] == 0.0
    assert found["slope, straight through"] == 1.0


# Per-example gradients.

TD_PAIR = [[-2.4, -4.8, 2.4]] * 2


def test_s13_per_example_gradients_under_jit(per_example):
    found = per_example["dpjax.per_example_grad"]
    np.testing.assert_allclose(found, TD_PAIR, rtol=1e-6)


def test_s14_per_example_gradients_with_stacked_parameters(per_example):
    found = per_example["stacked, without jit"]
    np.testing.assert_allclose(found, TD_PAIR, rtol=1e-6)
    np.testing.assert_allclose(found, per_example["dpjax.per_example_grad"], rtol=1e-6)


def test_s15_per_example_gradients_without_jit_are_those_with_it(per_example):
    found = per_example["shared, without jit"]
    np.testing.assert_allclose(found, TD_PAIR, rtol=1e-6)
    np.testing.assert_allclose(found, per_example["dpjax.per_example_grad"], rtol=1e-6)


def test_s16_timing_is_of_both_and_asserts_nothing_on_them():
    found = tour.timing(calls=1)
    assert list(found) == ["with jit", "without jit", "ratio"]
    assert all(np.isfinite(number) and number > 0 for number in found.values())


# Derivatives of a logistic regression.


def test_s17_hessian_vector_product_is_the_same_however_it_is_taken():
    # Golden numbers of the loss in float64: X^T diag(p (1 - p)) X, times (1, -2, 3).
    expected = [0.5013099686, -1.7923604117, 1.7740403076]
    dense = X.T @ np.diag(P * (1 - P)) @ X
    found = tour.hessian_vector_products()
    v = jnp.array([1.0, -2.0, 3.0])
    by_jvp = jax.jvp(jax.grad(tour.loss), (tour.W,), (v,))[1]
    np.testing.assert_allclose(dense @ v, expected, rtol=1e-7)
    np.testing.assert_allclose(found.pop("all of H, by vmap"), dense, rtol=1e-5)
    for product in (by_jvp, *found.values()):
        np.testing.assert_allclose(product, expected, rtol=1e-5)


def test_s18_to_s22_start_from_what_the_tutorial_drew():
    assert tour.W.dtype == tour.B.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(tour.W, np.float64), W)
    assert float(tour.B) == float.fromhex(B_HEX)
    np.testing.assert_allclose(tour.INPUTS, X, rtol=1e-7)


def test_s18_jacobian_in_forward_mode(jacobians):
    found = jacobians["forward"]
    assert found.shape == (4, 3)
    np.testing.assert_allclose(found[0], JACOBIAN_W_ROW_0, rtol=1e-6)
    np.testing.assert_allclose(found, (P * (1 - P))[:, None] * X, rtol=1e-6)


def test_s19_jacobian_in_reverse_mode_differs_in_the_last_digits_alone(jacobians):
    reverse, forward = jacobians["reverse"], jacobians["forward"]
    np.testing.assert_allclose(reverse, forward, rtol=0, atol=3e-8)
    np.testing.assert_array_equal(jacobians["chosen"], forward)


def test_s20_jacobian_on_a_container_in_reverse_mode(jacobians):
    found = jacobians["reverse, of a dict"]
    assert set(found) == {"W", "b"}
    np.testing.assert_allclose(found["W"], jacobians["forward"], rtol=1e-6)
    np.testing.assert_allclose(found["b"], JACOBIAN_B, rtol=1e-6)
    np.testing.assert_allclose(found["b"], P * (1 - P), rtol=1e-6)


def test_s21_hessian_of_a_vector_function(hessians):
    found = hessians["of four predictions"]
    assert found.shape == (4, 3, 3)
    np.testing.assert_allclose(found[0, 0, 0], -0.02286455, rtol=1e-6)
    np.testing.assert_allclose(found[3, 1, 1], 0.33671352, rtol=1e-6)
    curvature = P * (1 - P) * (1 - 2 * P)
    expected = np.einsum("i,ij,ik->ijk", curvature, X, X)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_s22_jacobian_on_a_container_in_forward_mode(jacobians):
    found = jacobians["forward, of a dict"]
    assert set(found) == {"W", "b"}
    for name, other in jacobians["reverse, of a dict"].items():
        np.testing.assert_allclose(found[name], other, rtol=1e-6)


# The script.

SECTIONS = {
    "Higher derivatives:": "10.",
    "Jacobians:": "0.2342",
    "Hessians:": "0.3367",
    "Hessian-vector products:": "-1.7924",
    "MAML:": "1.92",
    "TD(0):": "1.44",
    "Straight-through estimator:": "3.",
    "Per-example gradients:": "-4.8",
    "Timing:": "without jit",
}


@pytest.mark.slow
def test_the_script_prints_each_section_with_its_numbers():
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    out = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": ""},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    ).stdout
    starts = [out.index(f"\n{title}") for title in SECTIONS]
    assert starts == sorted(starts)
    ends = [*starts[1:], None]
    for start, end, number in zip(starts, ends, SECTIONS.values(), strict=True):
        assert number in out[start:end]
