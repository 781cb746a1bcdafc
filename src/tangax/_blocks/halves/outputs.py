"""Halves of an NNGP: the outputs of `f`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import jax

from ... import _jaxpr
from ..._arguments.sides import Pair, pair_sides
from ..._engine.kernel import frames
from ..._engine.linearise import meta_of
from ..._engine.nngp import nngp
from ..._shared.memory import nbytes
from ..._shared.precision import full_precision
from ..._shared.trees import kernel_dtype, split_arrays
from .base import Call, Half, OneExample, Tile, assembled, outputs_first, shapes_of


@dataclass(frozen=True, eq=False)
class InOutputs:
    """Outputs, and their products."""

    call: Call
    examples: tuple[OneExample, OneExample]
    kind: str = "outputs"
    forms: tuple[str, ...] = ()

    @staticmethod
    def of(call: Call) -> InOutputs:
        """From the shapes of one example."""
        first = one_example(call, 0)
        return InOutputs(call, (first, first if call.same else one_example(call, 1)))

    def of_call(self, call: Call) -> Self:
        """Those of another call of the same shapes."""
        return replace(self, call=call)

    def half(self, x: Any, params: Any, kwargs: dict[str, Any]) -> Half:
        """Outputs, and no factors."""
        with full_precision(self.call.fn.nngp_fn.precision):
            side = pair_of(self.call, x, params, kwargs).first
            return outputs_first(side.batch([], side.data), side.out_axes), []

    def tile(self, first: Half, second: Half | None, params: Any) -> list[jax.Array]:
        """Products of outputs."""
        a = assembled(first, self.examples[0].meta)
        b = a if second is None else assembled(second, self.examples[1].meta)
        with full_precision(self.call.fn.nngp_fn.precision):
            axes = [frame.ax for frame in frames(a.meta, b.meta, *self.call.axes)]
            return jax.tree.leaves(nngp(a.outputs, b.outputs, axes, a.meta.treedef))

    def price(self, sizes: tuple[int, int]) -> Tile:
        """Of the products alone."""
        total = 0
        for frame in self.call.frames([e.meta for e in self.examples], sizes):
            (d, r, o), q = frame.counts(0), frame.counts(1)[2]
            total += math.prod(frame.kernel_shape(d, o, q)) * r
        return Tile(0, total)


def pair_of(call: Call, x: Any, params: Any, kwargs: dict[str, Any]) -> Pair:
    """One side, twice."""
    f, axes = call.fn.nngp_fn.f, call.fn.ntk_fn.vmap_axes
    return pair_sides(f, x, None, params, axes, kwargs, differentiate=False, split=False)


def one_example(call: Call, side: int) -> OneExample:
    """One example of a side."""
    found: list[Any] = []

    def trace(x: Any, params: Any, kwargs: dict[str, Any]) -> Half:
        pair = pair_of(call, x, params, kwargs)
        jaxpr = _jaxpr.trace(lambda data: pair.first.batch([], data), pair.first.data)
        found.append((meta_of(pair, pair.first), jaxpr))
        return outputs_first(pair.first.batch([], pair.first.data), pair.first.out_axes), []

    x, kwargs = call.sides[side].shapes(1)
    half = shapes_of(trace, x, call.params, kwargs)
    meta, jaxpr = found[0]
    dtypes = {"nngp": [kernel_dtype(y) for y in half[0]]}
    own = nbytes(split_arrays(call.params)[1])
    held = max(0, _jaxpr.widest(jaxpr) - own) + nbytes(half)
    return OneExample(meta, half, held, _jaxpr.multiply_adds(jaxpr), dtypes)
