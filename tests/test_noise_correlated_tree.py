import numpy as np
import pytest

from dpjax.noise.correlated import BinaryTree
from dpjax.noise.correlated.series import lower_triangular

TREE = BinaryTree()


def test_blocks_are_numbered_as_they_end():
    expected = [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(TREE.matrix(3), expected)


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 12])
def test_no_unbiased_estimate_from_what_is_known_has_less_variance(steps):
    # Row t of the best one is row t of A (C_t)^+, C_t the blocks that have ended.
    found = TREE.variances(steps, np.ones(steps))
    for t in range(steps):
        known = TREE.matrix(t + 1)
        best = np.ones(t + 1) @ np.linalg.pinv(known)
        np.testing.assert_allclose(found[t], np.sum(best**2), rtol=1e-12)


def test_estimates_use_no_block_that_has_not_ended():
    noise = TREE.noise_matrix(12)
    for t in range(12):
        assert not noise[t, TREE.matrix(t + 1).shape[0] :].any()


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 13, 16])
def test_variances_of_single_steps_are_those_of_the_rows(steps):
    single = np.eye(1, steps)[0]
    expected = np.sum(TREE.noise_matrix(steps) ** 2, axis=1)
    np.testing.assert_allclose(TREE.variances(steps, 3 * single), 9 * expected)


def test_a_million_steps_take_no_matrix():
    for workload in (np.ones(2**20), np.eye(1, 2**20)[0]):
        assert TREE.variances(2**20, workload).max() < 20


def test_variances_of_other_workloads_take_the_matrix():
    column = np.array([1.0, 1.0, 1.0, 0.5])
    expected = (lower_triangular(column) @ TREE.noise_matrix(4)) ** 2
    np.testing.assert_allclose(TREE.variances(4, column), expected.sum(axis=1))


@pytest.mark.parametrize("steps", [1, 7, 8, 11])
def test_norms_of_patterns_are_those_of_the_columns(steps):
    matrix = TREE.matrix(steps)
    for pattern in ([0], list(range(steps)), list(range(0, steps, 3))):
        expected = np.sum(matrix[:, pattern].sum(axis=1) ** 2)
        assert TREE.pattern_norm_squared(np.array(pattern), steps) == expected
