"""The only file that knows what a jaxpr looks like: equations, their parameters, their names.

Everything here is a small reading of JAX's intermediate representation, the same on every supported
version; nothing else touches `jax.extend` or an equation's `params`.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

Equation = Any
Variable = Any

_CALLS = frozenset({"jit", "pjit", "remat2", "checkpoint", "closed_call", "call", "core_call"})
_CALLS |= {"core_closed_call", "eval_jaxpr"}


@dataclass(frozen=True)
class Jaxpr:
    """A jaxpr and the values of its constants."""

    jaxpr: Any
    consts: tuple[Any, ...]

    @property
    def equations(self) -> Sequence[Equation]:
        """The equations in order."""
        return self.jaxpr.eqns

    @property
    def invars(self) -> Sequence[Variable]:
        """The variables of the arguments."""
        return self.jaxpr.invars

    @property
    def outvars(self) -> Sequence[Variable]:
        """The variables or literals of the results."""
        return self.jaxpr.outvars

    def environment(
        self, args: Sequence[Any], constant: Callable[[Any], Any] = lambda value: value
    ) -> dict[Variable, Any]:
        """The values of arguments, and of constants or what is made of them."""
        env = dict(zip(self.jaxpr.constvars, map(constant, self.consts), strict=True))
        return env | dict(zip(self.jaxpr.invars, args, strict=True))


def trace(f: Callable[..., Any], *args: Any) -> Jaxpr:
    """The jaxpr of `f` at arguments or shapes."""
    return unwrap(jax.make_jaxpr(f)(*args))


def frozen(f: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """`f` as traced once at `args`: what it raises, it raises now, and it is not called again."""
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
    jaxpr, treedef = unwrap(closed), jax.tree.structure(shapes)

    def replay(*args: Any) -> Any:
        return jax.tree.unflatten(treedef, replayed(jaxpr, jax.tree.leaves(args), bind))

    return replay


def replayed(
    jaxpr: Jaxpr,
    args: Sequence[Any],
    one: Callable[[Equation, Sequence[Any]], list[Any]],
) -> list[Any]:
    """The results of a jaxpr, its equations evaluated by `one`."""
    env = jaxpr.environment(args)
    for eqn in jaxpr.equations:
        values = [read(env, v) for v in eqn.invars]
        env |= dict(zip(eqn.outvars, one(eqn, values), strict=True))
    return [read(env, v) for v in jaxpr.outvars]


def unwrap(closed: Any) -> Jaxpr:
    """A closed or an open jaxpr; JAX 0.12 has one class for both."""
    return Jaxpr(getattr(closed, "jaxpr", closed), tuple(getattr(closed, "consts", ())))


def is_literal(atom: Any) -> bool:
    """Whether `atom` is a value rather than a variable."""
    return isinstance(atom, jex.Literal)


def read(env: dict[Variable, Any], atom: Any) -> Any:
    """The value of a variable or literal."""
    return atom.val if is_literal(atom) else env[atom]


def shape_dtype(atom: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a variable or literal."""
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)


def is_differentiable(atom: Any) -> bool:
    """Whether a variable holds floating-point or complex numbers."""
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)


def name(eqn: Equation) -> str:
    """The name of an equation's primitive."""
    return eqn.primitive.name


