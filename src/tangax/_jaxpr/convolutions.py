"""Convolutions in the layout that XLA for CPUs is fast at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .core import Equation, Jaxpr, bind, called, holds, name, replayed, scan, subjaxprs, unwrap


def convolves(jaxpr: Jaxpr) -> bool:
    """Whether a convolution is anywhere in a jaxpr."""
    return holds(jaxpr, lambda eqn: name(eqn) == "conv_general_dilated")


def channels_last(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with every convolution over `[batch, *space, channels]`, in loops and calls too.

    XLA for CPUs runs those in other layouts up to fifty times slower inside a loop than outside,
    and the transpose of one has such a layout.
    """

    def changed(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
        results = replayed(unwrap(closed), jax.tree.leaves(args), _entered)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return changed


def _entered(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation, the convolutions in it channels last."""
    if not any(convolves(unwrap(b)) for b in subjaxprs(eqn)):
        return convolved(eqn, values)
    body, loop = called(eqn), scan(eqn)
    if body is not None:

        def run(*values: Any) -> list[Any]:
            return replayed(body, values, _entered)

        if name(eqn) in ("remat2", "checkpoint"):
            kept = {k: eqn.params[k] for k in ("prevent_cse", "policy")}
            run = jax.checkpoint(run, **kept)
        return run(*values)
    if loop is None:
        return bind(eqn, values)
    consts, init, xs = loop.parts(values)

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        results = replayed(loop.body, [*consts, *carry, *x], _entered)
        return results[: loop.carry], results[loop.carry :]

    carry, ys = loop.run(step, init, xs)
    return [*carry, *ys]


def convolved(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation; a convolution channels last. A depthwise one is faster left alone."""
    if name(eqn) != "conv_general_dilated" or eqn.params["batch_group_count"] != 1:
        return bind(eqn, values)
    given = eqn.params["dimension_numbers"]
    x, w, y = (
        (spec[a], *spec[2:], spec[b])
        for spec, a, b in ((given.lhs_spec, 0, 1), (given.rhs_spec, 1, 0), (given.out_spec, 0, 1))
    )
    w = (*w[1:-1], w[0], w[-1])
    if values[1].shape[w[-2]] == 1:
        return bind(eqn, values)
    last = len(y) - 1
    data, space = (0, last, *range(1, last)), tuple(range(last - 1))
    numbers = jax.lax.ConvDimensionNumbers(data, (last, last - 1, *space), data)
    moved = [jnp.transpose(v, spec) for v, spec in zip(values, (x, w), strict=True)]
    params = eqn.params | {"dimension_numbers": numbers}
    (result,) = bind(eqn.replace(params=params), moved)
    return [jnp.transpose(result, [y.index(a) for a in range(len(y))])]
