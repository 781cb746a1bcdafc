"""Forward and reverse mode for functions that have only one of them.

A `custom_vjp` has no forward mode, a `while_loop` of unknown length no reverse mode. Whatever one
mode refuses is done by the other, at its price; what both refuse raises JAX's own error. An
exception that `f` itself raises passes through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import _jaxpr

REFUSALS = (TypeError, ValueError, NotImplementedError)


def in_turn(function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    """`jax.vmap(function, in_axes)`, one after the other, for what `vmap` refuses.

    `in_axes`: for every argument an axis, `None` or a list of axes.
    """

    def mapped(*args: Any) -> Any:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        fronted = [
            [jnp.moveaxis(x, a, 0) for x, a in zip(arg, axis, strict=True)]
            if isinstance(axis, list)
            else jax.tree.map(lambda x, a=axis: jnp.moveaxis(x, a, 0), arg)
            for arg, axis in zip(args, axes, strict=True)
            if axis is not None
        ]

        def one(some: list[Any]) -> Any:
            remaining = iter(some)
            pairs = zip(args, axes, strict=True)
            return function(*(arg if axis is None else next(remaining) for arg, axis in pairs))

        return jax.lax.map(one, fronted)

    return mapped


def jacobian(f: Callable[..., Any], primal: Any, *, in_sequence: bool = False) -> Any:
    """`df/dprimal` of a list of outputs, each a tree of arrays of `output.shape + leaf.shape`.

    Reverse mode costs one backward pass per output entry. Where there is none, forward mode costs
    one pass per parameter. `in_sequence`: one pass after the other.
    """
    f = _jaxpr.frozen(f, primal)
    try:
        return _by_rows(f, primal) if in_sequence else jax.jacrev(f)(primal)
    except REFUSALS as no_reverse:
        try:
            return jax.jacfwd(f)(primal)
        except REFUSALS:
            raise no_reverse from None


def _by_rows(f: Callable[..., Any], primal: Any) -> list[Any]:
    outputs, pullback = jax.vjp(f, primal)
    zeros = [jnp.zeros_like(y) for y in outputs]

    def rows(r: int, y: jax.Array) -> Any:
        def row(e: jax.Array) -> Any:
            return pullback([*zeros[:r], e.reshape(y.shape), *zeros[r + 1 :]])[0]

        flat = jax.lax.map(row, jnp.eye(y.size, dtype=y.dtype))
        return jax.tree.map(lambda j: j.reshape(*y.shape, *j.shape[1:]), flat)

    return [rows(r, y) for r, y in enumerate(outputs)]


def pushforward(f: Callable[..., Any], primal: Any, tangent: Any) -> tuple[Any, Any]:
    """`f(primal)` and the derivative of `f` along `tangent`.

    Where `f` has no forward mode, the derivative is the transpose of the reverse one:
    `v -> J^T v` is linear in `v`, and its transpose is `t -> J t`.
    """
    f = _jaxpr.frozen(f, primal)
    if has_forward_mode(f, primal):
        return jax.jvp(f, (primal,), (tangent,))
    output, pullback = jax.vjp(f, primal)
    return output, jax.linear_transpose(lambda v: pullback(v)[0], output)(tangent)[0]


def has_forward_mode(f: Callable[..., Any], primal: Any) -> bool:
    """Whether `jax.jvp` accepts `f`. Traces only.

    A `custom_vjp` function is traced without complaint; what it leaves behind fails when it runs.
    """
    f = _jaxpr.frozen(f, primal)
    try:
        traced = _jaxpr.trace(lambda p, t: jax.jvp(f, (p,), (t,)), primal, primal)
    except REFUSALS:
        return False
    return not _jaxpr.is_reverse_only(traced)


def has_reverse_mode(f: Callable[..., Any], primal: Any) -> bool:
    """Whether `jax.vjp` accepts `f`. Traces only."""
    f = _jaxpr.frozen(f, primal)
    try:
        jax.eval_shape(lambda p: jax.vjp(f, p)[1](f(p)), primal)
    except REFUSALS:
        return False
    return True
