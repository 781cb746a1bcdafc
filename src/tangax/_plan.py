"""What `explain` tells: where parameters enter, how factors are contracted, at what cost."""

from __future__ import annotations

from dataclasses import dataclass

from ._contract import Term
from ._factors import Factor, Factored, OneHot
from ._sites import Found


@dataclass(frozen=True)
class Row:
    """One pair of factors of one leaf, for one output.

    `sites`: where the leaf enters; `kind`: that of its sites, or several joined by `+`; `factors`:
    shapes of `A: [s, k, i]` and `G: [o, s, k, j]`, or of `J: [o, p]`, for one example; `order`: of
    contraction; `blocks`: examples of x1 and x2 at a time; `largest`: entries of the largest
    intermediate.
    """

    leaf: str
    shape: tuple[int, ...]
    output: str
    sites: tuple[Found, ...]
    kind: str
    factors: str
    order: str
    multiply_adds: int
    largest: int
    blocks: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """A plan, printed as a table.

    `forward`, `backward`, `contraction`: multiply-adds of evaluating `f`, of the cotangents of
    every output, and of contracting the factors.
    """

    rows: tuple[Row, ...]
    forward: int
    backward: int
    memory: int

    @property
    def contraction(self) -> int:
        """Multiply-adds of contracting the factors."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds in all."""
        return self.forward + self.backward + self.contraction

    def seconds(self, flops_per_second: float) -> float:
        """The time that a device takes at a rate, two operations to a multiply-add."""
        return 2 * self.multiply_adds / flops_per_second

    def __str__(self) -> str:
        """The table."""
        head = ("leaf", "shape", "enters at", "kind", "factors", "order", "MACs", "largest")
        body = [
            (
                row.leaf + (f" -> {row.output}" if row.output else ""),
                "x".join(map(str, row.shape)) or "scalar",
                ", ".join(dict.fromkeys(f"{s.primitive} {s.source}".strip() for s in row.sites)),
                row.kind,
                row.factors,
                f"{row.order} {row.blocks[0]}x{row.blocks[1]}",
                short(row.multiply_adds),
                short(row.largest),
            )
            for row in self.rows
        ]
        widths = [max(len(line[c]) for line in (head, *body)) for c in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
                 for line in (head, *body)]  # fmt: skip
        lines.insert(1, "-" * max(map(len, lines)))
        lines.append(
            f"multiply-adds: forward {short(self.forward)}, backward {short(self.backward)}, "
            f"contraction {short(self.contraction)}; memory for an intermediate "
            f"{self.memory / 2**30:.2f} GiB"
        )
        return "\n".join(lines)


def row(
    leaf: str,
    shape: tuple[int, ...],
    output: str,
    sites: tuple[Found, ...],
    factor: Factor,
    term: Term,
) -> Row:
    """The row of one pair of factors."""
    kinds = dict.fromkeys(site.kind for site in sites)
    return Row(
        leaf,
        shape,
        output,
        sites,
        "+".join(kinds),
        factor_shapes(factor),
        term.order,
        term.multiply_adds,
        term.largest,
        term.blocks,
    )


def factor_shapes(factor: Factor) -> str:
    """Shapes for one example; one-hot rows by their ids."""
    if not isinstance(factor, Factored):
        return f"J{list(factor.J.shape[1:])}"
    G = f"G{list(factor.G.shape[1:])}"
    if isinstance(factor.A, OneHot):
        return f"ids{list(factor.A.ids.shape[1:])} {G}"
    return f"A{list(factor.A.shape[1:])} {G}"


def short(number: int) -> str:
    """A number to three digits: 1.23G."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)
