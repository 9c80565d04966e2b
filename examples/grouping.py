"""Examples in rows of one owner each, who is the unit of privacy."""

from typing import NamedTuple

import jax
import numpy as np

from dpjax import sampling
from dpjax.types import ArrayTree, LossFn


class Grouped(NamedTuple):
    """The units of privacy.

    Attributes:
        data: What `fit` takes, leading axis `(num_units,)`.
        loss: The loss of one unit.
    """

    data: tuple[ArrayTree, ...]
    loss: LossFn


def num_units(num_examples: int, unit_size: int) -> int:
    """Return how many units there are; the last may have fewer examples."""
    return -(-num_examples // unit_size)


def unit(unit_size: int) -> str:
    """Return what one unit is, in words."""
    return "example" if unit_size == 1 else f"owner of up to {unit_size} examples"


def grouped(
    x: np.ndarray, y: np.ndarray, loss: LossFn, unit_size: int, key_words: jax.Array
) -> Grouped:
    """Return examples in units of as many as follow each other, as they stand.

    The data sets here name no owners: rows that follow each other stand for one.

    Args:
        x: Features, `(num_examples, ...)`.
        y: Labels, `(num_examples,)`.
        loss: The loss of one example.
        unit_size: Examples of one owner; the last may have fewer. 1 groups nothing.
        key_words: uint32, `(2,)`, those of the run.
    """
    if unit_size == 1:
        return Grouped((x, y), loss)
    owners = sampling.group_by_user(np.arange(len(y)) // unit_size)
    blocks = owners.blocks(
        (x, y), np.asarray(key_words), max_examples_per_user=unit_size
    )
    return Grouped(blocks, sampling.mean_loss(loss))
