"""Equations that a weight enters: products, convolutions, lookups, sums."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from .core import Equation, name


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


def sign(eqn: Equation, operand: int) -> int | None:
    """The sign of an operand of a sum or a difference, else nothing."""
    if name(eqn) not in ("add", "sub", "add_any"):
        return None
    return -1 if name(eqn) == "sub" and operand == 1 else 1


def scales(eqn: Equation, operand: int) -> bool:
    """Whether it multiplies an operand by the other, or divides it."""
    return name(eqn) == "mul" or (name(eqn) == "div" and operand == 0)


def divides(eqn: Equation) -> bool:
    return name(eqn) == "div"


def stops_gradient(eqn: Equation) -> bool:
    """Whether it lets no derivative through."""
    return name(eqn) == "stop_gradient"
