"""Two plain methods, independent of each other and of the factor engine.

Jacobian contraction:   Theta[n,m,o,q] = sum_p J1[n,o,p] J2[m,q,p], Jacobians built whole.
NTK-vector products:    Theta[n,m,:,q] = J1[n] (J2[m]^T e_q), one column for every output q.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .._arguments.sides import Arguments, Side, place_batch
from .._shared.axes import KernelAxes
from .._shared.derivatives import REFUSALS, has_forward_mode, in_turn, jacobian
from .._shared.meshes import varying, varying_axes
from .._shared.trees import kernel_dtype


def jacobian_contraction(given: Arguments, axes: list[KernelAxes]) -> list[jax.Array]:
    """One kernel for each output, from whole Jacobians: `(n + m) * o * p` entries in memory."""
    leaves = given.params.leaves
    jacobians = given.sides.map(lambda side: mapped(side, lambda s: _jacobians(s, leaves)))
    kernels = []
    for r, ax in enumerate(axes):
        y1, y2 = (side.outputs[r] for side in given.sides.sides)
        dtype = kernel_dtype(y1, y2, *leaves)
        p = 2 * ax.ndim  # a label that no output axis has
        kernel = sum(
            jnp.einsum(
                j1, [*ax.first, p], j2, [*ax.second, p], ax.result, preferred_element_type=dtype
            )
            for j1, j2 in zip(jacobians.first[r], jacobians.other[r], strict=True)
        )
        kernels.append(kernel / ax.size(y1.shape))
    return kernels


def mapped(side: Side, function: Callable[[Side], Any]) -> Any:
    """`function` of a side; where `vmap` refuses `f`, of its examples in sequence."""
    try:
        return function(side)
    except REFUSALS as refusal:
        try:
            return function(replace(side, in_sequence=True))
        except REFUSALS:
            raise refusal from None


def _jacobians(side: Side, leaves: list[jax.Array]) -> list[list[jax.Array]]:
    """For each output and leaf the Jacobian, `[*output.shape, p]`."""

    def one(data: list[jax.Array]) -> Any:
        return jacobian(lambda w: side.example(w, data), leaves, in_sequence=side.in_sequence)

    stacked = side.map(one)
    return [
        [
            place_batch(j, axis).reshape(*y.shape, leaf.size)
            for j, leaf in zip(row, leaves, strict=True)
        ]
        for row, y, axis in zip(stacked, side.outputs, side.out_axes, strict=True)
    ]


def ntk_vector_products(given: Arguments, axes: list[KernelAxes]) -> list[jax.Array]:
    """One kernel for each output, column by column: `n * m * o` forward passes, no Jacobian of x1.

    `ValueError` where `f` has no forward mode.
    """
    first, leaves = given.sides.first, given.params.leaves
    if not has_forward_mode(lambda w: first.batch(w, first.data), leaves):
        msg = (
            "NTK_VECTOR_PRODUCTS needs forward-mode differentiation, which f does not have "
            "(custom_vjp functions do not). Use implementation=NtkImplementation.AUTO or "
            "JACOBIAN_CONTRACTION."
        )
        raise ValueError(msg)
    second = given.sides.other
    return mapped(
        first, lambda side: [_by_columns(side, second, leaves, ax, r) for r, ax in enumerate(axes)]
    )


def _by_columns(
    first: Side, second: Side, leaves: list[jax.Array], ax: KernelAxes, r: int
) -> jax.Array:
    axis = first.out_axes[r]
    example2 = [d for a, d in enumerate(second.outputs[r].shape) if a != second.out_axes[r]]
    q = math.prod(example2)
    each = in_turn if first.in_sequence else jax.vmap

    def columns(data1: list[jax.Array], data2: list[jax.Array]) -> jax.Array:
        y, pullback = jax.vjp(lambda w: second.example(w, data2)[r], leaves)
        basis = varying(jnp.eye(q, dtype=y.dtype).reshape(q, *example2), varying_axes(y))

        def column(e: jax.Array) -> jax.Array:
            (tangent,) = pullback(e)
            return jax.jvp(lambda w: first.example(w, data1)[r], (leaves,), (tangent,))[1]

        return each(column)(basis)  # [q, *example1]

    labels1, labels2 = list(ax.first), list(ax.second)
    if axis is None:
        kernel, batch_labels = columns(first.data, second.data), []
    elif axis in ax.trace + ax.diagonal:
        kernel = each(columns, in_axes=(first.axes, second.axes))(first.data, second.data)
        batch_labels = [labels1[axis]]
    else:
        over_n = each(columns, in_axes=(first.axes, None))
        kernel = each(over_n, in_axes=(None, second.axes))(first.data, second.data)
        batch_labels = [labels2[axis], labels1[axis]]
    batch_shape = kernel.shape[: len(batch_labels)]
    example1 = kernel.shape[len(batch_labels) + 1 :]
    kernel = kernel.reshape(*batch_shape, *example2, *example1)
    if axis is not None:
        del labels1[axis], labels2[axis]
    kernel = jnp.einsum(kernel, [*batch_labels, *labels2, *labels1], ax.result)
    dtype = kernel_dtype(first.outputs[r], second.outputs[r], *leaves)
    return kernel.astype(dtype) / ax.size(first.outputs[r].shape)
