"""Materialising: both Jacobians of a pair built piece by piece, and multiplied while in cache.

    Theta[n,m,o,q] = sum_{k,i,j} J1[n,o,k,i,j] J2[m,q,k,i,j],   J = sum_s A[s,k,i] G[o,s,k,j]

A piece is some of `k` and `j`, of all examples. What is multiplied are matrices with a row for each
output of each example: XLA contracts those several times as fast as arrays of more axes, and to
write fresh memory takes longer than the products do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..._shared.meshes import varying, varying_axes
from ..._shared.pair import Pair
from ..kinds import (
    Factor,
    Factored,
    Materialised,
    OneHot,
    alike,
    examples,
    groups,
    outputs,
    product,
    units,
)
from ..kinds import materialise as in_leaf
from ..output_axes import Frame
from ..ranges import Block, loop, some_of
from .gram import rows_product
from .orders import Term


def materialised(
    pair: Pair[Factor], frame: Frame, cut: tuple[Block, Block], rows: Block, dtype: Any
) -> jax.Array:
    """The kernel of one pair of unfolded factors, as `frame.labels`.

    `cut`: blocks of `k` and of `j`, each of one where the factors differ in layout. `rows`: of a
    kernel of one side with itself so many examples at a time, and nothing below the diagonal.
    """
    k, j = cut

    def products(pair: Pair[Factor], start: Any) -> list[jax.Array]:
        f1, f2 = pair.sides
        if frame.joint:
            first = jacobian(f1, f2, j, start)
            second = first if pair.same else jacobian(f2, f1, j, start)
            operands = first, frame.of_J(0), second, frame.of_J(1)
            return [jnp.einsum(*operands, frame.labels, preferred_element_type=dtype)]
        x = [_matrix(jacobian(strip, f2, j, start)) for strip in _strips(f1, rows)]
        y = x if pair.same else [_matrix(jacobian(f2, f1, j, start))]
        return [_batched_product(a, b, dtype) for c, a in enumerate(x) for b in y[c * pair.same :]]

    def group(sums: list[jax.Array], pair: Pair[Factor]) -> list[jax.Array]:
        def step(sums: list[jax.Array], start: Any) -> list[jax.Array]:
            return [x + y for x, y in zip(sums, products(pair, start), strict=True)]

        return loop(step, sums, j.starts)

    if k.whole and j.whole:
        sums = products(pair, 0)
    else:
        shapes = jax.eval_shape(lambda: products(pair, 0))
        over = varying_axes(pair)
        zeros = [varying(jnp.zeros(s.shape, s.dtype), over) for s in shapes]
        sums = over_groups(group, zeros, pair, k)
    if frame.joint:
        return sums[0]
    first, second = ((examples(f), outputs(f)[2]) for f in pair.sides)
    return _from_strips(sums, first, second, rows.runs)


def over_groups(
    body: Callable[[Any, Pair[Factor]], Any], carry: Any, pair: Pair[Factor], k: Block
) -> Any:
    """`body(carry, pair)` for some groups `k` after others.

    Those that an earlier step had are zero.
    """
    if k.whole:
        return body(carry, pair)

    def some(factor: Factor, start: Any) -> Factor:
        assert isinstance(factor, Factored)
        A = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, k.size, 2), factor.A)
        return replace(factor, A=A, G=some_of(factor.G, k, start, -2))

    return loop(
        lambda carry, start: body(carry, pair.map(partial(some, start=start))), carry, k.starts
    )


def pieces(pair: Pair[Factor], term: Term) -> tuple[Block, Block]:
    """Blocks of `k` and `j`; one of each where the two differ in layout."""
    if not alike(*pair.sides):
        return Block(1, 1), Block(1, 1)
    return Block(groups(pair.first), term.groups), Block(units(pair.first), term.units)


def jacobian(factor: Factor, other: Factor, j: Block, start: Any) -> jax.Array:
    """`[n, d, r, o, p]` of some units, or in the leaf's layout where the other's is different."""
    if isinstance(factor, Materialised):
        return factor.J
    normal = alike(factor, other)
    if normal:
        factor = of_units(factor, j, start)
        if repeats(factor, other):
            return _by_output(factor)
        if not isinstance(factor.A, OneHot):
            return _built(factor)
    n, *counts = factor.G.shape[:4]
    G = factor.G.reshape(n, math.prod(counts), *factor.G.shape[4:])
    J = jax.vmap(product if normal else in_leaf)(replace(factor, G=G))
    return J.reshape(n, *counts, math.prod(J.shape[2:]))


def _built(factor: Factored) -> jax.Array:
    """`[n, d, r, o, (k, j, i)]`: of one group as a matrix product leaves it, if `s <= i`."""
    assert not isinstance(factor.A, OneHot)
    dtype = jnp.promote_types(factor.G.dtype, jnp.float32)
    # One operand is transposed for the product, or the product is: G or J, whichever is smaller.
    if factor.A.shape[1] <= factor.A.shape[3]:
        dims = (((4,), (1,)), ((0, 5), (0, 2)))
        made = jax.lax.dot_general(factor.G, factor.A, dims, preferred_element_type=dtype)
        made = jnp.moveaxis(made, 1, 4)
    else:
        dims = (((1,), (4,)), ((0, 2), (0, 5)))
        made = jax.lax.dot_general(factor.A, factor.G, dims, preferred_element_type=dtype)
        made = jnp.transpose(made, (0, 3, 4, 5, 1, 6, 2))
    return made.reshape(*made.shape[:4], math.prod(made.shape[4:]))


def repeats(factor: Factored, other: Factor) -> bool:
    """Whether `A` is repeated for every output: less than to transpose the `G` of several.

    On JAX 0.10 that takes long, since XLA does it within the operations that make `G`. Both sides
    of a pair do the same, and the result is no smaller than what is repeated.
    """
    if not isinstance(other, Factored):
        return False
    if isinstance(factor.A, OneHot) or isinstance(other.A, OneHot):
        return False
    several = all(math.prod(f.G.shape[1:4]) > 1 for f in (factor, other))
    positions = max(factor.A.shape[1], other.A.shape[1])
    return several and positions <= factor.A.shape[3] <= factor.G.shape[6]


def _by_output(factor: Factored) -> jax.Array:
    """`[n, d, r, o, (k, i, j)]`: a matrix product for each output."""
    n, d, r, o, *_ = factor.G.shape
    assert not isinstance(factor.A, OneHot)
    dtype = jnp.promote_types(factor.G.dtype, jnp.float32)
    A = jnp.broadcast_to(factor.A[:, None], (n, d * r * o, *factor.A.shape[1:]))
    G = factor.G.reshape(n, d * r * o, *factor.G.shape[4:])
    dims = (((2,), (2,)), ((0, 1, 3), (0, 1, 3)))
    made = jax.lax.dot_general(A, G, dims, preferred_element_type=dtype)
    return made.reshape(n, d, r, o, math.prod(made.shape[2:]))


def of_units(factor: Factored, j: Block, start: Any) -> Factored:
    """Some of the units `j`; those that an earlier piece had are zero."""
    return factor if j.whole else replace(factor, G=some_of(factor.G, j, start, -1))


def _matrix(J: jax.Array) -> jax.Array:
    """`[n, d, r, o, p]` as `[d, (n, o), (r, p)]`."""
    n, d, r, o, p = J.shape
    return jnp.transpose(J, (1, 0, 3, 2, 4)).reshape(d, n * o, r * p)


def _batched_product(a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """`[d, x, z], [d, y, z] -> [d, x, y]`."""
    if a.shape[0] == 1:
        return rows_product(a[0], b[0], dtype)[None]
    return jnp.einsum("dxz,dyz->dxy", a, b, preferred_element_type=dtype)


def _strips(factor: Factor, rows: Block) -> list[Factor]:
    if rows.whole:
        return [factor]
    ends = range(rows.size, rows.count + rows.size, rows.size)
    return [jax.tree.map(lambda x, end=end: x[end - rows.size : end], factor) for end in ends]


def _from_strips(
    products: Sequence[jax.Array], first: tuple[int, int], second: tuple[int, int], runs: int
) -> jax.Array:
    """`[n, m, d, o, q]` of products of strips, `[d, x, y]`: of all, or of those on and above."""
    (n, o), (m, q) = first, second
    kernel = products[0]
    if len(products) > 1:
        remaining = iter(products)
        upper = [[next(remaining) for _ in range(a, runs)] for a in range(runs)]
        heights = [row[0].shape[1] for row in upper]
        kernel = jnp.concatenate(
            [
                jnp.pad(jnp.concatenate(row, 2), ((0, 0), (0, 0), (sum(heights[:a]), 0)))
                for a, row in enumerate(upper)
            ],
            1,
        )
    return jnp.transpose(kernel.reshape(kernel.shape[0], n, o, m, q), (1, 3, 0, 2, 4))
