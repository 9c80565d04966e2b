"""Membership scores from reference models: LiRA and RMIA. Larger: rather a member.

The models are the caller's: any that were trained as the target was, on random halves
of the same population. What is shared is a table of their answers.
"""

import numpy as np
import numpy.typing as npt
from scipy import special

from dpjax import _check

_LEAST_DEVIATION = 1e-12
_FEW_MODELS = 64
"""Below so many, one variance for all examples is less wrong than one for each."""


def logit_scores(logits: npt.ArrayLike, labels: npt.ArrayLike) -> np.ndarray:
    """Return log p_y - log(1 - p_y), the confidence in the right class.

    Args:
      logits: (..., n, classes).
      labels: (n,) integers.

    Returns:
      (..., n), float64; from the logits, so that a p_y next to 1 loses no digits.

    Raises:
      ValueError: shapes do not fit, a label is out of range, or logits are not finite.

    Example:
      >>> logit_scores([[0.0, 0.0], [0.0, 40.0]], [0, 1])
      array([ 0., 40.])

    References:
      Carlini et al. (2022), Membership inference attacks from first principles,
      section IV.
    """
    values = _finite("logits", logits)
    if values.ndim < 2 or values.shape[-1] < 2:
        _check.fail("logits (..., n, classes)", "logits.shape", values.shape)
    right = np.asarray(labels)
    if right.shape != values.shape[-2:-1] or not np.issubdtype(right.dtype, np.integer):
        expected = f"{values.shape[-2]} integer labels"
        _check.fail(expected, "labels", f"{right.dtype}{right.shape}")
    classes = np.arange(values.shape[-1])
    if right.size and not (right.min() >= 0 and right.max() < classes.size):
        expected = f"labels in [0, {classes.size})"
        _check.fail(expected, "labels", (int(right.min()), int(right.max())))
    is_right = right[:, None] == classes
    others = np.where(is_right, -np.inf, values)
    chosen = np.where(is_right, values, 0.0).sum(axis=-1)
    return chosen - special.logsumexp(others, axis=-1)


def lira(
    target_scores: npt.ArrayLike,
    model_scores: npt.ArrayLike,
    membership: npt.ArrayLike,
    *,
    online: bool = True,
    fixed_variance: bool | None = None,
) -> np.ndarray:
    """Return the likelihood ratio of membership, by reference models.

    Scores of an example under models that had it, and under models that had not, are
    taken for normal. Online, the result is the log ratio of the two densities; offline,
    with models that had none of the examples, how far the score is in the upper tail of
    the second: log Phi((score - mean) / deviation).

    Args:
      target_scores: (n,) or (n, views), such as `logit_scores`; views are averaged.
      model_scores: (models, n) or (models, n, views).
      membership: (models, n) booleans: which model was trained on which example.
      online: whether models that had the example are used.
      fixed_variance: one variance for all examples; None: with fewer than 64 models.

    Returns:
      (n,), float64.

    Raises:
      ValueError: shapes do not fit, scores are not finite, or an example has fewer than
        two models of a kind that is needed (with a fixed variance: fewer than one).

    Example:
      >>> rng = np.random.default_rng(0)
      >>> had = rng.random((32, 200)) < 0.5
      >>> scores = rng.normal(size=had.shape) + 3 * had
      >>> found = lira(scores[0], scores[1:], had[1:])
      >>> bool(found[had[0]].mean() > found[~had[0]].mean())
      True

    References:
      Carlini et al. (2022), Membership inference attacks from first principles,
      algorithm 1.
    """
    target, models, had = _table(target_scores, model_scores, membership)
    fixed = models.shape[0] < _FEW_MODELS if fixed_variance is None else fixed_variance
    out_mean, out_deviation = _normal(models, ~had, fixed, "without")
    if not online:
        ratio = (target - out_mean) / out_deviation
        return special.log_ndtr(ratio).mean(axis=-1)
    in_mean, in_deviation = _normal(models, had, fixed, "with")
    log_in = _log_density(target, in_mean, in_deviation)
    return (log_in - _log_density(target, out_mean, out_deviation)).mean(axis=-1)


