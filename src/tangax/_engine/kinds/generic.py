"""A parameter as an equation, a loop or `f` itself takes it: its Jacobian whole, its cotangent.

Always right, whatever the equation does: zeros are added to the operand, so that it is perturbed
together with all others that depend on parameters, as in the user's own derivative. A rule of the
user's may ask which are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from .normal_form import Materialised


@dataclass(frozen=True)
class Whole:
    """An operand or a result that is a parameter as it is. `J = G`."""

    name: str

    factored = False

    def record(self, values: list[Any]) -> Any:
        del values

    def factor(self, record: None, cotangents: list[jax.Array]) -> Materialised:
        del record
        return Materialised(cotangents[0])


# Into an equation that is nonlinear or unknown.
GENERIC = Whole("generic")
# From `f`, from a loop's body, or into its carry.
RETURNED = Whole("returned")
