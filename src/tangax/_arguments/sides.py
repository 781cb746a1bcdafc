"""The two sides of a kernel: `f` of the parameters, over the examples of `x1` or of `x2`.

Everything that is not an example is closed over: constants among the parameters, inputs and
keyword arguments without a batch axis. With `vmap_axes=None` there is one "example", the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from .._shared.axes import Axes, KernelAxes, VmapAxes, batch_axes, kernel_axes, split_vmap_axes
from .._shared.derivatives import in_turn
from .._shared.meshes import varying, varying_axes
from .._shared.pair import Pair
from .._shared.settings import users_promotion
from .._shared.trees import Params, constant_params, describe, named_leaves, split_params
from .._shared.user_line import warn_first
from .inputs import ORDER, on_inputs, on_some, told, warn_of_statistics
from .reading import are_equal, each_side, read_inputs


@dataclass(frozen=True)
class Side:
    """`f` over the `n` examples of one argument (`n=None`: the whole batch is one example).

    `batch(leaves, data)` is `f` on examples together, as a list of outputs with their batch axis at
    `out_axes`; `data` are the arrays that hold examples, along `axes`. `in_sequence`: one after the
    other, for what `vmap` refuses.
    """

    batch: Callable[[list[jax.Array], list[jax.Array]], list[jax.Array]]
    data: list[jax.Array]
    axes: list[int]
    n: int | None
    outputs: list[jax.ShapeDtypeStruct]
    out_axes: list[int | None]
    in_sequence: bool = False

    def example(self, leaves: list[jax.Array], data: list[jax.Array]) -> list[jax.Array]:
        """`f` on one example, without batch axes."""
        data = [jnp.expand_dims(d, a) for d, a in zip(data, self.axes, strict=True)]
        outputs = self.batch(leaves, data)
        return [
            y if a is None else jnp.squeeze(y, a)
            for y, a in zip(outputs, self.out_axes, strict=True)
        ]

    def map(self, function: Callable[..., Any], *stacked: Any) -> Any:
        """`function(data, *stacked)` for every example, results stacked along axis 0.

        `stacked` has the examples along axis 0 too. Without a batch there is one, and no such axis.
        """
        if self.n is None:
            return function(self.data, *stacked)
        each = in_turn if self.in_sequence else jax.vmap
        return each(function, in_axes=(self.axes, *[0] * len(stacked)))(self.data, *stacked)

    def placed(self, outputs: list[jax.Array]) -> list[jax.Array]:
        """One array for each output: its batch axis, in front, moved to where `f` has it."""
        return [place_batch(y, a) for y, a in zip(outputs, self.out_axes, strict=True)]


def place_batch(array: jax.Array, axis: int | None) -> jax.Array:
    """Move the leading batch axis, if there is one, to its place among the output axes."""
    return array if axis is None else jnp.moveaxis(array, 0, axis)


@dataclass(frozen=True)
class Arguments:
    """What a kernel call is given: both sides, the parameters, names and tree of the outputs."""

    sides: Pair[Side]
    params: Params
    names: list[str]
    treedef: Any

    def axes(self, trace: Axes, diagonal: Axes) -> list[KernelAxes]:
        outputs = (side.outputs for side in self.sides.sides)
        return [
            kernel_axes(name, y1.shape, y2.shape, trace, diagonal)
            for name, y1, y2 in zip(self.names, *outputs, strict=True)
        ]


def read_arguments(
    f: Callable[..., Any],
    x1: Any,
    x2: Any,
    params: Any,
    vmap_axes: VmapAxes,
    kwargs: dict[str, Any],
    *,
    differentiate: bool,
) -> Arguments:
    """Bring the arguments of a kernel call into the form that every method works on."""
    each = each_side(x1, x2, kwargs, lambda x1, x2, _: are_equal(x1, x2))
    return _arguments(f, each, params, vmap_axes, differentiate=differentiate)


def read_one_side(
    f: Callable[..., Any],
    x: Any,
    params: Any,
    vmap_axes: VmapAxes,
    kwargs: dict[str, Any],
    *,
    differentiate: bool,
) -> Arguments:
    """The same of one side alone, whose keyword arguments are no pairs."""
    return _arguments(f, Pair((x, kwargs)), params, vmap_axes, differentiate=differentiate)


def _arguments(
    f: Callable[..., Any],
    each: Pair[tuple[Any, dict[str, Any]]],
    params: Any,
    vmap_axes: VmapAxes,
    *,
    differentiate: bool,
) -> Arguments:
    known = split_params(params, ORDER) if differentiate else constant_params(params)
    if differentiate:  # else derivatives would be summed over a mesh
        axes = varying_axes(each, known.leaves)
        known = replace(known, leaves=varying(known.leaves, axes))
        # A loop may begin with the one or the other.
        each = each.map(lambda side: (varying(side[0], axes), side[1]))
    first, names, treedef = _make_side(f, "x1", each.first, known, vmap_axes)
    if each.second is None:
        return Arguments(Pair(first), known, names, treedef)
    second, _, treedef2 = _make_side(f, "x2", each.second, known, vmap_axes)
    check_same_outputs(treedef, treedef2)
    return Arguments(Pair(first, second), known, names, treedef)


def check_same_outputs(treedef1: Any, treedef2: Any) -> None:
    if treedef1 != treedef2:
        msg = f"f must return the same tree for x1 and x2, got {treedef1} and {treedef2}."
        raise ValueError(msg)


def _make_side(
    f: Callable[..., Any],
    name: str,
    given: tuple[Any, dict[str, Any]],
    params: Params,
    vmap_axes: VmapAxes,
) -> tuple[Side, list[str], Any]:
    inputs = read_inputs(name, given[0], vmap_axes, given[1])
    mapped = [(i, axis) for i, axis in enumerate(inputs.axes) if axis is not None]
    data = [jnp.asarray(inputs.leaves[i]) for i, _ in mapped]

    def whole(leaves: list[jax.Array], data: list[jax.Array]) -> Any:
        values = list(inputs.leaves)
        for (i, _), d in zip(mapped, data, strict=True):
            values[i] = d
        x, kwargs = inputs.arguments(values)
        with users_promotion():
            return f(params.merge(leaves), x, **kwargs)

    with told(lambda: on_inputs(name, given[0], params.merge(params.leaves))):
        out_tree = jax.eval_shape(whole, params.leaves, data)
    named = named_leaves("f(params, x)", out_tree)
    _check_outputs(named, differentiate=bool(params.leaves))
    out_axes = batch_axes("f(params, x)", split_vmap_axes(vmap_axes)[1], out_tree)
    if inputs.n is None and any(axis is not None for axis in out_axes):
        raise ValueError(f"vmap_axes={vmap_axes!r} gives no input a batch axis, but outputs one.")
    _check_batched_outputs(named, out_axes, inputs.n, f"{name} holds {inputs.n} examples")

    def batch(leaves: list[jax.Array], data: list[jax.Array]) -> list[jax.Array]:
        """`f` on all of the examples, or on some of them."""
        k = None if inputs.n is None else data[0].shape[mapped[0][1]]
        with told(lambda: on_some(name, k, inputs.n, inputs.constants)):
            outputs = whole(leaves, data)
            given = f"f was given {k} of the {inputs.n} examples of {name}"
            _check_batched_outputs(named_leaves("f(params, x)", outputs), out_axes, k, given)
        return [jnp.asarray(y) for y in jax.tree.leaves(outputs)]

    side = Side(
        batch=batch,
        data=data,
        axes=[axis for _, axis in mapped],
        n=inputs.n,
        outputs=jax.tree.leaves(out_tree),
        out_axes=out_axes,
    )
    return side, [name for name, _ in named], jax.tree.structure(out_tree)


def _check_outputs(named: list[tuple[str, Any]], *, differentiate: bool) -> None:
    """`f` returns arrays, real ones; floating-point ones where they are differentiated."""
    if not named:
        raise ValueError("f returned no array: its output is an empty tree.")
    for name, y in named:
        if jnp.issubdtype(y.dtype, jnp.complexfloating):
            raise TypeError(f"{name} is complex ({y.dtype}); only real outputs are supported.")
        if differentiate and not jnp.issubdtype(y.dtype, jnp.floating):
            msg = (
                f"{name} is {describe(y)}, which has no derivative; return floating-point outputs "
                "only, or leave this one out."
            )
            raise TypeError(msg)


def _check_batched_outputs(
    named: list[tuple[str, Any]], axes: list[int | None], n: int | None, given: str
) -> None:
    if n is None:
        return
    for (name, y), axis in zip(named, axes, strict=True):
        if axis is None or y.shape[axis] != n:
            got = "no batch axis" if axis is None else f"axis {axis} of shape {y.shape}"
            msg = (
                f"vmap_axes gives {name} {got}, but {given}: every output must have all of them "
                "along its batch axis."
            )
            raise ValueError(msg)


def warn_of_axes(warned: set[Any], given: Arguments, axes: list[KernelAxes], x1: Any) -> None:
    """Warn, once, of a traced batch axis and of batch statistics."""
    _warn_of_traced_batch(warned, given, axes, x1)
    warn_of_statistics(warned, given.params)


def _warn_of_traced_batch(
    warned: set[Any], given: Arguments, axes: list[KernelAxes], x1: Any
) -> None:
    """A sum over examples is mostly an `f` with outputs `(n,)`, under default axes."""
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(x1) if getattr(leaf, "shape", ())}
    first = given.sides.first
    for name, y, axis, ax in zip(given.names, first.outputs, first.out_axes, axes, strict=True):
        guessed = 0 if axis is None and len(y.shape) == 1 and y.shape[0] in lengths else axis
        if guessed in ax.trace:
            batch = "which looks like the batch axis" if axis is None else "the batch axis"
            msg = (
                f"trace_axes sums over axis {guessed} of {name} (shape {y.shape}), {batch}: the "
                "kernel has no pairs of examples. Pass trace_axes=() if f returns shape (n,)."
            )
            warn_first(warned, "traced", msg)
            return
