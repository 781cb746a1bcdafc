"""Dense sites: `dot_general` with the weight on either side.

    y[free, batch, w_free] = sum_contract other[free, batch, contract] w[batch, contract, w_free]

so `s` = free, `k` = batch, `i` = contract, `j` = w_free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ... import _jaxpr
from .normal_form import Factored, Layout


@dataclass(frozen=True)
class Dense:
    """A weight that is operand `side` of a `dot_general`, or the part of it at `place`.

    Joined weights are products still: where they share outputs, the other operand is cut, where
    they share inputs, the cotangent.
    """

    dims: _jaxpr.Dot
    side: int
    place: _jaxpr.Place

    name = "dense"
    factored = True

    @property
    def shape(self) -> tuple[int, ...]:
        return _jaxpr.sizes(self.place)

    def record(self, values: list[Any]) -> Any:
        """The other operand, as far as it meets the weight."""
        contract, batch = self.dims.contract, self.dims.batch
        own, other = contract[self.side] + batch[self.side], 1 - self.side
        places = [self.place[a] for a in own]
        return cut(values[other], contract[other] + batch[other], places)

    def factor(self, record: jax.Array, cotangents: list[jax.Array]) -> Factored:
        """`A` from the other operand, `G` from the cotangent."""
        (G,) = cotangents
        contract, batch = self.dims.contract, self.dims.batch
        other = 1 - self.side
        taken = contract[other] + batch[other]
        free = [a for a in range(record.ndim) if a not in taken]
        w_free = _free_axes(self.dims, self.side, len(self.shape))
        s = math.prod(record.shape[a] for a in free)
        k = math.prod(record.shape[a] for a in batch[other])
        i = math.prod(record.shape[a] for a in contract[other])
        j = math.prod(self.shape[a] for a in w_free)
        A = jnp.transpose(record, (*free, *batch[other], *contract[other])).reshape(s, k, i)
        # The result has the axes (batch, lhs free, rhs free), behind `o`.
        nb, nf, nw = len(batch[0]), len(free), len(w_free)
        first = range(1 + nb, 1 + nb + (nf if self.side == 1 else nw))
        second = range(first.stop, 1 + nb + nf + nw)
        frees, w_frees = (first, second) if self.side == 1 else (second, first)
        met = [self.place[a] for a in (*batch[self.side], *w_free)]
        G = cut(G, (*range(1, 1 + nb), *w_frees), met)
        G = jnp.transpose(G, (0, *frees, *range(1, 1 + nb), *w_frees))
        G = G.reshape(G.shape[0], s, k, j)
        return Factored(A, G, self.layout())

    def layout(self) -> Layout:
        """`w` transposed to `(batch, contract, free)`."""
        batch, contract = self.dims.batch[self.side], self.dims.contract[self.side]
        order = (*batch, *contract, *_free_axes(self.dims, self.side, len(self.shape)))
        shape = tuple(self.shape[a] for a in order)
        inverse = [order.index(a) for a in range(len(order))]

        def to_leaf(M: jax.Array) -> jax.Array:
            return jnp.transpose(M.reshape(M.shape[0], *shape), (0, *(1 + a for a in inverse)))

        return Layout(("dense", order, len(batch), len(contract), shape), to_leaf)


def cut(array: jax.Array, axes: Sequence[int], places: Sequence[tuple[int, int]]) -> jax.Array:
    """The places along the axes; the array itself where that is all of it."""
    for a, (start, limit) in zip(axes, places, strict=True):
        if limit - start < array.shape[a]:
            array = lax.slice_in_dim(array, start, limit, axis=a)
    return array


def _free_axes(dims: _jaxpr.Dot, side: int, ndim: int) -> list[int]:
    """Axes of the operand that are neither contracted nor batched."""
    return [a for a in range(ndim) if a not in dims.contract[side] + dims.batch[side]]


def match_dense(eqn: _jaxpr.Equation, operand: int) -> Dense | None:
    dims = _jaxpr.dot(eqn)
    if dims is None:
        return None
    return Dense(dims, operand, tuple((0, d) for d in eqn.invars[operand].aval.shape))
