"""Entries of a kernel that are NaN or infinite: found tile by tile, told of once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ._sides import user_stacklevel
from ._tiles import Array, Index

MODES = ("warn", "raise", "ignore")


class Finite:
    """What to do about entries that are not finite, and the first pair of examples that has one."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._first: tuple[Index, str] | None = None
        self._count = 0

    def check(self, index: Index, arrays: Sequence[Array], parts: Sequence[np.ndarray]) -> None:
        """Look at the parts of a tile."""
        if self._mode == "ignore":
            return
        for array, part in zip(arrays, parts, strict=True):
            odd = ~np.isfinite(part)
            if not odd.any():
                continue
            self._count += int(odd.sum())
            pair = min(array.pair(place, index) for place in np.argwhere(odd).tolist())
            if self._first is None or pair < self._first[0]:
                self._first = (pair, array.name)
        if self._first is not None and self._mode == "raise":
            raise FloatingPointError(self._message())

    def tell(self) -> None:
        """Warn of what was found."""
        if self._first is not None:
            warnings.warn(self._message(), RuntimeWarning, stacklevel=user_stacklevel())

    def _message(self) -> str:
        assert self._first is not None
        (n, m), name = self._first
        return (
            f"the kernel {name!r} is not finite: the first pair is x1[{n}] with x2[{m}], of "
            f"{self._count} such entries found. Look at f and the parameters at these examples, or "
            'pass on_nonfinite="ignore".'
        )
