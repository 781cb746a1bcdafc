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

    def record(self, values: list[Any]) -> Any:
        """All operands."""
        return list(values)

    def factor(self, record: list[Any], cotangents: list[jax.Array]) -> Materialised:
        """The pull-back of the cotangents through the equation."""

        def equation(w: jax.Array) -> list[jax.Array]:
            values = [w if a == self.operand else v for a, v in enumerate(record)]
            results = _jaxpr.bind(self.eqn, values)
            return [y for y in results if jnp.issubdtype(y.dtype, jnp.inexact)]

        _, pullback = jax.vjp(equation, record[self.operand])
        return Materialised(jax.vmap(lambda *G: pullback(list(G))[0])(*cotangents))


@dataclass(frozen=True)
class Returned:
    """A parameter that leaves as it is: from `f`, from a loop's body, or into its carry."""

    name = "returned"

    def record(self, values: list[Any]) -> Any:
        """Nothing."""
        del values

    def factor(self, record: None, cotangents: list[jax.Array]) -> Materialised:
        """The cotangent."""
        del record
        return Materialised(cotangents[0])
