"""What tells one kernel from another: a function's jaxpr, arrays, and everything else by value."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _jaxpr
from .._shared.derivatives import REFUSALS
from .._shared.trees import join_arrays, leaf_name, split_arrays, split_params, split_shapes
from .examples import update
from .halves import Call


def fingerprint(call: Call, function: str, version: str) -> dict[str, str]:
    """By what a message calls it: a hash, or the value where that can be read."""
    fn = call.fn.ntk_fn
    trace, diagonal = call.axes
    parts = {
        "function": function,
        "parameters": _tree_digest("params", call.params),
        "x1": call.sides.first.digest(),
        "x2": "the same as x1" if call.sides.same else call.sides.other.digest(),
        "keyword arguments of x1": _tree_digest("kwargs", call.sides.first.constants),
        "keyword arguments of x2": _tree_digest("kwargs", call.sides.other.constants),
        "kernels": ", ".join(call.names),
        "trace_axes": str(trace),
        "diagonal_axes": str(diagonal),
        "vmap_axes": str(fn.vmap_axes),
        "precision": str(fn.precision),
        "implementation": str(int(fn.implementation)) if "ntk" in call.names else "none",
        "version of tangax": version,
    }
    return parts


def function_digest(call: Call) -> str:
    """Of `f` on one example of each side, and of its derivative: rules may be the user's own.

    Values of parameters are left out, unless `f` asks for them. `ValueError` for an `f` that cannot
    be told from others.
    """
    sha = hashlib.sha256()
    for side in call.sides.distinct:
        x, kwargs = side.shapes(1)
        try:
            jaxprs = traced(call, *split_arrays((call.params, x, kwargs)))
        except jax.errors.ConcretizationTypeError:
            jaxprs = traced(call, *split_shapes((call.params, x, kwargs)))
        for jaxpr, forward in jaxprs:
            sha.update(_jaxpr.digest(jaxpr, forward=forward))
    return sha.hexdigest()


def traced(call: Call, static: Any, arrays: list[Any]) -> list[tuple[_jaxpr.Jaxpr, bool]]:
    """The jaxprs of `f` and, where it is needed, of its derivative; whether that is forward mode.

    The derivative shows every rule that it calls, in loops and branches too: those of a
    `custom_vjp` and of transposes in reverse mode alone, those in a `while_loop` in forward mode.
    """

    def evaluated(arrays: list[Any]) -> Any:
        params, x, kwargs = join_arrays(static, arrays)
        return call.fn.ntk_fn.f(params, x, **kwargs)

    def split(arrays: list[Any]) -> tuple[Any, list[Any]]:
        params, x, kwargs = join_arrays(static, arrays)
        parts = split_params(params)
        return lambda w: call.fn.ntk_fn.f(parts.merge(w), x, **kwargs), parts.leaves

    def reverse(arrays: list[Any]) -> Any:
        f, leaves = split(arrays)
        y, pullback = jax.vjp(f, leaves)
        return y, pullback(jax.tree.map(cotangent, y))

    def forward(arrays: list[Any]) -> Any:
        f, leaves = split(arrays)
        return jax.jvp(f, (leaves,), (leaves,))

    found = [(_jaxpr.trace(evaluated, arrays), False)]
    if "ntk" not in call.names:
        return found
    try:
        return [*found, (_jaxpr.trace(reverse, arrays), False)]
    except REFUSALS as error:
        if isinstance(error, jax.errors.ConcretizationTypeError):
            raise
        return [*found, (_jaxpr.trace(forward, arrays), True)]


def cotangent(y: Any) -> Any:
    """Ones; of what has no derivative, nothing."""
    if jnp.issubdtype(y.dtype, jnp.inexact):
        return jnp.ones_like(y)
    return np.zeros(y.shape, jax.dtypes.float0)


def _tree_digest(root: str, tree: Any) -> str:
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        sha.update(leaf_name(root, path).encode())
        update(sha, leaf)
    return sha.hexdigest()
