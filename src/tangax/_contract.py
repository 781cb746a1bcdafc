"""Planning and contracting: from the factors of two sides to a kernel.

For every pair of factored leaves one einsum,

    Theta[n,m,o,q] = sum_{k,s,t} (sum_i A1[n,s,k,i] A2[m,t,k,i]) (sum_j G1[n,o,s,k,j] G2[m,q,t,k,j])

with the output's own axes in place of `o` and `q`: a traced axis is one more contraction, a
diagonal one a batch axis. The planner counts what each order of contraction costs and takes the
cheapest whose largest intermediate fits the memory budget, in blocks of examples where none does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import opt_einsum

from ._axes import KernelAxes
from ._factors import Factor, Factored, Materialised, OneHot, materialise, product

# Orders of the einsum over (A1, G1, A2, G2), as pairwise paths of opt_einsum.
ORDERS: dict[str, tuple[tuple[int, int], ...]] = {
    "materialise": ((0, 1), (0, 1), (0, 1)),  # (A1 G1) (A2 G2)
    "gram": ((0, 2), (0, 1), (0, 1)),  # (A1 A2) (G1 G2)
    "first": ((0, 1), (0, 2), (0, 1)),  # ((A1 G1) A2) G2
    "second": ((2, 3), (0, 2), (0, 1)),  # ((A2 G2) A1) G1
}
# What moving one entry through memory costs, in multiply-adds of a matrix product.
MOVE = 16
# Labels of the factors' axes in einsums, behind any label of an output axis.
N, M, S, T, K, I, J, P = range(1000, 1008)


@dataclass(frozen=True)
class Frame:
    """One output's place: its kernel axes, its batch axis, where its part of `o` and `q` begins."""

    ax: KernelAxes
    batch: int | None
    start: tuple[int, int]
    shape1: tuple[int, ...]
    shape2: tuple[int, ...]

    @property
    def n(self) -> int:
        """The label of the examples of the first side."""
        return N if self.batch is None else self.ax.first[self.batch]

    @property
    def m(self) -> int:
        """The label of the examples of the second side; `n` where only pairs `n = m` are wanted."""
        return M if self.batch is None else self.ax.second[self.batch]

    @property
    def joint(self) -> bool:
        """Whether only pairs `n = m` are wanted."""
        return self.n == self.m

    @property
    def outputs(self) -> tuple[list[int], list[int]]:
        """The labels of the other output axes, of both sides."""
        first = [a for i, a in enumerate(self.ax.first) if i != self.batch]
        second = [a for i, a in enumerate(self.ax.second) if i != self.batch]
        return first, second

    def example(self, side: int) -> tuple[int, ...]:
        """The output's shape for one example."""
        shape = (self.shape1, self.shape2)[side]
        return tuple(d for a, d in enumerate(shape) if a != self.batch)

    def kernel_shape(self) -> list[int]:
        """The kernel's shape."""
        sizes = dict(zip(self.ax.first, self.shape1, strict=True))
        sizes |= dict(zip(self.ax.second, self.shape2, strict=True))
        return [sizes[label] for label in self.ax.result]


@dataclass(frozen=True)
class Term:
    """How one pair of factors is contracted: the order, examples a block, and what it costs.

    `largest`: entries of the largest intermediate; `moved`: entries read and written.
    """

    order: str
    multiply_adds: int
    moved: int
    largest: int
    blocks: tuple[int, int]

    @property
    def cost(self) -> int:
        """Comparable between orders."""
        return self.multiply_adds + MOVE * self.moved


# Contracting


def contract(
    factors1: Sequence[Factor],
    factors2: Sequence[Factor],
    frame: Frame,
    terms: Sequence[Term],
    dtype: Any,
) -> jax.Array:
    """The kernel of one output: the sum over pairs of factors, each in its planned order."""
    kernels = [
        contract_pair(f1, f2, frame, term, dtype)
        for f1, f2, term in zip(factors1, factors2, terms, strict=True)
    ]
    zero = jnp.zeros(frame.kernel_shape(), dtype)
    return functools.reduce(jnp.add, kernels, zero) / frame.ax.size(frame.shape1)


