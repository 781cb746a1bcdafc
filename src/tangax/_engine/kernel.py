"""The kernel of two sides, from factors taken block by block of outputs, as planned."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._shared.meshes import varying, varying_axes
from .._shared.pair import Pair
from .._shared.symmetry import mirrored
from .contract.tiles import contract, unfolded
from .factors import ByLeaf, on_cotangents
from .linearise import Source
from .nngp import nngp
from .output_axes import D, Frame, O, Q
from .pairing import pairs_by_leaf
from .plan import OutputPlan, result_dtype
from .ranges import Block, added, combinations, loop, masked


def kernels(
    names: tuple[str, ...], sources: Pair[Source], every: list[Frame], plans: list[OutputPlan]
) -> tuple[Any, ...]:
    """The kernels by name, each in the tree of the outputs."""
    treedef = sources.first.meta.treedef

    def outputs() -> Any:
        y = sources.map(lambda source: source.outputs)
        return nngp(y, [frame.ax for frame in every], treedef)

    methods = {"ntk": lambda: treedef.unflatten(_ntk(sources, every, plans)), "nngp": outputs}
    return tuple(methods[name]() for name in names)


def _ntk(sources: Pair[Source], every: list[Frame], plans: list[OutputPlan]) -> list[jax.Array]:
    if all(plan.whole for plan in plans):  # one backward pass serves all outputs
        sources = sources.map(lambda source: source.whole())
    kernels = []
    for r, (frame, plan) in enumerate(zip(every, plans, strict=True)):
        kernel = frame.restored(_output_kernel(sources, frame, r, plan))
        kernel = kernel / frame.ax.size(frame.shape1)
        kernels.append(_symmetric(kernel, frame, plan) if sources.same else kernel)
    return kernels


def _symmetric(kernel: jax.Array, frame: Frame, plan: OutputPlan) -> jax.Array:
    """The kernel of one side with itself, what was left out below the diagonal filled in.

    Blocks of outputs leave out pairs of outputs, tiles of examples leave out pairs of examples.
    """
    batch = [] if frame.batch is None else [frame.batch]
    others = [a for a in range(frame.ax.ndim) if a != frame.batch]
    return mirrored(kernel, frame.ax, batch + others if plan.once else others + batch)


def _output_kernel(sources: Pair[Source], frame: Frame, output: int, plan: OutputPlan) -> jax.Array:
    """The kernel of one output as `frame.labels`, block by block.

    Of one side with itself, blocks below the diagonal are left out.
    """
    d, r, o, q = plan.d, plan.r, plan.o, plan.q
    dtype = result_dtype(sources, output)
    terms = [cost.term for cost in plan.costs]
    over = varying_axes([source.outputs for source in sources.distinct])
    zero = varying(jnp.zeros(frame.kernel_shape(d.size, o.size, q.size), dtype), over)
    places = Pair(frame.places(0), frame.places(1))
    counts = Pair((d.size, r.size, o.size), (d.size, r.size, q.size))

    def part(factors: Pair[ByLeaf]) -> jax.Array:
        pairs = [pair.map(unfolded, counts) for leaf in pairs_by_leaf(factors) for pair in leaf]
        return contract(pairs, frame, terms, zero, in_turn=plan.in_turn)

    if plan.whole:
        return part(sources.map(lambda source, at: source.block(output, at.ravel()), places))
    sources = sources.map(lambda source: source.prepared())

    def row(kernel: jax.Array, a: Any, b: Any, c: Any) -> jax.Array:
        f1 = _taken(sources.first, output, places.first, (d, r, o), (a, b, c))

        def column(kernel: jax.Array, e: Any) -> jax.Array:
            def computed() -> jax.Array:
                if plan.once:
                    return part(Pair(f1))
                f2 = _taken(sources.other, output, places.other, (d, r, q), (a, b, e))
                return part(Pair(f1, f2))

            below = plan.below(c, e)
            block = computed() if below is False else jax.lax.cond(below, lambda: zero, computed)
            starts = {D: a, O: c, Q: e}
            return added(kernel, block, [starts.get(label, 0) for label in frame.labels])

        return loop(column, kernel, q.starts)

    kernel = varying(jnp.zeros(frame.kernel_shape(d.count, o.count, q.count), dtype), over)
    return loop(row, kernel, *combinations(d.starts, r.starts, o.starts))


def _taken(
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
    if all(mask is None for mask in fresh):
        return by_leaf
    taken = masked(jnp.ones(sizes, bool), fresh).ravel()
    return on_cotangents(lambda G: masked(G, [None, taken]), by_leaf)
