"""Entries of a kernel that are NaN or infinite: found tile by tile, told of once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._shared.user_line import warn
from .tiles import Array, Index

MODES = ("warn", "raise", "ignore")


class Finite:
    """What to do about entries that are not finite, and the first pair of examples that has one."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._first: tuple[Index, str] | None = None

    def check(self, index: Index, arrays: Sequence[Array], parts: Sequence[np.ndarray]) -> None:
        if self._mode == "ignore":
            return
        for array, part in zip(arrays, parts, strict=True):
            odd = ~np.isfinite(part)
            if not odd.any():
                continue
            pair = array.pair(_first_place(odd, array), index)
            if self._first is None or pair < self._first[0]:
                self._first = (pair, array.name)
        if self._first is not None and self._mode == "raise":
            raise FloatingPointError(self._message())

    def tell(self) -> None:
        if self._first is not None:
            warn(self._message(), RuntimeWarning)

    def _message(self) -> str:
        assert self._first is not None
        (n, m), name = self._first
        return (
            f"the kernel {name!r} is not finite: the first pair of examples is x1[{n}] with "
            f"x2[{m}]. Look at f and the parameters there, or pass on_nonfinite='ignore'."
        )


def _first_place(odd: np.ndarray, array: Array) -> Index:
    """The first row that has such an entry, and its first column; of a diagonal the row again."""
    if array.columns is None:
        outputs = tuple(a for a in range(odd.ndim) if a != array.rows)
        row = int(odd.any(outputs).argmax())
        return row, row
    pairs = np.moveaxis(odd, (array.rows, array.columns), (0, 1))
    pairs = pairs.any(tuple(range(2, pairs.ndim)))
    row, column = np.unravel_index(pairs.argmax(), pairs.shape)
    return int(row), int(column)
