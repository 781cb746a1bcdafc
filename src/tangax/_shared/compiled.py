"""Functions of trees, compiled at the first call for each shape of the arrays in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from .meshes import automatic
from .trees import is_concrete, is_hashable, join_arrays, split_arrays, split_numbers

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
        return self.run(args, self.split(args))

    def run(self, args: tuple[Any, ...], split: tuple[Any, list[Any], Any]) -> Any:
        """The same of arguments that are split already."""
        static, arrays, key = split
        if key is None or key in self._eager:
            return self._joined(static, arrays)
        try:
            return automatic(lambda arrays: self._jitted(static, arrays), arrays)
        except Exception as error:
            if key not in self._by_value and len(split_arrays(args)[1]) < len(arrays):
                self._by_value.add(key)
                try:
                    return self(*args)
                except Exception:  # of another cause, then
                    self._by_value.discard(key)
                    raise error from None
            if not isinstance(error, _ASKS_FOR_VALUES) or not is_concrete(arrays):
                raise
            result = self._joined(static, arrays)
            self._eager.add(key)
            return result

    def split(self, args: tuple[Any, ...]) -> tuple[Any, list[Any], Any]:
        """What is static of arguments, their arrays, and a key of calls that run one program.

        The key is `None` where there is none.
        """
        static, arrays = split_numbers(args)
        key = call_key(static, arrays)
        if key in self._by_value:
            static, arrays = split_arrays(args)
            key = call_key(static, arrays)
        return static, arrays, key

    def _joined(self, static: Any, arrays: list[Any]) -> Any:
        return self._function(*join_arrays(static, arrays))


def call_key(static: Any, arrays: list[Any]) -> Any:
    """Equal for calls that compile alike; `None` if there is no such key."""
    if not is_hashable(static):
        return None
    return static, tuple((a.shape, a.dtype) for a in arrays)
