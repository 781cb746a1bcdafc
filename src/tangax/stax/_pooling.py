"""Layers that join positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ._axes import checked_axis, spatial
from ._covariance import Covariance
from ._layer import Layer, layer
from ._windows import Windows, windows


def Flatten(batch_axis: int = 0, batch_axis_out: int = 0) -> Layer:
    """All axes but the batch as channels.

        K' = mean_s K[s, s]

    Args:
        batch_axis: of the input.
        batch_axis_out: of the output, 0 or 1.

    Raises:
        ValueError: another `batch_axis_out`.

    Cost: `kernel_fn` needs equal positions only, of all layers before.

    Source: Novak et al., "Bayesian Deep Convolutional Networks with Many Channels are Gaussian
    Processes" (2019), section 3.1.

    Example:
        >>> from tangax import stax
        >>> stax.Flatten().init_fn(None, (5, 4, 4, 3))
        ((5, 48), ())
    """
    if batch_axis_out not in (-2, -1, 0, 1):
        raise ValueError(f"Flatten: batch_axis_out must be 0 or 1, got {batch_axis_out}.")
    last = batch_axis_out % 2 == 1

    def flat(shape: Sequence[int]) -> tuple[int, int]:
        axis = checked_axis("Flatten", batch_axis, shape)
        n, rest = shape[axis], math.prod([*shape[:axis], *shape[axis + 1 :]])
        return (rest, n) if last else (n, rest)

    def init_fn(rng: Any, input_shape: Any) -> Any:
        return flat(input_shape), ()

    def apply_fn(params: Any, inputs: Any, **kwargs: Any) -> Any:
        axis = checked_axis("Flatten", batch_axis, inputs.shape)
        y = jnp.moveaxis(inputs, axis, 0).reshape(inputs.shape[axis], -1)
        return y.T if last else y

    def rule(c: Covariance, **kwargs: Any) -> Covariance:
        size = math.prod(c.positions)
        flat = c.map(lambda a, axes: jnp.mean(a, [axis for (axis,) in axes]))
        axes = (1, 0) if last else (0, 1)
        # The channels of different positions are not draws of one function.
        gaussian = c.gaussian and size == 1
        return replace(flat, channels=c.channels * size, axes=axes, gaussian=gaussian)

    return layer("Flatten", init_fn, apply_fn, rule, pairs=False, axes=(batch_axis, None))


def AvgPool(
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    normalize_edges: bool = False,
    batch_axis: int = 0,
    channel_axis: int = -1,
) -> Layer:
    """The mean over windows of positions.

        K'[r, r'] = mean_{s in window r, s' in window r'} K[s, s']

    Args:
        window_shape: sizes of the windows.
        strides: of the windows; ones by default.
        padding: "VALID", "SAME" (zeros around), or "CIRCULAR" (as "SAME", but periodic).
        normalize_edges: with "SAME", divide by the positions in a window without those around.
        batch_axis: of the input.
        channel_axis: of the input.

    Raises:
        ValueError: an unknown padding; windows that do not fit.

    Cost: `kernel_fn` needs pairs of positions of all layers before, and takes twice the sum of the
    window's sizes for each.

    Source: Arora et al., "On Exact Computation with an Infinitely Wide Neural Net" (2019), section
    4; Novak et al., "Bayesian Deep Convolutional Networks with Many Channels are Gaussian
    Processes" (2019), section 3.2.

    Example:
        >>> from tangax import stax
        >>> stax.AvgPool((2, 2), strides=(2, 2)).init_fn(None, (5, 4, 4, 3))
        ((5, 2, 2, 3), ())
    """

    def means(window: Windows, a: jax.Array, axes: Sequence[tuple[int, ...]]) -> jax.Array:
        positions = window.sums(jnp.ones_like(a), axes) if normalize_edges else window.size
        return window.sums(a, axes) / positions

    return _pool("AvgPool", window_shape, strides, padding, batch_axis, channel_axis, means)


def SumPool(
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    batch_axis: int = 0,
    channel_axis: int = -1,
) -> Layer:
    """The sum over windows of positions.

        K'[r, r'] = sum_{s in window r, s' in window r'} K[s, s']

    Args:
        window_shape: sizes of the windows.
        strides: of the windows; ones by default.
        padding: "VALID", "SAME" (zeros around), or "CIRCULAR" (as "SAME", but periodic).
        batch_axis: of the input.
        channel_axis: of the input.

    Raises:
        ValueError: an unknown padding; windows that do not fit.

    Cost: as of `AvgPool`.

    Source: as of `AvgPool`.

    Example:
        >>> from tangax import stax
        >>> stax.SumPool((2, 2), padding="SAME").init_fn(None, (5, 4, 4, 3))
        ((5, 4, 4, 3), ())
    """
    sums = Windows.sums
    return _pool("SumPool", window_shape, strides, padding, batch_axis, channel_axis, sums)


def GlobalAvgPool(batch_axis: int = 0, channel_axis: int = -1) -> Layer:
    """The mean over all positions, whose axes disappear.

        K' = mean_{s, s'} K[s, s']

    Args:
        batch_axis: of the input.
        channel_axis: of the input.

    Cost: `kernel_fn` needs pairs of positions of all layers before.

    Source: as of `AvgPool`.

    Example:
        >>> from tangax import stax
        >>> stax.GlobalAvgPool().init_fn(None, (5, 4, 4, 3))
        ((5, 3), ())
    """
    return _global_pool("GlobalAvgPool", jnp.mean, batch_axis, channel_axis)


def GlobalSumPool(batch_axis: int = 0, channel_axis: int = -1) -> Layer:
    """The sum over all positions, whose axes disappear.

        K' = sum_{s, s'} K[s, s']

    Args:
        batch_axis: of the input.
        channel_axis: of the input.

    Cost: `kernel_fn` needs pairs of positions of all layers before.

    Source: as of `AvgPool`.

    Example:
        >>> from tangax import stax
        >>> stax.GlobalSumPool().init_fn(None, (5, 4, 4, 3))
        ((5, 3), ())
    """
    return _global_pool("GlobalSumPool", jnp.sum, batch_axis, channel_axis)


def _pool(
    kind: str,
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: str,
    batch_axis: int,
    channel_axis: int,
    over: Callable[[Windows, jax.Array, Sequence[tuple[int, ...]]], jax.Array],
) -> Layer:
    name = f"{kind}({window_shape})"
    window = windows(name, window_shape, strides, padding)

    def pooled(a: jax.Array, axes: Sequence[int]) -> jax.Array:
        return over(window, a, [(axis,) for axis in axes])

    def init_fn(rng: Any, input_shape: Any) -> Any:
        shape = list(input_shape)
        places = spatial(name, shape, batch_axis, channel_axis)
        for axis, size in zip(places, window.outputs([shape[a] for a in places]), strict=True):
            shape[axis] = size
        return tuple(shape), ()

    def apply_fn(params: Any, inputs: Any, **kwargs: Any) -> Any:
        return pooled(inputs, spatial(name, inputs.shape, batch_axis, channel_axis))

    def rule(c: Covariance, **kwargs: Any) -> Covariance:
        window.check(c.positions)

        def op(a: jax.Array, axes: list[tuple[int, ...]]) -> jax.Array:
            for twin in zip(*axes, strict=True):  # the first of each pair, then the second
                a = pooled(a, twin)
            return a

        return c.map(op)

    return layer(name, init_fn, apply_fn, rule, pairs=True, axes=(batch_axis, channel_axis))


def _global_pool(name: str, over: Callable[..., Any], batch_axis: int, channel_axis: int) -> Layer:
    def init_fn(rng: Any, input_shape: Any) -> Any:
        places = spatial(name, input_shape, batch_axis, channel_axis)
        return tuple(size for a, size in enumerate(input_shape) if a not in places), ()

    def apply_fn(params: Any, inputs: Any, **kwargs: Any) -> Any:
        return over(inputs, spatial(name, inputs.shape, batch_axis, channel_axis))

    def rule(c: Covariance, **kwargs: Any) -> Covariance:
        axes = (0, 1) if c.axes[0] < c.axes[1] else (1, 0)
        after = c.map(lambda a, each: over(a, [axis for pair in each for axis in pair]))
        return replace(after, axes=axes)

    return layer(name, init_fn, apply_fn, rule, pairs=True, axes=(batch_axis, channel_axis))
