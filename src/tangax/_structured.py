"""The factor engine: the factors of one side, and the kernel of two sides from their factors."""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from . import _contract, _jaxpr, _modes, _sites
from ._axes import Axes, KernelAxes, kernel_axes
from ._contract import Frame
from ._factors import Factor, Layout, Materialised, materialise
from ._plan import Plan
from ._plan import row as make_row
from ._sides import Pair, Side
from ._trees import Params, kernel_dtype

logger = logging.getLogger("tangax")


@dataclass(frozen=True)
class Meta:
    """What is static of one side's factors: outputs by name, shape, batch axis; the tree."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    out_axes: tuple[int | None, ...]
    dtypes: tuple[Any, ...]
    treedef: Any


@partial(jax.tree_util.register_dataclass, data_fields=["outputs", "by_leaf"], meta_fields=["meta"])
@dataclass(frozen=True)
class Factors:
    """The Jacobian of `f` over the examples of one input, factored leaf by leaf.

    `outputs` are `f(params, x)`, leaf by leaf; `by_leaf` holds, for every floating-point leaf of
    the parameters, its factors with a leading axis of examples.
    """

    outputs: list[jax.Array]
    by_leaf: list[list[Factor]]
    meta: Meta


def trace_side(side: Side, leaves: list[jax.Array]) -> _sites.Program:
    """The program of one example."""
    data = [
        jax.ShapeDtypeStruct((*d.shape[:a], *d.shape[a + 1 :]), d.dtype)
        for d, a in zip(side.data, side.axes, strict=True)
    ]
    return _sites.find(_jaxpr.trace(side.example, leaves, data), len(leaves))


def side_factors(side: Side, leaves: list[jax.Array], names: list[str], treedef: Any) -> Factors:
    """The factors of every example of one side."""
    program = trace_side(side, leaves)
    try:
        stacked = side.map(lambda data: _sites.factors(program, leaves, data))
    except (TypeError, ValueError, NotImplementedError):
        if _modes.has_reverse_mode(lambda w: side.batch(w, side.data), leaves):
            raise
        logger.info("f has no reverse mode: its whole Jacobian is taken in forward mode.")
        stacked = side.map(lambda data: whole_jacobian(side, leaves, data))
    outputs, by_leaf = stacked
    if side.n is None:
        by_leaf = jax.tree.map(lambda a: a[None], by_leaf)
    else:
        outputs = [jnp.moveaxis(y, 0, a) for y, a in zip(outputs, side.out_axes, strict=True)]  # pyright: ignore[reportArgumentType]
    dtypes = tuple(kernel_dtype(y, *leaves) for y in side.outputs)
    shapes = tuple(y.shape for y in side.outputs)
    meta = Meta(tuple(names), shapes, tuple(side.out_axes), dtypes, treedef)
    return Factors(outputs, by_leaf, meta)


def whole_jacobian(
    side: Side, leaves: list[jax.Array], data: list[jax.Array]
) -> tuple[list[jax.Array], list[list[Factor]]]:
    """Outputs and whole Jacobians of one example, by forward mode."""

    def flat(w: list[jax.Array]) -> jax.Array:
        return jnp.concatenate([jnp.ravel(y) for y in side.example(w, data)])

    rows = _modes.jacobian(flat, leaves)
    outputs = side.example(leaves, data)
    return outputs, [
        [Materialised(j.reshape(j.shape[0], w.size))] for j, w in zip(rows, leaves, strict=True)
    ]


def frames(meta1: Meta, meta2: Meta, trace: Axes, diagonal: Axes) -> list[Frame]:
    """The frame of each output's kernel."""
    found, starts = [], (0, 0)
    for name, shape1, shape2, axis in zip(
        meta1.names, meta1.shapes, meta2.shapes, meta1.out_axes, strict=True
    ):
        ax: KernelAxes = kernel_axes(name, shape1, shape2, trace, diagonal)
        frame = Frame(ax, axis, starts, shape1, shape2)
        sizes = [math.prod(frame.example(side)) for side in (0, 1)]
        starts = (starts[0] + sizes[0], starts[1] + sizes[1])
        found.append(frame)
    return found


def pair_factors(first: Factors, second: Factors) -> list[tuple[Factor, Factor]]:
    """The pairs of factors that the kernel is a sum over, of each leaf in turn."""
    pairs = zip(first.by_leaf, second.by_leaf, strict=True)
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


def kernels(
    first: Factors, second: Factors, every: list[Frame], memory: int, *, factored: bool
) -> list[jax.Array]:
    """The kernel of every output."""
    pairs = pair_factors(first, second)
    f1, f2 = [a for a, _ in pairs], [b for _, b in pairs]
    return [
        _contract.contract(
            f1,
            f2,
            frame,
            [_contract.plan_pair(a, b, frame, memory, factored=factored) for a, b in pairs],
            jnp.promote_types(first.meta.dtypes[r], second.meta.dtypes[r]),
        )
        for r, frame in enumerate(every)
    ]


def make_plan(pair: Pair, params: Params, *, frames_of: Any, memory: int, factored: bool) -> Plan:
    """What a kernel call will do; traces, and computes nothing."""
    sides = [pair.first] if pair.same else [pair.first, pair.second]
    programs = [trace_side(side, params.leaves) for side in sides]
    every = [side_factors(side, params.leaves, pair.names, pair.treedef) for side in sides]
    first, second = every[0], every[-1]
    sites = list(_sites.describe(programs[0]))
    rows = []
    for name, frame in zip(pair.names, frames_of(first.meta, second.meta), strict=True):
        label = name if len(pair.names) > 1 else ""
        for leaf, (f1, f2) in enumerate(zip(first.by_leaf, second.by_leaf, strict=True)):
            for a, b in leaf_pairs(f1, f2):
                term = _contract.plan_pair(a, b, frame, memory, factored=factored)
                found = tuple(site for site in sites if site.leaf == leaf)
                shape = tuple(params.leaves[leaf].shape)
                rows.append(make_row(params.paths[leaf], shape, label, found, a, term))
    passes, backward = 0, 0
    for side, program in zip(sides, programs, strict=True):
        one = _jaxpr.multiply_adds(program.jaxpr) * (1 if side.n is None else side.n)
        outputs = sum(
            math.prod(d for a, d in enumerate(y.shape) if a != axis)
            for y, axis in zip(side.outputs, side.out_axes, strict=True)
        )
        passes, backward = passes + one, backward + one * outputs
    return Plan(tuple(rows), passes, backward, memory)
