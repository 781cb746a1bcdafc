"""Planning a pair of factors: what each order of contraction costs, and pieces that fit a budget.

Everything here reads shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..._shared.pair import Pair
from ..._shared.tuning import MOVE, ROWS, STEP, WORTH, tuning
from ..kinds import (
    Factor,
    Factored,
    Materialised,
    OneHot,
    alike,
    examples,
    groups,
    is_one_hot,
    outputs,
    units,
)
from ..output_axes import Frame, I, J, K, M, N, P
from ..ranges import Block, even
from .orders import Contraction, Order, Term, allowed


@dataclass(frozen=True)
class Cost:
    """What a term costs: multiply-adds, entries moved through memory, steps of loops.

    `peak_entries`: of the intermediates that stand beside each other.
    """

    term: Term
    multiply_adds: int
    moved: int
    steps: int
    peak_entries: int

    @property
    def total(self) -> int:
        """Comparable between orders."""
        return self.multiply_adds + MOVE * self.moved + STEP * self.steps


def plan_pair(pair: Pair[Factor], frame: Frame, entries: int, *, factored: bool) -> Cost:
    """The cheapest order within so many `entries`. `factored`: materialise only if it must."""
    orders = allowed(pair)
    if factored and len(orders) > 1:
        orders = [order for order in orders if not order.materialises]
    costs = [cost for order in orders for cost in fitted(pair, frame, order, entries)]
    return min(costs, key=lambda c: (max(0, c.peak_entries - entries), c.total))


def fitted(pair: Pair[Factor], frame: Frame, order: Order, entries: int) -> list[Cost]:
    """An order as it fits, in one way or several."""
    if order.materialises:
        return _in_pieces(pair, frame, order, entries)
    if order.streams is not None:
        return [] if frame.joint else [_one_by_one(pair, frame, order)]
    return _in_tiles(pair, frame, order, entries)


def _in_pieces(pair: Pair[Factor], frame: Frame, order: Order, entries: int) -> list[Cost]:
    """Materialised whole, and in pieces that stay in cache.

    Of one side with itself in strips of rows; not where a Jacobian is its cotangent, as of a bias:
    the Gram order of the weight beside it has the same product, and both are computed once.
    """
    first = pair.first
    n, k, j = examples(first), groups(first), units(first)
    strips = 1
    if pair.same and isinstance(first, Factored) and not frame.joint:
        strips = max(1, min(n, 4, _rows(first) // ROWS))
    tiles = (max(1, -(-n // strips)), examples(pair.other))
    whole = cost(pair, frame, Term(order, tiles, k, j))
    if not alike(*pair.sides):
        return [whole]
    each = sum(map(_row_entries, pair.distinct))
    most = max(tuning().cache, 2 * math.prod(map(_rows, pair.sides)))
    room = min(most, entries // 4) // max(1, each)
    some = _divisor(k, room // max(1, j))
    pieces = Term(order, tiles, some, _divisor(j, room // some))
    return [whole, cost(pair, frame, pieces)]


def _divisor(count: int, most: int) -> int:
    """The size of blocks of at most `most`: a divisor if there is one that is not too small."""
    fitting = [size for size in range(1, min(count, max(1, most)) + 1) if count % size == 0]
    largest = max(fitting, default=1)
    return largest if 2 * largest >= min(count, most) else even(count, most).size


def _rows(factor: Factor) -> int:
    return examples(factor) * outputs(factor)[2]


def _row_entries(factor: Factor) -> int:
    """Entries of the Jacobian for one `k` and one `j`."""
    assert isinstance(factor, Factored)
    return examples(factor) * math.prod(outputs(factor)) * _inputs(factor)


def _inputs(factor: Factored) -> int:
    return factor.A.size if isinstance(factor.A, OneHot) else factor.A.shape[-1]


def _one_by_one(pair: Pair[Factor], frame: Frame, order: Order) -> Cost:
    """One group, one example of one side, and as many of the other as stay in cache."""
    most = tuning().cache
    first, second = pair.sides if order.streams == 0 else pair.sides[::-1]
    assert isinstance(first, Factored) and isinstance(second, Factored)
    each = math.prod(outputs(first)) * first.G.shape[-1] * second.G.shape[-3]
    some = even(examples(first), most // max(1, each)).size
    tiles = (some, 1) if order.streams == 0 else (1, some)
    return cost(pair, frame, Term(order, tiles, 1))


def _in_tiles(pair: Pair[Factor], frame: Frame, order: Order, entries: int) -> list[Cost]:
    """Groups one by one, then examples in the largest tiles that fit.

    And in smaller tiles, of which a symmetric kernel needs half.
    """
    (n, m), k = map(examples, pair.sides), groups(pair.first)
    whole = cost(pair, frame, Term(order, (n, m), k))
    some = 1 if whole.peak_entries > entries else _steps_of(whole.multiply_adds, k)
    tiles, costs = (n, m), []
    while True:
        costs.append(cost(pair, frame, Term(order, tiles, some)))
        if costs[-1].peak_entries <= entries or max(tiles) <= 1:
            break
        tiles = _halved(tiles, frame)
    if pair.same and not frame.joint:
        rows = n * math.prod(outputs(pair.first)[1:])
        for runs in (2, 4, 8):
            if runs <= n and rows // runs >= ROWS // 4:
                tiles = (-(-n // runs), -(-n // runs))
                costs.append(cost(pair, frame, Term(order, tiles, some)))
    return costs


def _steps_of(multiply_adds: int, k: int) -> int:
    """How many groups to contract at a time: the fewest that are worth a step of a loop."""
    least = -(-WORTH * k // max(1, multiply_adds))
    return next((size for size in range(1, k + 1) if k % size == 0 and size >= least), k)


def _halved(tiles: tuple[int, int], frame: Frame) -> tuple[int, int]:
    """The longer side in half; both where examples are paired."""
    a, b = -(-tiles[0] // 2), -(-tiles[1] // 2)
    if frame.joint:
        return a, a
    return (a, tiles[1]) if tiles[0] >= tiles[1] else (tiles[0], b)


def cost(pair: Pair[Factor], frame: Frame, term: Term) -> Cost:
    """What contracting two unfolded factors, or their shapes, costs in all."""
    sizes = _axis_sizes(pair.first, frame, 0) | _axis_sizes(pair.other, frame, 1)
    pieces = 1
    if alike(*pair.sides):
        some = (term.groups, term.units or sizes[J])
        k, j = Block(sizes[K], some[0]), Block(sizes[J], some[1])
        pieces = k.runs * j.runs
        sizes |= {K: some[0], J: some[1], P: some[0] * sizes[I] * some[1]}
    steps = term.order.contractions(pair, frame)
    if term.order.materialises:
        dense = isinstance(pair.first, Factored) and not is_one_hot(pair.first)
        return _materialised(
            steps, sizes, term, pieces, same=pair.same, cached=dense and pieces > 1
        )
    n, m = map(Block, map(examples, pair.sides), term.tiles)
    tile = sizes | {N: min(n.size, n.count)}
    if not frame.joint:
        tile[M] = min(m.size, m.count)
    runs = n.runs if frame.joint else _tile_count(n, m, upper_only=pair.same)
    # Tiles of orders that stream are made to stay in cache.
    cached = 1 if term.order.streams is None else 8
    multiply_adds = moved = peak = 0
    for inputs, result in steps:
        multiply_adds += runs * _volume(frozenset().union(*inputs), tile)
        if not _is_match(inputs):  # which is fused into what multiplies by it
            moved += runs * sum(_volume(labels, tile) for labels in (*inputs, result)) // cached
        if result != frozenset(frame.labels):
            peak += _volume(result, tile)
    if runs > 1:  # tiles are cut out of the factors
        made = [result for _, result in steps]
        cut = [x for inputs, _ in steps for x in inputs if x not in made]
        size = sum(_volume(labels, tile) for labels in cut)
        moved += runs * size
        peak += size
    runs *= pieces
    return Cost(term, multiply_adds * pieces, moved * pieces, runs if runs > 1 else 0, peak)


def _tile_count(n: Block, m: Block, *, upper_only: bool) -> int:
    """How many tiles there are; of a symmetric kernel those that reach above the diagonal."""
    if not upper_only:
        return n.runs * m.runs
    left_out = np.searchsorted(m.starts, n.starts - m.size, side="right")
    return n.runs * m.runs - int(left_out.sum())


def _is_match(inputs: tuple[frozenset[int], ...]) -> bool:
    return not any(labels & {I, J, P} for labels in inputs)


def _materialised(
    steps: Sequence[Contraction],
    sizes: dict[int, int],
    term: Term,
    pieces: int,
    *,
    same: bool,
    cached: bool,
) -> Cost:
    """What pieces of Jacobians cost. `cached`: they are built and used up in cache."""
    *builds, ((J1, J2), result) = steps
    n, kernel = sizes[N], _volume(result, sizes)
    strips = range(0, n, term.tiles[0]) if same else [0]
    share = sum(min(term.tiles[0], n - a) * (n - a) for a in strips) / n**2 if same and n else 1
    product = int(_volume(J1 | J2 | result, sizes) * share)
    multiply_adds = (
        sum(_volume(frozenset().union(*inputs), sizes) for inputs, _ in builds) + product
    )
    read = sum(_volume(labels, sizes) for inputs, _ in builds for labels in inputs)
    made = _volume(J1, sizes) + (0 if same else _volume(J2, sizes)) if builds else 0
    transposed = made if sizes.get(K, 1) > 1 else 0  # a product leaves `k` before the outputs
    moved = kernel // 4 + read if cached else kernel + read // 2 + made + transposed
    peak = made + (0 if pieces == 1 else 2 * kernel + read)
    steps_taken = pieces if pieces > 1 else 0
    return Cost(term, multiply_adds * pieces, moved * pieces, steps_taken, peak)


def _axis_sizes(factor: Factor, frame: Frame, side: int) -> dict[int, int]:
    """The sizes of the factor's axes by label; `P` counts the parameters."""
    if isinstance(factor, Materialised):
        return dict(zip(frame.of_J(side), factor.J.shape, strict=True))
    sizes = dict(zip(frame.of_G(side), factor.G.shape, strict=True)) | {I: _inputs(factor)}
    return sizes | {P: sizes[K] * sizes[I] * sizes[J]}


def _volume(labels: frozenset[int], sizes: dict[int, int]) -> int:
    return math.prod(sizes[label] for label in labels)
