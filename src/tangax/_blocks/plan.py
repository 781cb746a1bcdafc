"""Blocks of examples in a memory budget: how large, how many stay, and in which order.

Blocks of rows stay resident, as many as fit; blocks of columns pass them by. Everything here reads
shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .._arguments.sides import check_same_outputs
from .._engine.explain import short
from .._engine.ranges import even
from .._shared.memory import in_bytes, nbytes
from .._shared.tuning import PLANNED, RESERVE, tuning
from .halves import Call, Halves, InExamples, InFactors, InOutputs, metas


@dataclass(frozen=True)
class Recipe:
    """What decides every bit of a kernel besides `f` and its arguments; a store keeps it.

    `block`: examples of a tile's side; `chunk`: evaluated at a time; `kind` of halves, and `forms`
    of leaves; `memory`: of the contraction of a tile.
    """

    block: int
    chunk: int
    kind: str
    forms: tuple[str, ...]
    memory: int


@dataclass(frozen=True)
class Round:
    """Blocks of rows that are resident at once, and for each column that passes which of them."""

    rows: range
    columns: list[tuple[int, list[int]]]


@dataclass(frozen=True)
class BlockPlan:
    """What a batched call will do, printed as a table.

    `n`, `m`: examples; `resident`: blocks of rows that stay at once; `half`: bytes that are stored
    of an example; `build`, `tile`: multiply-adds of an example's half, of a tile. `parts`: bytes by
    name; `memory`: the budget. `arrays`: the result's by name, shape, dtype.
    """

    n: int
    m: int
    same: bool
    joint: bool
    recipe: Recipe
    resident: int
    half: tuple[int, int]
    build: tuple[int, int]
    tile: int
    parts: dict[str, int]
    memory: int
    arrays: tuple[tuple[str, tuple[int, ...], str], ...]
    on_disk: bool

    @property
    def blocks(self) -> tuple[int, int]:
        return -(-self.n // self.recipe.block), -(-self.m // self.recipe.block)

    def rounds(self) -> Iterator[Round]:
        """The order of the work. Of a symmetric kernel, tiles below the diagonal are left out."""
        rows, columns = self.blocks
        for start in range(0, rows, max(1, self.resident)):
            here = range(start, min(start + self.resident, rows))
            if self.joint:
                yield Round(here, [(b, [b]) for b in here])
            elif self.same:
                passing = range(start, columns)
                yield Round(here, [(b, [a for a in here if a <= b]) for b in passing])
            else:
                yield Round(here, [(b, list(here)) for b in range(columns)])

    @property
    def tiles(self) -> int:
        rows, columns = self.blocks
        return rows if self.joint else rows * (rows + 1) // 2 if self.same else rows * columns

    @property
    def pairs(self) -> int:
        """Pairs of examples whose kernel is computed or copied."""
        return self.n if self.joint else self.n * self.m

    @property
    def evaluations(self) -> tuple[int, int]:
        """How many examples' halves are computed, of `x1` and of `x2`."""
        first = second = 0
        for here in self.rounds():
            first += self._examples(here.rows, self.n)
            again = [b for b, _ in here.columns if not (self.same and b in here.rows)]
            second += self._examples(again, self.m)
        return (first + second, 0) if self.same else (first, second)

    def _examples(self, blocks: Any, n: int) -> int:
        size = self.recipe.block
        return sum(min(size, n - b * size) for b in blocks)

    @property
    def multiply_adds(self) -> int:
        return self.evaluating + self.contracting

    @property
    def evaluating(self) -> int:
        """Multiply-adds of forward and backward passes, and of multiplying factors out."""
        return sum(e * b for e, b in zip(self.evaluations, self.build, strict=True))

    @property
    def contracting(self) -> int:
        """Multiply-adds of tiles."""
        return self.tiles * self.tile

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())

    def seconds(self, flops_per_second: float) -> float:
        """The time that a device takes at a rate, two operations to a multiply-add."""
        return 2 * self.multiply_adds / flops_per_second

    def __str__(self) -> str:
        """The table."""
        size, (rows, columns) = self.recipe.block, self.blocks
        count = sum(1 for _ in self.rounds())
        first, second = self.evaluations
        of = f"{first:,} of x1" if self.same else f"{first:,} of x1, {second:,} of x2"
        out = sum(form != "kept" for form in self.recipe.forms)
        detail = f", {out} of {len(self.recipe.forms)} leaves multiplied out" if out else ""
        half = "" if self.joint or not self.same else " (x2=None: half of the tiles, others copied)"
        where = "on disk" if self.on_disk else "in memory"
        if self.recipe.kind == "examples":
            halves = ["halves: none, every tile is a kernel of its own"]
        else:
            halves = [
                f"halves: {self.recipe.kind}, {in_bytes(self.half[0])} an example{detail}; "
                f"{self.recipe.chunk} examples are evaluated at a time",
                f"resident: {min(self.resident * size, self.n):,} rows at a time, {count} "
                f"round{'s' if count > 1 else ''}",
                f"evaluations: {of}",
            ]
        lines = [
            *(
                f"{name}: {list(shape)} {dtype}, "
                f"{in_bytes(math.prod(shape) * jnp.dtype(dtype).itemsize)} {where}"
                for name, shape, dtype in self.arrays
            ),
            f"examples: {self.n:,} of x1, {self.m:,} of x2",
            f"tiles: {self.tiles:,} of {size} x {size}, from a grid of {rows} x {columns}{half}",
            *halves,
            f"multiply-adds: evaluations {short(self.evaluating)}, tiles {short(self.contracting)}",
            "bytes: "
            + ", ".join(f"{name} {in_bytes(number)}" for name, number in self.parts.items()),
            f"about {in_bytes(self.bytes)} in all, of {in_bytes(_room_of(self.memory))}: memory "
            f"{in_bytes(self.memory)} less {in_bytes(RESERVE)} for compiling and {1 - PLANNED:.0%}",
        ]
        return "\n".join(lines)


