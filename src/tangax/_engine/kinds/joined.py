"""A parameter that is joined with others before it enters, as in `x @ concatenate([w, v], 1)`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax

from ... import _jaxpr
from .dense import Dense, cut
from .normal_form import Factor, Kind, Materialised, materialise


@dataclass(frozen=True)
class Part:
    """The part at `place` of an operand of that kind: its Jacobian is cut out of the whole one."""

    kind: Kind
    place: _jaxpr.Place

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def factored(self) -> bool:
        """Whether the whole is: of a part that is not `explain` says why."""
        return self.kind.factored

    def record(self, values: list[Any]) -> Any:
        return self.kind.record(values)

    def factor(self, record: Any, cotangents: list[jax.Array]) -> Factor:
        J = materialise(self.kind.factor(record, cotangents))
        return Materialised(cut(J, range(1, J.ndim), self.place))


def part_of(kind: Kind, place: _jaxpr.Place | None) -> Kind:
    """The kind of a site for the part of the operand at `place`."""
    if place is None:
        return kind
    return replace(kind, place=place) if isinstance(kind, Dense) else Part(kind, place)
