"""What the tests of releases share: every kind of release, called in the same way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dpjax import release
from dpjax.curvature import Private

SIZE = 3000
CLIP = 0.7


def of_example(_, x):
    return x


def halves(params, x):
    return {"a": params * x[:2], "b": x[2:]}


def quadratic(params, x):
    """Return a loss whose Hessian is diag(x)."""
    return jnp.vdot(params, x * params) / 2


def mean(x, function=of_example, params=None, **options):
    return release.private_mean(function, params, Private(x), **options)


def trace(x, num_probes=SIZE, **options):
    params = jnp.zeros(x.shape[1:], x.dtype)
    return release.private_trace(
        quadratic, params, Private(x), num_probes=num_probes, **options
    )


def hvp(x, vector=None, **options):
    params = jnp.zeros(x.shape[1:], x.dtype)
    vector = jnp.ones_like(params) if vector is None else vector
    return release.private_hvp(quadratic, params, Private(x), vector, **options)


def quantile(x, levels=0.5, num_bins=16, l2_norm_clip=1.0, **options):
    """Return the quantiles of the first features, in [-1, 1]."""
    assert l2_norm_clip == 1.0
    return release.private_quantile(
        first, None, Private(x), levels, low=-1, high=1, num_bins=num_bins, **options
    )


def first(_, x):
    return x[0]


KINDS = {"mean": mean, "trace": trace, "hvp": hvp, "quantile": quantile}
CLIPPED = {"mean": mean, "hvp": hvp, "trace": functools.partial(trace, num_probes=9)}


def noised(released):
    """Return the values that noise was added to, as float64."""
    value = released.value
    if isinstance(released, release.TraceRelease):
        value = released.per_probe
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(value)]
    return np.concatenate(leaves)


def pure_noise(kind, key=0, size=SIZE, l2_norm_clip=CLIP, noise_multiplier=1.3, **more):
    """Return a release of masked-out examples: its values are noise alone."""
    x = jnp.ones((2, 1 if kind == "trace" else size))
    options = {"mask": jnp.zeros(2, bool), "expected_batch_size": 50.0} | more
    return KINDS[kind](
        x,
        key=key,
        l2_norm_clip=l2_norm_clip,
        noise_multiplier=noise_multiplier,
        **options,
    )
