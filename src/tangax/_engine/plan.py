"""Planning an output: blocks of its entries whose cotangents and contractions fit a memory budget.

Everything here reads shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from .._shared.tuning import FRESH, MOVE, STEP, tuning
from .contract.cost import Cost, plan_pair
from .kinds import Factor, cotangent, with_cotangent
from .output_axes import Block, Frame, even


@dataclass(frozen=True)
class OutputPlan:
    """Blocks of one output's indices, how every pair of factors is contracted, bytes held.

    `d`, `r`: diagonal and traced indices, at once on both sides; `o`: free ones of `x1`, whose
    cotangents stay while blocks `q` of those of `x2` pass by. `in_turn`: one pair after the other,
    lest the intermediates of several stand beside each other. `same`: `x2` is `x1`.
    """

    d: Block
    r: Block
    o: Block
    q: Block
    same: bool
    costs: tuple[Cost, ...] = ()
    in_turn: bool = False
    held: int = 0

    @property
    def blocks(self) -> tuple[Block, Block, Block, Block]:
        """All four."""
        return self.d, self.r, self.o, self.q

    @property
    def whole(self) -> bool:
        """Whether everything is one block."""
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
        """How many blocks of the kernel are computed."""
        free = sum(not self.below(o, q) for o in self.o.starts for q in self.q.starts)
        return self.d.runs * self.r.runs * free

    @property
    def passes(self) -> tuple[int, int]:
        """Backward passes of both sides."""
        shared = self.d.size * self.r.size
        first = shared * self.o.size * self.d.runs * self.r.runs * self.o.runs
        return first, 0 if self.once else shared * self.q.size * self.pairs

    def outputs(self, first: int, second: int) -> int:
        """The sum over the outputs of one block, each weighing so much on its side."""
        d, r, o, q = (block.size for block in self.blocks)
        return d * r * (o * first + (0 if self.once else q * second))

    def held_of(self, loads: tuple[Load, Load]) -> int:
        """Bytes of the cotangents of one block, and of the factors made of them."""
        return loads[0].of(self.outputs(1, 0)) + loads[1].of(self.outputs(0, 1))

    def price(self, loads: tuple[Load, Load], itemsize: int) -> float:
        """Comparable between plans of equally many passes: contractions, steps, fresh memory."""
        steps = 0.0
        if self.pairs > 1:
            steps = len(self.costs) + (loads[0].steps + loads[1].steps * (not self.once)) / 4
        contracted = sum(cost.total for cost in self.costs)
        return self.pairs * (contracted + STEP * steps) + MOVE * FRESH * self.held / itemsize


@dataclass(frozen=True)
class Load:
    """What one side holds, in bytes: whatever is asked of it, and for every output at a time.

    `chunk`: how many outputs are pulled back at once; of those before and after, only `kept` stays.
    `steps`: equations of a pass.
    """

    fixed: int
    output: int
    kept: int
    chunk: int
    steps: int

    def of(self, outputs: int) -> int:
        """Bytes for so many outputs."""
        if outputs <= self.chunk:
            return outputs * self.output
        return outputs * self.kept + self.chunk * self.output


def plan_output(
    pairs: Sequence[tuple[Factor, Factor]],
    frame: Frame,
    loads: tuple[Load, Load],
    memory: int,
    *,
    same: bool,
    factored: bool,
) -> OutputPlan:
    """The cheapest blocks whose cotangents and contractions fit `memory`, best effort.

    They are the fewest that fit; or of diagonal and traced outputs more and smaller ones, if these
    save more in fresh memory than they cost in steps.

    `pairs`: shapes of the pairs of factors for one output, `[n, 1, ...]`.
    """
    itemsize = max((x.dtype.itemsize for x in jax.tree.leaves(pairs)), default=4)
    (d, r, o), q = frame.counts(0), frame.counts(1)[2]
    fixed = loads[0].fixed + (0 if same else loads[1].fixed)
    if same:  # one half of the kernel is copied from the other
        fixed += math.prod(frame.kernel_shape(d, o, q)) * itemsize
    room = max(memory - fixed, memory // 4)  # smaller blocks would not shrink what is fixed
    sides = o if same else o + q

    def fitting(most: int) -> OutputPlan:
        """As few blocks of at most so many outputs as fit."""
        while True:
            plan = output_blocks(d, r, o, q, most, same=same)
            held, least = plan.held_of(loads), max(block.size for block in plan.blocks) <= 1
            if held > room * 3 // 4 and not least:
                most = plan.outputs(1, 1) * 15 // 16
                continue
            entries = max(room - held, room // 4) // itemsize
            costs = tuple(
                plan_pair(*resized_pair(f1, f2, plan), frame, entries, factored=factored)
                for f1, f2 in pairs
            )
            largest = max((cost.held for cost in costs), default=0)
            total = sum(cost.held for cost in costs)
            if largest <= entries or least:
                in_turn = total > entries or not plan.whole
                held += fixed + itemsize * (largest if in_turn else total)
                return replace(plan, costs=costs, in_turn=in_turn, held=held)
            most = plan.outputs(1, 1) // 2

    every = d * r * sides
    plans = [fitting(min(every, room // max(1, loads[0].kept, loads[1].kept)))]
    if tuning().small_blocks and loads[0].steps:  # unless they are factors that are there
        most, chunk = plans[0].outputs(1, 1), min(load.chunk for load in loads)
        smaller = {max(sides, some) for some in (most // 4, most // 16, chunk * (2 - same))}
        plans += [fitting(some) for some in sorted(smaller, reverse=True) if some < most]
    return min(plans, key=lambda plan: (max(0, plan.held - memory), plan.price(loads, itemsize)))


def output_blocks(d: int, r: int, o: int, q: int, most: int, *, same: bool) -> OutputPlan:
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


def resized_pair(f1: Factor, f2: Factor, plan: OutputPlan) -> tuple[Factor, Factor]:
    """The shapes of a pair for one block, unfolded."""
    first = resized(f1, (plan.d.size, plan.r.size, plan.o.size))
    if plan.once:
        return first, first
    return first, resized(f2, (plan.d.size, plan.r.size, plan.q.size))


def resized(factor: Factor, counts: tuple[int, int, int]) -> Factor:
    """The shape of a factor for so many diagonal, traced and free outputs."""
    G = cotangent(factor)
    return with_cotangent(
        factor, jax.ShapeDtypeStruct((G.shape[0], *counts, *G.shape[2:]), G.dtype)
    )
