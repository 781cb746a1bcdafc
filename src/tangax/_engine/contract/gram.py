"""By Gram matrices: the orders that begin with `A1 A2^T`, for one group `k`.

`A: [n, s, i]` and `G: [n, r, o, s, j]` of both sides give `[n, m, o, q]`. Everything is a product
of matrices: XLA contracts those several times as fast as arrays of more axes.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..kinds import Factored, OneHot


def by_gram(f1: Factored, f2: Factored, streams: int | None, dtype: Any) -> jax.Array:
    """`[n, m, d, o, q]` of two unfolded factors without diagonal outputs.

    `streams`: the side whose `G` is contracted with `A1 A2`; if none, first with the other `G`.
    """
    assert not isinstance(f1.A, OneHot) and not isinstance(f2.A, OneHot)
    a = rows_product(f1.A[:, :, 0], f2.A[:, :, 0], dtype)  # [n, s, m, t]
    G1, G2 = f1.G[:, 0, ..., 0, :], f2.G[:, 0, ..., 0, :]
    if streams is None:
        kernel = _both(a, G1, G2, dtype)
    elif streams == 0:
        kernel = _one_side(a, G1, G2, dtype)
    else:
        swapped = _one_side(jnp.transpose(a, (2, 3, 0, 1)), G2, G1, dtype)
        kernel = jnp.transpose(swapped, (1, 0, 3, 2))
    return jnp.expand_dims(kernel, 2)


def _both(a: jax.Array, G1: jax.Array, G2: jax.Array, dtype: Any) -> jax.Array:
    """`(A1 A2) (G1 G2)`."""
    first, second = (jnp.transpose(G, (0, 2, 3, 1, 4)) for G in (G1, G2))  # [n, o, s, r, j]
    g = rows_product(_merged(first, 2), _merged(second, 2), dtype)  # [n, o, s, m, q, t]
    return jnp.einsum("nsmt,nosmqt->nmoq", a, g, preferred_element_type=dtype)


def _one_side(a: jax.Array, G1: jax.Array, G2: jax.Array, dtype: Any) -> jax.Array:
    """`((A1 A2) G1) G2`, with no copies where there is one example of the second side."""
    y = _merged(jnp.einsum("nrosj,nsmt->mnorjt", G1, a, preferred_element_type=dtype), 3)
    second = _merged(jnp.transpose(G2, (0, 2, 1, 4, 3)), 3)  # [m, q, (r, j, t)]
    if len(y) == 1:
        kernel = rows_product(y[0], second, dtype)  # [n, o, m, q]
        return jnp.transpose(kernel, (0, 2, 1, 3))
    return jnp.einsum("mnoz,mqz->nmoq", y, second, preferred_element_type=dtype)


def rows_product(a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """`[..., z], [..., z] -> [..., ...]`, as one product of matrices."""
    x, y = (side.reshape(math.prod(side.shape[:-1]), side.shape[-1]) for side in (a, b))
    product = jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), preferred_element_type=dtype)
    return product.reshape(*a.shape[:-1], *b.shape[:-1])


def _merged(x: jax.Array, axes: int) -> jax.Array:
    return x.reshape(*x.shape[:-axes], math.prod(x.shape[-axes:]))
