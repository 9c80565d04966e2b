"""Attacks slice by slice: whom a model gives away more than the others."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dpjax import _check
from dpjax.auditing.curves import Interval, auroc, tpr_at_fpr
from dpjax.auditing.from_scores import checked_scores

Groups = Mapping[str, npt.ArrayLike]
"""A value for each example under the name of what it tells: class, correctness."""


class Slice(NamedTuple):
    """How well an attack does on the examples of one kind.

    Attributes:
      group: what they have in common, a key of the groups; "all" is everybody.
      value: their value of it; None of everybody.
      num_in: how many members.
      num_out: how many others.
      auroc: area under the ROC curve.
      tpr: TPR at the FPR that was asked for, both within the slice.
    """

    group: str
    value: object
    num_in: int
    num_out: int
    auroc: Interval
    tpr: Interval


def attack_slices(
    in_scores: npt.ArrayLike,
    out_scores: npt.ArrayLike,
    in_groups: Groups,
    out_groups: Groups,
    *,
    fpr: float = 0.1,
    significance: float = 0.05,
    least: int = 10,
) -> tuple[Slice, ...]:
    """Return how well scores tell members from others, within every slice.

    Each interval has the significance over the number of intervals, two a slice, so
    that all of them hold together (Bonferroni): the worst slice may be picked after the
    fact. That of the TPR is exact at its threshold, that of the AUROC approximate.

    Args:
      in_scores: (n,) scores of members.
      out_scores: (m,) scores of others.
      in_groups: (n,) values for each name, such as `{"class": labels, "correct":
        logits.argmax(-1) == labels}`. A slice is one value of one name.
      out_groups: (m,) values for each of the same names.
      fpr: at which the TPR is asked, in (0, 1].
      significance: of all intervals together, in (0, 1).
      least: slices with fewer members or fewer others are left out.

    Returns:
      Everybody first, then the slices by name, in the order of their values.

    Raises:
      ValueError, TypeError: scores that are empty or not finite; groups that differ in
        their names or do not fit the scores; out of range.

    Example:
      >>> easy, hard = np.arange(20.0), np.arange(20.0) + 0.5
      >>> kinds = {"class": np.repeat([0, 1], 20)}
      >>> found = attack_slices(
      ...     np.concatenate([easy + 30, hard]), np.concatenate([easy, hard]),
      ...     kinds, kinds,
      ... )
      >>> [(s.group, s.value, round(s.auroc.value, 2)) for s in found[1:]]
      [('class', 0, 1.0), ('class', 1, 0.5)]
    """
    ins = checked_scores("in_scores", in_scores)
    outs = checked_scores("out_scores", out_scores)
    _check.integer("least", least, minimum=1)
    level = _check.open_unit("significance", significance)
    if set(in_groups) != set(out_groups):
        _check.fail(f"groups {sorted(in_groups)}", "out_groups", sorted(out_groups))
    kept = [
        (name, value, mine, theirs)
        for name, value, mine, theirs in _chosen(ins, outs, in_groups, out_groups)
        if min(mine.size, theirs.size) >= least or name == "all"
    ]
    each = level / (2 * len(kept))
    return tuple(
        Slice(
            name,
            value,
            mine.size,
            theirs.size,
            auroc(mine, theirs, significance=each),
            tpr_at_fpr(mine, theirs, fpr, significance=each),
        )
        for name, value, mine, theirs in kept
    )


def _chosen(
    ins: np.ndarray, outs: np.ndarray, in_groups: Groups, out_groups: Groups
) -> Iterator[tuple[str, object, np.ndarray, np.ndarray]]:
    yield "all", None, ins, outs
    for name in in_groups:
        of_ins = _fitting("in_groups", name, in_groups[name], ins.size)
        of_outs = _fitting("out_groups", name, out_groups[name], outs.size)
        for value in np.union1d(of_ins, of_outs):
            yield name, value.item(), ins[of_ins == value], outs[of_outs == value]


def _fitting(name: str, key: str, values: npt.ArrayLike, size: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (size,):
        _check.fail(f"{size} values", f"{name}[{key!r}].shape", array.shape)
    return array
