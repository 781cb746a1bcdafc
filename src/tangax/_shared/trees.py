"""Pytrees of parameters, inputs and outputs: what is differentiated, and what a leaf is called.

`Params` splits a tree into its floating-point leaves, which the kernels differentiate, and the
rest (counters, PRNG keys, an Equinox module's functions), which are constants.
"""

from __future__ import annotations

import enum
import numbers
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Params:
    """A parameter tree, split. `leaves`: what is differentiated, `paths`: their names."""

    leaves: list[jax.Array]
    paths: list[str]
    treedef: Any
    constants: list[Any]

    def merge(self, leaves: list[jax.Array]) -> Any:
        """The tree with `leaves` in place of those that are differentiated."""
        it = iter(leaves)
        return self.treedef.unflatten([next(it) if c is _LEAF else c for c in self.constants])

    def of(self, tree: Any) -> list[Any]:
        """What another tree of the same containers has in the places of `leaves`."""
        pairs = zip(self.treedef.flatten_up_to(tree), self.constants, strict=True)
        return [leaf for leaf, c in pairs if c is _LEAF]


class _Mark(enum.Enum):
    """The same object in every process, so that what holds it can be sent there."""

    LEAF = enum.auto()


# Marks the places of the floating-point leaves among the constants; `None` is a value of its own.
_LEAF = _Mark.LEAF


def split_params(params: Any, hint: str = "") -> Params:
    """Split `params`; `TypeError` for a complex leaf or where no leaf is floating point."""
    named, treedef = named_leaves("params", params), jax.tree.structure(params)
    leaves, paths, constants = [], [], []
    for name, leaf in named:
        if _is_of_another_type(leaf):
            msg = (
                f"{name} is a {type(leaf).__name__}, a type of its own to JAX: parameters are "
                "arrays. Make it of arrays in f: f(params, x) = g(wrapped(params), x)."
            )
            raise TypeError(msg)
        if dtype_is(leaf, jnp.complexfloating):
            msg = f"{name} is complex ({describe(leaf)}); only real parameters are supported."
            raise TypeError(msg)
        if dtype_is(leaf, jnp.floating):
            leaves.append(jnp.asarray(leaf))
            paths.append(name)
            constants.append(_LEAF)
        else:
            constants.append(leaf)
    if not leaves:
        msg = (
            "params has no floating-point leaf to differentiate; its leaves are "
            f"{[describe(leaf) for _, leaf in named]}. {hint}"
        ).strip()
        raise TypeError(msg)
    return Params(leaves, paths, treedef, constants)


def constant_params(params: Any) -> Params:
    """`params`, of which nothing is differentiated."""
    constants, treedef = jax.tree.flatten(params)
    return Params([], [], treedef, constants)


def _is_of_another_type(leaf: Any) -> bool:
    """Whether a leaf is a value to JAX and no array: its derivative would be lost in silence."""
    if hasattr(leaf, "dtype") or isinstance(leaf, numbers.Number):
        return False
    try:
        jax.typeof(leaf)
    except Exception:  # a function, a string: no value to JAX
        return hasattr(leaf, "__jax_array__")
    return True


def dtype_is(leaf: Any, kind: Any) -> bool:
    """Whether `leaf` is an array or Python scalar of a dtype under `kind`."""
    if type(leaf) in (float, complex):
        return np.issubdtype(type(leaf), kind)
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, kind)


def leaf_name(root: str, path: tuple[Any, ...]) -> str:
    """The Python expression that reaches a leaf: `params['dense']['w']`."""
    return root + jax.tree_util.keystr(path)


def describe(leaf: Any) -> str:
    """A leaf in an error message: dtype and shape of an array, else its type."""
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return type(leaf).__name__


def named_leaves(root: str, tree: Any) -> list[tuple[str, Any]]:
    """Leaves and their names, no two the same: a container may give two leaves one path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    counts: Counter[str] = Counter()
    named = []
    for path, leaf in flat:
        name = leaf_name(root, path)
        counts[name] += 1
        named.append((name if counts[name] == 1 else f"{name} ({counts[name]})", leaf))
    return named


def check_same_structure(name1: str, tree1: Any, name2: str, tree2: Any) -> None:
    """`ValueError` naming the first leaf that only one of two trees has."""
    if jax.tree.structure(tree1) == jax.tree.structure(tree2):
        return
    paths1 = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(tree1)[0]]
    paths2 = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(tree2)[0]]
    only = [name1 + p for p in paths1 if p not in paths2]
    only += [name2 + p for p in paths2 if p not in paths1]
    where = f"only one has {only[0]}" if only else "their containers differ"
    msg = (
        f"{name1} and {name2} must have the same tree structure, but {where}: "
        f"{jax.tree.structure(tree1)} and {jax.tree.structure(tree2)}."
    )
    raise ValueError(msg)


def is_concrete(tree: Any) -> bool:
    """Whether every array of `tree` has values on this process: no tracer, no remote shard."""
    try:
        return all(
            leaf.is_fully_addressable
            for leaf in jax.tree.leaves(tree)
            if isinstance(leaf, jax.Array)
        ) and not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))
    except jax.errors.ConcretizationTypeError:
        return False


def has_values(tree: Any) -> bool:
    """Whether arrays have values, and what is made of them would: not so within a trace."""
    return is_concrete(tree) and is_concrete(jnp.zeros(()))


def split_arrays(tree: Any) -> tuple[Any, list[Any]]:
    """`tree` as what is static of it, hashable if its other leaves are, and its arrays."""
    return _split(tree, _is_array)


def split_shapes(tree: Any) -> tuple[Any, list[Any]]:
    """`tree` as what has a value, arrays too, and what are shapes."""
    return _split(tree, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))


def _split(tree: Any, taken: Callable[[Any], bool]) -> tuple[Any, list[Any]]:
    leaves, treedef = jax.tree.flatten(tree)
    static = tuple(_LEAF if taken(leaf) else Static.of(leaf) for leaf in leaves)
    return (treedef, static), [leaf for leaf in leaves if taken(leaf)]


def join_arrays(static: Any, arrays: list[Any]) -> Any:
    """The tree that `split_arrays` or `split_shapes` split."""
    treedef, leaves = static
    it = iter(arrays)
    return treedef.unflatten([next(it) if leaf is _LEAF else leaf.value for leaf in leaves])


@dataclass(frozen=True)
class Static:
    """A value as the key of a compiled function, where 1, 1.0 and True differ, and 0.0 and -0.0."""

    kind: type
    text: str
    value: Any

    @staticmethod
    def of(value: Any) -> Static:
        return Static(type(value), repr(value) if isinstance(value, float) else "", value)


def _is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or the shape of one. NumPy's integers and bools are values."""
    if isinstance(leaf, np.generic):
        return np.issubdtype(leaf.dtype, np.inexact)
    return isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))


def numbers_as_arrays(tree: Any) -> Any:
    """A tree whose Python floats and complex numbers are arrays: another value compiles nothing."""

    def array(leaf: Any) -> Any:
        return jnp.asarray(leaf) if type(leaf) in (float, complex) else leaf

    return jax.tree.map(array, tree)


def is_hashable(static: Any) -> bool:
    """Whether `static` can be the key of a compiled function."""
    try:
        hash(static)
    except TypeError:
        return False
    return True


def kernel_dtype(*arrays: Any) -> Any:
    """The dtype of a kernel of arrays: that to which they and float32 are promoted.

    Said in full: floats of 8 bits are promoted to no other, and in strict mode nothing is.
    """
    return jnp.dtype(jnp.float64 if any(a.dtype == jnp.float64 for a in arrays) else jnp.float32)
