"""The kernel of outputs, `f(x1) f(x2)^T`; and what every kernel is given last."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._shared.axes import KernelAxes
from .._shared.pair import Pair
from .._shared.symmetry import mirrored
from .._shared.trees import kernel_dtype


def _outer(y1: jax.Array, y2: jax.Array, ax: KernelAxes) -> jax.Array:
    dtype = kernel_dtype(y1, y2)
    kernel = jnp.einsum(y1, ax.first, y2, ax.second, ax.result, preferred_element_type=dtype)
    return kernel / ax.size(y1.shape)


def nngp(outputs: Pair[list[jax.Array]], axes: list[KernelAxes], treedef: Any) -> Any:
    """`f(x1) f(x2)^T` of every output, in the tree of the outputs."""
    kernels = list(map(_outer, *outputs.sides, axes))
    return finish(outputs.same, treedef, axes, kernels)


def finish(same: bool, treedef: Any, axes: list[KernelAxes], kernels: list[jax.Array]) -> Any:
    """The kernels in the tree of the outputs; of one set of examples, exactly symmetric."""
    if same:
        kernels = [mirrored(k, ax, ax.first) for k, ax in zip(kernels, axes, strict=True)]
    return treedef.unflatten(kernels)
