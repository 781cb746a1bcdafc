"""Contracting: from the factors of two sides to a kernel.

For every pair of factored leaves one einsum,

    Theta[n,m,o,q] = sum_{k,s,t} (sum_i A1[n,s,k,i] A2[m,t,k,i]) (sum_j G1[n,o,s,k,j] G2[m,q,t,k,j])

in one of several orders. Of the outputs, traced ones `r` are one more contraction and diagonal
ones `d` a batch axis.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..kinds import (
    Factor,
    Factored,
    OneHot,
    cotangent,
    examples,
    groups,
    outputs,
    with_cotangent,
)
from ..output_axes import (
    Block,
    D,
    Frame,
    I,
    J,
    K,
    M,
    N,
    O,
    Q,
    R,
    S,
    T,
    added,
    combinations,
    loop,
    masked,
)
from .gram import by_gram
from .materialise import blocks, materialised, over_groups

# Orders of the einsum over (A1, G1, A2, G2), as pairwise paths of opt_einsum.
ORDERS: dict[str, tuple[tuple[int, int], ...]] = {
    "materialise": ((0, 1), (0, 1), (0, 1)),  # (A1 G1) (A2 G2)
    "gram": ((0, 2), (0, 1), (0, 1)),  # (A1 A2) (G1 G2)
    "gram first": ((0, 2), (0, 2), (0, 1)),  # ((A1 A2) G1) G2
    "gram second": ((0, 2), (1, 2), (0, 1)),  # ((A1 A2) G2) G1
    "first": ((0, 1), (0, 2), (0, 1)),  # ((A1 G1) A2) G2
    "second": ((2, 3), (0, 2), (0, 1)),  # ((A2 G2) A1) G1
}


@dataclass(frozen=True)
class Term:
    """How one pair of factors is contracted.

    `order`: of the einsum; `tiles`: examples of both sides at a time; `groups`: how many of the
    axis `k` at a time; `units`: how many of `j`, where Jacobians are materialised.
    """

    order: str
    tiles: tuple[int, int]
    groups: int
    units: int = 0


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
    if term.order == "materialise":
        pieces = blocks(f1, f2, (term.groups, term.units))
        rows = Block(examples(f1), term.tiles[0] if f1 is f2 else examples(f1))
        return kernel + materialised(f1, f2, frame, pieces, rows, kernel.dtype)

    def step(kernel: jax.Array, f1: Factor, f2: Factor) -> jax.Array:
        return add_tiles(kernel, f1, f2, frame, term)

    return over_groups(step, kernel, f1, f2, Block(groups(f1), term.groups))


def add_tiles(kernel: jax.Array, f1: Factor, f2: Factor, frame: Frame, term: Term) -> jax.Array:
    """`kernel` plus that of one pair, in tiles of examples; of `f1` with itself half of them."""
    n, m = Block(examples(f1), term.tiles[0]), Block(examples(f2), term.tiles[1])
    if n.whole and m.whole:
        return kernel + one_tile(f1, f2, frame, term.order, kernel.dtype)

    def tile(kernel: jax.Array, a: Any, b: Any) -> jax.Array:
        sides = of_examples(f1, n, a), of_examples(f2, m, b)
        part = one_tile(*sides, frame, term.order, kernel.dtype)
        starts = {N: a, M: b}
        return added(kernel, part, [starts.get(label, 0) for label in frame.labels])

    if frame.joint:
        return loop(lambda kernel, a: tile(kernel, a, a), kernel, n.starts)
    return loop(tile, kernel, *tile_starts(n, m, half=f1 is f2))


def tile_starts(n: Block, m: Block, *, half: bool) -> list[np.ndarray]:
    """Where tiles begin; of a symmetric kernel those that reach above the diagonal."""
    rows, columns = combinations(n.starts, m.starts)
    kept = rows < columns + m.size if half else np.ones(len(rows), bool)
    return [rows[kept], columns[kept]]


def tile_count(n: Block, m: Block, *, half: bool) -> int:
    """How many tiles `tile_starts` gives."""
    if not half:
        return n.runs * m.runs
    left_out = np.searchsorted(m.starts, n.starts - m.size, side="right")
    return n.runs * m.runs - int(left_out.sum())


def of_examples(factor: Factor, block: Block, start: Any) -> Factor:
    """The examples of one tile; those that an earlier tile had are zero."""
    if block.whole:
        return factor
    part = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, block.size), factor)
    return with_cotangent(part, masked(cotangent(part), [block.fresh(start)]))


def one_tile(f1: Factor, f2: Factor, frame: Frame, order: str, dtype: Any) -> jax.Array:
    """The einsum of one pair of factors in the given order, nothing materialised on both sides."""
    assert isinstance(f1, Factored) and isinstance(f2, Factored)
    einsum = functools.partial(jnp.einsum, preferred_element_type=dtype)
    g1 = (f1.G, [N, D, R, O, S, K, J])
    g2 = (f2.G, [frame.m, D, R, Q, T, K, J])
    if isinstance(f1.A, OneHot) and isinstance(f2.A, OneHot):
        match, labels = matches(f1.A, f2.A, frame)
        operands = (match.astype(f1.G.dtype), labels, *g1, *g2)
        return einsum(*operands, frame.labels, optimize=[(1, 2), (0, 1)])
    if "gram" in order and not frame.joint and outputs(f1)[0] == groups(f1) == 1:
        return by_gram(f1, f2, order, dtype)
    assert not isinstance(f1.A, OneHot) and not isinstance(f2.A, OneHot)
    operands = (f1.A, [N, S, K, I], *g1, f2.A, [frame.m, T, K, I], *g2)
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
