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
from .._shared.settings import users_promotion
from .._shared.trees import (
    Params,
    constant_params,
    describe,
    dtype_is,
    named_leaves,
    split_params,
)
from .._shared.user_line import warn_first
from .inputs import ORDER, check_same_inputs, is_pair, second_inputs, told_of, warn_of_statistics


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
class Pair:
    """Both sides, the parameters, and the names and tree of the outputs."""

    first: Side
    second: Side
    same: bool
    params: Params
    names: list[str]
    treedef: Any

    def axes(self, trace: Axes, diagonal: Axes) -> list[KernelAxes]:
        """The canonical axes of each output's kernel."""
        return [
            kernel_axes(name, y1.shape, y2.shape, trace, diagonal)
            for name, y1, y2 in zip(
                self.names, self.first.outputs, self.second.outputs, strict=True
            )
        ]


def pair_sides(
    f: Callable[..., Any],
    x1: Any,
    x2: Any,
    params: Any,
    vmap_axes: VmapAxes,
    kwargs: dict[str, Any],
    *,
    differentiate: bool,
    split: bool = True,
) -> Pair:
    """Bring the arguments of a kernel call into the form that every method works on.

    `split`: a keyword argument that is a tuple of two is one for each side.
    """
    kwargs1, kwargs2, is_split = split_kwargs(kwargs) if split else (kwargs, kwargs, False)
    x2 = second_inputs(x1, x2)
    same = x2 is None and not is_split
    if x2 is None:
        x2 = x1
    else:
        check_same_inputs(x1, x2)
        if split and kwargs.get("rng") is not None and not is_pair(kwargs["rng"]):
            same_inputs = are_equal(x1, x2)
            keys = jax.tree.map(lambda key: second_key(key, same_inputs), kwargs["rng"])
            kwargs2 = kwargs2 | {"rng": keys}
    known = split_params(params, ORDER) if differentiate else constant_params(params)
    if differentiate:  # else derivatives would be summed over a mesh
        axes = varying_axes(x1, x2, kwargs1, kwargs2, known.leaves)
        known = replace(known, leaves=varying(known.leaves, axes))
        x1, x2 = varying(x1, axes), varying(x2, axes)  # a loop may begin with the one or the other
    first, names, treedef = make_side(f, "x1", x1, known, vmap_axes, kwargs1)
    if same:
        return Pair(first, first, same, known, names, treedef)
    second, _, treedef2 = make_side(f, "x2", x2, known, vmap_axes, kwargs2)
    check_same_outputs(treedef, treedef2)
    return Pair(first, second, same, known, names, treedef)


def check_same_outputs(treedef1: Any, treedef2: Any) -> None:
    """`f` returns one tree, whatever `x` is."""
    if treedef1 != treedef2:
        msg = f"f must return the same tree for x1 and x2, got {treedef1} and {treedef2}."
        raise ValueError(msg)


