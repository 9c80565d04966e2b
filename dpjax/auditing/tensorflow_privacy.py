"""tensorflow-privacy's membership inference attacks, run on the answers of any model.

They need neither TensorFlow nor Keras, though the package imports both unless it is
told not to. It is imported at the first call, and is no dependency of dpjax: its pins
fit no current JAX, so that it has to be installed without them.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dpjax import _check
from dpjax.auditing.from_scores import checked_scores

ATTACKS = {
    "threshold": "THRESHOLD_ATTACK",
    "entropy": "THRESHOLD_ENTROPY_ATTACK",
    "logistic": "LOGISTIC_REGRESSION",
    "mlp": "MULTI_LAYERED_PERCEPTRON",
    "random_forest": "RANDOM_FOREST",
    "nearest": "K_NEAREST_NEIGHBORS",
}
"""What we call their attacks. All but the first two train a model of their own."""

COMMANDS = """\
pip install "scikit-learn<1.7" pandas statsmodels matplotlib immutabledict packaging
pip install --no-deps tensorflow-privacy==0.9.0 tensorflow-empirical-privacy==0.1.0"""
"""How to install it beside a current JAX; on Python 3.12 with --ignore-requires-python
in the second."""

_TESTS = "tensorflow_privacy.privacy.privacy_tests"
_MIA = f"{_TESTS}.membership_inference_attack"
_SWITCH = "skip_tf_privacy_import"


class Attack(NamedTuple):
    """What one of their attacks found on one slice.

    Attributes:
      attack: a key of `ATTACKS`.
      of: the slice, in their words.
      num_in: how many members.
      num_out: how many others.
      auc: area under the ROC curve.
      advantage: the largest |TPR - FPR| of any threshold.
    """

    attack: str
    of: str
    num_in: int
    num_out: int
    auc: float
    advantage: float


def threshold_attack(in_scores: npt.ArrayLike, out_scores: npt.ArrayLike) -> Attack:
    """Return their threshold attack on membership scores, larger for members.

    Args:
      in_scores: (n,) scores of members; they are given to it as losses, negated.
      out_scores: (m,) scores of others.

    Raises:
      ImportError: tensorflow-privacy is not installed; the message says how.
      ValueError, TypeError: scores that are empty or not finite.
    """
    ins = checked_scores("in_scores", in_scores)
    outs = checked_scores("out_scores", out_scores)
    data = _module(f"{_MIA}.data_structures")
    # Labels are asked for, to count classes, though losses are all that is used.
    given = data.AttackInputData(
        loss_train=-ins,
        loss_test=-outs,
        labels_train=np.zeros(ins.size, int),
        labels_test=np.zeros(outs.size, int),
    )
    (found,) = _run(given, ["threshold"])
    return found


def membership_attacks(
    in_logits: npt.ArrayLike,
    in_labels: npt.ArrayLike,
    out_logits: npt.ArrayLike,
    out_labels: npt.ArrayLike,
    *,
    attacks: Sequence[str] = ("threshold",),
    by_class: bool = False,
    by_correctness: bool = False,
) -> tuple[Attack, ...]:
    """Return what their suite finds in the logits of a classifier.

    What is reported is without an interval, and the best of several attacks is biased
    upwards: for a statement at stated confidence take `epsilon_from_scores`.

    Args:
      in_logits: (n, classes), of members.
      in_labels: (n,) integers.
      out_logits: (m, classes), of others.
      out_labels: (m,) integers.
      attacks: keys of `ATTACKS`. The forest takes half a minute.
      by_class: also slice by class.
      by_correctness: also slice by whether the model is right.

    Raises:
      ImportError: tensorflow-privacy is not installed; the message says how.
      ValueError: there is no such attack, or their checks refuse the input.
    """
    for name in attacks:
        _check.choice("attacks", name, tuple(ATTACKS))
    data = _module(f"{_MIA}.data_structures")
    given = data.AttackInputData(
        logits_train=np.asarray(in_logits, np.float64),
        logits_test=np.asarray(out_logits, np.float64),
        labels_train=np.asarray(in_labels),
        labels_test=np.asarray(out_labels),
    )
    slicing = data.SlicingSpec(
        entire_dataset=True,
        by_class=by_class,
        by_classification_correctness=by_correctness,
    )
    return _run(given, attacks, slicing)


def lira(
    target_scores: npt.ArrayLike,
    model_scores: npt.ArrayLike,
    membership: npt.ArrayLike,
    *,
    fixed_variance: bool = False,
    centre: str = "median",
) -> np.ndarray:
    """Return their online LiRA, with the sign of `dpjax.auditing.lira`.

    It differs from ours in the centre, which is a median unless it is told otherwise,
    and in its variances, which divide by the number of models, not by one less.

    Args:
      target_scores: (n,) scores of the target.
      model_scores: (models, n) scores of the reference models.
      membership: (models, n) booleans: which model was trained on which example.
      fixed_variance: one variance for all examples.
      centre: "median" or "mean", over the models.

    Returns:
      (n,), float64, larger for members.

    Raises:
      ImportError: tensorflow-privacy is not installed; the message says how.
      ValueError, TypeError: shapes do not fit, or there is no such centre.
    """
    _check.choice("centre", centre, ("median", "mean"))
    target = checked_scores("target_scores", target_scores)
    models, had = np.asarray(model_scores, np.float64), np.asarray(membership)
    if models.shape != had.shape or models.shape[1:] != target.shape:
        expected = f"model_scores and membership (models, {target.size})"
        _check.fail(expected, "their shapes", (models.shape, had.shape))
    columns = list(zip(models.T, had.T.astype(bool), strict=True))
    scores = _module(f"{_MIA}.advanced_mia").compute_score_lira(
        target[:, None],
        [column[own][:, None] for column, own in columns],
        [column[~own][:, None] for column, own in columns],
        option="both",
        fix_variance=fixed_variance,
        median_or_mean=centre,
    )
    return -np.asarray(scores)


def _run(given: Any, attacks: Sequence[str], slicing: Any = None) -> tuple[Attack, ...]:
    suite, data = (
        _module(f"{_MIA}.{name}")
        for name in ("membership_inference_attack", "data_structures")
    )
    types = {getattr(data.AttackType, ATTACKS[name]): name for name in attacks}
    results = suite.run_attacks(given, slicing, attack_types=list(types))
    return tuple(
        Attack(
            types[result.attack_type],
            str(result.slice_spec),
            result.data_size.ntrain,
            result.data_size.ntest,
            float(result.get_auc()),
            float(result.get_attacker_advantage()),
        )
        for result in results.single_attack_results
    )


def _module(name: str) -> ModuleType:
    with _without_tensorflow():
        try:
            return importlib.import_module(name)
        except ImportError as error:
            message = f"Expected tensorflow-privacy, got: {error}. Try:\n{COMMANDS}"
            raise ImportError(message) from error


@contextlib.contextmanager
def _without_tensorflow() -> Iterator[None]:
    """Turn on upstream's own switch, which leaves out what imports TensorFlow."""
    if hasattr(sys, _SWITCH):
        yield
        return
    setattr(sys, _SWITCH, True)
    try:
        yield
    finally:
        delattr(sys, _SWITCH)
