"""Ask tensorflow-privacy for `test_defects`; run by an interpreter that has it.

Questions and answers are those of `accounting_worker`. It, and the attacks that come as
tensorflow-empirical-privacy, are imported by name: their pins fit no current JAX, and
so they are no extra of dpjax.
"""

import importlib
import importlib.metadata
import os
import warnings

import accounting_worker
import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
tf = importlib.import_module("tensorflow")
tensorflow_privacy = importlib.import_module("tensorflow_privacy")


def _tests(name):
    return importlib.import_module(f"tensorflow_privacy.privacy.privacy_tests.{name}")


advanced_mia = _tests("membership_inference_attack.advanced_mia")
epsilon_lower_bound = _tests("epsilon_lower_bound")
generate_secrets = _tests("secret_sharer.generate_secrets")


def release(rows, pieces=None):
    """Return a step without noise, (values,), of rows cut into so many microbatches."""
    rows = tf.constant(rows, tf.float32)
    params = tf.Variable(tf.zeros(rows.shape[1]))
    optimizer = tensorflow_privacy.DPKerasSGDOptimizer(
        l2_norm_clip=1.0,
        noise_multiplier=0.0,
        num_microbatches=pieces,
        learning_rate=1.0,
    )
    optimizer.minimize(lambda: tf.linalg.matvec(rows, params), [params])
    return (-params.numpy()).tolist()


def bound(in_scores, out_scores, significance, method):
    """Return the largest lower bound on epsilon of all thresholds."""
    found = epsilon_lower_bound.EpsilonLowerBound(
        np.array(in_scores), np.array(out_scores), significance
    ).compute_epsilon_lower_bound(epsilon_lower_bound.BoundMethod(method), 1)
    return float(found.max(initial=-1.0))


def bound_methods():
    """Return the names of the methods of `bound`."""
    return [method.value for method in epsilon_lower_bound.BoundMethod]


def changed_by_score(logits, labels):
    """Return logits and labels as they are after they were scored."""
    logits, labels = np.array(logits), np.array(labels)
    advanced_mia.calculate_statistic(logits, labels, None, True, "hinge")
    return {"logits": np.nan_to_num(logits).tolist(), "labels": labels.tolist()}


def first_digits(count):
    """Return how many of so many secrets of four digits begin with each digit."""
    digits = list("0123456789")
    found = generate_secrets.generate_random_sequences(digits, "{}{}{}{}", count)
    return [sum(secret[0] == digit for secret in found) for digit in digits]


def versions():
    """Return the versions of what is asked."""
    names = ("tensorflow-privacy", "tensorflow-empirical-privacy")
    return {name: importlib.metadata.version(name) for name in names}


TASKS = {
    each.__name__: each
    for each in (
        bound,
        bound_methods,
        changed_by_score,
        first_digits,
        release,
        versions,
    )
}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    accounting_worker.serve(TASKS)
