"""The kernels of a network, block by block of examples.

A block of pairs goes through all layers while it is in the caches. Of `x2=None` the blocks below
the diagonal are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._shared.axes import kernel_axes
from .._shared.symmetry import mirrored
from .._shared.trees import describe
from .._shared.tuning import tuning
from ._axes import checked_axes
from ._covariance import Covariance, Need, of_inputs


@dataclass(frozen=True)
class Half:
    """One side: inputs `[n, *positions, channels]`, and what else is given for each example."""

    x: Any
    pattern: Any
    n: int

    def at(self, start: Any, size: int) -> Half:
        """So many examples from one on; the last one again where there are no more."""
        rows = jnp.minimum(start + jnp.arange(size), self.n - 1)
        take = lambda a: jnp.take(a, rows, 0)  # noqa: E731
        return Half(jax.tree.map(take, self.x), jax.tree.map(take, self.pattern), size)


def blocked(
    plan: Callable[[Any], Any],
    names: tuple[str, ...],
    x1: Any,
    x2: Any,
    pattern: Any,
    same: bool | jax.Array,
) -> tuple[Any, ...]:
    """The kernels by name, `[n, m, ...]`, of each output of the network; `x2=None` is `x1`.

    `plan`: of the network, from what is needed of its output. `pattern`: of both sides. `same`:
    whether the sides are equal.
    """
    need, rule = plan(Need(pairs=True))
    first = half("x1", x1, pattern[0], need)
    second = first if x2 is None else half("x2", x2, pattern[1], need)
    _check_alike(first, second)
    axes = jax.tree.map(lambda each, x: _activation_axes(each, x.shape), need, first.x)
    itself = x2 is None

    def tile(one: Half, two: Half, rows: jax.Array, columns: jax.Array) -> Any:
        equal = None if same is False else same & (rows[:, None] == columns[None])
        cs = jax.tree.map(
            lambda each, a, b, place: of_inputs(a, b, equal, each.pairs, place),
            *(need, one.x, two.x, axes),
            is_leaf=_is_axes,
        )
        after = rule(cs, pattern=(one.pattern, two.pattern))
        return tuple(_examples_first(after, name) for name in names)

    def at(i: Any, j: Any, size1: int, size2: int) -> Any:
        rows, columns = i + jnp.arange(size1), j + jnp.arange(size2)
        return tile(first.at(i, size1), second.at(j, size2), rows, columns)

    size1, size2 = sizes(need, first, second)
    if (size1, size2) == (first.n, second.n):
        kernels = tile(first, second, jnp.arange(size1), jnp.arange(size2))
    else:
        grid = (-(-first.n // size1), -(-second.n // size2))
        places = [(i, j) for i, j in np.ndindex(grid) if i <= j or not itself]
        starts = jnp.array(np.array(places) * [[size1, size2]])
        tiles = jax.lax.map(lambda ij: at(ij[0], ij[1], size1, size2), starts)
        kernels = jax.tree.map(lambda a: assembled(a, places, grid)[: first.n, : second.n], tiles)
    return jax.tree.map(_symmetric, kernels) if itself else kernels


def assembled(tiles: jax.Array, places: list[tuple[int, int]], grid: tuple[int, int]) -> jax.Array:
    """Tiles `[t, b, c, ...]` at their places in a kernel; those left out are anything."""
    numbers = np.zeros(grid, int)
    for t, place in enumerate(places):
        numbers[place] = t
    whole = jnp.take(tiles, numbers, 0) if len(places) < numbers.size else tiles
    whole = whole.reshape(*grid, *tiles.shape[1:])
    rows, columns = (count * size for count, size in zip(grid, tiles.shape[1:3], strict=True))
    return jnp.swapaxes(whole, 1, 2).reshape(rows, columns, *tiles.shape[3:])


def _symmetric(kernel: jax.Array) -> jax.Array:
    """A kernel of examples with themselves, its lower half copied from the upper one."""
    sides = kernel.shape[::2], kernel.shape[1::2]
    axes = kernel_axes("the kernel", *sides, trace=(), diagonal=())
    return mirrored(kernel, axes, axes.first)


def _examples_first(after: Any, name: str) -> Any:
    """One kernel of each output, as `[n, m, ...]`. Without parameters the NTK is zero."""

    def kernel(c: Covariance) -> jax.Array:
        array = c.nngp if name == "nngp" else c.ntk
        array = jnp.zeros_like(c.nngp) if array is None else array
        return jnp.moveaxis(array, (-2, -1), (0, 1))

    return jax.tree.map(kernel, after)


def sizes(need: Any, first: Half, second: Half) -> tuple[int, int]:
    each = jax.tree.map(
        lambda need, x: math.prod(x.shape[1:-1]) ** (1 + need.pairs) * x.dtype.itemsize,
        *(need, first.x),
    )
    pairs = max(1, tuning().pairs // max(1, sum(jax.tree.leaves(each))))
    most = max(a.n for a in (first, second))
    if pairs >= first.n * second.n or not _sliceable(first) or not _sliceable(second):
        return first.n, second.n
    side = min(math.isqrt(pairs), most)
    size2 = min(second.n, max(side, pairs // min(first.n, side)))
    size1 = min(first.n, max(1, pairs // size2))
    return (side, side) if first is second else (size1, size2)


def _sliceable(half: Half) -> bool:
    leaves = jax.tree.leaves(half.pattern)
    return half.n > 0 and all(getattr(a, "shape", (0,))[:1] == (half.n,) for a in leaves)


def half(name: str, x: Any, pattern: Any, need: Any) -> Half:
    """One side, with the examples in front and the channels last."""
    arrays = inputs(name, x, need)
    lengths = {a.shape[0] for a in jax.tree.leaves(arrays)}
    if len(lengths) != 1:
        raise ValueError(f"{name}: its inputs have different numbers of examples: {lengths}.")
    return Half(arrays, pattern, lengths.pop())


def inputs(name: str, x: Any, need: Any) -> Any:
    """An array for each input of the network, of float32 or longer."""
    if isinstance(need, list):
        if not isinstance(x, (list, tuple)) or len(x) != len(need):
            raise ValueError(
                f"{name}: the network has {len(need)} inputs, and takes a tuple of as many arrays."
            )
        each = enumerate(zip(x, need, strict=True))
        return [inputs(f"{name}[{i}]", array, own) for i, (array, own) in each]
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"{name} must be an array, got {describe(x)}.")
    if 0 in x.shape[1:]:
        raise ValueError(f"{name} has no channels or positions: its shape is {x.shape}.")
    if x.ndim < 2:
        raise ValueError(f"{name} needs a batch and a channel axis, got shape {x.shape}.")
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{name} is complex ({x.dtype}); only real inputs are supported.")
    x = jnp.asarray(x)
    x = x.astype(x.dtype if x.dtype in (jnp.float32, jnp.float64) else jnp.float32)
    x = jnp.moveaxis(x, _input_axes(need, x.shape), (0, -1))
    if need.axes is not None and need.axes[1] is None:
        # All that sees it flattens it: one product in place of one for each position.
        return x.reshape(x.shape[0], -1)
    return x


def _input_axes(need: Need, shape: tuple[int, ...]) -> tuple[int, int]:
    batch, channel = need.axes or (0, -1)
    if channel is None:
        channel = -2 if batch in (-1, len(shape) - 1) else -1
    batch, channel = checked_axes(need.layer, (batch, channel), shape)
    return batch, channel


def _activation_axes(need: Need, shape: tuple[int, ...]) -> tuple[int, int]:
    """Where a network's input has batch and channels; of a flat one where `Flatten` looks."""
    if need.axes is None or need.axes[1] is not None:
        return _input_axes(need, shape)
    return need.axes[0] % 2, 1 - need.axes[0] % 2


def _is_axes(node: Any) -> bool:
    """Whether a node holds the axes of one input."""
    return isinstance(node, tuple)


def _check_alike(first: Half, second: Half) -> None:
    for a, b in zip(jax.tree.leaves(first.x), jax.tree.leaves(second.x), strict=True):
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(
                "x1 and x2 differ in more than the number of examples: their positions and "
                f"channels are {a.shape[1:]} and {b.shape[1:]}."
            )