def contract_pair(f1: Factor, f2: Factor, frame: Frame, term: Term, dtype: Any) -> jax.Array:
    """The kernel of one pair. Every array has a leading axis of examples."""
    same = f1 is f2
    f1 = sliced(f1, frame, 0)
    f2 = f1 if same else sliced(f2, frame, 1)
    n, m = examples(f1), examples(f2)
    if term.blocks == (n, m):
        return one_block(f1, f2, frame, term.order, dtype)
    kernel = functools.partial(one_block, frame=frame, order=term.order, dtype=dtype)
    return in_blocks(kernel, f1, f2, frame, term.blocks)


def in_blocks(
    kernel: Any, f1: Factor, f2: Factor, frame: Frame, blocks: tuple[int, int]
) -> jax.Array:
    """`kernel(f1, f2)`, over blocks of examples one after the other."""
    single = functools.partial(jax.tree.map, lambda x: x[None])
    if frame.joint:
        both = jax.lax.map(
            lambda pair: kernel(single(pair[0]), single(pair[1])), (f1, f2), batch_size=blocks[0]
        )
        kept = frame.n in frame.ax.result
        return both.sum(0) if not kept else join(both, frame.ax.result.index(frame.n))

    def row(a: Factor) -> jax.Array:
        columns = jax.lax.map(lambda b: kernel(single(a), single(b)), f2, batch_size=blocks[1])
        return join(columns, frame.ax.result.index(frame.m))

    return join(jax.lax.map(row, f1, batch_size=blocks[0]), frame.ax.result.index(frame.n))


def join(stacked: jax.Array, axis: int) -> jax.Array:
    """Kernels of single examples, stacked in front, along their axis of length one."""
    return jnp.squeeze(jnp.moveaxis(stacked, 0, axis), axis + 1)


def one_block(f1: Factor, f2: Factor, frame: Frame, order: str, dtype: Any) -> jax.Array:
    """The einsum of one pair in the given order."""
    einsum = functools.partial(jnp.einsum, preferred_element_type=dtype)
    out1, out2 = frame.outputs
    if order == "materialise":
        J1, J2 = jacobians(f1, f2)
        return einsum(J1, [frame.n, *out1, P], J2, [frame.m, *out2, P], frame.ax.result)
    assert isinstance(f1, Factored) and isinstance(f2, Factored)
    g1 = (f1.G, [frame.n, *out1, S, K, J])
    g2 = (f2.G, [frame.m, *out2, T, K, J])
    if isinstance(f1.A, OneHot) and isinstance(f2.A, OneHot):
        match, labels = matches(f1.A, f2.A, frame)
        operands = (match.astype(f1.G.dtype), labels, *g1, *g2)
        return einsum(*operands, frame.ax.result, optimize=[(1, 2), (0, 1)])
    operands = (f1.A, [frame.n, S, K, I], *g1, f2.A, [frame.m, T, K, I], *g2)
    return einsum(*operands, frame.ax.result, optimize=list(ORDERS[order]))


def matches(A1: OneHot, A2: OneHot, frame: Frame) -> tuple[jax.Array, list[int]]:
    """`[n, m, s, t, k]`: where the rows of two lookups are equal; and its labels."""
    ids1, ids2 = A1.ids, A2.ids  # [n, s, k], [m, t, k]
    real = ids1 < A1.size
    if frame.joint:
        equal = ids1[:, :, None] == ids2[:, None, :]
        return equal & real[:, :, None], [frame.n, S, T, K]
    equal = ids1[:, None, :, None] == ids2[None, :, None, :]
    return equal & real[:, None, :, None], [frame.n, frame.m, S, T, K]


