"""Curvature computed on a mesh of devices and on one; a script for meshes of eight.

Both the parameters and the batch are split. Run as a script it answers, as JSON, for
every case on a mesh of four by two devices: how far it is from the numbers of one.
"""

import json
import os
import sys
from collections.abc import Callable

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpjax import curvature

AXIS_TYPES = {
    "explicit": jax.sharding.AxisType.Explicit,
    "auto": jax.sharding.AxisType.Auto,
}


def product(x, w):
    """Return `x @ w`, the result split as the columns of `w` are."""
    sharding = jax.typeof(w).sharding
    if jax.sharding.AxisType.Explicit not in sharding.mesh.axis_types:
        return x @ w
    columns = jax.sharding.NamedSharding(sharding.mesh, jax.P(sharding.spec[1]))
    return jnp.einsum("i,ij->j", x, w, out_sharding=columns)


def model(params, x):
    """Return the logits of a network with one hidden layer."""
    hidden = jnp.tanh(product(x, params["in"]) + params["bias"])
    return product(hidden, params["out"])


def output_loss(logits, label):
    """Return the loss of one label."""
    one_hot = jax.nn.one_hot(label, logits.shape[0])
    return optax.softmax_cross_entropy(logits, one_hot)


def loss(params, x, label):
    """Return the loss of one example."""
    return output_loss(model(params, x), label)


class Problem:
    """Parameters, a batch and a smaller one, on one device or on a mesh.

    Args:
      mesh: with axes `data`, over which examples are split, and `model`, over which
        hidden units are; or None.
    """

    def __init__(self, mesh=None):
        random = np.random.default_rng(0)
        self._mesh = mesh
        self.params = {
            "in": self._put(random.normal(size=(8, 4)), None, "model"),
            "bias": self._put(random.normal(size=4), "model"),
            "out": self._put(random.normal(size=(4, 3)), "model", None),
        }
        x, labels = random.normal(size=(16, 8)), random.integers(0, 3, 16)
        self.batch = self._batch(x, labels)
        self.small = self._batch(x[:8], labels[:8])
        self.inputs = curvature.Public(self.batch.batch[:1])
        self.vector = jax.tree.map(jnp.cos, self.params)
        self.hessian = curvature.hessian_operator(loss, self.params, self.batch)
        self.ggn = self.gauss_newton(self.batch)

    def gauss_newton(self, batch):
        """Return the Gauss-Newton operator of a batch."""
        return curvature.ggn_operator(model, output_loss, self.params, batch)

    def averaged(self):
        """Return an operator over two unequal batches, which JAX cannot trace."""
        return curvature.average(self.gauss_newton, [self.batch, self.small])

    def _batch(self, x, labels):
        return curvature.Public((self._put(x, "data"), self._put(labels, "data")))

    def _put(self, array, *spec):
        array = np.asarray(array, "float32" if array.dtype == float else "int32")
        if self._mesh is None:
            return jnp.asarray(array)
        spec = jax.P(*spec)
        return jax.device_put(array, jax.sharding.NamedSharding(self._mesh, spec))


def _jitted(algorithm):
    return lambda p: jax.jit(algorithm)(p.hessian, p.params)


def _in_microbatches(size):
    return lambda p: curvature.hessian_operator(
        loss, p.params, p.batch, microbatch_size=size
    )(p.vector)


def _block_trace(p):
    block = curvature.restrict(loss, p.params, lambda name: "in" in name)
    operator = curvature.hessian_operator(*block, p.batch)
    return curvature.trace(operator, block.params, key=0).value


def _influence(p):
    return curvature.influence(
        p.ggn, loss, p.params, p.batch, p.small, damping=1.0
    ).value


def _slices(p):
    line = jnp.linspace(-1, 1, 3)
    return curvature.loss_slice(
        loss, p.params, p.batch, [p.vector] * 2, [line] * 2
    ).value


def _sampled(p):
    return curvature.sampled_fisher_operator(
        model,
        output_loss,
        p.params,
        p.inputs,
        sample=jax.random.categorical,
        key=0,
        num_samples=2,
    )(p.vector)


