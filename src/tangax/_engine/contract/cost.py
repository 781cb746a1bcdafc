"""Planning a pair of factors: what each order of contraction costs, and pieces that fit a budget.

Everything here reads shapes alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import opt_einsum

from ..._shared.tuning import MOVE, ROWS, STEP, WORTH, tuning
from ..kinds import (
    Factor,
    Factored,
    Materialised,
    OneHot,
    alike,
    examples,
    groups,
    outputs,
    units,
)
from ..output_axes import Block, D, Frame, I, J, K, M, N, O, P, Q, R, S, T, even
from .einsum import ORDERS, Term, tile_count

# Orders in which one side passes by example by example.
ONE_BY_ONE = ("gram first", "gram second")

Contraction = tuple[tuple[frozenset[int], ...], frozenset[int]]


@dataclass(frozen=True)
class Cost:
    """What a term costs: multiply-adds, entries moved through memory, steps of loops, entries held.

    `held`: intermediates that stand beside each other.
    """

    term: Term
    multiply_adds: int
    moved: int
    steps: int
    held: int

    @property
    def total(self) -> int:
        """Comparable between orders."""
        return self.multiply_adds + MOVE * self.moved + STEP * self.steps


# Orders


def plan_pair(f1: Factor, f2: Factor, frame: Frame, entries: int, *, factored: bool) -> Cost:
    """The cheapest order that holds at most `entries`. `factored`: materialise only if it must."""
    orders = allowed(f1, f2)
    if factored and len(orders) > 1:
        orders = [order for order in orders if order != "materialise"]
    found = [cost for order in orders for cost in fitted(f1, f2, frame, order, entries)]
    return min(found, key=lambda c: (max(0, c.held - entries), c.total))


def allowed(f1: Factor, f2: Factor) -> list[str]:
    """The orders that a pair has."""
    if not alike(f1, f2):
        return ["materialise"]
    hot = [isinstance(f, Factored) and isinstance(f.A, OneHot) for f in (f1, f2)]
    if any(hot):
        return ["materialise", "gram"] if all(hot) else ["materialise"]
    return list(ORDERS)


def fitted(f1: Factor, f2: Factor, frame: Frame, order: str, entries: int) -> list[Cost]:
    """An order as it fits, in one way or several."""
    if order == "materialise":
        return in_pieces(f1, f2, frame, entries)
    if order in ONE_BY_ONE:
        return [] if frame.joint else [one_by_one(f1, f2, frame, order)]
    return in_tiles(f1, f2, frame, order, entries)


def in_pieces(f1: Factor, f2: Factor, frame: Frame, entries: int) -> list[Cost]:
    """Materialised whole, and in pieces that stay in cache.

    Of one side with itself in strips of rows; not where a Jacobian is its cotangent, as of a bias:
    the Gram order of the weight beside it has the same product, and both are computed once.
    """
    n, k, j = examples(f1), groups(f1), units(f1)
    strips = 1
    if f1 is f2 and isinstance(f1, Factored) and not frame.joint:
        strips = max(1, min(n, 4, rows(f1) // ROWS))
    tiles = (max(1, -(-n // strips)), examples(f2))
    whole = cost(f1, f2, frame, Term("materialise", tiles, k, j))
    if not alike(f1, f2):
        return [whole]
    each = sum(row_entries(f) for f in ((f1,) if f1 is f2 else (f1, f2)))
    most = max(tuning().cache, 2 * math.prod(map(rows, (f1, f2))))
    room = min(most, entries // 4) // max(1, each)
    some = divisor(k, room // max(1, j))
    pieces = Term("materialise", tiles, some, divisor(j, room // some))
    return [whole, cost(f1, f2, frame, pieces)]


def divisor(count: int, most: int) -> int:
    """The size of blocks of at most `most`: a divisor if there is one that is not too small."""
    fitting = [size for size in range(1, min(count, max(1, most)) + 1) if count % size == 0]
    found = max(fitting, default=1)
    return found if 2 * found >= min(count, most) else even(count, most).size


def rows(factor: Factor) -> int:
    """The rows of the Jacobian as a matrix."""
    return examples(factor) * outputs(factor)[2]


def row_entries(factor: Factor) -> int:
    """Entries of the Jacobian for one `k` and one `j`."""
    assert isinstance(factor, Factored)
    i = factor.A.size if isinstance(factor.A, OneHot) else factor.A.shape[-1]
    return examples(factor) * math.prod(outputs(factor)) * i


def one_by_one(f1: Factor, f2: Factor, frame: Frame, order: str) -> Cost:
    """One group, one example of one side, and as many of the other as stay in cache."""
    most = tuning().cache
    first, second = (f1, f2) if order == "gram first" else (f2, f1)
    assert isinstance(first, Factored) and isinstance(second, Factored)
    each = math.prod(outputs(first)) * first.G.shape[-1] * second.G.shape[-3]
    some = even(examples(first), most // max(1, each)).size
    tiles = (some, 1) if order == "gram first" else (1, some)
    return cost(f1, f2, frame, Term(order, tiles, 1))


def in_tiles(f1: Factor, f2: Factor, frame: Frame, order: str, entries: int) -> list[Cost]:
    """Groups one by one, then examples in the largest tiles that fit.

    And in smaller tiles, of which a symmetric kernel needs half.
    """
    n, m, k = examples(f1), examples(f2), groups(f1)
    whole = cost(f1, f2, frame, Term(order, (n, m), k))
    some = 1 if whole.held > entries else steps_of(whole.multiply_adds, k)
    tiles, found = (n, m), []
    while True:
        found.append(cost(f1, f2, frame, Term(order, tiles, some)))
        if found[-1].held <= entries or max(tiles) <= 1:
            break
        tiles = halved(tiles, frame)
    if f1 is f2 and not frame.joint:
        rows = n * math.prod(outputs(f1)[1:])
        for runs in (2, 4, 8):
            if runs <= n and rows // runs >= ROWS // 4:
                tiles = (-(-n // runs), -(-n // runs))
                found.append(cost(f1, f2, frame, Term(order, tiles, some)))
    return found


def steps_of(multiply_adds: int, k: int) -> int:
    """How many groups to contract at a time: the fewest that are worth a step of a loop."""
    least = -(-WORTH * k // max(1, multiply_adds))
    return next((size for size in range(1, k + 1) if k % size == 0 and size >= least), k)


def halved(tiles: tuple[int, int], frame: Frame) -> tuple[int, int]:
    """The longer side in half; both where examples are paired."""
    a, b = -(-tiles[0] // 2), -(-tiles[1] // 2)
    if frame.joint:
        return a, a
    return (a, tiles[1]) if tiles[0] >= tiles[1] else (tiles[0], b)


def cost(f1: Factor, f2: Factor, frame: Frame, term: Term) -> Cost:
    """What contracting two unfolded factors, or their shapes, costs in all."""
    sizes = axis_sizes(f1, frame, 0) | axis_sizes(f2, frame, 1)
    pieces = 1
    if alike(f1, f2):
        some = (term.groups, term.units or sizes[J])
        k, j = Block(sizes[K], some[0]), Block(sizes[J], some[1])
        pieces = k.runs * j.runs
        sizes |= {K: some[0], J: some[1], P: some[0] * sizes[I] * some[1]}
    steps = contractions(f1, f2, frame, term.order)
    if term.order == "materialise":
        dense = isinstance(f1, Factored) and not isinstance(f1.A, OneHot)
        return materialised(steps, sizes, term, pieces, same=f1 is f2, cached=dense and pieces > 1)
    n, m = Block(examples(f1), term.tiles[0]), Block(examples(f2), term.tiles[1])
    tile = sizes | {N: min(n.size, n.count)}
    if not frame.joint:
        tile[M] = min(m.size, m.count)
    runs = n.runs if frame.joint else tile_count(n, m, half=f1 is f2)
    # Tiles of these orders are made to stay in cache.
    cached = 8 if term.order in ONE_BY_ONE else 1
    multiply_adds = moved = held = 0
    for inputs, result in steps:
        multiply_adds += runs * volume(frozenset().union(*inputs), tile)
        if not is_match(inputs):  # which is fused into what multiplies by it
            moved += runs * sum(volume(labels, tile) for labels in (*inputs, result)) // cached
        if result != frozenset(frame.labels):
            held += volume(result, tile)
    if runs > 1:  # tiles are cut out of the factors
        made = [result for _, result in steps]
        cut = [x for inputs, _ in steps for x in inputs if x not in made]
        size = sum(volume(labels, tile) for labels in cut)
        moved += runs * size
        held += size
    runs *= pieces
    return Cost(term, multiply_adds * pieces, moved * pieces, runs if runs > 1 else 0, held)


def is_match(inputs: tuple[frozenset[int], ...]) -> bool:
    """Whether a contraction compares the ids of two lookups."""
    return not any(labels & {I, J, P} for labels in inputs)


def materialised(
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
    n, kernel = sizes[N], volume(result, sizes)
    strips = range(0, n, term.tiles[0]) if same else [0]
    share = sum(min(term.tiles[0], n - a) * (n - a) for a in strips) / n**2 if same and n else 1
    product = int(volume(J1 | J2 | result, sizes) * share)
    multiply_adds = sum(volume(frozenset().union(*inputs), sizes) for inputs, _ in builds) + product
    read = sum(volume(labels, sizes) for inputs, _ in builds for labels in inputs)
    made = volume(J1, sizes) + (0 if same else volume(J2, sizes)) if builds else 0
    transposed = made if sizes.get(K, 1) > 1 else 0  # a product leaves `k` before the outputs
    moved = kernel // 4 + read if cached else kernel + read // 2 + made + transposed
    held = made + (0 if pieces == 1 else 2 * kernel + read)
    steps_taken = pieces if pieces > 1 else 0
    return Cost(term, multiply_adds * pieces, moved * pieces, steps_taken, held)


def axis_sizes(factor: Factor, frame: Frame, side: int) -> dict[int, int]:
    """The sizes of the factor's axes by label; `P` counts the parameters."""
    lead = (N, D, R, O) if side == 0 else (frame.m, D, R, Q)
    if isinstance(factor, Materialised):
        return dict(zip((*lead, P), factor.J.shape, strict=True))
    sizes = dict(zip((*lead, (S, T)[side], K, J), factor.G.shape, strict=True))
    i = factor.A.size if isinstance(factor.A, OneHot) else factor.A.shape[-1]
    return sizes | {I: i, P: sizes[K] * i * sizes[J]}


