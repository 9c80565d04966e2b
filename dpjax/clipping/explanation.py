"""What `explain` finds: a value for programs, and a table for people."""

import dataclasses

_HEAD = ("leaf", "shape", "taps", "what is done", "operations", "bytes", "plain")


@dataclasses.dataclass(frozen=True)
class Row:
    """What the engine does with one parameter leaf.

    Attributes:
      path: where the leaf is, as it reads in Python; empty for a single array.
      shape: its shape.
      taps: number of equations in which it meets the example.
      rule: what is done for its norm and its sum, in words; begins with "fallback"
        where per-example gradients are written out for want of a rule.
      operations: arithmetic operations of measuring and summing, for the whole batch.
        Work that leaves share is in the row of each.
      temporaries: bytes that these keep in memory at a time, beside what was recorded
        and the sum; an estimate, good to a factor of two or so.
      plain_operations: operations of the plain weight gradient in their place.
    """

    path: str
    shape: tuple[int, ...]
    taps: int
    rule: str
    operations: int
    temporaries: int
    plain_operations: int


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation:
    """What the engine does with a loss; `str` gives the table.

    Attributes:
      rows: one for each parameter leaf, in the order of the tree.
      batch_size: number of examples.
      operations: of measuring and summing all leaves; what they share counts once.
      temporaries: bytes that this keeps in memory at a time, for all leaves.
      plain_operations: of the plain weight gradients of all leaves.
      gradient_operations: of the whole plain gradient: forward, backward and weights.
        The engine replaces `plain_operations` of these by `operations`.
      engine: what `engine="auto"` takes for this loss: "vmap" where every gradient
        would be written out anyway.
    """

    rows: tuple[Row, ...]
    batch_size: int
    operations: int
    temporaries: int
    plain_operations: int
    gradient_operations: int
    engine: str

    def __str__(self) -> str:
        cells = [_HEAD, *(_cells(row) for row in self.rows)]
        costs = _costs(self.operations, self.temporaries, self.plain_operations)
        cells.append(("all", "", "", "", *costs))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                text.ljust(width) if column in (0, 1, 3) else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        whole = _short(self.gradient_operations)
        lines.append(f"{self.batch_size} examples; the whole plain gradient: {whole}")
        if self.engine == "vmap":
            lines.append('engine="auto" takes "vmap": nothing here has a short norm')
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Explanation of {len(self.rows)} leaves>"


def _cells(row: Row) -> tuple[str, ...]:
    costs = _costs(row.operations, row.temporaries, row.plain_operations)
    return (row.path or "params", str(row.shape), str(row.taps), row.rule, *costs)


def _costs(*counts: int) -> tuple[str, ...]:
    return tuple(_short(count) for count in counts)


def _short(count: int) -> str:
    """Return a count to three digits: 421, 3.21M."""
    for power, unit in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:#.3g}".rstrip(".") + unit
    return str(count)
