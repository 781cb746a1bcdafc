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
        # The barrier keeps the compiler from rounding the two halves of the sum differently.
        kernels = [
            (k + jnp.transpose(k, ax.transposition())) / 2
            for k, ax in zip(jax.lax.optimization_barrier(kernels), axes, strict=True)
        ]
    return treedef.unflatten(kernels)


def full_precision(precision: Any) -> Any:
    """The context in which `f` is differentiated and factors are contracted.

    Accelerators round the operands of float32 products to fewer bits unless they are told not to.
    """
    return jax.default_matmul_precision("highest" if precision is None else precision)
