"""No halves: the examples themselves, and a kernel call for each tile.

For the plain methods, where only pairs of equal examples are wanted, and where factors do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax

from ..._arguments.sides import read_arguments
from ..._engine.explain import Plan
from ..._engine.linearise import meta_of
from ..._methods.kernel_fns import KernelFn, NtkImplementation
from ..._shared.memory import nbytes
from ..._shared.pair import Pair
from ..._shared.trees import kernel_dtype, split_params
from ..examples import Examples
from .base import Call, Half, OneExample, Tile, shapes_of


@dataclass(frozen=True, eq=False)
class InExamples:
    """The examples, and their kernel within `memory`. `f` is checked once for all, not here."""

    call: Call
    fn: KernelFn
    examples: Pair[OneExample]
    kind: str = "examples"
    forms: tuple[str, ...] = ()

    @staticmethod
    def of(call: Call, memory: int) -> InExamples:
        ntk_fn = call.fn.ntk_fn.varied(check_vmap=False)
        if ntk_fn.has_plan:
            ntk_fn = ntk_fn.varied(memory=memory)
        examples = call.sides.map(lambda side: _one_example(call, side))
        return InExamples(call, replace(call.fn, ntk_fn=ntk_fn), examples)

    def half(self, x: Any, params: Any, kwargs: dict[str, Any]) -> Half:
        return x, kwargs

    def tile(self, first: Half, second: Half | None, params: Any) -> list[jax.Array]:
        x1, x2, kwargs = _together(first, second)
        return jax.tree.leaves(self.fn.kernels(self.call.names, x1, x2, params, kwargs))

    def price(self, sizes: tuple[int, int]) -> Tile:
        """From the plan of a call; of the plain methods what their docstring says they hold."""
        fn, n, m = self.fn.ntk_fn, *sizes
        if fn.has_plan:
            blocks = [side.shapes(n) for side, n in zip(self.call.sides.sides, sizes, strict=True)]
            plans: list[Plan] = []

            def trace(x1: Any, x2: Any, params: Any, kwargs: dict[str, Any]) -> None:
                axes = fn.vmap_axes
                given = read_arguments(fn.f, x1, x2, params, axes, kwargs, differentiate=True)
                plans.append(fn.method.explain(given, 0))

            x1, x2, kwargs = _together(*blocks)
            shapes_of(trace, x1, x2, self.call.params, kwargs)
            return Tile(plans[0].peak_bytes, plans[0].multiply_adds)
        leaves = split_params(self.call.params).leaves
        p, size = sum(w.size for w in leaves), max(w.dtype.itemsize for w in leaves)
        o, q = (sum(e.meta.sizes()) for e in self.examples.sides)
        contraction = fn.implementation == NtkImplementation.JACOBIAN_CONTRACTION
        peak = (n * o + m * q if contraction else m * q) * p * size
        return Tile(2 * peak, n * m * o * q * p if contraction else 2 * n * m * q * p)


def _together(first: Half, second: Half | None) -> tuple[Any, Any, dict[str, Any]]:
    """Two blocks as the arguments of one call: inputs, and pairs of keyword arguments."""
    (x1, kwargs), x2 = first, None
    if second is not None:
        x2, kwargs2 = second
        kwargs = {k: (kwargs[k], kwargs2[k]) for k in kwargs}
    return x1, x2, kwargs


def _one_example(call: Call, side: Examples) -> OneExample:
    traced: list[Any] = []

    def trace(x: Any, params: Any, kwargs: dict[str, Any]) -> None:
        given = call.read(x, params, kwargs)
        outputs = [kernel_dtype(y) for y in given.sides.first.outputs]
        traced.append((meta_of(given, given.sides.first), outputs))

    x, kwargs = side.shapes(1)
    shapes_of(trace, x, call.params, kwargs)
    meta, dtypes = traced[0]
    arrays = [a for a in jax.tree.leaves((x, kwargs)) if isinstance(a, jax.ShapeDtypeStruct)]
    return OneExample(meta, arrays, nbytes(arrays), 0, {"ntk": list(meta.dtypes), "nngp": dtypes})
