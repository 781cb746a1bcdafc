"""How an equation lets derivatives through."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from .core import Equation, name, subjaxprs

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
