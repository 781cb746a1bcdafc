"""Whether a jaxpr that JAX can transpose is linear.

Transposing takes an affine function for its slope, and rounding to integers for the identity. So
values are told apart by what they are of the arguments: zero, constant, linear, or none of these.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core import (
    Equation,
    Jaxpr,
    Scan,
    called,
    is_differentiable,
    is_literal,
    is_reference,
    name,
    scan,
    subjaxprs,
    unwrap,
)
from .series import is_linear, is_product


class _Kind(enum.IntEnum):
    """What a value is of the arguments."""

    ZERO = 0
    CONSTANT = 1
    LINEAR = 2
    OTHER = 3


# They put operands beside each other or add them: a constant among them makes an affine function.
_SUMS = frozenset(
    [
        "add",
        "add_any",
        "sub",
        "select_n",
        "concatenate",
        "stack",
        "pad",
        "dynamic_update_slice",
        "scatter",
        "scatter-add",
        "scatter_add",
        "scatter-sub",
        "scatter_sub",
    ]
)

# Linear in what they may be transposed for, whatever jaxprs they hold.
_LINEAR_WITH_BODIES = frozenset(["custom_linear_solve", "select_and_scatter_add"])


def is_linear_if_transposed(jaxpr: Jaxpr) -> bool:
    """Whether a jaxpr that can be transposed is linear; "no" may be said of one that is."""
    kinds = _kinds(jaxpr, [_Kind.LINEAR] * len(jaxpr.invars))
    return all(kind in (_Kind.ZERO, _Kind.LINEAR) for kind in kinds)


def _kinds(jaxpr: Jaxpr, args: Sequence[_Kind]) -> list[_Kind]:
    env: dict[Any, _Kind] = jaxpr.environment(args, _of_value)

    def read(atom: Any) -> _Kind:
        return _of_value(atom.val) if is_literal(atom) else env[atom]

    for eqn in jaxpr.equations:
        results = _through(eqn, [read(v) for v in eqn.invars])
        env |= dict(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _of_value(value: Any) -> _Kind:
    """Of a constant: zero where it has values and they are."""
    known = _is_known(value) and jnp.issubdtype(jnp.result_type(value), jnp.number)
    return _Kind.ZERO if known and not np.any(np.asarray(value)) else _Kind.CONSTANT


def _is_known(value: Any) -> bool:
    """Whether a value is there: no tracer, no shard of another process."""
    try:
        return getattr(value, "is_fully_addressable", True)
    except jax.errors.ConcretizationTypeError:
        return False


def _joined(kinds: Sequence[_Kind]) -> _Kind:
    """Of values added, put beside each other, or taken one or the other."""
    mixed = _Kind.CONSTANT in kinds and _Kind.LINEAR in kinds
    return _Kind.OTHER if mixed else max(kinds, default=_Kind.CONSTANT)


def _through(eqn: Equation, operands: list[_Kind]) -> list[_Kind]:
    body, loop = called(eqn), scan(eqn)
    if body is not None:
        return _kinds(body, operands)
    if loop is not None:
        return _loop(loop, operands)
    if name(eqn) == "cond":
        branches = [_kinds(unwrap(branch), operands[1:]) for branch in subjaxprs(eqn)]
        return [_joined(kinds) for kinds in zip(*branches, strict=True)]
    return [_of_result(eqn, operands)] * len(eqn.outvars)


def _of_result(eqn: Equation, operands: list[_Kind]) -> _Kind:
    if any(map(is_reference, eqn.invars)):  # which equations before this one have written
        return _Kind.OTHER
    numbers = [k for k, v in zip(operands, eqn.invars, strict=True) if is_differentiable(v)]
    if max(operands, default=_Kind.CONSTANT) < _Kind.LINEAR:
        if is_product(eqn):
            return min(operands)
        passes = name(eqn) == "convert_element_type" or is_linear(eqn, [True] * len(operands))
        return max(numbers or operands, default=_Kind.CONSTANT) if passes else _Kind.CONSTANT
    if not all(map(is_differentiable, eqn.outvars)) or _Kind.OTHER in operands:
        return _Kind.OTHER
    if name(eqn) in _SUMS:
        return _joined(numbers)
    unknown = subjaxprs(eqn) and name(eqn) not in _LINEAR_WITH_BODIES
    return _Kind.OTHER if unknown else _Kind.LINEAR


def _loop(loop: Scan, operands: list[_Kind]) -> list[_Kind]:
    """The kinds of a scan's results: those of the carry are what they are after any step."""
    consts, carry, xs = loop.parts(operands)
    while True:
        found = _kinds(loop.body, [*consts, *carry, *xs])
        after = [_joined(pair) for pair in zip(carry, found[: loop.carry], strict=True)]
        if after == carry:
            return [*carry, *found[loop.carry :]]
        carry = after
