"""Functions of trees, compiled at the first call for each shape of the arrays in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ._trees import is_concrete, is_hashable, join_arrays, split_arrays


class Compiled:
    """`function`, compiled for each shape of its arguments' arrays and each value of the others.

    It runs as it is where those others cannot be hashed, and where it asks for the value of an
    array, as in `if flag:`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._jitted = jax.jit(self._joined, static_argnums=0)
        self._eager: set[Any] = set()

    def __call__(self, *args: Any) -> Any:
        """The result of the function."""
        return self.of_split(*split_arrays(args))

    def of_split(self, static: Any, arrays: list[Any]) -> Any:
        """The same of arguments that `split_arrays` has split."""
        key = call_key(static, arrays)
        if key is None or key in self._eager:
            return self._joined(static, arrays)
        try:
            return self._jitted(static, arrays)
        except jax.errors.ConcretizationTypeError:
            if not is_concrete(arrays):
                raise
            result = self._joined(static, arrays)
            self._eager.add(key)
            return result

    def _joined(self, static: Any, arrays: list[Any]) -> Any:
        return self._function(*join_arrays(static, arrays))


def call_key(static: Any, arrays: list[Any]) -> Any:
    """Equal for calls that compile alike; `None` if there is no such key."""
    if not is_hashable(static):
        return None
    return static, tuple((a.shape, a.dtype) for a in arrays)
