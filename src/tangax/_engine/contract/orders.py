"""Orders of contraction: the path of each, what it contracts step by step, and how a tile runs.

    Theta[n,m,o,q] = sum_{k,s,t} (sum_i A1[n,s,k,i] A2[m,t,k,i]) (sum_j G1[n,o,s,k,j] G2[m,q,t,k,j])

Of the outputs, traced ones `r` are one more contraction and diagonal ones `d` a batch axis.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import opt_einsum

from ..._shared.pair import Pair
from ..kinds import Factor, Factored, OneHot, alike, groups, is_one_hot, outputs
from ..output_axes import Frame, I
from .gram import by_gram

Path = tuple[tuple[int, int], ...]
# Operands and result of a pairwise contraction, as sets of labels.
Contraction = tuple[tuple[frozenset[int], ...], frozenset[int]]


@dataclass(frozen=True)
class Order:
    """A pairwise path of opt_einsum over (A1, G1, A2, G2); those from `A1 A2` on run by `by_gram`.

    `streams`: the side whose `G` meets `A1 A2` before the other's, and whose examples may pass by
    one by one.
    """

    name: str
    path: Path
    streams: int | None = None

    @property
    def materialises(self) -> bool:
        """Whether it multiplies out both sides."""
        return self.path == ((0, 1), (0, 1), (0, 1))

    @property
    def begins_with_gram(self) -> bool:
        """Whether it begins with `A1 A2`."""
        return self.path[0] == (0, 2)

    def contractions(self, pair: Pair[Factor], frame: Frame) -> list[Contraction]:
        result = frozenset(frame.labels)
        if self.materialises:
            return [*_builds(pair, frame), ((_J(frame, 0), _J(frame, 1)), result)]
        labels, match = _operands(pair, frame), []
        if len(labels) < 4:
            match = [((_ids(frame, 0), _ids(frame, 1)), frozenset(labels[0]))]
        return [*match, *_steps(tuple(map(frozenset, labels)), result, self._path(labels))]

    def run(self, pair: Pair[Factor], frame: Frame, dtype: Any) -> jax.Array:
        """The kernel of one pair of factors, nothing multiplied out on both sides."""
        f1, f2 = pair.sides
        assert isinstance(f1, Factored) and isinstance(f2, Factored)
        labels = _operands(pair, frame)
        if isinstance(f1.A, OneHot) and isinstance(f2.A, OneHot):
            arrays = [_matches(f1.A, f2.A, frame).astype(f1.G.dtype), f1.G, f2.G]
        elif self.begins_with_gram and not frame.joint and outputs(f1)[0] == groups(f1) == 1:
            return by_gram(f1, f2, self.streams, dtype)
        else:
            arrays = [f1.A, f1.G, f2.A, f2.G]
        operands = [x for operand in zip(arrays, labels, strict=True) for x in operand]
        path = list(self._path(labels))
        return jnp.einsum(*operands, frame.labels, optimize=path, preferred_element_type=dtype)

    def _path(self, labels: Sequence[Any]) -> Path:
        return self.path if len(labels) == 4 else ((1, 2), (0, 1))


MATERIALISE = Order("materialise", ((0, 1), (0, 1), (0, 1)))  # (A1 G1) (A2 G2)
GRAM = Order("gram", ((0, 2), (0, 1), (0, 1)))  # (A1 A2) (G1 G2)
ORDERS = (
    MATERIALISE,
    GRAM,
    Order("gram first", ((0, 2), (0, 2), (0, 1)), streams=0),  # ((A1 A2) G1) G2
    Order("gram second", ((0, 2), (1, 2), (0, 1)), streams=1),  # ((A1 A2) G2) G1
    Order("first", ((0, 1), (0, 2), (0, 1))),  # ((A1 G1) A2) G2
    Order("second", ((2, 3), (0, 2), (0, 1))),  # ((A2 G2) A1) G1
)


def allowed(pair: Pair[Factor]) -> tuple[Order, ...]:
    if not alike(*pair.sides):
        return (MATERIALISE,)
    hot = list(map(is_one_hot, pair.sides))
    if any(hot):
        return (MATERIALISE, GRAM) if all(hot) else (MATERIALISE,)
    return ORDERS


@dataclass(frozen=True)
class Term:
    """How one pair of factors is contracted.

    `tiles`: examples of both sides at a time; `groups`: how many of the axis `k` at a time;
    `units`: how many of `j`, where Jacobians are materialised.
    """

    order: Order
    tiles: tuple[int, int]
    groups: int
    units: int = 0


def _operands(pair: Pair[Factor], frame: Frame) -> list[list[int]]:
    """Labels of A1, G1, A2, G2; of two lookups those of the match of their ids, G1, G2."""
    if all(map(is_one_hot, pair.sides)):
        match = list(dict.fromkeys([*frame.of_A(0), *frame.of_A(1)]))
        order = [label for label in range(I) if label in match]
        return [order, frame.of_G(0), frame.of_G(1)]
    return [frame.of_A(0), frame.of_G(0), frame.of_A(1), frame.of_G(1)]


def _matches(A1: OneHot, A2: OneHot, frame: Frame) -> jax.Array:
    """`[n, m, s, t, k]`: where the rows of two lookups are equal."""
    ids1, ids2 = A1.ids, A2.ids  # [n, s, k], [m, t, k]
    real = ids1 < A1.size
    if frame.joint:
        equal = ids1[:, :, None] == ids2[:, None, :]
        return equal & real[:, :, None]
    equal = ids1[:, None, :, None] == ids2[None, :, None, :]
    return equal & real[:, None, :, None]


def _builds(pair: Pair[Factor], frame: Frame) -> list[Contraction]:
    builds = []
    for side, factor in enumerate(pair.distinct):
        if isinstance(factor, Factored):
            A = _ids(frame, side) if is_one_hot(factor) else frozenset(frame.of_A(side))
            builds.append(((A, frozenset(frame.of_G(side))), _J(frame, side)))
    return builds


def _J(frame: Frame, side: int) -> frozenset[int]:
    return frozenset(frame.of_J(side))


def _ids(frame: Frame, side: int) -> frozenset[int]:
    return frozenset(frame.of_A(side)) - {I}


@functools.lru_cache
def _steps(
    terms: tuple[frozenset[int], ...], result: frozenset[int], path: Path
) -> tuple[Contraction, ...]:
    spelled = ["".join(map(opt_einsum.get_symbol, labels)) for labels in (*terms, result)]
    expression = ",".join(spelled[:-1]) + "->" + spelled[-1]
    shapes = [(2,) * len(labels) for labels in terms]
    _, info = opt_einsum.contract_path(expression, *shapes, shapes=True, optimize=list(path))
    label = {opt_einsum.get_symbol(a): a for a in frozenset().union(*terms)}
    steps = []
    for contraction in info.contraction_list:
        operands, _, out = contraction[2].partition("->")
        sides = tuple(frozenset(label[s] for s in side) for side in operands.split(","))
        steps.append((sides, frozenset(label[s] for s in out)))
    return tuple(steps)
