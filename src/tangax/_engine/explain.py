"""What `explain` tells: where parameters enter, how factors are contracted, at what cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .._arguments.sides import Arguments
from .._shared.memory import in_bytes, is_refused
from .._shared.pair import Pair
from .contract.cost import Cost
from .kinds import Factor, Factored, OneHot, cotangent
from .linearise import Source
from .output_axes import Frame
from .pairing import pair_shapes
from .plan import OutputPlan, result_dtype
from .program import Found


@dataclass(frozen=True)
class Row:
    """One pair of factors of one leaf, for one output.

    `sites`: where the leaf enters; `kind`: that of its sites, or several joined by `+`; `factors`:
    shapes of `A: [s, k, i]` and `G: [o, s, k, j]`, or of `J: [o, p]`, for one example; `order`: of
    contraction; `tiles`: examples of x1 and x2 at a time; `groups`: of `k` at a time; `largest`:
    entries of the intermediates that stand beside each other; `why`: what keeps the leaf from being
    factored, if anything does.
    """

    leaf: str
    shape: tuple[int, ...]
    output: str
    sites: tuple[Found, ...]
    kind: str
    factors: str
    order: str
    tiles: tuple[int, int]
    groups: int
    multiply_adds: int
    largest: int
    why: str


@dataclass(frozen=True)
class Blocks:
    """Entries of one output taken at a time, and how many backward passes that needs in all.

    `sizes`: of diagonal, traced and free outputs, the last of x1 and of x2; `runs`: blocks of each.
    """

    output: str
    sizes: tuple[int, ...]
    runs: tuple[int, ...]
    passes: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """A plan, printed as a table.

    `forward`, `backward`, `contraction`: multiply-adds of evaluating `f`, of the cotangents of
    every output, and of contracting the factors. `memory`: the budget in bytes; `peak_bytes`: an
    estimate of what the call holds at most, its arguments and its result besides. `checked`:
    leaves that were compared with `jax.vjp` at these shapes, if a call was; `distrusted`: those
    that differed.
    """

    rows: tuple[Row, ...]
    blocks: tuple[Blocks, ...]
    forward: int
    backward: int
    memory: int
    peak_bytes: int
    arguments: int
    result: int
    checked: tuple[str, ...] | None = None
    distrusted: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes held at most: the arguments, the kernel, and what is computed on the way."""
        return self.arguments + self.result + self.peak_bytes

    @property
    def contraction(self) -> int:
        """Multiply-adds of contracting the factors."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def multiply_adds(self) -> int:
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
                f"{row.order} {row.tiles[0]}x{row.tiles[1]}",
                short(row.multiply_adds),
                short(row.largest),
            )
            for row in self.rows
        ]
        widths = [max(len(line[c]) for line in (head, *body)) for c in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
                 for line in (head, *body)]  # fmt: skip
        lines.insert(1, "-" * max(map(len, lines)))
        lines += [f"{row.leaf} is not factored: {row.why}" for row in self.rows if row.why]
        for block in self.blocks:
            if max(block.runs) > 1:
                sizes = " x ".join(
                    f"{size} {name}"
                    for size, name, runs in zip(block.sizes, NAMES, block.runs, strict=True)
                    if runs > 1
                )
                passes = " + ".join(map(str, block.passes))
                label = f" of {block.output}" if block.output else ""
                lines.append(f"outputs{label} in blocks of {sizes}: {passes} backward passes")
        lines.append(
            f"multiply-adds: forward {short(self.forward)}, backward {short(self.backward)}, "
            f"contraction {short(self.contraction)}"
        )
        lines.append(
            f"bytes: arguments {in_bytes(self.arguments)}, kernel {in_bytes(self.result)}, "
            f"held besides about {in_bytes(self.peak_bytes)}; memory {in_bytes(self.memory)}"
            + (" IS EXCEEDED: take fewer examples" if self.peak_bytes > self.memory else "")
            + ("; A CALL IS REFUSED" if is_refused(self.peak_bytes, self.memory) else "")
        )
        lines.append(self._checks())
        return "\n".join(lines)

    def _checks(self) -> str:
        if self.checked is None:
            return "not yet checked at these shapes: a call outside jit does it, or ntk_fn.check"
        leaves = {row.leaf for row in self.rows}
        count = "all" if leaves <= set(self.checked) else f"{len(self.checked)} of"
        bad = [leaf for leaf in self.distrusted if leaf in leaves]
        differ = f"; whole Jacobians of {', '.join(bad)}, which differed" if bad else ""
        return f"checked with jax.vjp at these shapes: {count} {len(leaves)} leaves{differ}"


NAMES = ("diagonal", "traced", "of x1", "of x2")


def make_plan(
    given: Arguments,
    sources: Pair[Source],
    every: list[Frame],
    outputs: list[OutputPlan],
    *,
    arguments: int,
    memory: int,
) -> Plan:
    params, uses = given.params, sources.first.uses()
    leaves = list(enumerate(pair_shapes(sources)))
    flops = sources.map(lambda source: source.flops())
    rows, blocks = [], []
    backward = result = 0
    for a, (name, frame, output) in enumerate(zip(given.names, every, outputs, strict=True)):
        label = name if len(given.names) > 1 else ""
        costs = iter(output.costs)
        for leaf, pairs in leaves:
            sites = tuple(use for use in uses if use.leaf == leaf)
            where = (params.paths[leaf], tuple(params.leaves[leaf].shape), label, sites)
            for pair in pairs:
                shapes = _factor_shapes(pair.first, frame.size(0))
                rows.append(_row(*where, shapes, next(costs), output.pairs))
        sizes, runs = zip(*((block.size, block.runs) for block in output.blocks), strict=True)
        blocks.append(Blocks(label, sizes, runs, output.passes))
        each = zip(output.passes, flops.sides, strict=True)
        backward += sum(passes * of_one for passes, (_, of_one) in each)
        kernel = frame.kernel_shape(output.d.count, output.o.count, output.q.count)
        result += math.prod(kernel) * result_dtype(sources, a).itemsize
    peak = max((output.peak_bytes for output in outputs), default=0)
    forward = sum(forward for forward, _ in flops.distinct)
    return Plan(tuple(rows), tuple(blocks), forward, backward, memory, peak, arguments, result)


def _row(
    leaf: str,
    shape: tuple[int, ...],
    output: str,
    sites: tuple[Found, ...],
    factors: str,
    cost: Cost,
    runs: int,
) -> Row:
    kinds = dict.fromkeys(site.kind for site in sites)
    return Row(
        leaf,
        shape,
        output,
        sites,
        "+".join(kinds),
        factors,
        cost.term.order.name,
        cost.term.tiles,
        cost.term.groups,
        cost.multiply_adds * runs,
        cost.peak_entries,
        "; ".join(dict.fromkeys(site.why for site in sites if site.why)),
    )


def _factor_shapes(factor: Factor, o: int) -> str:
    """Shapes for one example and so many outputs; one-hot rows by their ids."""
    G = [o, *cotangent(factor).shape[2:]]
    if not isinstance(factor, Factored):
        return f"J{G}"
    if isinstance(factor.A, OneHot):
        return f"ids{list(factor.A.ids.shape[1:])} G{G}"
    return f"A{list(factor.A.shape[1:])} G{G}"


def short(number: int) -> str:
    """A number to three digits: 1.23G."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)
