"""The factor engine: the kernel of two sides, from factors taken block by block of outputs."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _contract, _planner
from ._axes import Axes, KernelAxes, kernel_axes
from ._factors import Factor, Layout, Materialised, materialise
from ._frame import Block, D, Frame, O, Q, added, loop, masked, product
from ._kernel import mirrored
from ._linear import ByLeaf, Meta, Source, on_cotangents
from ._planner import OutputPlan


def frames(meta1: Meta, meta2: Meta, trace: Axes, diagonal: Axes) -> list[Frame]:
    """The frame of each output's kernel."""
    found, starts = [], (0, 0)
    sizes = zip(meta1.sizes(), meta2.sizes(), strict=True)
    for name, shape1, shape2, axis, (size1, size2) in zip(
        meta1.names, meta1.shapes, meta2.shapes, meta1.out_axes, sizes, strict=True
    ):
        ax: KernelAxes = kernel_axes(name, shape1, shape2, trace, diagonal)
        found.append(Frame(ax, axis, starts, shape1, shape2))
        starts = (starts[0] + size1, starts[1] + size2)
    return found


# Pairs of factors


def pair_factors(first: ByLeaf, second: ByLeaf) -> list[tuple[Factor, Factor]]:
    """The pairs of factors that the kernel is a sum over, of each leaf in turn."""
    pairs = zip(first, second, strict=True)
    return [pair for f1, f2 in pairs for pair in leaf_pairs(f1, f2)]


def leaf_pairs(f1: list[Factor], f2: list[Factor]) -> list[tuple[Factor, Factor]]:
    """The pairs of one leaf: one by one where both sides have it in the same layouts.

    Otherwise, as where `f` slices a leaf by the length of `x`, any two may share entries, and
    each side is summed in the leaf's own layout.
    """
    if not f1 or not f2:
        return []
    if [layout(f) for f in f1] == [layout(f) for f in f2]:
        return list(zip(f1, f2, strict=True))
    return [(in_leaf(f1), in_leaf(f2))]


def layout(factor: Factor) -> Layout | None:
    """The layout of a factored Jacobian."""
    return None if isinstance(factor, Materialised) else factor.layout


def in_leaf(factors: list[Factor]) -> Materialised:
    """The sum of factors, `[n, o, p]` in the leaf's layout."""

    def flat(factor: Factor) -> jax.Array:
        if isinstance(factor, Materialised):
            return factor.J
        J = jax.vmap(materialise)(factor)
        return J.reshape(*J.shape[:2], math.prod(J.shape[2:]))

    return Materialised(functools.reduce(jnp.add, map(flat, factors)))


def unfolded(
    pairs: list[tuple[Factor, Factor]],
    counts1: tuple[int, int, int],
    counts2: tuple[int, int, int],
) -> list[tuple[Factor, Factor]]:
    """Pairs with their outputs as `d, r, o` and `d, r, q`; a factor beside itself stays one."""
    found = []
    for f1, f2 in pairs:
        first = _contract.unfolded(f1, counts1)
        found.append((first, first if f2 is f1 else _contract.unfolded(f2, counts2)))
    return found


# Kernels


def kernels(
    first: Source, second: Source, every: list[Frame], memory: int, *, factored: bool
) -> list[jax.Array]:
    """The kernel of every output."""
    plans = plan_outputs(first, second, every, memory, factored=factored)
    if all(plan.whole for plan in plans):  # one backward pass serves all outputs
        same = first is second
        first = first.whole()
        second = first if same else second.whole()
    found = []
    for r, (frame, plan) in enumerate(zip(every, plans, strict=True)):
        kernel = frame.restored(output_kernel(first, second, frame, r, plan))
        kernel = kernel / frame.ax.size(frame.shape1)
        found.append(symmetric(kernel, frame, plan) if first is second else kernel)
    return found


