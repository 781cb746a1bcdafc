"""Layers that a compiler keeps apart.

XLA copies what several operations share into the loop of each of them. Of a deep network's layers,
each of which uses the covariance several times, that would be all layers in every loop: programs
and times to compile that grow with the square of the depth and faster.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._shared.tuning import tuning


def apart(arrays: Any, depth: int) -> Any:
    """The same arrays, computed before what uses them; after so many functions of one variable.

    Linear, so that derivatives of all orders are kept apart too.
    """
    if not depth:
        return arrays
    if tuning().barriers:
        return jax.lax.optimization_barrier(arrays)
    # It takes longer than a barrier: every second time.
    return arrays if depth % 2 else jax.tree.map(_looped, arrays)


def _looped(x: jax.Array) -> jax.Array:
    """The same array by a loop over its halves."""
    halves = jnp.pad(x.reshape(-1), (0, x.size % 2)).reshape(2, -1)
    return jax.lax.map(lambda half: half * 1, halves).reshape(-1)[: x.size].reshape(x.shape)
