"""The kernel of outputs, `f(x1) f(x2)^T`; and what every kernel is given last."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._shared.axes import KernelAxes
from .._shared.symmetry import mirrored
from .._shared.trees import kernel_dtype


def outer(y1: jax.Array, y2: jax.Array, ax: KernelAxes) -> jax.Array:
    """`f(x1) f(x2)^T` of one output."""
    dtype = kernel_dtype(y1, y2)
    kernel = jnp.einsum(y1, ax.first, y2, ax.second, ax.result, preferred_element_type=dtype)
    return kernel / ax.size(y1.shape)


def nngp(y1: list[jax.Array], y2: list[jax.Array], axes: list[KernelAxes], treedef: Any) -> Any:
    """`f(x1) f(x2)^T` of every output, in the tree of the outputs; `y2` may be `y1` itself."""
    kernels = [outer(a, b, ax) for a, b, ax in zip(y1, y2, axes, strict=True)]
    return finish(y1 is y2, treedef, axes, kernels)


def finish(same: bool, treedef: Any, axes: list[KernelAxes], kernels: list[jax.Array]) -> Any:
    """The kernels in the tree of the outputs; of one set of examples, exactly symmetric."""
    if same:
        kernels = [mirrored(k, ax, ax.first) for k, ax in zip(kernels, axes, strict=True)]
    return treedef.unflatten(kernels)