def symmetric(kernel: jax.Array, frame: Frame, plan: OutputPlan) -> jax.Array:
    """The kernel of one side with itself, what was left out below the diagonal filled in.

    Blocks of outputs leave out pairs of outputs, tiles of examples leave out pairs of examples.
    """
    batch = [] if frame.batch is None else [frame.batch]
    others = [a for a in range(frame.ax.ndim) if a != frame.batch]
    return mirrored(kernel, frame.ax, batch + others if plan.o.whole else others + batch)


def plan_outputs(
    first: Source, second: Source, every: list[Frame], memory: int, *, factored: bool
) -> list[OutputPlan]:
    """The plan of every output, from the shapes of the factors of a single entry."""
    unit1 = first.unit
    unit2 = unit1 if second is first else second.unit
    loads = first.load(), second.load()
    pairs = shapes_of_pairs(unit1, unit2)
    return [_planner.plan_output(pairs, frame, loads, memory, factored=factored) for frame in every]


def shapes_of_pairs(unit1: ByLeaf, unit2: ByLeaf) -> list[tuple[Factor, Factor]]:
    """The pairs of two sides by shape; of one side with itself, each beside itself."""
    if unit1 is unit2:
        return [(f, f) for leaf in unit1 for f in leaf]
    return jax.eval_shape(pair_factors, unit1, unit2)


def output_kernel(
    first: Source, second: Source, frame: Frame, output: int, plan: OutputPlan
) -> jax.Array:
    """The kernel of one output as `frame.labels`, block by block.

    Of one side with itself, blocks below the diagonal are left out.
    """
    same = first is second
    d, r, o, q = plan.d, plan.r, plan.o, plan.q
    terms = [cost.term for cost in plan.costs]
    dtype = jnp.promote_types(first.meta.dtypes[output], second.meta.dtypes[output])

    def part(f1: ByLeaf, f2: ByLeaf) -> jax.Array:
        counts1, counts2 = (d.size, r.size, o.size), (d.size, r.size, q.size)
        pairs = unfolded(pair_factors(f1, f2), counts1, counts2)
        zero = jnp.zeros(frame.kernel_shape(d.size, o.size, q.size), dtype)
        return _contract.contract(pairs, frame, terms, zero, in_turn=plan.in_turn)

    if plan.whole:
        f1 = first.block(output, frame.places(0).ravel())
        return part(f1, f1 if same else second.block(output, frame.places(1).ravel()))
    first = first.held()
    second = first if same else second.held()

    def row(kernel: jax.Array, a: Any, b: Any, c: Any) -> jax.Array:
        f1 = taken(first, output, frame.places(0), (d, r, o), (a, b, c))

        def column(kernel: jax.Array, e: Any) -> jax.Array:
            def computed() -> jax.Array:
                if same and o.whole and q.whole:
                    return part(f1, f1)
                return part(f1, taken(second, output, frame.places(1), (d, r, q), (a, b, e)))

            shape = frame.kernel_shape(d.size, o.size, q.size)
            block = (
                jax.lax.cond(e + q.size <= c, lambda: jnp.zeros(shape, dtype), computed)
                if same and not o.whole
                else computed()
            )
            starts = {D: a, O: c, Q: e}
            return added(kernel, block, [starts.get(label, 0) for label in frame.labels])

        return loop(column, kernel, q.starts)

    zero = jnp.zeros(frame.kernel_shape(d.count, o.count, q.count), dtype)
    return loop(row, zero, *product(d.starts, r.starts, o.starts))


def taken(
    source: Source,
    output: int,
    places: np.ndarray,
    blocks: tuple[Block, Block, Block],
    starts: tuple[Any, Any, Any],
) -> ByLeaf:
    """The factors of one block of an output; zero where an earlier block had them."""
    sizes = [block.size for block in blocks]
    index = jax.lax.dynamic_slice(jnp.asarray(places), starts, sizes).ravel()
    by_leaf = source.block(output, index)
    fresh = [block.fresh(start) for block, start in zip(blocks, starts, strict=True)]
    if all(kept is None for kept in fresh):
        return by_leaf
    kept = masked(jnp.ones(sizes, bool), fresh).ravel()
    return on_cotangents(lambda G: masked(G, [None, kept]), by_leaf)
