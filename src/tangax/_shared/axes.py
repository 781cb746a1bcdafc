"""Axes of outputs and of batches: made canonical, checked, and turned into einsum labels.

A kernel pairs each output axis of `f(x1)` with its twin of `f(x2)`. A traced axis shares its label
with its twin and is summed; a diagonal axis shares it and is kept; any other has two labels.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from .trees import leaf_name

Axes = int | Sequence[int]
VmapAxes = Any


@dataclass(frozen=True)
class KernelAxes:
    """What becomes of the output axes of one kernel: `trace` and `diagonal`, canonical."""

    ndim: int
    trace: tuple[int, ...]
    diagonal: tuple[int, ...]

    @property
    def first(self) -> list[int]:
        return list(range(self.ndim))

    @property
    def second(self) -> list[int]:
        shared = self.trace + self.diagonal
        return [a if a in shared else self.ndim + a for a in range(self.ndim)]

    @property
    def result(self) -> list[int]:
        """Labels of the kernel's axes: each axis followed by its twin."""
        pairs = zip(self.first, self.second, strict=True)
        kept = [(a, b) for a, b in pairs if a not in self.trace]
        return [label for a, b in kept for label in ((a,) if a == b else (a, b))]

    def size(self, shape: tuple[int, ...]) -> int:
        """What the sum over the traced axes is divided by. An empty sum stays zero."""
        return max(1, math.prod(shape[a] for a in self.trace))

    def transposition(self) -> list[int]:
        """The permutation of the kernel's axes that exchanges `x1` and `x2`."""
        swap = dict(zip(self.first, self.second, strict=True))
        swap |= {b: a for a, b in swap.items()}
        return [self.result.index(swap[label]) for label in self.result]


def kernel_axes(
    name: str, shape1: tuple[int, ...], shape2: tuple[int, ...], trace: Axes, diagonal: Axes
) -> KernelAxes:
    """Canonical axes of the kernel of an output; `ValueError` where they do not fit its shapes."""
    if len(shape1) != len(shape2):
        msg = f"{name} must have as many axes for x1 as for x2, got shapes {shape1} and {shape2}."
        raise ValueError(msg)
    traced = canonical_axes("trace_axes", trace, name, shape1)
    diagonals = canonical_axes("diagonal_axes", diagonal, name, shape1)
    both = sorted(set(traced) & set(diagonals))
    if both:
        msg = (
            f"axis {both[0]} of {name} (shape {shape1}) is in both trace_axes and diagonal_axes; "
            "an axis can be summed over or kept as a diagonal, not both."
        )
        raise ValueError(msg)
    for axis in traced + diagonals:
        if shape1[axis] != shape2[axis]:
            kind = "trace_axes" if axis in traced else "diagonal_axes"
            msg = (
                f"axis {axis} of {name} is in {kind}, so f(x1) and f(x2) must have the same size "
                f"there, got shapes {shape1} and {shape2}. Leave the axis out of {kind} to have "
                "all pairs."
            )
            raise ValueError(msg)
    return KernelAxes(len(shape1), traced, diagonals)


