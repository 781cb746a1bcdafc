"""A kernel call to be cut in blocks, and what every kind of half has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp

from ..._arguments.sides import place_batch
from ..._engine.kernel import frames
from ..._engine.linearise import Factors, Meta
from ..._engine.output_axes import Frame
from ..._methods.kernel_fns import KernelFn
from ..._shared.trees import join_arrays, split_shapes
from ..examples import Examples

# A tree of arrays with the examples in front, or a block of inputs and keyword arguments.
Half = Any


@dataclass(frozen=True)
class Call:
    """A call: kernels by name, the examples of both sides (one of them twice if `x2` is `x1`)."""

    fn: KernelFn
    names: tuple[str, ...]
    sides: tuple[Examples, Examples]
    params: Any

    @property
    def same(self) -> bool:
        """Whether `x2` is `x1`."""
        return self.sides[0] is self.sides[1]

    def without_values(self) -> Call:
        """The same of shapes alone."""
        first, second = (side.without_values() for side in self.sides)
        return replace(self, sides=(first, first if self.same else second), params=None)

    @property
    def lengths(self) -> tuple[int, int]:
        """`n` and `m`."""
        return self.sides[0].n, self.sides[1].n

    @property
    def axes(self) -> tuple[Any, Any]:
        """Traced and diagonal axes."""
        fn = self.fn.ntk_fn if "ntk" in self.names else self.fn.nngp_fn
        return fn.trace_axes, fn.diagonal_axes

    def joint(self, metas: Sequence[Meta]) -> bool:
        """Whether only pairs of equal examples are wanted, for every output."""
        return all(frame.joint for frame in self.frames(metas, self.lengths))

    def frames(self, metas: Sequence[Meta], sizes: Sequence[int]) -> list[Frame]:
        """The frame of each output's kernel, of so many examples."""
        first, second = map(of_block, metas, sizes)
        return frames(first, second, *self.axes)


@dataclass(frozen=True)
class OneExample:
    """One example of a side, from shapes alone.

    `half`: shapes of what is kept of it; `evaluation`: bytes held while that is computed; `build`:
    multiply-adds of it: forward and backward passes, and multiplying out. `dtypes`: of the kernels.
    """

    meta: Meta
    half: Half
    evaluation: int
    build: int
    dtypes: dict[str, list[Any]]

    def of(self, size: int) -> Half:
        """The shapes of a half of so many examples."""
        return of_size(self.half, size)


@dataclass(frozen=True)
class Tile:
    """What one tile costs: bytes held besides halves and kernel, multiply-adds."""

    held: int
    multiply_adds: int


class Halves(Protocol):
    """A kind of half. `half` and `tile` can be compiled.

    `examples`: one of each side. `forms`: what else decides how halves are computed.
    """

    @property
    def call(self) -> Call:
        """What they are of."""
        ...

    @property
    def kind(self) -> str:
        """What a plan calls them."""
        ...

    @property
    def examples(self) -> tuple[OneExample, OneExample]:
        """One example of each side."""
        ...

    @property
    def forms(self) -> tuple[str, ...]:
        """What becomes of each leaf's factors."""
        ...

    def of_call(self, call: Call) -> Self:
        """Those of another call of the same shapes."""
        ...

    def half(self, x: Any, params: Any, kwargs: dict[str, Any]) -> Half:
        """The half of a block of examples."""
        ...

    def tile(self, first: Half, second: Half | None, params: Any) -> list[jax.Array]:
        """Every kernel of every output; of one block with itself, where `second` is `None`."""
        ...

    def price(self, sizes: tuple[int, int]) -> Tile:
        """What a tile of two blocks of so many examples costs."""
        ...


def of_size(tree: Any, size: int) -> Any:
    """The shapes of a tree of arrays with so many examples in front."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), tree)


def of_block(meta: Meta, size: int) -> Meta:
    """What is static of so many examples."""
    shapes = [
        (*shape[:axis], size, *shape[axis + 1 :])
        for shape, axis in zip(meta.shapes, meta.out_axes, strict=True)
        if axis is not None
    ]
    return replace(meta, shapes=tuple(shapes))


def assembled(half: Half, meta: Meta) -> Factors:
    """Factors, from what is kept of a block of examples."""
    outputs, by_leaf = half
    placed = [place_batch(y, a) for y, a in zip(outputs, meta.out_axes, strict=True)]
    return Factors(placed, by_leaf, of_block(meta, outputs[0].shape[0]))


def outputs_first(outputs: Sequence[jax.Array], axes: Sequence[int | None]) -> list[jax.Array]:
    """Outputs with the examples in front."""
    return [y if a is None else jnp.moveaxis(y, a, 0) for y, a in zip(outputs, axes, strict=True)]


def shapes_of(function: Any, *args: Any) -> Any:
    """The shapes of a function's results, where arguments hold shapes in place of arrays.

    What is an array keeps its value, which `f` may ask for.
    """
    static, shapes = split_shapes(args)
    return jax.eval_shape(lambda shapes: function(*join_arrays(static, shapes)), shapes)
