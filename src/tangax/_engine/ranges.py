"""Ranges of indices, one after the other: blocks, loops over them, masks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Block:
    """One run of `size` indices after another along an axis of `count`.

    The last begins early where `size` does not divide `count`: its first indices, which the one
    before had already, are not `fresh`.
    """

    count: int
    size: int

    @property
    def starts(self) -> np.ndarray:
        if self.whole:
            return np.zeros(1, int)
        return np.minimum(np.arange(0, self.count, self.size), self.count - self.size)

    @property
    def whole(self) -> bool:
        return self.size >= self.count

    @property
    def runs(self) -> int:
        return 1 if self.whole else -(-self.count // self.size)

    def fresh(self, start: Any) -> jax.Array | None:
        """Which indices of a block no block before it has; nothing where all are."""
        if self.whole or self.count % self.size == 0:
            return None
        index = start + jnp.arange(self.size)
        return (start % self.size == 0) | (index >= self.count // self.size * self.size)


def even(count: int, most: int) -> Block:
    """As few blocks of at most `most` as there can be, of nearly equal size."""
    runs = -(-count // max(1, min(count, most))) if count else 1
    return Block(count, -(-count // runs))


def added(whole: jax.Array, part: jax.Array, starts: Sequence[Any]) -> jax.Array:
    """`whole` with `part` added to the entries that begin at `starts`."""
    before = jax.lax.dynamic_slice(whole, starts, part.shape)
    return jax.lax.dynamic_update_slice(whole, before + part, starts)


def loop(body: Callable[..., Any], carry: Any, *starts: np.ndarray) -> Any:
    """`body(carry, *start)` for one start after another."""
    if len(starts[0]) == 1:
        return body(carry, *(int(s[0]) for s in starts))

    def step(carry: Any, start: Any) -> tuple[Any, None]:
        return body(carry, *start), None

    return jax.lax.scan(step, carry, tuple(jnp.asarray(s) for s in starts))[0]


def combinations(*starts: np.ndarray) -> list[np.ndarray]:
    return [a.ravel() for a in np.meshgrid(*starts, indexing="ij")]


def some_of(array: jax.Array, block: Block, start: Any, axis: int) -> jax.Array:
    """The indices of a block along an axis; those that an earlier block had are zero."""
    part = jax.lax.dynamic_slice_in_dim(array, start, block.size, axis)
    return masked(part, [*[None] * (axis % array.ndim), block.fresh(start)])


def masked(array: jax.Array, taken: Sequence[jax.Array | None]) -> jax.Array:
    """Zeros where an index along one of the leading axes is not taken."""
    masks = [
        jnp.expand_dims(k, [b for b in range(array.ndim) if b != a])
        for a, k in enumerate(taken)
        if k is not None
    ]
    if not masks:
        return array
    return jnp.where(functools.reduce(jnp.logical_and, masks), array, 0)
