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
import numpy as np

from .. import _jaxpr
from .memory import nbytes
from .trees import kernel_dtype
from .tuning import ROW_BYTES

# What JAX raises where there is no reverse mode, or no forward mode.
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
        return _jacobian_by_rows(f, primal) if in_sequence else jax.jacrev(f)(primal)
    except REFUSALS as no_reverse:
        try:
            return jax.jacfwd(f)(primal)
        except REFUSALS:
            raise no_reverse from None


def _jacobian_by_rows(f: Callable[..., Any], primal: Any) -> list[Any]:
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
    `v -> J^T v` is linear in `v`, and its transpose is `t -> J t`. The backward rule of a
    `custom_vjp` need not be linear, nor have a transpose. Its Jacobian then is what reverse mode
    says of each output by itself, `J[i] = rule(e_i)`, and `J t` is taken row by row.
    """
    f = _jaxpr.frozen(f, primal)
    if has_forward_mode(f, primal):
        return jax.jvp(f, (primal,), (tangent,))
    outputs, pullback = _vjp(f, primal)
    seeds = [y for y in jax.tree.leaves(outputs) if _is_real(y)]
    transposed = _transposed(pullback, seeds)
    slopes = _by_rows(pullback, seeds, tangent) if transposed is None else transposed(tangent)
    it = iter(slopes)
    still = lambda y: np.zeros(jnp.shape(y), jax.dtypes.float0)  # noqa: E731
    return outputs, jax.tree.map(lambda y: next(it) if _is_real(y) else still(y), outputs)


def pullback(f: Callable[..., Any], primal: Any) -> Callable[[Any], Any]:
    """`v -> J^T v` of an `f` with floating-point outputs, of the same `J` as `pushforward`.

    A backward rule that is not linear takes `v` for another vector than the sum of its entries.
    """
    f = _jaxpr.frozen(f, primal)
    outputs, pull = _vjp(f, primal)
    seeds, treedef = jax.tree.flatten(outputs)
    if not _jaxpr.keeps_a_rule(_jaxpr.trace(f, primal)) or _transposed(pull, seeds) is not None:
        return lambda vector: pull(treedef.flatten_up_to(vector))
    return lambda vector: _from_rows(pull, seeds, treedef.flatten_up_to(vector))


def goes_by_rows(f: Callable[..., Any], primal: Any) -> bool:
    """Whether `pushforward` takes the Jacobian row by row, as the rule of a `custom_vjp` asks."""
    if not _jaxpr.keeps_a_rule(_jaxpr.trace(f, primal)) or has_forward_mode(f, primal):
        return False
    outputs, pullback = _vjp(f, primal)
    return _transposed(pullback, [y for y in jax.tree.leaves(outputs) if _is_real(y)]) is None


def _vjp(f: Callable[..., Any], primal: Any) -> tuple[Any, Callable[[list[Any]], Any]]:
    """Outputs, and the pullback of those that are floating point."""

    def split(primal: Any) -> Any:
        outputs = f(primal)
        return [y for y in jax.tree.leaves(outputs) if _is_real(y)], outputs

    _, pullback, outputs = jax.vjp(split, primal, has_aux=True)
    return outputs, lambda seeds: pullback(seeds)[0]


def _is_real(y: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(y), jnp.inexact)


def _transposed(pullback: Callable[[list[Any]], Any], seeds: list[Any]) -> Any:
    """The transpose of a pullback; `None` if it has none, or is not known to be linear."""
    pulled = _jaxpr.trace(pullback, seeds)
    if not _jaxpr.is_linear_if_transposed(pulled):
        return None
    replay = _jaxpr.frozen(pullback, seeds)
    try:
        transpose = jax.linear_transpose(replay, seeds)
        jax.eval_shape(transpose, jax.eval_shape(replay, seeds))
    except Exception:  # equations without a transpose refuse in many ways, by `assert` too
        return None
    return lambda tangent: transpose(tangent)[0]


def _blocks(
    pullback: Callable[[list[Any]], Any], seeds: list[Any], r: int, row_bytes: int
) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """The entries of output `r` in blocks, the last filled up, and the rows of a block."""
    y = seeds[r]

    def row(i: jax.Array) -> Any:
        unit = [jnp.zeros_like(z) for z in seeds]
        unit[r] = jnp.zeros(y.size, y.dtype).at[i].set(1).reshape(y.shape)
        return pullback(unit)

    rows = jax.vmap(row)
    size = max(1, min(y.size, ROW_BYTES // max(1, row_bytes)))
    try:
        jax.eval_shape(rows, jnp.arange(size))
    except REFUSALS:  # of a rule that cannot be mapped: entry by entry
        size, rows = 1, lambda index: jax.tree.map(lambda j: j[None], row(index[0]))
    steps = -(-y.size // size)
    return jnp.minimum(jnp.arange(steps * size), y.size - 1).reshape(steps, size), rows


def _by_rows(pullback: Callable[[list[Any]], Any], seeds: list[Any], tangent: Any) -> list[Any]:
    """`J t` of every output: a backward pass for each of its entries, some at a time."""
    tangents = jax.tree.leaves(tangent)
    slopes = []
    for r, y in enumerate(seeds):
        if not y.size:
            slopes.append(y)
            continue
        blocks, rows = _blocks(pullback, seeds, r, nbytes((seeds, tangents)))
        dtype = kernel_dtype(y, *(t for t in tangents if _is_real(t)))

        def along(index: jax.Array, rows: Any = rows, dtype: Any = dtype) -> jax.Array:
            terms = [
                jnp.tensordot(j.astype(dtype), t.astype(dtype), t.ndim, precision="highest")
                for j, t in zip(jax.tree.leaves(rows(index)), tangents, strict=True)
                if _is_real(t)
            ]
            return sum(terms, start=jnp.zeros(index.shape, dtype))

        slope = jax.lax.map(along, blocks).reshape(-1)[: y.size]
        slopes.append(slope.astype(y.dtype).reshape(y.shape))
    return slopes


def _from_rows(pullback: Callable[[list[Any]], Any], seeds: list[Any], vectors: list[Any]) -> Any:
    """`J^T v`, the sum of the rows: a backward pass for each output, some at a time."""
    total = jax.tree.map(jnp.zeros_like, jax.eval_shape(pullback, seeds))
    for r, v in enumerate(vectors):
        if not v.size:
            continue
        blocks, rows = _blocks(pullback, seeds, r, nbytes((seeds, total)))
        weights = jnp.pad(jnp.ravel(v), (0, blocks.size - v.size)).reshape(blocks.shape)

        def add(total: Any, block: Any, rows: Any = rows) -> Any:
            index, weights = block

            def added(t: jax.Array, j: jax.Array) -> jax.Array:
                return t + jnp.tensordot(weights.astype(t.dtype), j, 1, precision="highest")

            return jax.tree.map(added, total, rows(index)), None

        total, _ = jax.lax.scan(add, total, (blocks, weights))
    return total


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
