"""The factor engine: the kernel of two sides, from factors taken block by block of outputs."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._shared.axes import Axes, kernel_axes
from .._shared.memory import in_bytes, is_refused
from .._shared.meshes import varying, varying_axes
from .._shared.symmetry import mirrored
from .contract.einsum import contract
from .contract.einsum import unfolded as unfold
from .kinds import Factor, Layout, Materialised, materialise
from .linearise import ByLeaf, Meta, Source, logger, on_cotangents
from .nngp import nngp
from .output_axes import Block, D, Frame, O, Q, added, combinations, loop, masked
from .plan import OutputPlan, plan_output


def frames(meta1: Meta, meta2: Meta, trace: Axes, diagonal: Axes) -> list[Frame]:
    """The frame of each output's kernel."""
    outputs = zip(meta1.names, meta1.shapes, meta2.shapes, meta1.out_axes, strict=True)
    return [
        Frame(kernel_axes(name, shape1, shape2, trace, diagonal), axis, shape1, shape2)
        for name, shape1, shape2, axis in outputs
    ]


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
    """The layout of a Jacobian; nothing of one that is of the whole leaf as it is."""
    return factor.layout


def in_leaf(factors: list[Factor]) -> Materialised:
    """The sum of factors, `[n, o, p]` in the leaf's layout."""

    def flat(factor: Factor) -> jax.Array:
        if isinstance(factor, Materialised) and factor.layout is None:
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
        first = unfold(f1, counts1)
        found.append((first, first if f2 is f1 else unfold(f2, counts2)))
    return found


# Kernels


def kernels(
    names: tuple[str, ...],
    first: Source,
    second: Source,
    every: list[Frame],
    plans: list[OutputPlan],
) -> tuple[Any, ...]:
    """The kernels by name, each in the tree of the outputs."""
    treedef = first.meta.treedef
    methods = {
        "ntk": lambda: treedef.unflatten(ntk(first, second, every, plans)),
        "nngp": lambda: nngp(first.outputs, second.outputs, [f.ax for f in every], treedef),
    }
    return tuple(methods[name]() for name in names)


def check_memory(plans: list[OutputPlan], memory: int) -> None:
    """Log that plans hold more than a budget, if they do; refuse those that hold many times it."""
    plan = max(plans, key=lambda plan: plan.held, default=None)
    if plan is None or plan.held <= memory:
        return
    what = "are held besides arguments and kernel"
    if not is_refused(plan.held, memory):
        message = f"About %s {what}, more than the %s of `memory`. Take fewer examples at a time."
        logger.warning(message, *map(in_bytes, (plan.held, memory)))
        return
    free = plan.o.count
    fewer = (
        f"every one of {free} outputs of an example meets all others: name their axes in "
        f"trace_axes or diagonal_axes, if that is the kernel you want; or "
    )
    raise ValueError(
        f"About {in_bytes(plan.held)} {what}, {plan.held // memory} times the {in_bytes(memory)} "
        f"of `memory`: {fewer if free > 1 else ''}take fewer examples at a time, as nt.batch does; "
        f"say in vmap_axes that they are independent, if they are; or give a larger memory."
    )


def ntk(
    first: Source, second: Source, every: list[Frame], plans: list[OutputPlan]
) -> list[jax.Array]:
    """The NTK of every output, as planned."""
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
    return mirrored(kernel, frame.ax, batch + others if plan.once else others + batch)


def plan_outputs(
    first: Source, second: Source, every: list[Frame], memory: int, *, factored: bool
) -> list[OutputPlan]:
    """The plan of every output, from the shapes of the factors of a single entry."""
    pairs = [pair for leaf in pairs_by_leaf(first, second) for pair in leaf]
    loads, same = (first.load(), second.load()), first is second
    return [
        plan_output(pairs, frame, loads, memory, same=same, factored=factored) for frame in every
    ]


def pairs_by_leaf(first: Source, second: Source) -> list[list[tuple[Factor, Factor]]]:
    """The shapes of every leaf's pairs; of one side with itself, each factor beside itself."""
    if first is second:
        return [[(f, f) for f in leaf] for leaf in first.unit]
    return jax.eval_shape(lambda a, b: list(map(leaf_pairs, a, b)), first.unit, second.unit)


def output_kernel(
    first: Source, second: Source, frame: Frame, output: int, plan: OutputPlan
) -> jax.Array:
    """The kernel of one output as `frame.labels`, block by block.

    Of one side with itself, blocks below the diagonal are left out.
    """
    same = first is second
    d, r, o, q = plan.d, plan.r, plan.o, plan.q
    dtype = result_dtype(first, second, output)
    terms = [cost.term for cost in plan.costs]
    over = varying_axes(first.outputs, second.outputs)
    zero = varying(jnp.zeros(frame.kernel_shape(d.size, o.size, q.size), dtype), over)

    def part(f1: ByLeaf, f2: ByLeaf) -> jax.Array:
        counts1, counts2 = (d.size, r.size, o.size), (d.size, r.size, q.size)
        pairs = unfolded(pair_factors(f1, f2), counts1, counts2)
        return contract(pairs, frame, terms, zero, in_turn=plan.in_turn)

    if plan.whole:
        f1 = first.block(output, frame.places(0).ravel())
        return part(f1, f1 if same else second.block(output, frame.places(1).ravel()))
    first = first.held()
    second = first if same else second.held()

    def row(kernel: jax.Array, a: Any, b: Any, c: Any) -> jax.Array:
        f1 = taken(first, output, frame.places(0), (d, r, o), (a, b, c))

        def column(kernel: jax.Array, e: Any) -> jax.Array:
            def computed() -> jax.Array:
                if plan.once:
                    return part(f1, f1)
                return part(f1, taken(second, output, frame.places(1), (d, r, q), (a, b, e)))

            below = plan.below(c, e)
            block = computed() if below is False else jax.lax.cond(below, lambda: zero, computed)
            starts = {D: a, O: c, Q: e}
            return added(kernel, block, [starts.get(label, 0) for label in frame.labels])

        return loop(column, kernel, q.starts)

    kernel = varying(jnp.zeros(frame.kernel_shape(d.count, o.count, q.count), dtype), over)
    return loop(row, kernel, *combinations(d.starts, r.starts, o.starts))


def result_dtype(first: Source, second: Source, output: int) -> Any:
    """The dtype of the kernel of an output."""
    return jnp.promote_types(first.meta.dtypes[output], second.meta.dtypes[output])


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