def _density(p, **options):
    return curvature.spectral_density(
        p.hessian, p.params, key=0, num_probes=2, num_steps=6, **options
    ).nodes


def _top_vector(p):
    pairs = curvature.top_eigenpairs(p.hessian, p.params, 1, key=0, start=p.vector)
    return jax.tree.map(jnp.abs, pairs.vectors)


def _solution(p, operator):
    return curvature.inverse_hvp(operator, p.params, damping=1.0).value


CASES: dict[str, Callable[[Problem], object]] = {
    "hessian": lambda p: p.hessian(p.vector),
    "gauss_newton": lambda p: p.ggn(p.vector),
    "fisher": lambda p: curvature.fisher_operator(loss, p.params, p.batch)(p.vector),
    "true_fisher": lambda p: curvature.true_fisher_operator(
        model, output_loss, p.params, p.inputs, num_classes=3
    )(p.vector),
    "sampled_fisher": _sampled,
    "microbatches_that_fit": _in_microbatches(8),
    "microbatches_with_rest": _in_microbatches(3),
    "trace": lambda p: curvature.trace(p.hessian, p.params, key=0).value,
    "trace_at_once": lambda p: (
        curvature.trace(p.hessian, p.params, key=0, batch_size=5).value
    ),
    "trace_of_block": _block_trace,
    "frobenius": lambda p: (
        curvature.frobenius_squared(p.hessian, p.params, key=0).value
    ),
    "diagonal": lambda p: curvature.diagonal(p.hessian, p.params, key=0).value,
    "extremes": lambda p: (
        curvature.extreme_eigenvalues(
            p.hessian, p.params, key=0, start=p.vector
        ).largest
    ),
    "top": lambda p: curvature.top_eigenpairs(p.hessian, p.params, 2, key=0).values,
    "top_vector": _top_vector,
    "top_of_a_callable": lambda p: (
        curvature.top_eigenpairs(lambda v: p.hessian(v), p.params, 2, key=0).values
    ),
    "density": _density,
    "density_at_once": lambda p: _density(p, batch_size=2),
    "log_determinant": lambda p: (
        curvature.log_determinant(
            curvature.damped(p.ggn, 1.0), p.params, key=0, num_probes=2, num_steps=8
        ).value
    ),
    "inverse": lambda p: _solution(p, p.ggn),
    "inverse_of_a_callable": lambda p: _solution(p, lambda v: p.ggn(v)),
    "influence": _influence,
    "dense": lambda p: curvature.dense(p.hessian, p.params).value,
    "per_example": lambda p: (
        curvature.per_example_curvature(loss, p.params, p.batch, p.vector).value
    ),
    "slices": _slices,
    "averaged_top": lambda p: (
        curvature.top_eigenpairs(p.averaged(), p.params, 2, key=0).values
    ),
    "averaged_diagonal": lambda p: (
        curvature.diagonal(p.averaged(), p.params, key=0).value
    ),
    "averaged_inverse": lambda p: _solution(p, p.averaged()),
    "averaged_dense": lambda p: curvature.dense(p.averaged(), p.params).value,
    "jitted_trace": _jitted(lambda m, x: curvature.trace(m, x, key=0).value),
    "jitted_top": _jitted(lambda m, x: curvature.top_eigenpairs(m, x, 2, key=0).values),
    "jitted_inverse": _jitted(
        lambda m, x: curvature.inverse_hvp(m, x, damping=9.0).value
    ),
}


def error(one: object, many: object) -> float:
    """Return the largest difference, in units of the leaf's largest value."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(a)))
        for a, b in pairs
    )


def mesh_of(shape, kind):
    """Return a mesh with the axes of a `Problem`, all of one type."""
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AXIS_TYPES[kind],) * 2)


def main() -> None:
    """Print the error of every case on eight devices."""
    alone, meshed = Problem(), Problem(mesh_of((4, 2), sys.argv[1]))
    errors = {name: error(case(alone), case(meshed)) for name, case in CASES.items()}
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