def rmia(
    target_confidences: npt.ArrayLike,
    model_confidences: npt.ArrayLike,
    membership: npt.ArrayLike,
    population_target: npt.ArrayLike,
    population_models: npt.ArrayLike,
    *,
    online: bool = True,
    gamma: float = 2.0,
    offline_slope: float = 0.3,
) -> np.ndarray:
    """Return the share of a population that an example is more of a member than.

    With p(x) the mean confidence of the reference models in x and p(x | target) that of
    the target, x beats z where p(x | target) / p(x) >= gamma p(z | target) / p(z).

    Args:
      target_confidences: (n,) probabilities of the right class under the target.
      model_confidences: (models, n) under the reference models.
      membership: (models, n) booleans: which model was trained on which example.
      population_target: (z,) as `target_confidences`, of examples in no training set.
      population_models: (models, z).
      online: whether models that had the example are used. Offline, p(x) is made of the
        others: ((1 + a) p_out + (1 - a)) / 2.
      gamma: at least 1.
      offline_slope: a, in [0, 1].

    Returns:
      (n,) in [0, 1].

    Raises:
      ValueError: shapes do not fit, confidences are not in [0, 1], or an example has no
        model of a kind that is needed.

    References:
      Zarifzadeh, Liu and Shokri (2024), Low-cost high-power membership inference
      attacks, equations 2 to 5.
    """
    target, models, had = _table(target_confidences, model_confidences, membership)
    others, other_models, _ = _table(
        population_target,
        population_models,
        np.zeros(np.shape(population_models), bool),
    )
    for name, values in (("target_confidences", target), ("model_confidences", models)):
        if values.min(initial=0.0) < 0 or values.max(initial=1.0) > 1:
            _check.fail("probabilities", name, "some outside of [0, 1]")
    if not _check.real("gamma", gamma) >= 1:
        _check.fail("a number >= 1", "gamma", gamma)
    if not 0 <= _check.real("offline_slope", offline_slope) <= 1:
        _check.fail("a number in [0, 1]", "offline_slope", offline_slope)
    expected = _mean(models, ~had, "without")
    if online:
        expected = (expected + _mean(models, had, "with")) / 2
    else:
        expected = ((1 + offline_slope) * expected + (1 - offline_slope)) / 2
    ratios = _ratio(target, expected)
    population = np.sort(_ratio(others, other_models.mean(axis=0)))
    return np.searchsorted(population, ratios / gamma, side="right") / population.size


def _ratio(confidences: np.ndarray, expected: np.ndarray) -> np.ndarray:
    tiny = np.finfo(np.float64).tiny
    return (confidences / np.maximum(expected, tiny))[..., 0]


def _finite(name: str, values: npt.ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        number = int((~np.isfinite(array)).sum())
        _check.fail("finite numbers", f"the non-finite ones of {name}", number)
    return array


def _table(
    target: npt.ArrayLike, models: npt.ArrayLike, membership: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (n, views), (models, n, views) and (models, n), checked."""
    ours, theirs = _finite("target_scores", target), _finite("model_scores", models)
    if ours.ndim not in (1, 2) or not ours.size:
        _check.fail("scores (n,) or (n, views)", "target_scores.shape", ours.shape)
    if theirs.shape[1:] != ours.shape or not theirs.size:
        expected = f"scores (models, *{ours.shape})"
        _check.fail(expected, "model_scores.shape", theirs.shape)
    had = np.asarray(membership)
    if had.shape != theirs.shape[:2] or had.dtype != bool:
        expected = f"booleans {theirs.shape[:2]}"
        _check.fail(expected, "membership", f"{had.dtype}{had.shape}")
    if ours.ndim == 1:
        ours, theirs = ours[:, None], theirs[..., None]
    return ours, theirs, had


def _mean(models: np.ndarray, chosen: np.ndarray, word: str) -> np.ndarray:
    """Return the mean over the chosen models: (n, views)."""
    counts = chosen.sum(axis=0)
    if counts.min() < 1:
        place = f"models {word} example {int(counts.argmin())}"
        _check.fail("at least one model", place, 0)
    return (models * chosen[..., None]).sum(axis=0) / counts[:, None]


def _normal(
    models: np.ndarray, chosen: np.ndarray, fixed: bool, word: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each example over the chosen models."""
    mean, counts = _mean(models, chosen, word), chosen.sum(axis=0)
    squares = ((models - mean) ** 2 * chosen[..., None]).sum(axis=0)
    if fixed:
        degrees = max(1, int((counts - 1).sum()))
        variance = squares.sum(axis=0, keepdims=True) / degrees
    else:
        if counts.min() < 2:
            place = f"models {word} example {int(counts.argmin())}"
            _check.fail("at least two models", place, int(counts.min()))
        variance = squares / (counts[:, None] - 1)
    return mean, np.sqrt(variance) + _LEAST_DEVIATION


def _log_density(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation)
