"""Biases and gains: `y = x + b`, `y = x * g`. Their Jacobian is as cheap as its cotangent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ... import _jaxpr
from .normal_form import Materialised


@dataclass(frozen=True)
class Bias:
    """`y = x + b` or `y = x - b`: `J = sign * G`."""

    sign: int
    shape: tuple[int, ...]

    name = "bias"
    factored = False

    def record(self, values: list[Any]) -> Any:
        del values

    def factor(self, record: None, cotangents: list[jax.Array]) -> Materialised:
        del record
        return Materialised(self.sign * to_shape(cotangents[0], self.shape))


@dataclass(frozen=True)
class Scale:
    """`y = x * g` or `y = g / x`: `J = G * x`, `G / x`."""

    other: int
    divides: bool
    shape: tuple[int, ...]

    name = "scale"
    factored = False

    def record(self, values: list[Any]) -> Any:
        return values[self.other]

    def factor(self, record: jax.Array, cotangents: list[jax.Array]) -> Materialised:
        (G,) = cotangents
        return Materialised(to_shape(G / record if self.divides else G * record, self.shape))


def to_shape(G: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Sum over what the operand was broadcast along: axes of length one, or all if it is scalar."""
    if G.shape[1:] == shape:
        return G
    if not shape:
        return jnp.sum(G, tuple(range(1, G.ndim)))
    ones = [a for a, d in enumerate(shape) if d == 1 and G.shape[1 + a] != 1]
    return jnp.sum(G, tuple(1 + a for a in ones), keepdims=True)


def match_vector(eqn: _jaxpr.Equation, operand: int) -> Bias | Scale | None:
    """`add`, `sub`, `mul`, or `div` with the parameter above."""
    shape = tuple(eqn.invars[operand].aval.shape)
    sign = _jaxpr.sign(eqn, operand)
    if sign is not None:
        return Bias(sign, shape)
    if _jaxpr.scales(eqn, operand):
        return Scale(1 - operand, _jaxpr.divides(eqn), shape)
    return None
