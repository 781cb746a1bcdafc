"""Forward and reverse mode for functions that have only one of them.

A `custom_vjp` has no forward mode, a `while_loop` of unknown length no reverse mode. Whatever one
mode refuses is done by the other, at its price; what both refuse raises JAX's own error. An
exception that `f` itself raises passes through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from . import _jaxpr

_REFUSALS = (TypeError, ValueError, NotImplementedError)


def jacobian(f: Callable[..., Any], primal: Any) -> Any:
    """`df/dprimal` as a tree of arrays of shape `output.shape + leaf.shape`.

    Reverse mode costs one backward pass per output entry. Where there is none, forward mode costs
    one pass per parameter.
    """
    f = _jaxpr.frozen(f, primal)
    try:
        return jax.jacrev(f)(primal)
    except _REFUSALS as no_reverse:
        try:
            return jax.jacfwd(f)(primal)
        except _REFUSALS:
            raise no_reverse from None


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
    except _REFUSALS:
        return False
    return not _jaxpr.is_reverse_only(traced)


def has_reverse_mode(f: Callable[..., Any], primal: Any) -> bool:
    """Whether `jax.vjp` accepts `f`. Traces only."""
    f = _jaxpr.frozen(f, primal)
    try:
        jax.eval_shape(lambda p: jax.vjp(f, p)[1](f(p)), primal)
    except _REFUSALS:
        return False
    return True
