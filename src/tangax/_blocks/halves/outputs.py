"""Halves of an NNGP: the outputs of `f`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax

from ... import _jaxpr
from ..._engine.linearise import meta_of
from ..._engine.nngp import nngp
from ..._engine.plan import frames
from ..._shared.memory import nbytes
from ..._shared.pair import Pair
from ..._shared.precision import full_precision
from ..._shared.trees import kernel_dtype, split_arrays
from ..examples import Examples
from .base import Call, Half, OneExample, Tile, metas, outputs_first, restored, shapes_of


@dataclass(frozen=True, eq=False)
class InOutputs:
    """Outputs, and their products."""

    call: Call
    examples: Pair[OneExample]
    kind: str = "outputs"
    forms: tuple[str, ...] = ()

    @staticmethod
    def of(call: Call) -> InOutputs:
        return InOutputs(call, call.sides.map(lambda side: _one_example(call, side)))

    def half(self, x: Any, params: Any, kwargs: dict[str, Any]) -> Half:
        with full_precision(self.call.fn.nngp_fn.precision):
            side = self.call.read(x, params, kwargs).sides.first
            return outputs_first(side.batch([], side.data), side.out_axes), []

    def tile(self, first: Half, second: Half | None, params: Any) -> list[jax.Array]:
        blocks = restored(first, second, self.examples)
        with full_precision(self.call.fn.nngp_fn.precision):
            every = frames(blocks.map(lambda block: block.meta), *self.call.axes)
            outputs = blocks.map(lambda block: block.outputs)
            treedef = blocks.first.meta.treedef
            return jax.tree.leaves(nngp(outputs, [frame.ax for frame in every], treedef))

    def price(self, sizes: tuple[int, int]) -> Tile:
        total = 0
        for frame in self.call.frames(metas(self.examples), sizes):
            (d, r, o), q = frame.counts(0), frame.counts(1)[2]
            total += math.prod(frame.kernel_shape(d, o, q)) * r
        return Tile(0, total)


def _one_example(call: Call, side: Examples) -> OneExample:
    traced: list[Any] = []

    def trace(x: Any, params: Any, kwargs: dict[str, Any]) -> Half:
        given = call.read(x, params, kwargs)
        first = given.sides.first
        jaxpr = _jaxpr.trace(lambda data: first.batch([], data), first.data)
        traced.append((meta_of(given, first), jaxpr))
        return outputs_first(first.batch([], first.data), first.out_axes), []

    x, kwargs = side.shapes(1)
    half = shapes_of(trace, x, call.params, kwargs)
    meta, jaxpr = traced[0]
    dtypes = {"nngp": [kernel_dtype(y) for y in half[0]]}
    own = nbytes(split_arrays(call.params)[1])
    needed = max(0, _jaxpr.widest(jaxpr) - own) + nbytes(half)
    return OneExample(meta, half, needed, _jaxpr.multiply_adds(jaxpr), dtypes)