def examples(factor: Factor) -> int:
    """The number of examples."""
    return (factor.J if isinstance(factor, Materialised) else factor.G).shape[0]


def sliced(factor: Factor, frame: Frame, side: int) -> Factor:
    """The factor of one output: its part of `o`, unfolded into that output's axes."""
    example = frame.example(side)
    start = frame.start[side]
    stop = start + math.prod(example)

    def part(G: jax.Array) -> jax.Array:
        return G[:, start:stop].reshape(G.shape[0], *example, *G.shape[2:])

    if isinstance(factor, Materialised):
        return Materialised(part(factor.J))
    return Factored(factor.A, part(factor.G), factor.layout)


def jacobians(f1: Factor, f2: Factor) -> tuple[jax.Array, jax.Array]:
    """`[n, *outputs, p]` of both: in normal form where their layouts agree, else in the leaf's."""
    normal = isinstance(f1, Factored) and isinstance(f2, Factored) and f1.layout == f2.layout
    J1 = jacobian(f1, normal=normal)
    return J1, J1 if f1 is f2 else jacobian(f2, normal=normal)


def jacobian(factor: Factor, *, normal: bool) -> jax.Array:
    """`[n, *outputs, p]`."""
    if isinstance(factor, Materialised):
        return factor.J
    n, *outputs = factor.G.shape[:-3]
    G = factor.G.reshape(n, math.prod(outputs), *factor.G.shape[-3:])
    folded = Factored(factor.A, G, factor.layout)
    J = jax.vmap(product if normal else materialise)(folded)
    return J.reshape(n, *outputs, math.prod(J.shape[2:]))


# Planning


