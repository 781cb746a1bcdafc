"""What `explain` tells: where parameters enter, how factors are contracted, at what cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from . import _jaxpr
from ._factors import Factor, Factored, OneHot
from ._frame import Frame
from ._linear import Linear, Meta, Source, linearise
from ._planner import Cost, OutputPlan
from ._sides import Pair
from ._sites import Found, describe
from ._structured import leaf_pairs, plan_outputs
from ._trees import Params


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
    sizes: tuple[int, int, int, int]
    runs: tuple[int, int, int, int]
    passes: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """A plan, printed as a table.

    `forward`, `backward`, `contraction`: multiply-adds of evaluating `f`, of the cotangents of
    every output, and of contracting the factors. `memory`: the budget in bytes; `held`: an estimate
    of the bytes that the call holds at most, its arguments and its result besides.
    """

    rows: tuple[Row, ...]
    blocks: tuple[Blocks, ...]
    forward: int
    backward: int
    memory: int
    held: int
    arguments: int
    result: int

    @property
    def bytes(self) -> int:
        """Bytes held at most: the arguments, the kernel, and what is computed on the way."""
        return self.arguments + self.result + self.held

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
            f"bytes: arguments {size(self.arguments)}, kernel {size(self.result)}, held besides "
            f"{size(self.held)} of {size(self.memory)}"
        )
        return "\n".join(lines)


NAMES = ("diagonal", "traced", "of x1", "of x2")


def make_plan(
    pair: Pair,
    params: Params,
    *,
    frames_of: Callable[[Meta, Meta], list[Frame]],
    memory: int,
    factored: bool,
) -> Plan:
    """What a kernel call will do; traces, and computes nothing."""
    first = linearise(pair.first, params.leaves, pair.names, pair.treedef)
    second = first if pair.same else linearise(pair.second, params.leaves, pair.names, pair.treedef)
    frames = frames_of(first.meta, second.meta)
    outputs = plan_outputs(first, second, frames, memory, factored=factored)
    sites = list(describe(first.program)) if isinstance(first, Linear) else []
    by_leaf1 = jax.eval_shape(first.whole).by_leaf
    by_leaf2 = by_leaf1 if pair.same else jax.eval_shape(second.whole).by_leaf
    rows, blocks = [], []
    forward = sum(flops(side) for side in {id(s): s for s in (first, second)}.values())
    backward = held = result = 0
    for name, frame, output in zip(pair.names, frames, outputs, strict=True):
        label = name if len(pair.names) > 1 else ""
        costs = iter(output.costs)
        for leaf, (f1, f2) in enumerate(zip(by_leaf1, by_leaf2, strict=True)):
            found = tuple(site for site in sites if site.leaf == leaf)
            pairs = [(f, f) for f in f1] if pair.same else jax.eval_shape(leaf_pairs, f1, f2)
            for factor, _ in pairs:
                shape = tuple(params.leaves[leaf].shape)
                runs = kernel_blocks(output, same=pair.same)
                rows.append(row(params.paths[leaf], shape, label, found, factor, next(costs), runs))
        done = passes(output, same=pair.same)
        chunks = (output.d, output.r, output.o, output.q)
        blocks.append(
            Blocks(label, sizes(b.size for b in chunks), sizes(b.runs for b in chunks), done)
        )
        each = [flops(side) for side in (first, second)]
        backward += sum(p * one for p, one in zip(done, each, strict=True))
        held = max(held, output.held)
        dtype = first.meta.dtypes[0]
        result += (
            math.prod(frame.kernel_shape(*(b.count for b in (output.d, output.o, output.q))))
            * dtype.itemsize
        )
    arrays = {id(a): a for a in (*params.leaves, *pair.first.data, *pair.second.data)}
    arguments = sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays.values())
    return Plan(tuple(rows), tuple(blocks), forward, backward, memory, held, arguments, result)


def sizes(values: Any) -> tuple[int, int, int, int]:
    """Four numbers."""
    d, r, o, q = values
    return d, r, o, q


def flops(source: Source) -> int:
    """Multiply-adds of one evaluation of `f` on all examples of a side."""
    if not isinstance(source, Linear):
        return 0
    return _jaxpr.multiply_adds(source.program.jaxpr) * (source.n or 1)


def kernel_blocks(output: OutputPlan, *, same: bool) -> int:
    """How many blocks of the kernel are computed."""
    return output.d.runs * output.r.runs * columns(output, same=same)


def columns(output: OutputPlan, *, same: bool) -> int:
    """Pairs of blocks of free outputs; of one side with itself those above the diagonal."""
    o, q = output.o, output.q
    if not same or o.whole:
        return o.runs * q.runs
    return sum(bool(e + q.size > c) for c in o.starts for e in q.starts)


def passes(output: OutputPlan, *, same: bool) -> tuple[int, int]:
    """Backward passes of both sides."""
    shared = output.d.runs * output.d.size * output.r.runs * output.r.size
    first = shared * output.o.runs * output.o.size
    if same and output.o.whole and output.q.whole:
        return first, 0
    return first, shared * columns(output, same=same) * output.q.size


def row(
    leaf: str,
    shape: tuple[int, ...],
    output: str,
    sites: tuple[Found, ...],
    factor: Factor,
    cost: Cost,
    runs: int,
) -> Row:
    """The row of one pair of factors, contracted so many times."""
    kinds = dict.fromkeys(site.kind for site in sites)
    return Row(
        leaf,
        shape,
        output,
        sites,
        "+".join(kinds),
        factor_shapes(factor),
        cost.term.order,
        cost.term.tiles,
        cost.term.groups,
        cost.multiply_adds * runs,
        cost.held,
        "; ".join(dict.fromkeys(site.why for site in sites if site.why)),
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


def size(number: int) -> str:
    """Bytes to three digits: 1.23 GiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number} B"
