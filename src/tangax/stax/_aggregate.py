"""Aggregation over the edges of a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .._shared.trees import is_concrete
from ._axes import checked_axes, checked_axis, spatial
from ._covariance import Covariance
from ._layer import Layer, layer

_IMPLEMENTATIONS = ("DENSE", "SPARSE")


def Aggregate(
    aggregate_axis: int | Sequence[int] | None = None,
    batch_axis: int = 0,
    channel_axis: int = -1,
    to_dense: Callable[[Any], Any] = lambda pattern: pattern,
    implementation: str = "DENSE",
) -> Layer:
    """Sums over the edges of each example's graph, whose vertices are positions.

        y[n, t] = sum_s x[n, s] pattern[n, s, t]
        K'[t, t'] = sum_{s, s'} pattern1[n, s, t] K[s, s'] pattern2[m, s', t']

    Args:
        aggregate_axis: the axes of vertices; by default all but batch and channels.
        batch_axis: of the input.
        channel_axis: of the input.
        to_dense: makes what is passed as `pattern` the adjacency `[n, *vertices, *vertices]`.
        implementation: "DENSE", or "SPARSE": then `pattern` is `[n, edges, axes, 2]` integers (the
            third may be left out if it is 1), from vertex `[..., 0]` to vertex `[..., 1]`; edges
            with a negative number are none, and those with one that is too large either, where
            they cannot be refused (under `jit`, and in `kernel_fn`).

    Returns:
        A layer whose `apply_fn` takes `pattern`; `kernel_fn` takes one for both inputs, or a tuple
        of two, which are always one for each.

    Raises:
        ValueError: no `pattern`, or of a shape that does not fit; an unknown implementation.

    Cost: `apply_fn` `V^2` for `V` vertices, or one for each edge if "SPARSE"; `kernel_fn`
    `V^3` for each pair of examples and pairs of the other positions.

    Source: Du et al., "Graph Neural Tangent Kernel" (2019), section 3.

    Example:
        >>> import jax
        >>> from tangax import stax
        >>> x = jax.random.normal(jax.random.key(0), (5, 4, 3))
        >>> pattern = jax.random.uniform(jax.random.key(1), (5, 4, 4))
        >>> layers = stax.Dense(8), stax.Aggregate(), stax.Relu(), stax.GlobalAvgPool()
        >>> _, _, kernel_fn = stax.serial(*layers)
        >>> kernel_fn(x, None, "nngp", pattern=pattern).shape
        (5, 5)
    """
    name = "Aggregate"
    if str(implementation).upper() not in _IMPLEMENTATIONS:
        msg = f"{name}: implementation must be one of {_IMPLEMENTATIONS}, got {implementation!r}."
        raise ValueError(msg)
    sparse = implementation.upper() == "SPARSE"

    def vertices(shape: Sequence[int]) -> tuple[int, ...]:
        places = spatial(name, shape, batch_axis, channel_axis)
        if aggregate_axis is None:
            return places
        axes = checked_axes(name, aggregate_axis, shape)
        if not set(axes) <= set(places):
            raise ValueError(
                f"{name}: aggregate_axis {aggregate_axis} must be axes of positions, of {places}."
            )
        return axes

    def adjacency(pattern: Any, n: int, sizes: Sequence[int], dtype: Any) -> jax.Array:
        """`[n, V, V]` of the vertices, flattened."""
        if pattern is None:
            raise ValueError(f"{name} needs its graph: pass pattern=, with an edge per pair.")
        count = math.prod(sizes)
        if sparse:
            start, end = _edges(name, pattern, n, sizes)
            weight = ((start >= 0) & (end >= 0)).astype(dtype)
            rows = jnp.arange(n)[:, None]
            return jnp.zeros((n, count, count), dtype).at[rows, start, end].add(weight)
        pattern = jnp.asarray(to_dense(pattern))
        if pattern.shape != (n, *sizes, *sizes):
            raise ValueError(
                f"{name}: pattern has shape {pattern.shape}, expected {(n, *sizes, *sizes)}: "
                "examples, vertices, vertices."
            )
        return pattern.reshape(n, count, count).astype(dtype)

    def init_fn(rng: Any, input_shape: Any) -> Any:
        vertices(input_shape)
        return input_shape, ()

    def apply_fn(params: Any, inputs: Any, *, pattern: Any = None, **kwargs: Any) -> Any:
        axes = vertices(inputs.shape)
        batch = checked_axis(name, batch_axis, inputs.shape)
        sizes = [inputs.shape[a] for a in axes]
        front = range(len(axes) + 1)
        x = jnp.moveaxis(inputs, (batch, *axes), front)
        flat = x.reshape(x.shape[0], math.prod(sizes), -1)
        if sparse and pattern is not None:
            start, end = _edges(name, pattern, x.shape[0], sizes)
            rows = jnp.arange(x.shape[0])[:, None]
            sent = jnp.where(((start >= 0) & (end >= 0))[..., None], flat[rows, start], 0)
            y = jnp.zeros_like(flat).at[rows, end].add(sent)
        else:
            y = jnp.einsum("nsc,nst->ntc", flat, adjacency(pattern, x.shape[0], sizes, x.dtype))
        return jnp.moveaxis(y.reshape(x.shape), front, (batch, *axes))

    def rule(c: Covariance, *, pattern: Any = (None, None), **kwargs: Any) -> Covariance:
        own = [c.places.index(a) for a in vertices([0] * (len(c.positions) + 2))]
        sizes = [c.positions[a] for a in own]
        n, m = c.nngp.shape[-2:]
        first = adjacency(pattern[0], n, sizes, c.nngp.dtype)
        second = adjacency(pattern[1], m, sizes, c.nngp.dtype)
        one, two = ([c.position_axes[a][i] for a in own] for i in (0, 1))

        def between(k: jax.Array, spec: str, p: jax.Array, q: jax.Array) -> jax.Array:
            """Vertices in front and flat, summed over, and put back."""
            front = range(2 * len(own))
            moved = jnp.moveaxis(k, [*one, *two], front)
            flat = moved.reshape(math.prod(sizes), math.prod(sizes), *moved.shape[2 * len(own) :])
            summed = jnp.einsum(spec, flat, p, q)
            return jnp.moveaxis(summed.reshape(moved.shape), front, [*one, *two])

        both = "st...nm,nsx,mty->xy...nm"
        single = "st...n,nsx,nty->xy...n"
        return replace(
            c,
            nngp=between(c.nngp, both, first, second),
            ntk=None if c.ntk is None else between(c.ntk, both, first, second),
            own1=between(c.own1, single, first, first),
            own2=between(c.own2, single, second, second),
        )

    return layer(name, init_fn, apply_fn, rule, pairs=True, axes=(batch_axis, channel_axis))


def _edges(name: str, pattern: Any, n: int, sizes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Where each edge starts and ends, as flat vertices `[n, edges]`; -1 where there is none."""
    pattern = jnp.asarray(pattern)
    if pattern.ndim == 3 and len(sizes) == 1:
        pattern = pattern[:, :, None]
    if pattern.ndim != 4 or pattern.shape[0] != n or pattern.shape[2:] != (len(sizes), 2):
        raise ValueError(
            f"{name}: a sparse pattern has shape (examples, edges, axes, 2), here "
            f"{(n, 'edges', len(sizes), 2)}; got {pattern.shape}."
        )
    if not jnp.issubdtype(pattern.dtype, jnp.integer):
        raise TypeError(f"{name}: a sparse pattern holds integers, got {pattern.dtype}.")

    most = jnp.array(sizes, pattern.dtype)[None, None, :, None]
    if is_concrete([pattern]) and bool(jnp.any(pattern >= most)):
        raise ValueError(f"{name}: pattern has vertices beyond the {tuple(sizes)} that there are.")

    def flat(vertex: jax.Array) -> jax.Array:
        strides = [math.prod(sizes[a + 1 :]) for a in range(len(sizes))]
        index = jnp.sum(vertex * jnp.array(strides, vertex.dtype)[None, None], -1)
        there = (vertex >= 0) & (vertex < most[..., 0])
        return jnp.where(jnp.all(there, -1), index, -1)

    return flat(pattern[..., 0]), flat(pattern[..., 1])
