"""JAX's settings of promotion, which are there to find mistakes in `f`: they hold for `f` alone.

What is done with `f` promotes as JAX does by default, whatever the user has set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

# What the user has set, within `default_promotion`.
_theirs: ContextVar[tuple[str, str] | None] = ContextVar("theirs", default=None)


@contextlib.contextmanager
def default_promotion() -> Iterator[None]:
    """The context of what is done with `f`."""
    theirs = jax.numpy_dtype_promotion.value, jax.numpy_rank_promotion.value
    token = _theirs.set(_theirs.get() or theirs)
    try:
        with _promotion("standard", "allow"):
            yield
    finally:
        _theirs.reset(token)


@contextlib.contextmanager
def users_promotion() -> Iterator[None]:
    theirs = _theirs.get()
    if theirs is None:
        yield
        return
    token = _theirs.set(None)
    try:
        with _promotion(*theirs):
            yield
    finally:
        _theirs.reset(token)


@contextlib.contextmanager
def _promotion(dtypes: str, ranks: str) -> Iterator[None]:
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield
