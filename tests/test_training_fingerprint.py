"""Hashes by which a run knows itself again."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpjax
from dpjax.training import fingerprint


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.array([1.0, 2.5])},
        {"a": np.array([1.0, 2.0], np.float32)},
        {"a": np.array([[1.0, 2.0]])},
        {"b": np.array([1.0, 2.0])},
        {"a": np.array([1.0]), "b": np.array([2.0])},
    ],
)
def test_tree_digest_tells_trees_apart(other):
    tree = {"a": np.array([1.0, 2.0])}
    same = {"a": np.array([1.0, 2.0])}
    assert fingerprint.tree_digest(tree) == fingerprint.tree_digest(same)
    assert fingerprint.tree_digest(tree) != fingerprint.tree_digest(other)


def test_tree_digest_sees_the_sign_of_zero_and_knows_devices_from_hosts_by_nothing():
    zero = fingerprint.tree_digest(np.zeros(1, np.float32))
    assert fingerprint.tree_digest(-np.zeros(1, np.float32)) != zero
    assert fingerprint.tree_digest(jnp.zeros(1)) == zero


def test_long_and_strided_leaves_are_read_in_blocks(monkeypatch):
    leaf = np.arange(6000.0).reshape(100, 60)[::2, ::-1]
    whole = fingerprint.tree_digest(leaf)
    monkeypatch.setattr(fingerprint, "_BLOCK_BYTES", 1000)
    assert fingerprint.tree_digest(leaf) == whole
    assert fingerprint.tree_digest(np.ascontiguousarray(leaf)) == whole


def test_data_digest_depends_on_data_and_key():
    data, words = (np.arange(4),), jnp.array([1, 2], jnp.uint32)
    digest = fingerprint.data_digest(data, words)
    assert digest == fingerprint.data_digest((np.arange(4),), words)
    assert digest != fingerprint.data_digest((np.arange(4)[::-1],), words)
    assert digest != fingerprint.data_digest(data, words[::-1])


def test_program_digest_sees_constants_closures_and_equations():
    x = jnp.ones(3)

    def power(exponent):
        return fingerprint.program_digest(lambda x: (x**exponent).sum(), x)

    def shifted(array):
        return fingerprint.program_digest(lambda x: (x + array).sum(), x)

    assert power(2) == power(2)
    assert power(2) != power(3)
    assert shifted(np.arange(3.0)) == shifted(np.arange(3.0))
    assert shifted(np.arange(3.0)) != shifted(np.arange(3.0) + 1)
    assert fingerprint.program_digest(jnp.tanh, x) != fingerprint.program_digest(
        jax.nn.relu, x
    )


PROGRAM = """
import jax, jax.numpy as jnp, optax
from flax import linen
from dpjax.training import fingerprint
model = linen.Sequential([linen.Conv(4, (3, 3)), jax.nn.relu, linen.Dense(3)])
params = model.init(jax.random.key(0), jnp.ones((4, 4, 1)))
def loss(params, x):
    return jnp.square(model.apply(params, x)).mean()
adam = optax.adamw(optax.cosine_decay_schedule(0.1, 10))
def update(params):
    return adam.update(params, adam.init(params), params)
x = jnp.ones((4, 4, 1))
print(fingerprint.program_digest(loss, params, x))
print(fingerprint.program_digest(update, params))
"""


def test_program_digest_is_the_same_in_every_process():
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            cwd=pathlib.Path(dpjax.__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    ]
    assert len(set(said[0].split())) == 2
    assert said[0] == said[1]


@pytest.mark.parametrize("wrapped", [jax.jit, jax.checkpoint, lambda f: f])
def test_arrays_inside_of_a_called_function_are_in_the_digest(wrapped):
    def digest(scale):
        weights = scale * jnp.arange(1000.0)
        loss = wrapped(lambda w, x: (w * weights).sum() * x)
        return fingerprint.program_digest(loss, jnp.ones(1000), 2.0)

    assert digest(1.0) == digest(1.0)
    assert digest(1.0) != digest(3.0)


def test_the_backward_rule_is_in_the_digest_of_a_gradient():
    def digest(scale):
        @jax.custom_vjp
        def cut(w):
            return w

        cut.defvjp(lambda w: (w, None), lambda _, g: (scale * g,))
        return fingerprint.program_digest(jax.grad(lambda w: cut(w) ** 2), 2.0)

    assert digest(1.0) == digest(1.0)
    assert digest(1.0) != digest(3.0)
