"""The rows of example canaries, made from the data that they are put among."""

import jax
import numpy as np

from dpjax import _check
from dpjax.auditing.canaries import ExampleCanaries
from dpjax.types import ArrayTree

_DOMAIN = int.from_bytes(b"examples")

Rows = tuple[np.ndarray, np.ndarray]


def examples(canaries: ExampleCanaries, data: tuple[ArrayTree, ...]) -> Rows:
    """Return features and labels of canaries, m rows.

    Args:
      canaries: their number, kind and seed.
      data: (features, labels): arrays `(N, ...)` of real numbers and `(N,)` of integers
        below the number of classes.

    Raises:
      ValueError: the data are something else, have one class alone, or fewer features
        than there are crafted canaries.
    """
    features, labels = _features_and_labels(data)
    generator = np.random.default_rng((_DOMAIN, canaries.seed))
    count, classes = canaries.count, int(labels.max()) + 1
    if canaries.kind == "mislabelled":
        chosen = generator.choice(len(labels), count, replace=count > len(labels))
        wrong = (labels[chosen] + generator.integers(1, classes, count)) % classes
        return features[chosen], wrong.astype(labels.dtype)
    drawn = generator.integers(0, classes, count).astype(labels.dtype)
    if canaries.kind == "random":
        shape = (count, *features.shape[1:])
        noise = generator.uniform(features.min(), features.max(), shape)
        return noise.astype(features.dtype), drawn
    return least_varied(features, count), drawn


def least_varied(features: np.ndarray, count: int) -> np.ndarray:
    """Return orthogonal rows in which the data vary least, as long as examples are.

    Args:
      features: (N, ...) real numbers.
      count: at most the number of features.
    """
    flat = features.reshape(len(features), -1).astype(np.float64)
    if count > flat.shape[1]:
        expected = f"at most one crafted canary for each of {flat.shape[1]} features"
        _check.fail(expected, "count", count)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    length = np.linalg.norm(flat, axis=1).mean()
    rows = length * vectors.T[:count]
    return rows.reshape(count, *features.shape[1:]).astype(features.dtype)


def _features_and_labels(data: tuple[ArrayTree, ...]) -> Rows:
    leaves = jax.tree.leaves(data)
    pair = len(data) == 2 and len(leaves) == 2
    if not pair or leaves[1].ndim != 1 or leaves[1].dtype.kind not in "iu":
        shapes = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves]
        _check.fail("data=(features, integer labels)", "data", shapes)
    features, labels = leaves
    if features.dtype.kind != "f":
        _check.fail("real features", "data[0].dtype", str(features.dtype))
    if labels.min() < 0 or labels.max() < 1:
        found = (int(labels.min()), int(labels.max()))
        _check.fail("labels of two or more classes, from 0", "their range", found)
    return features, labels
