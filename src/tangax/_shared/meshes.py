"""Arrays on meshes: values that vary over an axis inside `jax.shard_map`, and Explicit axes.

Inside `shard_map` with checking every value has a type: the axes of the mesh over which it varies.
A cotangent has that of its output. The transpose of a parameter that does not vary is a sum over
the mesh; a kernel of local rows wants none, so its parameters are cast to varying.

Under Explicit axes every array has a sharding in its type, and products of sharded arrays ask for
that of the result. Kernels leave it to the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def varying_axes(*trees: Any) -> frozenset[str]:
    """The axes over which any of the arrays varies; none outside `shard_map`."""
    types = [jax.typeof(a) for a in jax.tree.leaves(trees) if isinstance(a, jax.Array)]
    return frozenset[str]().union(*(_varying(t) for t in types))


def _varying(aval: Any) -> frozenset[str]:
    manual = getattr(aval, "manual_axis_type", None)  # `vma` before JAX 0.10
    return getattr(aval, "vma", frozenset()) if manual is None else manual.varying


def varying(tree: Any, axes: frozenset[str]) -> Any:
    """The arrays as varying over these axes, too."""
    if not axes:
        return tree

    def cast(a: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(a)))
        is_array = isinstance(a, (jax.Array, np.ndarray))
        return jax.lax.pcast(a, missing, to="varying") if missing and is_array else a

    return jax.tree.map(cast, tree)


def shape_like(array: Any, shape: Any = None) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array, or another shape, varying as it does."""
    shape = array.shape if shape is None else shape
    kinds = {}
    if varying_axes(array):
        aval = jax.typeof(array)
        kinds["manual_axis_type"] = aval.manual_axis_type
        kinds["sharding"] = NamedSharding(aval.sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, array.dtype, **kinds)


def automatic(function: Callable[..., Any], arrays: list[Any]) -> Any:
    """`function(arrays)`, where arrays are on a mesh of Explicit axes with those left to XLA."""
    mesh = _explicit_mesh(arrays)
    if mesh is None:
        return function(arrays)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.sharding.auto_axes(function, out_sharding=everywhere)(arrays)


def gathered(tree: Any) -> Any:
    """The tree, its arrays on Explicit axes as arrays of no mesh. They must have values."""
    return _replaced(tree, lambda a: jnp.asarray(np.asarray(a)))


def shapes_gathered(tree: Any) -> Any:
    """The tree, its arrays on Explicit axes as shapes on no mesh."""
    return _replaced(tree, lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype))


def _replaced(tree: Any, replacement: Callable[[Any], Any]) -> Any:
    if _explicit_mesh(jax.tree.leaves(tree)) is None:
        return tree  # itself: of two inputs it counts whether they are one
    return jax.tree.map(lambda a: a if _explicit_mesh([a]) is None else replacement(a), tree)


def _explicit_mesh(arrays: list[Any]) -> Any:
    for a in arrays:
        if isinstance(a, jax.Array):
            mesh = getattr(jax.typeof(a).sharding, "mesh", None)
            if mesh is not None and AxisType.Explicit in (mesh.axis_types or ()):
                return mesh
    return None