def canonical_axes(kind: str, axes: Any, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`axes` as sorted non-negative integers; `ValueError` out of range or repeated."""
    try:
        each = (axes,) if is_int(axes) else tuple(axes)
    except TypeError:
        raise ValueError(f"{kind} must be an int or a sequence of ints, got {axes!r}.") from None
    canonical = []
    for axis in each:
        if not is_int(axis):
            raise ValueError(f"{kind} must be integers, got {axes!r}.")
        if not -len(shape) <= axis < len(shape):
            mend = f" Pass {kind}=() for such an output." if not shape else ""
            msg = (
                f"{kind} has axis {axis}, which is out of range for {name} of shape {shape}.{mend}"
            )
            raise ValueError(msg)
        canonical.append(int(axis) % len(shape))
    for axis in canonical:
        if canonical.count(axis) > 1:
            msg = f"{kind}={each} repeats axis {axis} of {name} of shape {shape}."
            raise ValueError(msg)
    return tuple(sorted(canonical))


def is_int(axis: Any) -> bool:
    """Whether `axis` is an integer of Python or NumPy; a bool is not."""
    try:
        operator.index(axis)
    except TypeError:
        return False
    return not isinstance(axis, bool)


def split_vmap_axes(vmap_axes: VmapAxes) -> tuple[Any, Any, dict[str, Any]]:
    """`vmap_axes` as `(in_axes, out_axes, kwargs_axes)`.

    What is not such a triple is a tree of axes, the same for inputs and outputs. A tuple of three
    whose last entry is a dict is always taken for a triple.
    """
    if jax.tree_util.all_leaves([vmap_axes]) and not is_int(vmap_axes):
        msg = (
            "vmap_axes must be an int, None, a tree of them for inputs and outputs alike, or a "
            "triple (in_axes, out_axes, kwargs_axes) whose last entry is a dict, e.g. "
            f"(0, 0, dict(pattern=0)); got {vmap_axes!r}."
        )
        raise ValueError(msg)
    is_triple = (
        isinstance(vmap_axes, tuple) and len(vmap_axes) == 3 and isinstance(vmap_axes[2], dict)
    )
    return vmap_axes if is_triple else (vmap_axes, vmap_axes, {})


def _mismatch(axes: Any, tree: Any, where: str) -> str:
    """The name of the first place where `axes` is no prefix of `tree`."""
    wanted, given = _children(tree), _children(axes)
    if axes is None or jax.tree_util.all_leaves([axes]):
        return ""
    if wanted.keys() != given.keys() or type(axes) is not type(tree):
        different = [k for k in (*wanted, *given) if (k in wanted) != (k in given)]
        return where + (different[0] if different and wanted else "")
    places = (_mismatch(given[k], wanted[k], where + k) for k in wanted)
    return next((place for place in places if place), "")


def _children(tree: Any) -> dict[str, Any]:
    """The subtrees one level down, by key; none of a leaf."""
    below, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda t: t is not tree)
    return {jax.tree_util.keystr(path): child for path, child in below if path}


@dataclass(frozen=True)
class _Box:
    axis: Any


def batch_axes(name: str, axes: Any, tree: Any) -> list[int | None]:
    """The batch axis of each leaf of `tree`, from a tree prefix of axes, canonical."""
    try:
        # Boxed, because None is an axis here and an empty subtree there.
        boxed = jax.tree.map(_Box, axes, is_leaf=lambda a: a is None)
        broadcast = jax.tree.broadcast(boxed, tree, is_leaf=lambda a: a is None)
        flat_axes = [box.axis for box in jax.tree.leaves(broadcast)]
    except ValueError:
        msg = (
            f"vmap_axes={axes!r} does not fit {_mismatch(axes, tree, name)}: axes must be a tree "
            f"prefix of {name}, a tree of structure {jax.tree.structure(tree)}. Inputs and outputs "
            "of different structure take a triple (in_axes, out_axes, {})."
        )
        raise ValueError(msg) from None
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    canonical: list[int | None] = []
    for axis, (path, leaf) in zip(flat_axes, flat, strict=True):
        where = leaf_name(name, path)
        if axis is None:
            canonical.append(None)
            continue
        shape = tuple(getattr(leaf, "shape", ()))
        if not is_int(axis) or not -len(shape) <= axis < len(shape):
            msg = f"vmap_axes gives {where} the batch axis {axis!r}, but its shape is {shape}"
            if not hasattr(leaf, "shape"):
                msg += (
                    f": it is {leaf!r}, a {type(leaf).__name__} and no array. Lists are trees of "
                    "their entries: pass jnp.asarray(...) for an array, or None as the axis of "
                    "what is no example"
                )
            raise ValueError(f"{msg}.")
        canonical.append(int(axis) % len(shape))
    return canonical