def contractions(f1: Factor, f2: Factor, frame: Frame, order: str) -> list[Contraction]:
    """Every pairwise contraction of an order: operands and result as sets of labels."""
    result = frozenset(frame.labels)
    A1, A2 = frozenset([N, S, K, I]), frozenset([frame.m, T, K, I])
    G1, G2 = frozenset([N, D, R, O, S, K, J]), frozenset([frame.m, D, R, Q, T, K, J])
    hot = [isinstance(f, Factored) and isinstance(f.A, OneHot) for f in (f1, f2)]
    ids1, ids2 = A1 - {I}, A2 - {I}
    if order == "materialise":
        J1, J2 = frozenset([N, D, R, O, P]), frozenset([frame.m, D, R, Q, P])
        built = [
            ((ids if is_hot else A, G), jac)
            for f, A, ids, is_hot, G, jac in (
                (f1, A1, ids1, hot[0], G1, J1),
                (f2, A2, ids2, hot[1], G2, J2),
            )
            if isinstance(f, Factored)
        ]
        return [*built[: 1 if f1 is f2 else 2], ((J1, J2), result)]
    if all(hot):
        match = ids1 | ids2
        return [((ids1, ids2), match), *steps((match, G1, G2), result, ((1, 2), (0, 1)))]
    return list(steps((A1, G1, A2, G2), result, ORDERS[order]))


@functools.lru_cache
def steps(
    terms: tuple[frozenset[int], ...], result: frozenset[int], path: tuple[tuple[int, int], ...]
) -> tuple[Contraction, ...]:
    """The pairwise contractions of a path: operands and result of each, as sets of labels."""
    spelled = ["".join(map(opt_einsum.get_symbol, labels)) for labels in (*terms, result)]
    expression = ",".join(spelled[:-1]) + "->" + spelled[-1]
    shapes = [(2,) * len(labels) for labels in terms]
    _, info = opt_einsum.contract_path(expression, *shapes, shapes=True, optimize=list(path))
    label = {opt_einsum.get_symbol(a): a for a in frozenset().union(*terms)}
    found = []
    for contraction in info.contraction_list:
        operands, _, out = contraction[2].partition("->")
        sides = tuple(frozenset(label[s] for s in side) for side in operands.split(","))
        found.append((sides, frozenset(label[s] for s in out)))
    return tuple(found)


def volume(labels: frozenset[int], sizes: dict[int, int]) -> int:
    """The number of entries of an array with these labels."""
    return math.prod(sizes[label] for label in labels)
