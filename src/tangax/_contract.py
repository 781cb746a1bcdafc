"""Contracting: from the factors of two sides to a kernel.

For every pair of factored leaves one einsum,

    Theta[n,m,o,q] = sum_{k,s,t} (sum_i A1[n,s,k,i] A2[m,t,k,i]) (sum_j G1[n,o,s,k,j] G2[m,q,t,k,j])

in one of several orders. Of the outputs, traced ones `r` are one more contraction and diagonal
ones `d` a batch axis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._factors import (
    Factor,
    Factored,
    Materialised,
    OneHot,
    cotangent,
    materialise,
    product,
    with_cotangent,
)
from ._frame import (
    Block,
    D,
    Frame,
    I,
    J,
    K,
    M,
    N,
    O,
    P,
    Q,
    R,
    S,
    T,
    added,
    combinations,
    loop,
    masked,
)

# Orders of the einsum over (A1, G1, A2, G2), as pairwise paths of opt_einsum.
ORDERS: dict[str, tuple[tuple[int, int], ...]] = {
    "materialise": ((0, 1), (0, 1), (0, 1)),  # (A1 G1) (A2 G2)
    "gram": ((0, 2), (0, 1), (0, 1)),  # (A1 A2) (G1 G2)
    "first": ((0, 1), (0, 2), (0, 1)),  # ((A1 G1) A2) G2
    "second": ((2, 3), (0, 2), (0, 1)),  # ((A2 G2) A1) G1
}


@dataclass(frozen=True)
class Term:
    """How one pair of factors is contracted.

    `order`: of the einsum; `tiles`: examples of both sides at a time; `groups`: how many of the
    axis `k` at a time, a divisor; `built`: whether Jacobians are built once for all tiles.
    """

    order: str
    tiles: tuple[int, int]
    groups: int
    built: bool = False


@partial(jax.tree_util.register_dataclass, data_fields=["J"], meta_fields=["labels"])
@dataclass(frozen=True)
class Built:
    """A Jacobian with labels of its axes, those of the first side; examples come first."""

    J: jax.Array
    labels: tuple[int, ...]


def contract(
    pairs: Sequence[tuple[Factor, Factor]],
    frame: Frame,
    terms: Sequence[Term],
    kernel: jax.Array,
    *,
    in_turn: bool,
) -> jax.Array:
    """`kernel`, as `frame.labels`, plus the sum over pairs of unfolded factors.

    `in_turn`: one pair after the other, where a compiler might hold the intermediates of all at
    once. Of factors with themselves, pairs of examples below the diagonal may be left out.
    """
    for (f1, f2), term in zip(pairs, terms, strict=True):
        if in_turn:
            kernel, f1, f2 = after(kernel, f1, f2)
        kernel = add_pair(kernel, f1, f2, frame, term)
    return kernel


def after(kernel: jax.Array, f1: Factor, f2: Factor) -> tuple[jax.Array, Factor, Factor]:
    """The same values, but the factors are not there before the kernel is."""
    if f1 is f2:
        kernel, f1 = jax.lax.optimization_barrier((kernel, f1))
        return kernel, f1, f1
    return jax.lax.optimization_barrier((kernel, f1, f2))


def unfolded(factor: Factor, counts: tuple[int, int, int]) -> Factor:
    """`[n, d * r * o, ...]` as `[n, d, r, o, ...]`."""
    G = cotangent(factor)
    return with_cotangent(factor, G.reshape(G.shape[0], *counts, *G.shape[2:]))


def add_pair(kernel: jax.Array, f1: Factor, f2: Factor, frame: Frame, term: Term) -> jax.Array:
    """`kernel` plus that of one pair, over groups `k` one after the other."""
    if groups(f1) in (0, term.groups):
        return add_tiles(kernel, f1, f2, frame, term)

    def step(kernel: jax.Array, start: Any) -> jax.Array:
        first = of_groups(f1, start, term.groups)
        second = first if f1 is f2 else of_groups(f2, start, term.groups)
        return add_tiles(kernel, first, second, frame, term)

    return loop(step, kernel, np.arange(0, groups(f1), term.groups))


def add_tiles(kernel: jax.Array, f1: Factor, f2: Factor, frame: Frame, term: Term) -> jax.Array:
    """`kernel` plus that of one pair, in tiles of examples; of `f1` with itself half of them."""
    first, second = jacobians(f1, f2) if term.built else (f1, f2)
    n, m = Block(examples(f1), term.tiles[0]), Block(examples(f2), term.tiles[1])
    if n.whole and m.whole:
        return kernel + one_tile(first, second, frame, term.order, kernel.dtype)

    def tile(kernel: jax.Array, a: Any, b: Any) -> jax.Array:
        sides = of_examples(first, n, a), of_examples(second, m, b)
        part = one_tile(*sides, frame, term.order, kernel.dtype)
        starts = {N: a, M: b}
        return added(kernel, part, [starts.get(label, 0) for label in frame.labels])

    if frame.joint:
        return loop(lambda kernel, a: tile(kernel, a, a), kernel, n.starts)
    rows, columns = combinations(n.starts, m.starts)
    if f1 is f2 and n == m:
        rows, columns = rows[rows <= columns], columns[rows <= columns]
    return loop(tile, kernel, rows, columns)


def of_groups(factor: Factor, start: Any, size: int) -> Factor:
    """Some of the groups `k`."""
    assert isinstance(factor, Factored)

    def part(a: jax.Array, axis: int) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(a, start, size, axis)

    A = jax.tree.map(lambda a: part(a, 2), factor.A)
    return replace(factor, A=A, G=part(factor.G, factor.G.ndim - 2))


def of_examples(side: Any, block: Block, start: Any) -> Any:
    """The examples of one tile; those that an earlier tile had are zero."""
    if block.whole:
        return side
    part = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, block.size), side)
    kept = block.fresh(start)
    if isinstance(part, Factored):
        return replace(part, G=masked(part.G, [kept]))
    return replace(part, J=masked(part.J, [kept]))


def one_tile(first: Any, second: Any, frame: Frame, order: str, dtype: Any) -> jax.Array:
    """The einsum of one pair of factors, or of Jacobians that are built, in the given order."""
    einsum = functools.partial(jnp.einsum, preferred_element_type=dtype)
    if order == "materialise":
        if not isinstance(first, Built):
            first, second = jacobians(first, second)
        twins = {N: frame.m, O: Q}
        labels = [twins.get(label, label) for label in second.labels]
        return einsum(first.J, first.labels, second.J, labels, frame.labels)
    g1 = (first.G, [N, D, R, O, S, K, J])
    g2 = (second.G, [frame.m, D, R, Q, T, K, J])
    if isinstance(first.A, OneHot):
        match, labels = matches(first.A, second.A, frame)
        operands = (match.astype(first.G.dtype), labels, *g1, *g2)
        return einsum(*operands, frame.labels, optimize=[(1, 2), (0, 1)])
    operands = (first.A, [N, S, K, I], *g1, second.A, [frame.m, T, K, I], *g2)
    return einsum(*operands, frame.labels, optimize=list(ORDERS[order]))


def matches(A1: OneHot, A2: OneHot, frame: Frame) -> tuple[jax.Array, list[int]]:
    """`[n, m, s, t, k]`: where the rows of two lookups are equal; and its labels."""
    ids1, ids2 = A1.ids, A2.ids  # [n, s, k], [m, t, k]
    real = ids1 < A1.size
    if frame.joint:
        equal = ids1[:, :, None] == ids2[:, None, :]
        return equal & real[:, :, None], [N, S, T, K]
    equal = ids1[:, None, :, None] == ids2[None, :, None, :]
    return equal & real[:, None, :, None], [N, M, S, T, K]


def examples(factor: Factor) -> int:
    """The number of examples."""
    return cotangent(factor).shape[0]


def outputs(factor: Factor) -> tuple[int, ...]:
    """The number of diagonal, traced and free outputs."""
    return cotangent(factor).shape[1:4]


def groups(factor: Factor) -> int:
    """The extent of `k`; zero of a materialised factor."""
    return 0 if isinstance(factor, Materialised) else factor.G.shape[-2]


def alike(f1: Factor, f2: Factor) -> bool:
    """Whether two factored Jacobians have one layout, and so meet in normal form."""
    if isinstance(f1, Materialised) or isinstance(f2, Materialised):
        return False
    return f1.layout == f2.layout


def jacobians(f1: Factor, f2: Factor) -> tuple[Built, Built]:
    """Both Jacobians: in normal form where their layouts agree, else in the leaf's."""
    J1 = jacobian(f1, normal=alike(f1, f2))
    return J1, J1 if f1 is f2 else jacobian(f2, normal=alike(f1, f2))


def jacobian(factor: Factor, *, normal: bool) -> Built:
    """`[n, k, i, d, r, o, j]`, the order in which a matrix product leaves it; or `[n, ..., p]`."""
    if isinstance(factor, Materialised):
        return Built(factor.J, (N, D, R, O, P))
    n, *counts = factor.G.shape[:4]
    if normal and not isinstance(factor.A, OneHot):
        G = (factor.G, [N, D, R, O, S, K, J])
        labels = (N, K, I, D, R, O, J)
        dtype = jnp.promote_types(factor.G.dtype, jnp.float32)
        built = jnp.einsum(factor.A, [N, S, K, I], *G, labels, preferred_element_type=dtype)
        return Built(built, labels)
    G = factor.G.reshape(n, math.prod(counts), *factor.G.shape[4:])
    folded = Factored(factor.A, G, factor.layout)
    whole = jax.vmap(product if normal else materialise)(folded)
    return Built(whole.reshape(n, *counts, math.prod(whole.shape[2:])), (N, D, R, O, P))
