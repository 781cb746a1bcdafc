"""Which kernels a call asks for, and the namedtuple that they come back in."""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

from .trees import describe

EmpiricalKernel = namedtuple("EmpiricalKernel", ["nngp", "ntk"])
"""Both kernels, as `empirical_kernel_fn` returns them."""


def is_get(get: Any) -> bool:
    """Whether the third argument of `kernel_fn` names kernels rather than being parameters."""
    return (
        get is None
        or isinstance(get, str)
        or (isinstance(get, (tuple, list)) and bool(get) and all(isinstance(g, str) for g in get))
    )


def canonical_get(get: Any) -> tuple[str, ...]:
    """`get` as a tuple of kernel names; `ValueError` unless each is known and named once."""
    names = ("nngp", "ntk") if get is None else (get,) if isinstance(get, str) else get
    lower = tuple(name.lower() for name in names) if is_get(names) else ()
    if not lower or len(set(lower)) < len(lower) or not set(lower) <= {"nngp", "ntk"}:
        shown = repr(get) if is_get(get) else describe(get)
        msg = f"get must be 'nngp', 'ntk', a tuple of them each once, or None (both); got {shown}."
        if not is_get(get):
            msg += " The arguments are x1, x2, get, params."
        raise ValueError(msg)
    return lower


AnalyticKernel = namedtuple("AnalyticKernel", ["nngp", "ntk"])
"""Both kernels, as the `kernel_fn` of `stax` returns them."""


@functools.cache
def kernel_tuple(names: tuple[str, ...], whole: Any = EmpiricalKernel) -> Any:
    """The namedtuple of kernels in the order asked for; `whole` has both."""
    return whole if names == whole._fields else namedtuple(whole.__name__, names)
