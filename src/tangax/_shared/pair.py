"""Both sides of a kernel, or of whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import jax

T = TypeVar("T", covariant=True)


@partial(jax.tree_util.register_dataclass, data_fields=["first", "second"], meta_fields=[])
@dataclass(frozen=True)
class Pair(Generic[T]):
    """One thing for each side; `second` is nothing where it is `first` again.

    That is said and not told from identity: to copy what is on both sides would lose it.
    """

    first: T
    second: T | None = None

    @property
    def same(self) -> bool:
        return self.second is None

    @property
    def other(self) -> T:
        return self.first if self.second is None else self.second

    @property
    def sides(self) -> tuple[T, T]:
        return self.first, self.other

    @property
    def distinct(self) -> tuple[T, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)

    def map(self, function: Callable[..., Any], *others: Pair[Any]) -> Pair[Any]:
        """`function` of what each side has, here and in others, once where it is the same."""
        first = function(self.first, *(pair.first for pair in others))
        if self.second is None:
            return Pair(first)
        second = function(self.second, *(pair.other for pair in others))
        assert second is not None  # which would say that both are one
        return Pair(first, second)
