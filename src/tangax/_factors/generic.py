"""Any other equation: its own `vjp`. Always right, and as large as the parameter times `o`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .. import _jaxpr
from .base import Materialised


@dataclass(frozen=True)
class Generic:
    """An equation, nonlinear or unknown, with a parameter as operand `operand`."""

    eqn: _jaxpr.Equation
    operand: int

    name = "generic"
    factored = False

    def record(self, values: list[Any]) -> Any:
        """All operands."""
        return list(values)

    def factor(self, record: list[Any], cotangents: list[jax.Array]) -> Materialised:
        """The pull-back of the cotangents through the equation."""
        operands = [self.operand]
        if _jaxpr.name(self.eqn) == "pad":  # JAX's rule for the fill needs its other operand too
            operands = [0, 1]
        return Materialised(self._pulled(record, cotangents, operands))

    def _pulled(
        self, record: list[Any], cotangents: list[jax.Array], operands: list[int]
    ) -> jax.Array:
        """The pull-back onto the operand, differentiating all `operands`."""

        def equation(*ws: jax.Array) -> list[jax.Array]:
            values = list(record)
            for a, w in zip(operands, ws, strict=True):
                values[a] = w
            results = _jaxpr.bind(self.eqn, values)
            return [y for y in results if jnp.issubdtype(y.dtype, jnp.inexact)]

        _, pullback = jax.vjp(equation, *(record[a] for a in operands))
        position = operands.index(self.operand)
        return jax.vmap(lambda *G: pullback(list(G))[position])(*cotangents)


@dataclass(frozen=True)
class Returned:
    """A parameter that leaves as it is: from `f`, from a loop's body, or into its carry."""

    name = "returned"
    factored = False

    def record(self, values: list[Any]) -> Any:
        """Nothing."""
        del values

    def factor(self, record: None, cotangents: list[jax.Array]) -> Materialised:
        """The cotangent."""
        del record
        return Materialised(cotangents[0])
