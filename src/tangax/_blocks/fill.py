"""Filling a kernel in: halves and tiles in the order of the plan, each computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .._shared.compiled import Compiled
from .._shared.trees import is_concrete
from .halves import Call, Half, Halves
from .nonfinite import Finite
from .plan import BlockPlan, Round
from .tiles import Array, Index, present


class Destination(Protocol):
    """Where tiles of these arrays go."""

    arrays: Sequence[Array]

    def finished(self, index: Index) -> list[np.ndarray] | None:
        """The parts of a tile that is there, if it is."""
        ...

    def write(self, index: Index, parts: Sequence[np.ndarray]) -> None: ...


def fill(
    call: Call,
    plan: BlockPlan,
    compute: Compute,
    destination: Destination,
    finite: Finite,
    *,
    progress: bool,
) -> None:
    with _bar(plan, shown=progress) as advance:
        sink = Sink(plan, destination, finite, advance)
        todo = {index for index in _indices(plan) if not sink.is_finished(index)}
        for here in plan.rounds():
            _fill_round(here, todo, Halved(call, compute), sink)


def _indices(plan: BlockPlan) -> Iterator[Index]:
    for here in plan.rounds():
        for b, rows in here.columns:
            yield from ((a, b) for a in rows)


def _fill_round(here: Round, todo: set[Index], of: Halved, sink: Sink) -> None:
    """The tiles of some rows, column by column.

    While a tile is on its way to where it is written, the device computes the next. Halves are
    computed when nothing else is, so that the most memory is what either takes.
    """
    resident: dict[int, Half] = {}
    for b, rows in here.columns:
        missing = [a for a in rows if (a, b) in todo]
        if not missing:
            continue
        for a in missing:
            if a not in resident:
                sink.flush()
                resident[a] = of.half(0, a)
        same = of.call.sides.same
        column = resident.get(b) if same else None
        if column is None:
            sink.flush()
            column = of.half(1, b)
            if same and b in here.rows:
                resident[b] = column
        for a in missing:
            tile = of.tile(resident[a], None if same and a == b else column)
            sink.put((a, b), tile)
    sink.flush()


class Compute:
    """Halves and tiles of a plan, compiled once for each shape. Holds no values."""

    def __init__(self, plan: BlockPlan, halves: Halves, call: Call) -> None:
        self.recipe = plan.recipe
        self.halves = replace(halves, call=call.without_values())
        self._half = Compiled(self._in_chunks)
        self.tile = Compiled(self.halves.tile)

    def half(self, call: Call, side: int, block: int) -> Half:
        """The half of a block; past the end stand copies of the last example."""
        examples, recipe = call.sides.sides[side], self.recipe
        size, start = min(recipe.block, examples.n), block * recipe.block
        if recipe.kind == "examples":
            return examples.block(start, size)
        chunk = min(recipe.chunk, size)
        x, kwargs = examples.block(start, -(-size // chunk) * chunk)
        return jax.block_until_ready(self._half(side, size, chunk, x, call.params, kwargs))

    def _in_chunks(
        self, side: int, size: int, chunk: int, x: Any, params: Any, kwargs: dict[str, Any]
    ) -> Half:
        """The half of a block, some examples after the others.

        In a loop of the compiler's, whose steps share their memory: fresh memory is slow. Where `f`
        asks for values, in a loop of Python's.
        """
        cut = partial(self.halves.call.sides.sides[side].cut, x, kwargs, size=chunk)

        def one(start: Any) -> Half:
            x, kwargs = cut(start)
            return self.halves.half(x, params, kwargs)

        starts = range(0, size, chunk)
        if len(starts) == 1:
            return jax.tree.map(lambda a: a[:size], one(0))
        if not is_concrete((x, kwargs)):
            stacked = jax.lax.map(one, jnp.arange(0, size, chunk))
            return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:size], stacked)
        return jax.tree.map(lambda *a: jnp.concatenate(a)[:size], *map(one, starts))


@dataclass(frozen=True)
class Halved:
    """The halves and tiles of a call."""

    call: Call
    compute: Compute

    def half(self, side: int, block: int) -> Half:
        return self.compute.half(self.call, side, block)

    def tile(self, first: Half, second: Half | None) -> list[jax.Array]:
        return self.compute.tile(first, second, self.call.params)


@dataclass
class Sink:
    """Takes tiles from the device, looks at them, keeps them and their transposes."""

    plan: BlockPlan
    destination: Destination
    finite: Finite
    advance: Callable[[int], None]
    pending: tuple[Index, list[jax.Array]] | None = None

    def is_finished(self, index: Index) -> bool:
        arrays = self.destination.arrays
        for one in dict.fromkeys((index, self._twin(index))):
            parts = self.destination.finished(one)
            if parts is None:
                return False
            self.finite.check(one, [a for a, _ in present(one, arrays, arrays)], parts)
        self._count(index)
        return True

    def put(self, index: Index, tile: list[jax.Array]) -> None:
        """Keep the tile before, and take one that is on its way."""
        self.flush()
        self.pending = (index, tile)

    def flush(self) -> None:
        if self.pending is None:
            return
        (index, tile), self.pending = self.pending, None
        there = present(index, self.destination.arrays, tile)
        arrays, parts = [a for a, _ in there], [a.cut(np.asarray(x), index) for a, x in there]
        self.finite.check(index, arrays, parts)
        self.destination.write(index, parts)
        twin = self._twin(index)
        if twin != index:
            pairs = zip(arrays, parts, strict=True)
            self.destination.write(twin, [part.transpose(a.twins) for a, part in pairs])
        self._count(index)

    def _twin(self, index: Index) -> Index:
        return (index[1], index[0]) if self.plan.same else index

    def _count(self, index: Index) -> None:
        n, m = (
            min(self.plan.recipe.block, total - b * self.plan.recipe.block)
            for b, total in zip(index, (self.plan.n, self.plan.m), strict=True)
        )
        pairs = n if self.plan.joint else n * m * (1 + (self._twin(index) != index))
        self.advance(pairs)


@contextlib.contextmanager
def _bar(plan: BlockPlan, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Pairs and tiles done, pairs a second, time left; or nothing."""
    if not shown:
        yield lambda pairs: None
        return
    tqdm = tqdm_class()
    tiles = 0
    with tqdm(total=plan.pairs, unit=" pairs", unit_scale=True, desc="kernel") as bar:

        def advance(pairs: int) -> None:
            nonlocal tiles
            tiles += 1
            bar.set_postfix_str(f"{tiles} of {plan.tiles} tiles", refresh=False)
            bar.update(pairs)

        yield advance


def tqdm_class() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        msg = "progress=True needs tqdm: pip install 'tangax[progress]'."
        raise ImportError(msg) from error
    return tqdm
