"""What the library must equal: kernels and Taylor expansions straight from their definitions.

Deliberately naive: float64, the whole Jacobian of the whole batch, one leaf of `params` after
another, no vmap and no batching. The full kernel `J1 J2^T` is laid out with the axes of `f(x1)`
and `f(x2)` in turn, `[n, m, o, q, ...]`; `trace_axes` and `diagonal_axes` are applied afterwards.
Nothing here is shared with the library.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def naive_ntk(
    f,
    params,
    x1,
    x2=None,
    *,
    trace_axes=(),
    diagonal_axes=(),
    kwargs1=None,
    kwargs2=None,
    forward=False,
):
    """The NTK `J(x1) J(x2)^T` of `f(params, x, **kwargs)`: one kernel per output leaf."""
    x2_or_x1, kwargs1, kwargs2_or_1 = _second(x1, x2, kwargs1, kwargs2)
    first = second = linearised(f, params, x1, kwargs1, forward)
    if x2 is not None or kwargs2 is not None:
        second = linearised(f, params, x2_or_x1, kwargs2_or_1, forward)
    return ntk_of(first, second, trace_axes, diagonal_axes)


class Linearised(NamedTuple):
    """What kernels are made of: outputs, and for each of their leaves the Jacobians `[..., p]`."""

    outputs: Any
    jacobians: list


def ntk_of(first, second, trace_axes=(), diagonal_axes=()):
    """`J1 J2^T` of what `linearised` gives for `x1` and for `x2`: one kernel per output leaf."""
    kernels = []
    for of_output1, of_output2 in zip(first.jacobians, second.jacobians, strict=True):
        of_leaves = zip(of_output1, of_output2, strict=False)  # an empty output has but one
        full = sum(np.tensordot(j1, j2, (-1, -1)) for j1, j2 in of_leaves)
        kernels.append(apply_axes(_zip_axes(full), trace_axes, diagonal_axes))
    return jax.tree.unflatten(jax.tree.structure(first.outputs), kernels)


def naive_nngp(
    f, params, x1, x2=None, *, trace_axes=(), diagonal_axes=(), kwargs1=None, kwargs2=None
):
    """The NNGP `f(x1) f(x2)^T` of `f(params, x, **kwargs)`: one kernel per output leaf."""
    x2, kwargs1, kwargs2 = _second(x1, x2, kwargs1, kwargs2)
    outputs = f(params, x1, **kwargs1), f(params, x2, **kwargs2)
    return nngp_of(*outputs, trace_axes, diagonal_axes)


def nngp_of(outputs1, outputs2, trace_axes=(), diagonal_axes=()):
    """`f1 f2^T` of the outputs for `x1` and for `x2`: one kernel per leaf."""

    def kernel(y1, y2):
        full = np.tensordot(_float64(y1), _float64(y2), 0)
        return apply_axes(_zip_axes(full), trace_axes, diagonal_axes)

    return jax.tree.map(kernel, outputs1, outputs2)


def naive_taylor(f, params, new_params, degree, *args, **kwargs):
    """`sum_k d^k f(params)[dp, ..., dp] / k!` for `k <= degree`, with `dp = new_params - params`.

    Leaves that are not floating point keep their value in `params`.
    """
    leaves, treedef = jax.tree.flatten(params)
    new_leaves = jax.tree.leaves(new_params)
    moving = [i for i, leaf in enumerate(leaves) if _is_floating(leaf)]
    start = [jnp.asarray(leaves[i]) for i in moving]
    dp = [jnp.asarray(new_leaves[i]) - leaves[i] for i in moving]

    def f_of_moving(values):
        full = list(leaves)
        for i, value in zip(moving, values, strict=True):
            full[i] = value
        return f(jax.tree.unflatten(treedef, full), *args, **kwargs)

    def derivative(g):
        return lambda values: jax.jvp(g, (values,), (dp,))[1]

    def add(total, term, k):
        return jax.tree.map(lambda s, y: s + np.asarray(y) / math.factorial(k), total, term)

    g, total = f_of_moving, jax.tree.map(np.asarray, f_of_moving(start))
    for k in range(1, degree + 1):
        g = derivative(g)
        total = add(total, g(start), k)
    return total


def _second(x1, x2, kwargs1, kwargs2):
    """`x2` and `kwargs2` default to `x1` and `kwargs1`."""
    kwargs1 = {} if kwargs1 is None else kwargs1
    return x1 if x2 is None else x2, kwargs1, kwargs1 if kwargs2 is None else kwargs2


def linearised(f, params, x, kwargs, forward=False):
    """The outputs of `f(params, x, **kwargs)` and their Jacobians by each leaf of `params`."""
    leaves, treedef = jax.tree.flatten(params)
    jacobian = jax.jacfwd if forward else jax.jacrev
    moving = [i for i, leaf in enumerate(leaves) if _is_floating(leaf) and np.size(leaf)]

    def of_leaf(i):
        """The Jacobians with respect to leaf `i`, all others held, of the outputs of any size."""

        def sized_outputs(value):
            full = jax.tree.unflatten(treedef, [*leaves[:i], value, *leaves[i + 1 :]])
            return [y for y in jax.tree.leaves(f(full, x, **kwargs)) if y.size]

        return jacobian(sized_outputs)(jnp.asarray(leaves[i]))

    whole = lambda: f(params, x, **kwargs)  # noqa: E731
    shapes = jax.tree.leaves(jax.eval_shape(whole))
    if all(y.size == 0 for y in shapes):
        moving = []
    # One compilation, for speed.
    outputs, of_leaves = jax.jit(lambda: (whole(), [of_leaf(i) for i in moving]))()
    # No parameter at all is a Jacobian without columns, and adds nothing.
    jacobians = [[np.zeros((*y.shape, 0))] for y in shapes]
    sized = [js for js, y in zip(jacobians, shapes, strict=True) if y.size]
    for i, of_outputs in zip(moving, of_leaves, strict=True):
        for js, j in zip(sized, of_outputs, strict=True):
            j = _float64(j)
            js.append(j.reshape(*j.shape[: j.ndim - np.ndim(leaves[i])], np.size(leaves[i])))
    return Linearised(jax.tree.map(np.asarray, outputs), jacobians)


def _zip_axes(full):
    """From `[shape of f(x1)..., shape of f(x2)...]` to the two shapes' axes in turn."""
    rank = full.ndim // 2
    return full.transpose([axis for i in range(rank) for axis in (i, rank + i)])


