"""Planning an output: blocks of its entries whose cotangents and contractions fit a memory budget.

Everything here reads shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from .._shared.axes import Axes, kernel_axes
from .._shared.memory import in_bytes, is_refused
from .._shared.pair import Pair
from .._shared.tuning import FRESH, MOVE, STEP, tuning
from .._shared.user_line import logger
from .contract.cost import Cost, plan_pair
from .factors import Load, Meta
from .kinds import Factor, cotangent, with_cotangent
from .linearise import Source
from .output_axes import Frame
from .pairing import pair_shapes
from .ranges import Block, even


@dataclass(frozen=True)
class OutputPlan:
    """Blocks of one output's indices, how every pair of factors is contracted, bytes at the peak.

    `d`, `r`: diagonal and traced indices, at once on both sides; `o`: free ones of `x1`, whose
    cotangents stay while blocks `q` of those of `x2` pass by. `in_turn`: one pair after the other,
    where the intermediates of all would take too much. `same`: `x2` is `x1`.
    """

    d: Block
    r: Block
    o: Block
    q: Block
    same: bool
    costs: tuple[Cost, ...] = ()
    in_turn: bool = False
    peak_bytes: int = 0

    @property
    def blocks(self) -> tuple[Block, Block, Block, Block]:
        return self.d, self.r, self.o, self.q

    @property
    def whole(self) -> bool:
        return all(block.whole for block in self.blocks)

    @property
    def once(self) -> bool:
        """Whether a block of one side is that of the other too: nothing free is cut."""
        return self.same and self.o.whole and self.q.whole

    def below(self, o: Any, q: Any) -> Any:
        """Whether a pair of blocks, by their starts, is below the diagonal, and left out."""
        return self.same and not self.once and q + self.q.size <= o

    @property
    def pairs(self) -> int:
        free = sum(not self.below(o, q) for o in self.o.starts for q in self.q.starts)
        return self.d.runs * self.r.runs * free

    @property
    def passes(self) -> tuple[int, int]:
        shared = self.d.size * self.r.size
        first = shared * self.o.size * self.d.runs * self.r.runs * self.o.runs
        return first, 0 if self.once else shared * self.q.size * self.pairs

    def outputs(self, first: int, second: int) -> int:
        """The sum over the outputs of one block, each weighing so much on its side."""
        d, r, o, q = (block.size for block in self.blocks)
        return d * r * (o * first + (0 if self.once else q * second))

    def bytes_of(self, loads: Pair[Load]) -> int:
        """Bytes of the cotangents of one block, and of the factors made of them."""
        return loads.first.of(self.outputs(1, 0)) + loads.other.of(self.outputs(0, 1))

    def price(self, loads: Pair[Load], itemsize: int) -> float:
        """Comparable between plans of equally many passes: contractions, steps, fresh memory."""
        steps = 0.0
        if self.pairs > 1:
            steps = len(self.costs) + (loads.first.steps + loads.other.steps * (not self.once)) / 4
        contracted = sum(cost.total for cost in self.costs)
        return self.pairs * (contracted + STEP * steps) + MOVE * FRESH * self.peak_bytes / itemsize


def frames(metas: Pair[Meta], trace: Axes, diagonal: Axes) -> list[Frame]:
    first, second = metas.sides
    outputs = zip(first.names, first.shapes, second.shapes, first.out_axes, strict=True)
    return [
        Frame(kernel_axes(name, shape1, shape2, trace, diagonal), axis, shape1, shape2)
        for name, shape1, shape2, axis in outputs
    ]


def result_dtype(sources: Pair[Source], output: int) -> Any:
    return jnp.promote_types(*(source.meta.dtypes[output] for source in sources.sides))


def plan_outputs(
    sources: Pair[Source], every: list[Frame], memory: int, *, factored: bool
) -> list[OutputPlan]:
    """The plan of every output, from the shapes of the factors of a single entry."""
    pairs = [pair for leaf in pair_shapes(sources) for pair in leaf]
    loads = sources.map(lambda source: source.load())
    return [_plan_output(pairs, frame, loads, memory, factored=factored) for frame in every]


def check_memory(plans: list[OutputPlan], memory: int) -> None:
    """Log that plans hold more than a budget, if they do; refuse those that hold many times it."""
    plan = max(plans, key=lambda plan: plan.peak_bytes, default=None)
    if plan is None or plan.peak_bytes <= memory:
        return
    what = "are held besides arguments and kernel"
    if not is_refused(plan.peak_bytes, memory):
        message = f"About %s {what}, more than the %s of `memory`. Take fewer examples at a time."
        logger.warning(message, *map(in_bytes, (plan.peak_bytes, memory)))
        return
    free = plan.o.count
    fewer = (
        f"every one of {free} outputs of an example meets all others: name their axes in "
        f"trace_axes or diagonal_axes, if that is the kernel you want; or "
    )
    raise ValueError(
        f"About {in_bytes(plan.peak_bytes)} {what}, {plan.peak_bytes // memory} times the "
        f"{in_bytes(memory)} of `memory`: {fewer if free > 1 else ''}take fewer examples at a "
        f"time, as nt.batch does; say in vmap_axes that they are independent, if they are; or give "
        f"a larger memory."
    )


def _plan_output(
    pairs: Sequence[Pair[Factor]], frame: Frame, loads: Pair[Load], memory: int, *, factored: bool
) -> OutputPlan:
    """The cheapest blocks whose cotangents and contractions fit `memory`, best effort.

    They are the fewest that fit; or of diagonal and traced outputs more and smaller ones, if these
    save more in fresh memory than they cost in steps.

    `pairs`: shapes of the pairs of factors for one output, `[n, 1, ...]`.
    """
    itemsize = max((x.dtype.itemsize for x in jax.tree.leaves(pairs)), default=4)
    (d, r, o), q = frame.counts(0), frame.counts(1)[2]
    fixed = sum(load.fixed for load in loads.distinct)
    same = loads.same
    if same:  # one half of the kernel is copied from the other
        fixed += math.prod(frame.kernel_shape(d, o, q)) * itemsize
    room = max(memory - fixed, memory // 4)  # smaller blocks would not shrink what is fixed
    sides = o if same else o + q

    def fitting(most: int) -> OutputPlan:
        """As few blocks of at most so many outputs as fit."""
        while True:
            plan = _output_blocks(d, r, o, q, most, same=same)
            needed, least = plan.bytes_of(loads), max(block.size for block in plan.blocks) <= 1
            if needed > room * 3 // 4 and not least:
                most = plan.outputs(1, 1) * 15 // 16
                continue
            entries = max(room - needed, room // 4) // itemsize
            costs = tuple(
                plan_pair(resized_pair(pair, plan), frame, entries, factored=factored)
                for pair in pairs
            )
            largest = max((cost.peak_entries for cost in costs), default=0)
            total = sum(cost.peak_entries for cost in costs)
            if largest <= entries or least:
                in_turn = total > entries or not plan.whole
                needed += fixed + itemsize * (largest if in_turn else total)
                return replace(plan, costs=costs, in_turn=in_turn, peak_bytes=needed)
            most = plan.outputs(1, 1) // 2

    every = d * r * sides
    plans = [fitting(min(every, room // max(1, *(load.stays for load in loads.sides))))]
    if tuning().small_blocks and loads.first.steps:  # unless they are factors that are there
        most, chunk = plans[0].outputs(1, 1), min(load.chunk for load in loads.sides)
        smaller = {max(sides, some) for some in (most // 4, most // 16, chunk * (2 - same))}
        plans += [fitting(some) for some in sorted(smaller, reverse=True) if some < most]
    return min(
        plans, key=lambda plan: (max(0, plan.peak_bytes - memory), plan.price(loads, itemsize))
    )


def _output_blocks(d: int, r: int, o: int, q: int, most: int, *, same: bool) -> OutputPlan:
    """Blocks of at most `most` outputs of both sides together, where that can be.

    Diagonal and traced outputs are cut first: each is then still computed once. Free outputs of
    `x2` are computed once for every block of those of `x1`, whose blocks are therefore large.
    """
    sides = o if same else o + q
    traced = even(r, most // max(1, d * sides))
    if traced.size > 1 or d * sides <= most:
        return OutputPlan(Block(d, d), traced, Block(o, o), Block(q, q), same)
    diagonal = even(d, most // max(1, sides))
    if diagonal.size > 1 or sides <= most:
        return OutputPlan(diagonal, traced, Block(o, o), Block(q, q), same)
    columns = even(q, most // 4)
    return OutputPlan(diagonal, traced, even(o, most - columns.size), columns, same)


def resized_pair(pair: Pair[Factor], plan: OutputPlan) -> Pair[Factor]:
    """The shapes of a pair for one block, unfolded."""
    first = _resized(pair.first, (plan.d.size, plan.r.size, plan.o.size))
    if plan.once:
        return Pair(first)
    return Pair(first, _resized(pair.other, (plan.d.size, plan.r.size, plan.q.size)))


def _resized(factor: Factor, counts: tuple[int, int, int]) -> Factor:
    G = cotangent(factor)
    return with_cotangent(
        factor, jax.ShapeDtypeStruct((G.shape[0], *counts, *G.shape[2:]), G.dtype)
    )
