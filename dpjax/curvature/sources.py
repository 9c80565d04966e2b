"""Where a batch comes from: public data, or private data looked at without noise.

A number computed from examples is a query on them. What it costs is said by the type of
the batch, and every result carries it as an event that a ledger composes.
"""

import dataclasses
from typing import Any

import dp_accounting

from dpjax import _check
from dpjax.types import ArrayTree


@dataclasses.dataclass(frozen=True)
class Public:
    """A batch that nobody's privacy depends on: public or synthetic examples.

    Attributes:
      batch: the arguments of the loss after the parameters, leading axis the examples;
        a tuple is spread over several arguments.
    """

    batch: ArrayTree


@dataclasses.dataclass(frozen=True)
class Private:
    """A batch of private examples.

    A number computed from it without noise has `NonPrivateDpEvent()`: once spent, a
    ledger's epsilon is infinite. What `dpjax.release` returns has noise and a price.

    Attributes:
      batch: the arguments of the loss after the parameters, leading axis the examples;
        a tuple is spread over several arguments.
    """

    batch: ArrayTree


Source = Public | Private
"""A batch that says whether it is private."""


def raw_event(source: Source) -> dp_accounting.DpEvent:
    """Return what looking at the batch without noise costs.

    Raises:
      TypeError: `source` says neither that it is public nor that it is private.
    """
    if isinstance(source, Public):
        return dp_accounting.NoOpDpEvent()
    if isinstance(source, Private):
        return dp_accounting.NonPrivateDpEvent()
    # The type alone: what is in the batch may be private.
    kind = type(source)
    return _check.fail("Public(batch) or Private(batch)", "batch", kind, TypeError)


def arguments(source: Source) -> tuple[Any, ...]:
    """Return the batch as the arguments of a loss after the parameters.

    Raises:
      TypeError: `source` says neither that it is public nor that it is private.
      ValueError: there is no array, or the leading axes differ or are empty.
    """
    raw_event(source)
    if not _check.leading_axis("batch", source.batch):
        _check.fail("at least one example", "the length of the leading axis", 0)
    return source.batch if isinstance(source.batch, tuple) else (source.batch,)
