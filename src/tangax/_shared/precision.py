"""The precision of matrix products, in `f` and of its Jacobians."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from .settings import default_promotion


@contextlib.contextmanager
def full_precision(precision: Any) -> Iterator[None]:
    """The context in which `f` is differentiated and factors are contracted.

    Accelerators round the operands of float32 products to fewer bits unless they are told not to.
    """
    wanted = "highest" if precision is None else precision
    with jax.default_matmul_precision(wanted), default_promotion():
        yield


def check_precision(precision: Any) -> None:
    """Refuse what JAX does not know, before anything is computed."""
    try:
        with full_precision(precision):
            pass
    except ValueError as error:
        msg = f"precision must be None or a string like 'default' or 'highest', got {precision!r}."
        raise ValueError(msg) from error
