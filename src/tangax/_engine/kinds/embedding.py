"""Lookups of rows, `table[ids]`: `A` are one-hot rows that are never built.

`A A'^T` is the comparison `ids == ids'`; `s` = tokens, `i` = the vocabulary, `j` = features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ... import _jaxpr
from .normal_form import Factored, Layout, OneHot


@dataclass(frozen=True)
class Embedding:
    """A table that is looked up along one axis."""

    rows: _jaxpr.Rows
    shape: tuple[int, ...]

    name = "embedding"
    factored = True

    def record(self, values: list[Any]) -> Any:
        ids, column = values[self.rows.operand], self.rows.column
        return ids if column is None else ids[..., column]

    def factor(self, record: jax.Array, cotangents: list[jax.Array]) -> Factored:
        """Ids out of range are clipped, or have no row: their cotangent reaches no parameter."""
        (G,) = cotangents
        size = self.shape[self.rows.axis]
        ids = in_range(record.reshape(record.size, 1), size, clip=self.rows.clip)
        offset = [1 + a for a in self.rows.offset_dims]
        tokens = [a for a in range(1, G.ndim) if a not in offset]
        j = math.prod(self.shape) // size
        G = jnp.transpose(G, (0, *tokens, *offset)).reshape(G.shape[0], ids.shape[0], 1, j)
        return Factored(OneHot(ids, size), G, self.layout())

    def layout(self) -> Layout:
        """The table with the axis of rows in front."""
        axis, shape = self.rows.axis, self.shape
        rest = tuple(d for a, d in enumerate(shape) if a != axis)

        def to_leaf(M: jax.Array) -> jax.Array:
            return jnp.moveaxis(M.reshape(M.shape[0], shape[axis], *rest), 1, 1 + axis)

        return Layout(("embedding", axis, shape), to_leaf)


def in_range(ids: jax.Array, size: int, *, clip: bool) -> jax.Array:
    """The ids, those out of range clipped or `size`.

    Tested as they come: a narrower dtype would wrap them round, and their own may not have `size`.
    """
    most = jnp.iinfo(ids.dtype).max
    below, above = ids < 0, ids > size - 1 if size - 1 < most else jnp.zeros(ids.shape, bool)
    inside = jnp.where(below | above, 0, ids).astype(jnp.int32 if size < 2**31 else jnp.int64)
    if clip:
        return jnp.where(above, size - 1, inside)
    return jnp.where(below | above, size, inside)


def match_embedding(eqn: _jaxpr.Equation, operand: int) -> Embedding | None:
    """A gather of whole rows from the table."""
    rows = _jaxpr.rows(eqn)
    if rows is None or operand != 0 or 0 in eqn.invars[0].aval.shape:
        return None
    return Embedding(rows, tuple(eqn.invars[0].aval.shape))