def plan_blocks(
    call: Call, memory: int, batch_size: int | None, *, on_disk: bool, recipe: Recipe | None = None
) -> tuple[BlockPlan, Halves]:
    """The largest blocks that fit, and the halves that they are made of.

    `recipe`: that of a run which this one continues. `ValueError` where one pair does not fit.
    """
    room = _room_of(memory)
    tried: dict[str, BlockPlan] = {}
    for kind in kinds(call) if recipe is None else [recipe.kind]:
        tile_memory = max(1, room // 4) if recipe is None else recipe.memory
        halves = _halves_of(call, kind, tile_memory, recipe)
        _check_outputs(call, halves)
        sizes = _sizes_of(call, halves, room, batch_size, recipe)
        recipes = [Recipe(*size, kind, halves.forms, tile_memory) for size in sizes]
        for one in recipes:
            tried[kind] = _block_plan(call, halves, one, memory, on_disk=on_disk)
            if tried[kind].bytes <= room:
                return tried[kind], halves
    least = min(tried.values(), key=lambda plan: plan.bytes)
    need = RESERVE + math.ceil(least.bytes / PLANNED)
    what = "a pair of examples" if recipe is None and batch_size is None else "a pair of blocks"
    kernel = least.parts["kernel"]
    if 2 * kernel > least.bytes:
        what = f"the kernel, which alone takes {in_bytes(kernel)} (store= writes it to disk)"
    msg = (
        f"memory={in_bytes(memory)} is too small for {what}: at least {need} bytes (about "
        f"{in_bytes(need)}) are needed, {in_bytes(RESERVE)} of them for compiling and "
        f"{1 - PLANNED:.0%} of the remainder for allocators."
    )
    raise ValueError(msg)


def _room_of(memory: int) -> int:
    return int(PLANNED * max(0, memory - RESERVE))


def kinds(call: Call) -> list[str]:
    if "ntk" not in call.names:
        return ["outputs"]
    if call.joint(metas(InExamples.of(call, 1).examples)) or not call.fn.ntk_fn.has_plan:
        return ["examples"]
    return ["factors", "examples"]


def _check_outputs(call: Call, halves: Halves) -> None:
    """Refuse outputs of two kinds, and a sum over the examples: that cannot be cut in blocks."""
    both = metas(halves.examples)
    check_same_outputs(*(meta.treedef for meta in both.sides))
    for name, frame in zip(both.first.names, call.frames(both, [1, 1]), strict=True):
        if frame.batch in frame.ax.trace:
            msg = (
                f"trace_axes sums over axis {frame.batch} of {name}, the examples, which batch "
                f"cuts in blocks. Pass it in diagonal_axes, and take the mean of the result."
            )
            raise ValueError(msg)


def _halves_of(call: Call, kind: str, memory: int, recipe: Recipe | None) -> Halves:
    if kind == "outputs":
        return InOutputs.of(call)
    if kind == "examples":
        return InExamples.of(call, memory)
    return InFactors.of(call, memory, None if recipe is None else recipe.forms)


def _sizes_of(
    call: Call, halves: Halves, room: int, batch_size: int | None, recipe: Recipe | None
) -> list[tuple[int, int]]:
    """Examples of a block and of a chunk, the largest first."""
    if recipe is not None:
        return [(recipe.block, recipe.chunk)]
    longest = max(1, *call.lengths)
    blocks = halvings(even(longest, tuning().block).size)
    if batch_size is not None:
        blocks = [min(batch_size, longest)]
    if halves.kind == "examples":  # a tile is one call
        return [(block, block) for block in blocks]
    evaluation = max(1, *(e.evaluation for e in halves.examples.sides))
    chunk = max(1, tuning().chunk // evaluation)
    if batch_size is not None:
        return [(blocks[0], c) for c in halvings(min(blocks[0], chunk))]
    chunk = max(1, min(chunk, room // 4 // evaluation))
    return [rounded(longest, block, min(block, chunk)) for block in blocks]


def halvings(most: int) -> list[int]:
    """`most`, half of it, and so on to one."""
    sizes = [max(1, most)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def rounded(longest: int, block: int, chunk: int) -> tuple[int, int]:
    """Blocks of equal chunks, as few as before."""
    block = even(longest, block).size
    chunk = even(block, chunk).size
    return -(-block // chunk) * chunk, chunk


def _block_plan(
    call: Call, halves: Halves, recipe: Recipe, memory: int, *, on_disk: bool
) -> BlockPlan:
    """The plan of blocks of a size: as many rows stay as there is room for."""
    n, m = call.lengths
    first, second = halves.examples.sides
    sizes = min(recipe.block, n), min(recipe.block, m)
    half = nbytes(first.half), nbytes(second.half)
    of_sides = sizes[0] * half[0], sizes[1] * half[1]
    arrays = _kernel_shapes(call, halves, (n, m))
    evaluating = recipe.chunk * max(first.evaluation, second.evaluation) + max(of_sides)
    tile = halves.price(sizes)
    parts = {
        "kernel": 0 if on_disk else nbytes(arrays),
        "resident halves": of_sides[0],
        "passing halves": of_sides[1],
        "evaluating or contracting": max(evaluating, tile.peak_bytes),
        # On the device, on the way, and transposed; by Zarr once more, and encoded.
        "tiles": (6 if on_disk else 4) * nbytes(_kernel_shapes(call, halves, sizes)),
        "inputs": 2 * sum(side.nbytes(b) for side, b in zip(call.sides.sides, sizes, strict=True)),
    }
    spare = max(0, _room_of(memory) - sum(parts.values()))
    resident = min(max(1, -(-n // recipe.block)), 1 + spare // max(1, of_sides[0]))
    parts["resident halves"] *= resident
    return BlockPlan(
        n=n,
        m=m,
        same=call.sides.same,
        joint=call.joint(metas(halves.examples)),
        recipe=recipe,
        resident=resident,
        half=half,
        build=(first.build, second.build),
        tile=tile.multiply_adds,
        parts=parts,
        memory=memory,
        arrays=tuple((name, a.shape, str(a.dtype)) for name, a in arrays.items()),
        on_disk=on_disk,
    )


def _kernel_shapes(call: Call, halves: Halves, sizes: tuple[int, int]) -> dict[str, Any]:
    """Every array of the kernel of so many examples, by name: "ntk", or "ntk/1" of several."""
    first, second = halves.examples.sides
    frames = call.frames(metas(halves.examples), sizes)
    arrays = {}
    for name in call.names:
        for r, frame in enumerate(frames):
            dtype = jnp.promote_types(first.dtypes[name][r], second.dtypes[name][r])
            label = f"{name}/{r}" if len(frames) > 1 else name
            arrays[label] = jax.ShapeDtypeStruct(frame.result_shape, dtype)
    return arrays