def plan_pair(f1: Factor, f2: Factor, frame: Frame, memory: int, *, factored: bool) -> Term:
    """The cheapest order that fits `memory` bytes. `factored`: never materialise if avoidable."""
    f1, f2 = jax.eval_shape(lambda a, b: (sliced(a, frame, 0), sliced(b, frame, 1)), f1, f2)
    itemsize = max(x.dtype.itemsize for x in jax.tree.leaves((f1, f2)))
    orders = allowed(f1, f2)
    if factored and len(orders) > 1:
        orders = [order for order in orders if order != "materialise"]
    terms = [fitted(f1, f2, frame, order, memory // itemsize) for order in orders]
    return min(terms, key=lambda t: t.cost)


def allowed(f1: Factor, f2: Factor) -> list[str]:
    """The orders that a pair has."""
    if not isinstance(f1, Factored) or not isinstance(f2, Factored) or f1.layout != f2.layout:
        return ["materialise"]
    hot = [isinstance(f.A, OneHot) for f in (f1, f2)]
    if any(hot):
        return ["materialise", "gram"] if all(hot) else ["materialise"]
    return list(ORDERS)


def fitted(f1: Factor, f2: Factor, frame: Frame, order: str, entries: int) -> Term:
    """The order in the largest blocks of examples whose intermediates have at most `entries`."""
    n, m = examples(f1), examples(f2)
    blocks = (n, m)
    while True:
        term = cost(f1, f2, frame, order, blocks)
        if term.largest <= entries or max(blocks) <= 1:
            return term
        if frame.joint:
            blocks = (-(-blocks[0] // 2), -(-blocks[0] // 2))
        elif blocks[0] >= blocks[1]:
            blocks = (-(-blocks[0] // 2), blocks[1])
        else:
            blocks = (blocks[0], -(-blocks[1] // 2))


def cost(f1: Factor, f2: Factor, frame: Frame, order: str, blocks: tuple[int, int]) -> Term:
    """What an order costs in all, and the largest intermediate of one block."""
    n, m = examples(f1), examples(f2)
    sizes = axis_sizes(f1, frame, 0) | axis_sizes(f2, frame, 1)
    sizes |= {frame.n: min(blocks[0], n), frame.m: min(blocks[1], m)}
    multiply_adds, moved, largest = 0, 0, 0
    for inputs, result in contractions(f1, f2, frame, order, sizes):
        multiply_adds += volume(frozenset().union(*inputs), sizes)
        moved += sum(volume(term, sizes) for term in (*inputs, result))
        if result != frozenset(frame.ax.result):
            largest = max(largest, volume(result, sizes))
    runs = -(-n // max(1, blocks[0]))
    runs *= 1 if frame.joint else -(-m // max(1, blocks[1]))
    return Term(order, multiply_adds * runs, moved * runs, largest, blocks)


def axis_sizes(factor: Factor, frame: Frame, side: int) -> dict[int, int]:
    """The sizes of the factor's axes by label; `P` counts the parameters."""
    n, position = ((frame.n, S), (frame.m, T))[side]
    lead = (n, *frame.outputs[side])
    if isinstance(factor, Materialised):
        return dict(zip((*lead, P), factor.J.shape, strict=True))
    sizes = dict(zip((*lead, position, K, J), factor.G.shape, strict=True))
    i = factor.A.size if isinstance(factor.A, OneHot) else factor.A.shape[-1]
    return sizes | {I: i, P: sizes[K] * i * sizes[J]}


def contractions(
    f1: Factor, f2: Factor, frame: Frame, order: str, sizes: dict[int, int]
) -> list[tuple[list[frozenset[int]], frozenset[int]]]:
    """Every pairwise contraction of an order: operands and result as sets of labels."""
    out1, out2 = frame.outputs
    result = frozenset(frame.ax.result)
    A1, A2 = frozenset([frame.n, S, K, I]), frozenset([frame.m, T, K, I])
    G1, G2 = frozenset([frame.n, *out1, S, K, J]), frozenset([frame.m, *out2, T, K, J])
    hot = [isinstance(f, Factored) and isinstance(f.A, OneHot) for f in (f1, f2)]
    ids1, ids2 = A1 - {I}, A2 - {I}
    if order == "materialise":
        J1, J2 = frozenset([frame.n, *out1, P]), frozenset([frame.m, *out2, P])
        built = [
            ([ids if is_hot else A, G], jac)
            for f, A, ids, is_hot, G, jac in (
                (f1, A1, ids1, hot[0], G1, J1),
                (f2, A2, ids2, hot[1], G2, J2),
            )
            if isinstance(f, Factored)
        ]
        return [*built, ([J1, J2], result)]
    if all(hot):
        match = ids1 | ids2
        return [([ids1, ids2], match), *steps([match, G1, G2], result, sizes, [(1, 2), (0, 1)])]
    return steps([A1, G1, A2, G2], result, sizes, ORDERS[order])


def steps(
    terms: Sequence[frozenset[int]],
    result: frozenset[int],
    sizes: dict[int, int],
    path: Sequence[tuple[int, int]],
) -> list[tuple[list[frozenset[int]], frozenset[int]]]:
    """The pairwise contractions of a path: operands and result of each, as sets of labels."""
    symbol = {label: opt_einsum.get_symbol(a) for a, label in enumerate(sizes)}
    label = {s: k for k, s in symbol.items()}
    inputs = ["".join(symbol[k] for k in term) for term in terms]
    output = "".join(symbol[k] for k in result)
    shapes = [tuple(sizes[k] for k in term) for term in terms]
    expression = ",".join(inputs) + "->" + output
    _, info = opt_einsum.contract_path(expression, *shapes, shapes=True, optimize=list(path))
    found = []
    for contraction in info.contraction_list:
        operands, _, out = contraction[2].partition("->")
        sides = [frozenset(label[s] for s in side) for side in operands.split(",")]
        found.append((sides, frozenset(label[s] for s in out)))
    return found


def volume(labels: frozenset[int], sizes: dict[int, int]) -> int:
    """The number of entries of an array with these labels."""
    return math.prod(sizes[label] for label in labels)