def split_kwargs(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Keyword arguments for `x1` and for `x2`: a pair (tuple of two) is one for each."""
    first = {k: v[0] if is_pair(v) else v for k, v in kwargs.items()}
    second = {k: v[1] if is_pair(v) else v for k, v in kwargs.items()}
    return first, second, any(map(is_pair, kwargs.values()))


def second_key(key: Any, same_inputs: jax.Array | bool) -> jax.Array:
    """The key (or keys) for `x2`: that of `x1` for equal inputs, else folded into another."""
    typed = dtype_is(key, jax.dtypes.prng_key)
    if not typed and not (dtype_is(key, jnp.uint32) and key.ndim):
        raise TypeError(f"rng must be a key of jax.random or a tree of keys, got {describe(key)}.")
    key = jnp.asarray(key)
    fold = lambda k: jax.random.fold_in(k, 1)  # noqa: E731
    for _ in range(key.ndim if typed else key.ndim - 1):
        fold = jax.vmap(fold)
    return jnp.where(same_inputs, key, fold(key))


def are_equal(x1: Any, x2: Any) -> jax.Array | bool:
    """Whether two trees of inputs have equal shapes and values."""
    equal: jax.Array | bool = True
    for a, b in zip(jax.tree.leaves(x1), jax.tree.leaves(x2), strict=True):
        a, b = jnp.asarray(a), jnp.asarray(b)
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        equal = equal & jnp.all(a == b)
    return equal


def make_side(
    f: Callable[..., Any],
    name: str,
    x: Any,
    params: Params,
    vmap_axes: VmapAxes,
    kwargs: dict[str, Any],
) -> tuple[Side, list[str], Any]:
    """One side, the names of its outputs and their tree."""
    in_axes, out_axes, kwargs_axes = split_vmap_axes(vmap_axes)
    check_passed(kwargs_axes, kwargs)
    inputs = {"x": x, "kwargs": {k: kwargs[k] for k in kwargs_axes}}
    flat, input_tree = jax.tree.flatten(inputs)
    x_axes = batch_axes(name, in_axes, x)
    kw_axes = [
        axis for k in sorted(kwargs_axes) for axis in batch_axes(k, kwargs_axes[k], kwargs[k])
    ]
    axes = [*kw_axes, *x_axes]  # dicts flatten in the order of their keys: kwargs before x
    mapped = [i for i, axis in enumerate(axes) if axis is not None]
    data = [jnp.asarray(flat[i]) for i in mapped]
    data_axes = [axes[i] for i in mapped if axes[i] is not None]
    input_names = [*(n for k in sorted(kwargs_axes) for n, _ in named_leaves(k, kwargs[k]))]
    input_names += [n for n, _ in named_leaves(name, x)]
    n = batch_length([input_names[i] for i in mapped], data, data_axes)  # pyright: ignore[reportArgumentType]

    def whole(leaves: list[jax.Array], data: list[jax.Array]) -> Any:
        values = list(flat)
        for i, d in zip(mapped, data, strict=True):
            values[i] = d
        rebuilt = jax.tree.unflatten(input_tree, values)
        with users_promotion():
            return f(params.merge(leaves), rebuilt["x"], **(kwargs | rebuilt["kwargs"]))

    with told_of(name, x, params.merge(params.leaves)):
        out_tree = jax.eval_shape(whole, params.leaves, data)
    named = named_leaves("f(params, x)", out_tree)
    check_outputs(named, differentiate=bool(params.leaves))
    canonical_out = batch_axes("f(params, x)", out_axes, out_tree)
    if n is None and any(axis is not None for axis in canonical_out):
        raise ValueError(f"vmap_axes={vmap_axes!r} gives no input a batch axis, but outputs one.")
    check_batched_outputs(named, canonical_out, n, name)

    side = Side(
        batch=lambda leaves, data: [jnp.asarray(y) for y in jax.tree.leaves(whole(leaves, data))],
        data=data,
        axes=data_axes,  # pyright: ignore[reportArgumentType]
        n=n,
        outputs=jax.tree.leaves(out_tree),
        out_axes=canonical_out,
    )
    return side, [n for n, _ in named], jax.tree.structure(out_tree)


def check_passed(kwargs_axes: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """Every keyword argument that has an axis was passed."""
    unknown = sorted(set(kwargs_axes) - set(kwargs))
    if unknown:
        msg = (
            f"vmap_axes names the keyword argument {unknown[0]!r}, which was not passed. A tuple "
            "of three that ends in a dict is (in_axes, out_axes, kwargs_axes); where it is a tree "
            "of axes for x, pass it as in_axes of such a triple."
        )
        raise ValueError(msg)


def batch_length(names: list[str], data: list[jax.Array], axes: list[int]) -> int | None:
    """The number of examples; `ValueError` naming two leaves that disagree."""
    sizes = [d.shape[a] for d, a in zip(data, axes, strict=True)]
    for other, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            msg = (
                "all leaves must have the same number of examples along their batch axes, but "
                f"{names[0]} has {sizes[0]} and {other} has {size}."
            )
            raise ValueError(msg)
    return sizes[0] if sizes else None


def check_outputs(named: list[tuple[str, Any]], *, differentiate: bool) -> None:
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


def check_batched_outputs(
    named: list[tuple[str, Any]], axes: list[int | None], n: int | None, x: str
) -> None:
    """Every output of a mapped `f` has the batch along its axis."""
    if n is None:
        return
    for (name, y), axis in zip(named, axes, strict=True):
        if axis is None or y.shape[axis] != n:
            got = "no batch axis" if axis is None else f"axis {axis} of shape {y.shape}"
            msg = (
                f"vmap_axes gives {name} {got}, but {x} holds {n} examples: every output must "
                "have all of them along its batch axis."
            )
            raise ValueError(msg)


def warn_of_traced_batch(warned: set[Any], pair: Pair, axes: list[KernelAxes], x1: Any) -> None:
    """Warn, once, of a sum over examples: mostly an `f` with outputs `(n,)`, under default axes."""
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(x1) if getattr(leaf, "shape", ())}
    for name, y, axis, ax in zip(
        pair.names, pair.first.outputs, pair.first.out_axes, axes, strict=True
    ):
        guessed = 0 if axis is None and len(y.shape) == 1 and y.shape[0] in lengths else axis
        if guessed in ax.trace:
            batch = "which looks like the batch axis" if axis is None else "the batch axis"
            msg = (
                f"trace_axes sums over axis {guessed} of {name} (shape {y.shape}), {batch}: the "
                "kernel has no pairs of examples. Pass trace_axes=() if f returns shape (n,)."
            )
            warn_first(warned, "traced", msg)
            return


def warn_once(warned: set[Any], pair: Pair, axes: list[KernelAxes], x1: Any) -> None:
    """Warn of a traced batch axis, and of batch statistics, once for each kernel function."""
    warn_of_traced_batch(warned, pair, axes, x1)
    warn_of_statistics(warned, pair.params.paths)