def apply_axes(kernel, trace_axes, diagonal_axes):
    """Diagonals of the twin axes `(2 i, 2 i + 1)`; for `trace_axes` averaged as well."""
    rank = kernel.ndim // 2
    trace_axes = {_axis(axis, rank) for axis in np.atleast_1d(trace_axes).tolist()}
    diagonal_axes = {_axis(axis, rank) for axis in np.atleast_1d(diagonal_axes).tolist()}
    assert not trace_axes & diagonal_axes, "an axis is either traced or diagonal"
    for i in reversed(range(rank)):  # from the last, so that earlier twins keep their place
        if i in trace_axes | diagonal_axes:
            size = kernel.shape[2 * i]
            assert size == kernel.shape[2 * i + 1], "twin axes must be of one size"
            kernel = np.diagonal(kernel, axis1=2 * i, axis2=2 * i + 1)  # put last
            if i in trace_axes:
                kernel = kernel.sum(-1) / max(size, 1)
            else:
                kernel = np.moveaxis(kernel, -1, 2 * i)
    return np.array(kernel)


def _axis(axis, rank):
    assert -rank <= axis < rank, f"axis {axis} of an output of {rank} axes"
    return int(axis) % rank


def _is_floating(leaf):
    """Whether a leaf of `params` is a parameter; counters, keys and functions are constants."""
    is_number = isinstance(leaf, float | np.generic | np.ndarray | jax.Array)
    return is_number and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _float64(y):
    y = np.asarray(y)
    assert y.dtype == np.float64, f"the oracle wants float64 and got {y.dtype}"
    return y
