"""Contracting: from the factors of two sides to a kernel, pair by pair, in groups and in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ..._shared.pair import Pair
from ..kinds import Factor, Factored, cotangent, examples, groups, with_cotangent
from ..output_axes import Frame, M, N
from ..ranges import Block, added, combinations, loop, some_of
from .materialise import materialised, over_groups, pieces
from .orders import Term


def contract(
    pairs: Sequence[Pair[Factor]],
    frame: Frame,
    terms: Sequence[Term],
    kernel: jax.Array,
    *,
    in_turn: bool,
) -> jax.Array:
    """`kernel`, as `frame.labels`, plus the sum over pairs of unfolded factors.

    `in_turn`: one pair after the other, where a compiler might compute the intermediates of all at
    once. Of factors with themselves, pairs of examples below the diagonal may be left out.
    """
    for pair, term in zip(pairs, terms, strict=True):
        if in_turn:  # factors are not there before the kernel is
            kernel, pair = jax.lax.optimization_barrier((kernel, pair))
        kernel = _add_pair(kernel, pair, frame, term)
    return kernel


def unfolded(factor: Factor, counts: tuple[int, int, int]) -> Factor:
    """`[n, d * r * o, ...]` as `[n, d, r, o, ...]`."""
    G = cotangent(factor)
    return with_cotangent(factor, G.reshape(G.shape[0], *counts, *G.shape[2:]))


def _add_pair(kernel: jax.Array, pair: Pair[Factor], frame: Frame, term: Term) -> jax.Array:
    """`kernel` plus that of one pair, over groups `k` one after the other."""
    if term.order.materialises:
        n = examples(pair.first)
        rows = Block(n, term.tiles[0] if pair.same else n)
        return kernel + materialised(pair, frame, pieces(pair, term), rows, kernel.dtype)

    def step(kernel: jax.Array, pair: Pair[Factor]) -> jax.Array:
        return _add_tiles(kernel, pair, frame, term)

    return over_groups(step, kernel, pair, Block(groups(pair.first), term.groups))


def _add_tiles(kernel: jax.Array, pair: Pair[Factor], frame: Frame, term: Term) -> jax.Array:
    """`kernel` plus that of one pair, in tiles of examples; of one side with itself half."""
    n, m = map(Block, map(examples, pair.sides), term.tiles)
    if n.whole and m.whole:
        return kernel + term.order.run(pair, frame, kernel.dtype)

    def tile(kernel: jax.Array, a: Any, b: Any) -> jax.Array:
        first, second = pair.sides
        cut = Pair(_of_examples(first, n, a), _of_examples(second, m, b))
        part = term.order.run(cut, frame, kernel.dtype)
        starts = {N: a, M: b}
        return added(kernel, part, [starts.get(label, 0) for label in frame.labels])

    if frame.joint:
        return loop(lambda kernel, a: tile(kernel, a, a), kernel, n.starts)
    return loop(tile, kernel, *_tile_starts(n, m, upper_only=pair.same))


def _tile_starts(n: Block, m: Block, *, upper_only: bool) -> list[np.ndarray]:
    """Where tiles begin; of a symmetric kernel those that reach above the diagonal."""
    rows, columns = combinations(n.starts, m.starts)
    taken = rows < columns + m.size if upper_only else np.ones(len(rows), bool)
    return [rows[taken], columns[taken]]


def _of_examples(factor: Factor, block: Block, start: Any) -> Factor:
    """The examples of one tile; those that an earlier tile had are zero."""
    if block.whole:
        return factor
    assert isinstance(factor, Factored)
    A = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, block.size), factor.A)
    return replace(factor, A=A, G=some_of(factor.G, block, start, 0))
