"""Equations that only move entries: what becomes of each place."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from .core import Equation, bind, name


def is_layout(eqn: Equation) -> bool:
    """Whether it only moves entries, or negates all: its transpose, after it, is the identity."""
    if name(eqn) in ("reshape", "transpose", "squeeze", "expand_dims", "rev"):
        return True
    if name(eqn) in ("neg", "slice", "split", "unstack") or is_identity(eqn):
        return True
    if name(eqn) == "convert_element_type":
        old, new = eqn.invars[0].aval.dtype, eqn.params["new_dtype"]
        to_real = jnp.issubdtype(new, jnp.floating) and not jnp.issubdtype(old, jnp.complexfloating)
        return to_real or jnp.issubdtype(new, jnp.complexfloating)
    return is_broadcast(eqn) and not _repeats(eqn)


# Results that are the operands: where they lie, what a compiler or a checkpoint may do with them.
_IDENTITIES = frozenset(
    [
        "copy",
        "copy_p",
        "device_put",
        "name",
        "optimization_barrier",
        "reshard",
        "sharding_constraint",
    ]
)


def is_identity(eqn: Equation) -> bool:
    """Whether every result is the operand in its place, and so is every derivative."""
    if name(eqn) == "dynamic_slice":  # of everything: starts are clamped to zero
        return tuple(eqn.params["slice_sizes"]) == tuple(eqn.invars[0].aval.shape)
    return name(eqn) in _IDENTITIES


def _is_still(eqn: Equation) -> bool:
    """Whether it moves nothing: an identity, or the same entries in another dtype."""
    return name(eqn) == "convert_element_type" or is_identity(eqn)


def is_reshape(eqn: Equation) -> bool:
    """Whether it keeps all entries in their order."""
    if name(eqn) == "reshape":
        return eqn.params["dimensions"] is None
    if name(eqn) in ("squeeze", "expand_dims") or _is_still(eqn):
        return True
    return is_broadcast(eqn) and not _repeats(eqn)


def is_broadcast(eqn: Equation) -> bool:
    """Whether the equation is a `broadcast_in_dim` of static shape."""
    return name(eqn) == "broadcast_in_dim" and len(eqn.invars) == 1


def _repeats(eqn: Equation) -> bool:
    return math.prod(eqn.params["shape"]) != math.prod(eqn.invars[0].aval.shape)


# `(start, limit)` along each axis.
Place = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Move:
    """What a layout equation does to the entries of an array.

    `key`: equal for two that move entries alike; `in_order`: it keeps all of them in their order;
    `isometric`: its transpose, after it, is the identity; `bounds`: the place that it cuts out;
    `aligned`: the result is all of that place, on the same axes.
    """

    key: tuple[Any, ...]
    apply: Callable[[jax.Array], jax.Array] = field(compare=False)
    in_order: bool = False
    isometric: bool = True
    bounds: Place | None = None
    aligned: bool = False


def move(eqn: Equation, result: int) -> Move:
    """The move that makes a result of a layout equation, or of a broadcast."""
    apply = (lambda w: w) if _is_still(eqn) else (lambda w: bind(eqn, [w])[result])
    return Move(
        signature(eqn, result),
        apply,
        is_reshape(eqn),
        is_layout(eqn),
        _slice_bounds(eqn, result),
        cut_out(eqn, result) is not None and dropped_axis(eqn) is None,
    )


def move_part(eqn: Equation, place: Place) -> tuple[Move, Place] | None:
    """The same for the part of the operand at `place`, and the part's place in the result."""
    if name(eqn) == "neg" or _is_still(eqn):
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
        return Move(key, spread, not _repeats(eqn), not _repeats(eqn)), there
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
    return _slice_bounds(eqn, result)


def dropped_axis(eqn: Equation) -> int | None:
    """The axis that an `unstack` takes away, else nothing."""
    return eqn.params["axis"] if name(eqn) == "unstack" else None


def signature(eqn: Equation, result: int) -> tuple[Any, ...]:
    """Equal for two results of layout equations that move entries alike. Dtypes do not matter."""
    if _is_still(eqn):
        return ()
    params = tuple(sorted((k, repr(v)) for k, v in eqn.params.items()))
    return ((name(eqn), result, tuple(eqn.invars[0].aval.shape), params),)


def _slice_bounds(eqn: Equation, result: int) -> Place | None:
    """The place that holds a slice, or one part of a split; else nothing.

    It holds more where the slice has strides.
    """
    params, shape = eqn.params, eqn.invars[0].aval.shape
    if is_identity(eqn):
        return None
    if name(eqn) == "slice":
        return tuple(zip(params["start_indices"], params["limit_indices"], strict=True))
    if name(eqn) not in ("split", "unstack"):
        return None
    axis = params["axis"] % len(shape)
    lengths = params["sizes"] if name(eqn) == "split" else (1,) * shape[axis]
    start = int(sum(lengths[:result]))
    part = (start, start + int(lengths[result]))
    return tuple(part if a == axis else (0, d) for a, d in enumerate(shape))
