"""Arguments are read here, once: what belongs to which side, and along which axes examples lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .._shared.axes import VmapAxes, batch_axes, split_vmap_axes
from .._shared.pair import Pair
from .._shared.trees import describe, dtype_is, named_leaves
from .inputs import check_same_inputs, is_pair, second_inputs


@dataclass(frozen=True)
class Inputs:
    """One side: the leaves of `x` and of keyword arguments that have an axis, along `axes`.

    `n`: how many examples there are, if any leaf has an axis; `constants`: all other keyword
    arguments.
    """

    leaves: list[Any]
    axes: list[int | None]
    treedef: Any
    n: int | None
    constants: dict[str, Any]

    def arguments(self, leaves: list[Any]) -> tuple[Any, dict[str, Any]]:
        x, mapped = self.treedef.unflatten(leaves)
        return x, self.constants | mapped


def read_inputs(name: str, x: Any, vmap_axes: VmapAxes, kwargs: dict[str, Any]) -> Inputs:
    """The inputs of one side; `ValueError` naming leaves of unequal length."""
    in_axes, _, kwargs_axes = split_vmap_axes(vmap_axes)
    _check_passed(kwargs_axes, kwargs)
    mapped = {k: kwargs[k] for k in sorted(kwargs_axes)}
    named, axes = named_leaves(name, x), batch_axes(name, in_axes, x)
    for k, value in mapped.items():
        named += named_leaves(k, value)
        axes += batch_axes(k, kwargs_axes[k], value)
    with_axis = [
        (name, leaf.shape[axis])
        for (name, leaf), axis in zip(named, axes, strict=True)
        if axis is not None
    ]
    leaves, treedef = jax.tree.flatten((x, mapped))
    constants = {k: v for k, v in kwargs.items() if k not in mapped}
    return Inputs(leaves, axes, treedef, _common_length(with_axis), constants)


def each_side(
    x1: Any,
    x2: Any,
    kwargs: dict[str, Any],
    equal: Callable[[Any, Any, dict[str, Any]], jax.Array | bool] | None,
) -> Pair[tuple[Any, dict[str, Any]]]:
    """Inputs and keyword arguments of each side: a pair (tuple of two) is one for each.

    `equal(x1, x2, kwargs1)`: whether inputs are, asked where a key stands for both sides; without
    it, as where values do not count, the key is that of `x1`.
    """
    kwargs1, kwargs2 = split_kwargs(kwargs)
    x2 = second_inputs(x1, x2)
    if x2 is None:
        split = any(map(is_pair, kwargs.values()))
        return Pair((x1, kwargs1), (x1, kwargs2) if split else None)
    check_same_inputs(x1, x2)
    rng = kwargs.get("rng")
    if rng is not None and not is_pair(rng) and equal is not None:
        same = equal(x1, x2, kwargs1)
        kwargs2 |= {"rng": jax.tree.map(lambda key: _second_key(key, same), rng)}
    return Pair((x1, kwargs1), (x2, kwargs2))


def split_kwargs(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    first = {k: v[0] if is_pair(v) else v for k, v in kwargs.items()}
    second = {k: v[1] if is_pair(v) else v for k, v in kwargs.items()}
    return first, second


def _second_key(key: Any, same_inputs: jax.Array | bool) -> jax.Array:
    """The key (or keys) for `x2`: that of `x1` for equal inputs, else folded into another."""
    typed = dtype_is(key, jax.dtypes.prng_key)
    if not typed and not (dtype_is(key, jnp.uint32) and key.ndim):
        raise TypeError(f"rng must be a key of jax.random or a tree of keys, got {describe(key)}.")
    key = jnp.asarray(key)
    fold = lambda k: jax.random.fold_in(k, 1)  # noqa: E731
    for _ in range(key.ndim if typed else key.ndim - 1):
        fold = jax.vmap(fold)
    return jnp.where(same_inputs, key, fold(key))


def are_equal(x1: Any, x2: Any) -> jax.Array | bool:
    """Whether two trees of inputs have equal shapes and values."""
    equal: jax.Array | bool = True
    for a, b in zip(jax.tree.leaves(x1), jax.tree.leaves(x2), strict=True):
        a, b = jnp.asarray(a), jnp.asarray(b)
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        equal = equal & jnp.all(a == b)
    return equal


def _check_passed(kwargs_axes: dict[str, Any], kwargs: dict[str, Any]) -> None:
    unknown = sorted(set(kwargs_axes) - set(kwargs))
    if unknown:
        msg = (
            f"vmap_axes names the keyword argument {unknown[0]!r}, which was not passed. A tuple "
            "of three that ends in a dict is (in_axes, out_axes, kwargs_axes); where it is a tree "
            "of axes for x, pass it as in_axes of such a triple."
        )
        raise ValueError(msg)


def _common_length(named: list[tuple[str, int]]) -> int | None:
    """The number of examples; `ValueError` naming two leaves that disagree."""
    for other, size in named:
        if size != named[0][1]:
            msg = (
                "all leaves must have the same number of examples along their batch axes, but "
                f"{named[0][0]} has {named[0][1]} and {other} has {size}."
            )
            raise ValueError(msg)
    return named[0][1] if named else None
