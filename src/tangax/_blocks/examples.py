"""The examples of one side of a kernel, read block by block from wherever they are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _jaxpr
from .._arguments.reading import each_side, read_inputs
from .._shared.axes import VmapAxes
from .._shared.pair import Pair
from .._shared.trees import dtype_is, is_concrete
from .._shared.tuning import READ


@dataclass(frozen=True)
class Examples:
    """`n` examples: the leaves of inputs and keyword arguments, along `axes` where that is no None.

    Leaves are whatever has `shape` and `dtype` and can be sliced: arrays of JAX or NumPy, memory
    maps, Zarr arrays.
    """

    leaves: list[Any]
    axes: list[int | None]
    treedef: Any
    n: int
    constants: dict[str, Any]

    def block(self, start: int, size: int) -> tuple[Any, dict[str, Any]]:
        """So many examples, as inputs and keyword arguments; the last is repeated past the end."""
        stop = min(start + size, self.n)
        leaves = [
            leaf
            if axis is None
            else _padded(_on_device(_read(leaf, axis, start, stop)), axis, size)
            for leaf, axis in zip(self.leaves, self.axes, strict=True)
        ]
        x, mapped = self.treedef.unflatten(leaves)
        return x, self.constants | mapped

    def without_values(self) -> Examples:
        """The same of shapes alone, so that nothing large is kept alive."""
        leaves = [
            leaf if axis is None else jax.ShapeDtypeStruct(leaf.shape, _device_dtype(leaf))
            for leaf, axis in zip(self.leaves, self.axes, strict=True)
        ]
        return replace(self, leaves=leaves, constants=dict.fromkeys(self.constants))

    def cut(self, x: Any, kwargs: dict[str, Any], start: Any, size: int) -> tuple[Any, Any]:
        mapped = {k: v for k, v in kwargs.items() if k not in self.constants}
        leaves = [
            leaf if axis is None else jax.lax.dynamic_slice_in_dim(leaf, start, size, axis)
            for leaf, axis in zip(jax.tree.leaves((x, mapped)), self.axes, strict=True)
        ]
        x, mapped = self.treedef.unflatten(leaves)
        return x, kwargs | mapped

    def shapes(self, size: int) -> tuple[Any, dict[str, Any]]:
        leaves = []
        for leaf, axis in zip(self.leaves, self.axes, strict=True):
            if axis is not None:
                shape = (*leaf.shape[:axis], size, *leaf.shape[axis + 1 :])
                leaf = jax.ShapeDtypeStruct(shape, _device_dtype(leaf))
            leaves.append(leaf)
        x, mapped = self.treedef.unflatten(leaves)
        return x, self.constants | mapped

    def nbytes(self, size: int) -> int:
        leaves = zip(self.leaves, self.axes, strict=True)
        each = [math.prod(a.shape) * a.dtype.itemsize for a, axis in leaves if axis is not None]
        return sum(each) * size // max(1, self.n)

    def digest(self) -> str:
        """A hash of all values, read piece by piece."""
        sha = hashlib.sha256()
        for leaf, axis in zip(self.leaves, self.axes, strict=True):
            for piece in _pieces(leaf, axis, self.n):
                update(sha, piece)
        return sha.hexdigest()


def read_sides(
    x1: Any, x2: Any, vmap_axes: VmapAxes, kwargs: dict[str, Any], *, planned: bool
) -> Pair[Examples]:
    """Both sides of a call. `planned`: values do not count."""

    def equal(x1: Any, x2: Any, kwargs: dict[str, Any]) -> bool:
        first, second = (_examples(n, x, vmap_axes, kwargs) for n, x in (("x1", x1), ("x2", x2)))
        return _are_equal(first, second)

    each = each_side(x1, x2, kwargs, None if planned else equal)
    names = Pair("x1", "x2")
    return each.map(lambda side, name: _examples(name, side[0], vmap_axes, side[1]), names)


def _examples(name: str, x: Any, vmap_axes: VmapAxes, kwargs: dict[str, Any]) -> Examples:
    """The examples of one side; `ValueError` where there is no axis of examples."""
    inputs = read_inputs(name, x, vmap_axes, kwargs)
    if inputs.n is None:
        raise ValueError(f"vmap_axes={vmap_axes!r} gives no leaf of {name} an axis of examples.")
    leaves = [
        np.asarray(leaf) if axis is None and _is_elsewhere(leaf) else leaf
        for leaf, axis in zip(inputs.leaves, inputs.axes, strict=True)
    ]
    return Examples(leaves, inputs.axes, inputs.treedef, inputs.n, inputs.constants)


def check_values(*given: Any) -> None:
    if not is_concrete(given):
        msg = "batch reads its arguments block by block: call it outside jit, vmap and grad."
        raise TypeError(msg)


def _is_elsewhere(leaf: Any) -> bool:
    """Whether a leaf is like an array, but none of JAX or NumPy: on disk, perhaps."""
    known = jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, known)


def _on_device(part: Any) -> jax.Array:
    if isinstance(part, jax.Array):
        return part
    part = np.asarray(part)
    return jnp.asarray(part.astype(_native(part.dtype), copy=False))


def _device_dtype(leaf: Any) -> Any:
    """The dtype that a leaf has on the device: float64 is float32 there, unless x64 is enabled."""
    if dtype_is(leaf, jax.dtypes.prng_key):
        return leaf.dtype
    return jax.dtypes.canonicalize_dtype(_native(leaf.dtype))


def _native(dtype: Any) -> Any:
    dtype = np.dtype(dtype)
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _read(leaf: Any, axis: int, start: int, stop: int) -> Any:
    part = leaf[(*[slice(None)] * axis, slice(start, stop))]
    return part if isinstance(part, jax.Array) else np.asarray(part)


def _padded(part: Any, axis: int, size: int) -> Any:
    have = part.shape[axis]
    if have in (0, size):
        return part
    return part[(*[slice(None)] * axis, np.minimum(np.arange(size), have - 1))]


def _pieces(leaf: Any, axis: int | None, n: int) -> Iterator[Any]:
    """All of a leaf, some examples after the others, as many at a time whatever the blocks."""
    if axis is None or not n:
        yield leaf
        return
    each = int(np.prod(leaf.shape)) * np.dtype(_values_dtype(leaf)).itemsize // n
    step = max(1, READ // max(1, each))
    for start in range(0, n, step):
        yield _read(leaf, axis, start, min(start + step, n))


def _values_dtype(leaf: Any) -> Any:
    """The dtype of the numbers in a leaf; keys are numbers too."""
    return np.uint64 if dtype_is(leaf, jax.dtypes.prng_key) else leaf.dtype


def _are_equal(first: Examples, second: Examples) -> bool:
    """Whether two sides have the same examples, read piece by piece."""
    if first.n != second.n:
        return False
    for a, b, axis in zip(first.leaves, second.leaves, first.axes, strict=True):
        if a is b:
            continue
        if not hasattr(a, "shape") or not hasattr(b, "shape"):
            if a is not b and a != b:
                return False
            continue
        if a.shape != b.shape or _device_dtype(a) != _device_dtype(b):
            return False
        pairs = zip(_pieces(a, axis, first.n), _pieces(b, axis, first.n), strict=True)
        if not all(
            np.array_equal(_values(_on_device(p)), _values(_on_device(q))) for p, q in pairs
        ):
            return False
    return True


def _values(piece: Any) -> np.ndarray:
    """Numbers to hash or compare: those of an array or a key."""
    if dtype_is(piece, jax.dtypes.prng_key):
        piece = jax.random.key_data(piece)
    return np.ascontiguousarray(piece)


def update(sha: Any, piece: Any) -> None:
    """Hash an array's dtype, shape and values, or any other value.

    Of what cannot be told by value, such as a function, the type: the traces of `f` show the rest.
    """
    if not hasattr(piece, "shape"):
        try:
            sha.update(_jaxpr.told(piece))
        except _jaxpr.Unseen:
            sha.update(type(piece).__qualname__.encode())
        return
    array = _values(piece)
    sha.update(f"{array.dtype}{array.shape}".encode())
    sha.update(array.reshape(-1).view(np.uint8))
