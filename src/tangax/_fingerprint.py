"""What tells one kernel from another: a function's jaxpr, arrays, and everything else by value."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp

from . import _jaxpr
from ._examples import update
from ._halves import Call
from ._trees import join_arrays, leaf_name, split_arrays, split_params, split_shapes


def fingerprint(call: Call, function: str, version: str) -> dict[str, str]:
    """By what a message calls it: a hash, or the value where that can be read."""
    fn = call.fn.ntk_fn
    trace, diagonal = call.axes
    found = {
        "function": function,
        "parameters": tree_digest("params", call.params),
        "x1": call.sides[0].digest(),
        "x2": "the same as x1" if call.same else call.sides[1].digest(),
        "keyword arguments of x1": tree_digest("kwargs", call.sides[0].constants),
        "keyword arguments of x2": tree_digest("kwargs", call.sides[1].constants),
        "kernels": ", ".join(call.names),
        "trace_axes": str(trace),
        "diagonal_axes": str(diagonal),
        "vmap_axes": str(fn.vmap_axes),
        "precision": str(fn.precision),
        "implementation": str(int(fn.implementation)) if "ntk" in call.names else "none",
        "version of tangax": version,
    }
    return found


def function_digest(call: Call) -> str:
    """Of `f` on one example of each side, and of its derivative: rules may be the user's own.

    Values of parameters are left out, unless `f` asks for them.
    """
    sha = hashlib.sha256()
    for side in call.sides[: 2 - call.same]:
        x, kwargs = side.shapes(1)
        try:
            jaxpr = traced(call, *split_arrays((call.params, x, kwargs)))
        except jax.errors.ConcretizationTypeError:
            jaxpr = traced(call, *split_shapes((call.params, x, kwargs)))
        _jaxpr.digest(jaxpr, sha)
    return sha.hexdigest()


def traced(call: Call, static: Any, arrays: list[Any]) -> _jaxpr.Jaxpr:
    """The jaxpr of `f`, and of its pullback where it has one that is needed."""

    def evaluated(arrays: list[Any]) -> Any:
        params, x, kwargs = join_arrays(static, arrays)
        return call.fn.ntk_fn.f(params, x, **kwargs)

    def differentiated(arrays: list[Any]) -> Any:
        params, x, kwargs = join_arrays(static, arrays)
        split = split_params(params)
        f = lambda w: call.fn.ntk_fn.f(split.merge(w), x, **kwargs)  # noqa: E731
        y, pullback = jax.vjp(f, split.leaves)
        return y, pullback(jax.tree.map(jnp.ones_like, y))

    if "ntk" in call.names:
        try:
            return _jaxpr.trace(differentiated, arrays)
        except (TypeError, ValueError, NotImplementedError) as error:
            if isinstance(error, jax.errors.ConcretizationTypeError):
                raise
    return _jaxpr.trace(evaluated, arrays)


def tree_digest(root: str, tree: Any) -> str:
    """Of every leaf, with its path."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        sha.update(leaf_name(root, path).encode())
        update(sha, leaf)
    return sha.hexdigest()
