"""How a kernel is formed and given its last touch, whichever method computed it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ._axes import KernelAxes
from ._settings import default_promotion
from ._trees import kernel_dtype


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
        a, b = (index(kernel, p) for p in (axis, twin))
        upper, equal = upper | (equal & (a < b)), equal & (a == b)
    return jnp.where(upper | equal, kernel, jnp.transpose(kernel, twins))


def index(array: jax.Array, axis: int) -> jax.Array:
    """The index along an axis, to be broadcast.

    Of a `broadcasted_iota` in its place XLA's passes find no end, on JAX 0.10 after a loop.
    """
    others = [a for a in range(array.ndim) if a != axis]
    return jnp.expand_dims(jnp.arange(array.shape[axis]), others)


@contextlib.contextmanager
def full_precision(precision: Any) -> Iterator[None]:
    """The context in which `f` is differentiated and factors are contracted.

    Accelerators round the operands of float32 products to fewer bits unless they are told not to.
    """
    wanted = "highest" if precision is None else precision
    with jax.default_matmul_precision(wanted), default_promotion():
        yield


def check_precision(precision: Any) -> None:
    """Refuse what JAX does not know, before anything is computed."""
    try:
        with full_precision(precision):
            pass
    except ValueError as error:
        msg = f"precision must be None or a string like 'default' or 'highest', got {precision!r}."
        raise ValueError(msg) from error
