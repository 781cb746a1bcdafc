"""Functions of trees, compiled at the first call for each shape of the arrays in them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from .meshes import automatic
from .trees import is_concrete, is_hashable, join_arrays, numbers_as_arrays, split_arrays

# What JAX raises where a function asks for the value of an array that is traced.
_ASKS_FOR_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class Compiled:
    """`function`, compiled for each shape of its arguments' arrays and each value of the others.

    Python's floating-point and complex numbers are arrays, as under `jit`, unless the function
    fails with such ones: then their values are part of what is compiled. Integers, booleans and
    strings always are, for they choose between programs (`axis=1`, `train=False`).

    It runs as it is where values cannot be hashed, and where it asks for the value of an array, as
    in `if flag:`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._jitted = jax.jit(self._joined, static_argnums=0)
        # Calls by key, in which numbers are arrays, that need them as values; that run as they are.
        self._by_value: set[Any] = set()
        self._eager: set[Any] = set()

    def __call__(self, *args: Any) -> Any:
        """The result of the function."""
        return self.run(args)

    def run(
        self, args: tuple[Any, ...], leading: tuple[Any, ...] = (), split: Split | None = None
    ) -> Any:
        """The same behind arguments that are static. `split`: of the arguments, if it is known."""
        split = split or self.split(args)
        static, arrays, key = (leading, split.static), split.arrays, split.key
        if key is None or key in self._eager:
            return self._joined(static, arrays)
        try:
            return automatic(lambda arrays: self._jitted(static, arrays), arrays)
        except Exception as error:
            if key not in self._by_value and len(split_arrays(args)[1]) < len(arrays):
                self._by_value.add(key)
                try:
                    return self.run(args, leading)
                except Exception:  # of another cause, then
                    self._by_value.discard(key)
                    raise error from None
            if not isinstance(error, _ASKS_FOR_VALUES) or not is_concrete(arrays):
                raise
            result = self._joined(static, arrays)
            self._eager.add(key)
            return result

    def split(self, args: tuple[Any, ...]) -> Split:
        split = Split(*split_arrays(numbers_as_arrays(args)))
        return Split(*split_arrays(args)) if split.key in self._by_value else split

    def _joined(self, static: Any, arrays: list[Any]) -> Any:
        leading, static = static
        return self._function(*leading, *join_arrays(static, arrays))


@dataclass(frozen=True, eq=False)
class Split:
    """Arguments: what is static of them, and arrays."""

    static: Any
    arrays: list[Any]

    @functools.cached_property
    def key(self) -> Any:
        """Equal for calls that run one program; `None` if there is no such key."""
        return (self.static, self._shapes) if is_hashable(self.static) else None

    @property
    def id(self) -> Any:
        """The key; where values cannot be hashed, equal for calls of one shape."""
        return self._shapes if self.key is None else self.key

    @property
    def _shapes(self) -> Any:
        return tuple((a.shape, a.dtype) for a in self.arrays)
