"""Whole jaxprs: what they cost, and compute with."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from .core import (
    Equation,
    Jaxpr,
    affected,
    called,
    holds,
    is_differentiable,
    is_literal,
    name,
    scan,
    subjaxprs,
    unwrap,
)
from .sites import dot


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
            total += max((multiply_adds(unwrap(b)) for b in subjaxprs(eqn)), default=0)
    return total


def equations(jaxpr: Jaxpr) -> int:
    """How many equations are evaluated, loops counted in full."""
    total = 0
    for eqn in jaxpr.equations:
        loop = scan(eqn)
        bodies = [equations(unwrap(b)) for b in subjaxprs(eqn)]
        total += max(bodies, default=1) * (1 if loop is None else loop.length)
    return total


def epsilon(jaxpr: Jaxpr, parameters: int | None = None) -> float:
    """The precision of the shortest floating-point numbers in a jaxpr, nested ones included.

    `parameters`: of what is computed from so many first arguments; data are what they are.
    """
    reached = set(jaxpr.invars[:parameters])
    dtypes = [v.aval.dtype for v in (*jaxpr.invars[:parameters], *jaxpr.outvars)]
    nested = []
    for eqn in jaxpr.equations:
        if parameters is not None and not any(
            v in reached for v in eqn.invars if not is_literal(v)
        ):
            continue
        reached |= set(affected(eqn))
        dtypes += [v.aval.dtype for v in eqn.outvars]
        nested += [epsilon(unwrap(b)) for b in subjaxprs(eqn)]
    own = [float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    return max([*own, *nested], default=0.0)


def widest(jaxpr: Jaxpr) -> int:
    """Bytes of the operands and results of the equation that has most, nested ones included."""
    own = [
        sum(_nbytes(v) for v in (*e.invars, *e.outvars) if hasattr(v.aval, "shape"))
        for e in jaxpr.equations
    ]
    nested = [widest(unwrap(b)) for eqn in jaxpr.equations for b in subjaxprs(eqn)]
    return max([*own, *nested], default=0)


def _nbytes(atom: Any) -> int:
    return math.prod(atom.aval.shape) * atom.aval.dtype.itemsize


def largest(eqn: Equation) -> int:
    """Bytes of the largest floating-point result of an equation, or of one in a body of it.

    Of a loop those of a step: what it stacks it meets step by step.
    """
    bodies = [unwrap(b) for b in subjaxprs(eqn)]
    inner = [largest(e) for body in bodies for e in body.equations]
    own = [] if scan(eqn) is not None else list(filter(is_differentiable, eqn.outvars))
    return max([*inner, *map(_nbytes, own)], default=0)


def is_reverse_only(jaxpr: Jaxpr) -> bool:
    """Whether a traced `jvp` has met a `custom_vjp`: it leaves an equation that cannot run."""
    return holds(jaxpr, lambda eqn: name(eqn) == "custom_lin")


def keeps_a_rule(jaxpr: Jaxpr) -> bool:
    """Whether there is a `custom_vjp` in it or a hijax primitive: rules that need not be linear."""
    return holds(jaxpr, lambda eqn: name(eqn).startswith(("custom_vjp", "call_hi_primitive")))
