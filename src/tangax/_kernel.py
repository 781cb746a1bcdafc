"""How a kernel is formed and given its last touch, whichever method computed it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ._axes import KernelAxes
from ._trees import kernel_dtype


def outer(y1: jax.Array, y2: jax.Array, ax: KernelAxes) -> jax.Array:
    """`f(x1) f(x2)^T` of one output."""
    dtype = kernel_dtype(y1, y2)
    kernel = jnp.einsum(y1, ax.first, y2, ax.second, ax.result, preferred_element_type=dtype)
    return kernel / ax.size(y1.shape)


def finish(same: bool, treedef: Any, axes: list[KernelAxes], kernels: list[jax.Array]) -> Any:
    """The kernels in the tree of the outputs; of one set of examples, exactly symmetric."""
    if same:
        kernels = [mirrored(k, ax) for k, ax in zip(kernels, axes, strict=True)]
    return treedef.unflatten(kernels)


def mirrored(kernel: jax.Array, ax: KernelAxes) -> jax.Array:
    """The kernel with its lower half copied from the upper one.

    A copy, not a mean: fused into what comes before it, a sum of two entries is rounded as its
    order has it, and the two halves would differ in the last bit.
    """
    twins = ax.transposition()
    upper, equal = jnp.zeros(kernel.shape, bool), jnp.ones(kernel.shape, bool)
    for axis, twin in enumerate(twins):
        if axis < twin:
            a, b = (jax.lax.broadcasted_iota(int, kernel.shape, p) for p in (axis, twin))
            upper, equal = upper | (equal & (a < b)), equal & (a == b)
    return jnp.where(upper | equal, kernel, jnp.transpose(kernel, twins))


def full_precision(precision: Any) -> Any:
    """The context in which `f` is differentiated and factors are contracted.

    Accelerators round the operands of float32 products to fewer bits unless they are told not to.
    """
    return jax.default_matmul_precision("highest" if precision is None else precision)
