"""Where tiles go: the place of each in the arrays of a kernel, kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .halves import Call, Halves, metas
from .plan import BlockPlan

Index = tuple[int, int]


@dataclass(frozen=True)
class Array:
    """One array of a kernel in blocks: `rows` and `columns` are its axes of examples.

    `columns` is `None` where only pairs of equal examples are kept.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: int
    columns: int | None
    twins: tuple[int, ...]
    block: int

    @property
    def tile(self) -> tuple[int, ...]:
        """The shape of a full tile."""
        axes = (self.rows, self.columns)
        return tuple(
            max(1, min(self.block, d) if a in axes else d) for a, d in enumerate(self.shape)
        )

    def region(self, index: Index) -> tuple[slice, ...]:
        slices = [slice(0, d) for d in self.shape]
        for axis, b in zip((self.rows, self.columns), index, strict=True):
            if axis is not None:
                stop = min((b + 1) * self.block, self.shape[axis])
                slices[axis] = slice(b * self.block, stop)
        return tuple(slices)

    def cut(self, tile: np.ndarray, index: Index) -> np.ndarray:
        """A computed tile without the examples that were repeated to fill it."""
        return tile[tuple(slice(0, s.stop - s.start) for s in self.region(index))]

    def pair(self, place: Index, index: Index) -> Index:
        """The examples at a row and a column of a tile."""
        return index[0] * self.block + place[0], index[1] * self.block + place[1]


def arrays_of(plan: BlockPlan, call: Call, halves: Halves) -> list[Array]:
    frames = call.frames(metas(halves.examples), [plan.n, plan.m])
    found = []
    for a, (name, shape, dtype) in enumerate(plan.arrays):
        frame = frames[a % len(frames)]
        assert frame.batch is not None
        labels, twin = frame.ax.result, frame.ax.second[frame.batch]
        rows = labels.index(frame.batch)
        columns = None if frame.joint else labels.index(twin)
        twins = tuple(frame.ax.transposition())
        found.append(Array(name, shape, dtype, rows, columns, twins, plan.recipe.block))
    return found


class InMemory:
    """A kernel as NumPy arrays."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        self.kernels = [np.empty(a.shape, a.dtype) for a in arrays]

    def finished(self, index: Index) -> list[np.ndarray] | None:
        return None

    def write(self, index: Index, parts: Sequence[np.ndarray]) -> None:
        for (array, kernel), part in zip(
            present(index, self.arrays, self.kernels), parts, strict=True
        ):
            kernel[array.region(index)] = part


def present(index: Index, arrays: Sequence[Array], each: Sequence[Any]) -> list[tuple[Array, Any]]:
    """The arrays that have a part of a tile, and what belongs to each.

    Of pairs of equal examples, only tiles on the diagonal are.
    """
    pairs = zip(arrays, each, strict=True)
    return [(a, x) for a, x in pairs if a.columns is not None or index[0] == index[1]]