def bind(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation; custom derivative rules and rematerialisation stay in force."""
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ([], found)
    out = eqn.primitive.bind(*functions, *values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def convolves(jaxpr: Jaxpr) -> bool:
    """Whether a convolution is anywhere in a jaxpr."""
    return any(
        name(eqn) == "conv_general_dilated" or any(convolves(unwrap(b)) for b in subjaxprs(eqn))
        for eqn in jaxpr.equations
    )


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
    consts, rest = values[: loop.consts], list(values[loop.consts :])

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        results = replayed(loop.body, [*consts, *carry, *x], _entered)
        return results[: loop.carry], results[loop.carry :]

    carry, ys = jax.lax.scan(
        step,
        rest[: loop.carry],
        rest[loop.carry :],
        length=loop.length,
        reverse=loop.reverse,
        unroll=loop.unroll,
    )
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


def source(eqn: Equation) -> str:
    """The user's line that made the equation, `file.py:12`, or nothing."""
    traceback = getattr(getattr(eqn, "source_info", None), "traceback", None)
    ours = (os.path.dirname(jax.__file__) + os.sep, os.path.dirname(__file__) + os.sep)
    for frame in getattr(traceback, "frames", ()):
        file = getattr(frame, "file_name", "")
        if file and not file.startswith((*ours, "<")):
            line = getattr(frame, "start_line", None) or getattr(frame, "line_num", "?")
            return f"{os.path.basename(file)}:{line}"
    return ""


# Calls and loops


def called(eqn: Equation) -> Jaxpr | None:
    """The body of a call that may be inlined (`jit`, `checkpoint`), else nothing."""
    if name(eqn) not in _CALLS:
        return None
    body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return None if body is None else unwrap(body)


@dataclass(frozen=True)
class Scan:
    """A `scan`: its body, and how its operands and results divide into consts, carry, xs and ys."""

    body: Jaxpr
    consts: int
    carry: int
    length: int
    reverse: bool
    unroll: int | bool


def scan(eqn: Equation) -> Scan | None:
    """The parts of a `scan`, else nothing.

    JAX 0.12 has no `num_consts` and `num_carry`. On every version `ys` and `xs` have one dimension
    more in the equation than in the body, and consts and carry have the same.
    """
    if name(eqn) != "scan":
        return None
    body = unwrap(eqn.params["jaxpr"])
    stacked = [
        len(outer.aval.shape) > len(inner.aval.shape)
        for outer, inner in zip(eqn.invars, body.invars, strict=True)
    ]
    carry = sum(
        len(outer.aval.shape) == len(inner.aval.shape)
        for outer, inner in zip(eqn.outvars, body.outvars, strict=True)
    )
    params = eqn.params
    return Scan(
        body,
        consts=len(stacked) - sum(stacked) - carry,
        carry=carry,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )


# Readings of single equations


def is_layout(eqn: Equation) -> bool:
    """Whether it only moves entries, or negates all: its transpose, after it, is the identity."""
    if name(eqn) in ("reshape", "transpose", "squeeze", "expand_dims", "rev", "copy", "copy_p"):
        return True
    if name(eqn) in ("neg", "slice", "split", "unstack"):
        return True
    if name(eqn) == "convert_element_type":
        return jnp.issubdtype(eqn.params["new_dtype"], jnp.floating)
    return is_broadcast(eqn) and not repeats(eqn)


def is_reshape(eqn: Equation) -> bool:
    """Whether it keeps all entries in their order."""
    if name(eqn) == "reshape":
        return eqn.params["dimensions"] is None
    if name(eqn) in ("squeeze", "expand_dims", "copy", "copy_p"):
        return True
    return is_broadcast(eqn) and not repeats(eqn)


def is_broadcast(eqn: Equation) -> bool:
    """Whether the equation is a `broadcast_in_dim` of static shape."""
    return name(eqn) == "broadcast_in_dim" and len(eqn.invars) == 1


def repeats(eqn: Equation) -> bool:
    """Whether a broadcast repeats entries."""
    return math.prod(eqn.params["shape"]) != math.prod(eqn.invars[0].aval.shape)


# Moves of entries

# `(start, limit)` along each axis.
Place = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Move:
    """What a layout equation does to the entries of an array.

    `key`: equal for two that move entries alike; `in_order`: it keeps all of them in their order;
    `isometric`: its transpose, after it, is the identity; `bounds`: the place that it cuts out.
    """

    key: tuple[Any, ...]
    apply: Callable[[jax.Array], jax.Array] = field(compare=False)
    in_order: bool = False
    isometric: bool = True
    bounds: Place | None = None


def move(eqn: Equation, result: int) -> Move:
    """The move that makes a result of a layout equation, or of a broadcast."""
    return Move(
        signature(eqn, result),
        lambda w: bind(eqn, [w])[result],
        is_reshape(eqn),
        is_layout(eqn),
        slice_bounds(eqn, result),
    )


def move_part(eqn: Equation, place: Place) -> tuple[Move, Place] | None:
    """The same for the part of the operand at `place`, and the part's place in the result."""
    if name(eqn) in ("neg", "convert_element_type", "copy", "copy_p"):
        return move(eqn, 0), place
    if name(eqn) == "transpose":
        return move(eqn, 0), tuple(place[a] for a in eqn.params["permutation"])
    key = ((*signature(eqn, 0), place),)
    shape, result = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if is_broadcast(eqn):
        axes = eqn.params["broadcast_dimensions"]
        kept = {b: place[a] for a, b in enumerate(axes) if shape[a] == result[b]}
        there = tuple(kept.get(b, (0, d)) for b, d in enumerate(result))
        spread = functools.partial(
            jax.lax.broadcast_in_dim, shape=sizes(there), broadcast_dimensions=axes
        )
        return Move(key, spread, not repeats(eqn), not repeats(eqn)), there
    wide = [(d, p) for d, p in zip(shape, place, strict=True) if d != 1]
    if is_reshape(eqn) and [d for d, _ in wide] == [d for d in result if d != 1]:
        remaining = (p for _, p in wide)
        there = tuple((0, 1) if d == 1 else next(remaining) for d in result)
        return Move(key, lambda w: w.reshape(sizes(there)), True), there
    return None


def sizes(place: Place) -> tuple[int, ...]:
    """The shape of what has a place."""
    return tuple(limit - start for start, limit in place)


def expansion(axis: int) -> Move:
    """A new axis of length one."""
    return Move((("expand", axis),), lambda w: jnp.expand_dims(w, axis), True)


def reduction(axis: int) -> Move:
    """An axis of length one taken away."""
    return Move((("squeeze", axis),), lambda w: jnp.squeeze(w, axis), True)


@dataclass(frozen=True)
class Join:
    """A `concatenate` or `stack`: the place of each operand, and the axis that is new."""

    places: tuple[Place, ...]
    new_axis: int | None


def join(eqn: Equation) -> Join | None:
    """The places of the operands of a `concatenate` or `stack` in its result, else nothing."""
    if name(eqn) not in ("concatenate", "stack"):
        return None
    result, is_stack = eqn.outvars[0].aval.shape, name(eqn) == "stack"
    axis = eqn.params["axis" if is_stack else "dimension"]
    places, start = [], 0
    for operand in eqn.invars:
        limit = start + (1 if is_stack else operand.aval.shape[axis])
        places.append(tuple((start, limit) if a == axis else (0, d) for a, d in enumerate(result)))
        start = limit
    return Join(tuple(places), axis if is_stack else None)


def cut_out(eqn: Equation, result: int) -> Place | None:
    """The place of which a result is all, with an axis more if it is unstacked; else nothing."""
    if name(eqn) == "slice" and any(stride != 1 for stride in eqn.params["strides"] or ()):
        return None
    return slice_bounds(eqn, result)


def dropped_axis(eqn: Equation) -> int | None:
    """The axis that an `unstack` takes away, else nothing."""
    return eqn.params["axis"] if name(eqn) == "unstack" else None


def signature(eqn: Equation, result: int) -> tuple[Any, ...]:
    """Equal for two results of layout equations that move entries alike. Dtypes do not matter."""
    if name(eqn) in ("convert_element_type", "copy", "copy_p"):
        return ()
    params = tuple(sorted((k, repr(v)) for k, v in eqn.params.items()))
    return ((name(eqn), result, tuple(eqn.invars[0].aval.shape), params),)


def slice_bounds(eqn: Equation, result: int) -> Place | None:
    """The place that holds a slice, or one part of a split; else nothing.

    It holds more where the slice has strides.
    """
    params, shape = eqn.params, eqn.invars[0].aval.shape
    if name(eqn) == "slice":
        return tuple(zip(params["start_indices"], params["limit_indices"], strict=True))
    if name(eqn) not in ("split", "unstack"):
        return None
    axis = params["axis"] % len(shape)
    lengths = params["sizes"] if name(eqn) == "split" else (1,) * shape[axis]
    start = int(sum(lengths[:result]))
    part = (start, start + int(lengths[result]))
    return tuple(part if a == axis else (0, d) for a, d in enumerate(shape))


@dataclass(frozen=True)
class Dot:
    """A `dot_general`: contracting and batch dimensions, each for `(lhs, rhs)`."""

    contract: tuple[tuple[int, ...], tuple[int, ...]]
    batch: tuple[tuple[int, ...], tuple[int, ...]]


def dot(eqn: Equation) -> Dot | None:
    """The dimension numbers of a `dot_general`, else nothing."""
    if name(eqn) != "dot_general":
        return None
    (c1, c2), (b1, b2) = eqn.params["dimension_numbers"]
    return Dot((tuple(c1), tuple(c2)), (tuple(b1), tuple(b2)))


@dataclass(frozen=True)
class Conv:
    """A `conv_general_dilated` without batch groups; specs are `(batch, feature, *space)` axes."""

    lhs_spec: tuple[int, ...]
    rhs_spec: tuple[int, ...]
    out_spec: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int


def conv(eqn: Equation) -> Conv | None:
    """The parameters of a convolution, else nothing."""
    if name(eqn) != "conv_general_dilated" or eqn.params["batch_group_count"] != 1:
        return None
    p = eqn.params
    dims = p["dimension_numbers"]
    return Conv(
        tuple(dims.lhs_spec),
        tuple(dims.rhs_spec),
        tuple(dims.out_spec),
        tuple(p["window_strides"]),
        tuple((int(a), int(b)) for a, b in p["padding"]),
        tuple(p["lhs_dilation"]),
        tuple(p["rhs_dilation"]),
        p["feature_group_count"],
    )


@dataclass(frozen=True)
class Rows:
    """A `gather` or `dynamic_slice` of whole rows along one axis of its first operand.

    `operand`, `column`: where the ids are, in a column of the last axis if there is one;
    `offset_dims`: axes of the result that go through a row.
    """

    axis: int
    operand: int
    column: int | None
    offset_dims: tuple[int, ...]
    clip: bool


def rows(eqn: Equation) -> Rows | None:
    """A lookup `table[ids]` along one axis, else nothing."""
    if name(eqn) not in ("gather", "dynamic_slice"):
        return None
    shape, taken = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    cut = [a for a, (d, size) in enumerate(zip(shape, taken, strict=True)) if size != d]
    if name(eqn) == "dynamic_slice":
        if len(cut) != 1 or taken[cut[0]] != 1:
            return None
        return Rows(cut[0], 1 + cut[0], None, tuple(range(len(shape))), True)
    dims, mode = eqn.params["dimension_numbers"], eqn.params["mode"]
    if dims.operand_batching_dims:
        return None
    indexed, clip = tuple(dims.start_index_map), mode == jax.lax.GatherScatterMode.CLIP
    if len(indexed) > 1:
        # Indices of axes that are taken whole can be but zero, or are clipped to it.
        sure = clip or mode == jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
        if len(cut) != 1 or cut[0] not in indexed or not sure:
            return None
    axis = indexed[0] if len(indexed) == 1 else cut[0]
    if tuple(taken) != tuple(1 if a == axis else d for a, d in enumerate(shape)):
        return None
    return Rows(axis, 1, indexed.index(axis), tuple(dims.offset_dims), clip)


def multiply_adds(jaxpr: Jaxpr) -> int:
    """Multiply-adds of the matrix products and convolutions of a jaxpr, loops counted in full."""
    total = 0
    for eqn in jaxpr.equations:
        loop, body = scan(eqn), called(eqn)
        if loop is not None:
            total += loop.length * multiply_adds(loop.body)
        elif body is not None:
            total += multiply_adds(body)
        elif name(eqn) == "dot_general":
            dims, lhs = dot(eqn), eqn.invars[0].aval.shape
            assert dims is not None
            contracted = math.prod(lhs[a] for a in dims.contract[0])
            total += math.prod(eqn.outvars[0].aval.shape) * contracted
        elif name(eqn) == "conv_general_dilated":
            kernel, spec = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
            inserted = math.prod(eqn.params["lhs_dilation"])  # zeros between the entries
            total += math.prod(eqn.outvars[0].aval.shape) * (
                math.prod(kernel) // max(1, kernel[spec[0]] * inserted)
            )
        else:
            total += max(
                (multiply_adds(unwrap(b)) for b in subjaxprs(eqn)),
                default=0,
            )
    return total


def epsilon(jaxpr: Jaxpr) -> float:
    """The precision of the shortest floating-point numbers in a jaxpr, nested ones included."""
    dtypes = [v.aval.dtype for v in (*jaxpr.invars, *jaxpr.outvars)]
    dtypes += [v.aval.dtype for eqn in jaxpr.equations for v in eqn.outvars]
    found = [float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    nested = [epsilon(unwrap(b)) for eqn in jaxpr.equations for b in subjaxprs(eqn)]
    return max([*found, *nested], default=0.0)


def is_reverse_only(jaxpr: Jaxpr) -> bool:
    """Whether a traced `jvp` has met a `custom_vjp`: it leaves an equation that cannot run."""
    return any(
        name(eqn) == "custom_lin" or any(is_reverse_only(unwrap(b)) for b in subjaxprs(eqn))
        for eqn in jaxpr.equations
    )


# Affine in all operands that can move: those that are integers or booleans cannot.
_LINEAR = frozenset(
    [
        "add",
        "add_any",
        "sub",
        "neg",
        "reshape",
        "transpose",
        "squeeze",
        "expand_dims",
        "rev",
        "copy",
        "copy_p",
        "broadcast_in_dim",
        "slice",
        "split",
        "unstack",
        "concatenate",
        "stack",
        "pad",
        "reduce_sum",
        "cumsum",
        "select_n",
        "gather",
        "dynamic_slice",
        "dynamic_update_slice",
        "scatter",
        "scatter-add",
        "scatter_add",
    ]
)


def is_linear(eqn: Equation, moving: Sequence[bool]) -> bool:
    """Whether it is affine in the operands that move, taken together."""
    if name(eqn) == "convert_element_type":
        return jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact)
    if is_product(eqn):
        return sum(moving) == 1
    return name(eqn) in _LINEAR or (name(eqn) == "div" and not moving[1])


def is_product(eqn: Equation) -> bool:
    """Whether it is bilinear."""
    return name(eqn) == "mul" or is_contraction(eqn)


def is_contraction(eqn: Equation) -> bool:
    """Whether it is a matrix product or a convolution."""
    return name(eqn) in ("dot_general", "conv_general_dilated")


def suits_jet(eqn: Equation) -> bool:
    """Whether `jet` may be asked. It refuses nested jaxprs, and is wrong for a few equations.

    It takes a power by a logarithm, a remainder by `floor`, divides by the second argument of
    `atan2`, and halves the derivative of `clamp` at a tie.
    """
    return name(eqn) not in ("pow", "rem", "atan2", "clamp") and not subjaxprs(eqn)


def subjaxprs(eqn: Equation) -> list[Any]:
    """Jaxprs among an equation's parameters: branches of a `cond`, bodies of custom rules."""
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(item, "jaxpr", item), "eqns"):
                found.append(item)
    return found
