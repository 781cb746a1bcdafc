"""Kernels of one set of examples with itself: exactly symmetric."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .axes import KernelAxes


def mirrored(kernel: jax.Array, ax: KernelAxes, order: list[int]) -> jax.Array:
    """The kernel with its lower half copied from the upper one.

    An entry is in the upper half where the first index that differs from its twin is the smaller,
    the output axes taken in the given order.

    A copy, not a mean: fused into what comes before it, a sum of two entries is rounded as its
    order has it, and the two halves would differ in the last bit.
    """
    twins = ax.transposition()
    upper, equal = jnp.zeros(kernel.shape, bool), jnp.ones(kernel.shape, bool)
    for label in order:
        if label not in ax.result or (axis := ax.result.index(label)) == twins[axis]:
            continue
        twin = twins[axis]
        a, b = (_index(kernel, p) for p in (axis, twin))
        upper, equal = upper | (equal & (a < b)), equal & (a == b)
    return jnp.where(upper | equal, kernel, jnp.transpose(kernel, twins))


def _index(array: jax.Array, axis: int) -> jax.Array:
    """The index along an axis, to be broadcast.

    Of a `broadcasted_iota` in its place XLA's passes find no end, on JAX 0.10 after a loop.
    """
    others = [a for a in range(array.ndim) if a != axis]
    return jnp.expand_dims(jnp.arange(array.shape[axis]), others)
