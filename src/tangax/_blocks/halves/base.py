"""A kernel call to be cut in blocks, and what every kind of half has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from ..._arguments.sides import Arguments, place_batch, read_one_side
from ..._engine.factors import Factors, Meta
from ..._engine.output_axes import Frame
from ..._engine.plan import frames
from ..._methods.kernel_fns import KernelFn
from ..._shared.pair import Pair
from ..._shared.trees import join_arrays, split_shapes
from ..examples import Examples

# A tree of arrays with the examples in front, or a block of inputs and keyword arguments.
Half = Any


@dataclass(frozen=True)
class Call:
    """A call: kernels by name, and the examples of both sides."""

    fn: KernelFn
    names: tuple[str, ...]
    sides: Pair[Examples]
    params: Any

    def without_values(self) -> Call:
        return replace(self, sides=self.sides.map(Examples.without_values), params=None)

    @property
    def lengths(self) -> tuple[int, int]:
        """`n` and `m`."""
        return self.sides.first.n, self.sides.other.n

    @property
    def axes(self) -> tuple[Any, Any]:
        fn = self.fn.ntk_fn if "ntk" in self.names else self.fn.nngp_fn
        return fn.trace_axes, fn.diagonal_axes

    def read(self, x: Any, params: Any, kwargs: dict[str, Any]) -> Arguments:
        fn = self.fn.ntk_fn
        differentiate = "ntk" in self.names
        return read_one_side(fn.f, x, params, fn.vmap_axes, kwargs, differentiate=differentiate)

    def joint(self, metas: Pair[Meta]) -> bool:
        """Whether only pairs of equal examples are wanted, for every output."""
        return all(frame.joint for frame in self.frames(metas, self.lengths))

    def frames(self, metas: Pair[Meta], sizes: Sequence[int]) -> list[Frame]:
        """The frame of each output's kernel, of so many examples."""
        return frames(Pair(*map(_of_block, metas.sides, sizes)), *self.axes)


@dataclass(frozen=True)
class OneExample:
    """One example of a side, from shapes alone.

    `half`: shapes of what is stored of it; `evaluation`: bytes needed to compute that; `build`:
    multiply-adds of it: forward and backward passes, and multiplying out. `dtypes`: of the kernels.
    """

    meta: Meta
    half: Half
    evaluation: int
    build: int
    dtypes: dict[str, list[Any]]

    def of(self, size: int) -> Half:
        return of_size(self.half, size)


@dataclass(frozen=True)
class Tile:
    """What one tile costs: bytes besides halves and kernel at the peak, multiply-adds."""

    peak_bytes: int
    multiply_adds: int


def of_size(tree: Any, size: int) -> Any:
    """The shapes of a tree of arrays with so many examples in front."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), tree)


def _of_block(meta: Meta, size: int) -> Meta:
    shapes = [
        (*shape[:axis], size, *shape[axis + 1 :])
        for shape, axis in zip(meta.shapes, meta.out_axes, strict=True)
        if axis is not None
    ]
    return replace(meta, shapes=tuple(shapes))


def metas(examples: Pair[OneExample]) -> Pair[Meta]:
    return examples.map(lambda example: example.meta)


def restored(first: Half, second: Half | None, examples: Pair[OneExample]) -> Pair[Factors]:
    """Factors of two blocks of examples, or of one with itself, from what is stored of them."""
    return Pair(first, second).map(lambda half, one: _restored(half, one.meta), examples)


def _restored(half: Half, meta: Meta) -> Factors:
    outputs, by_leaf = half
    placed = [place_batch(y, a) for y, a in zip(outputs, meta.out_axes, strict=True)]
    return Factors(placed, by_leaf, _of_block(meta, outputs[0].shape[0]))


def outputs_first(outputs: Sequence[jax.Array], axes: Sequence[int | None]) -> list[jax.Array]:
    return [y if a is None else jnp.moveaxis(y, a, 0) for y, a in zip(outputs, axes, strict=True)]


def shapes_of(function: Any, *args: Any) -> Any:
    """The shapes of a function's results, where arguments hold shapes in place of arrays.

    What is an array keeps its value, which `f` may ask for.
    """
    static, shapes = split_shapes(args)
    return jax.eval_shape(lambda shapes: function(*join_arrays(static, shapes)), shapes)
