"""Layers with parameters: dense layers and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .._shared.axes import is_int
from ._axes import checked_axis
from ._covariance import Covariance, Op
from ._layer import Layer, layer
from ._windows import windows

_PARAMETERIZATIONS = ("ntk", "standard")


def Dense(
    out_dim: int,
    W_std: float = 1.0,
    b_std: float | None = None,
    batch_axis: int = 0,
    channel_axis: int = -1,
    parameterization: str = "ntk",
    s: tuple[int, int] = (1, 1),
) -> Layer:
    """A dense layer over the channels.

        ntk         y = W_std / sqrt(c) x W + b_std b         W, b ~ N(0, 1)
        standard    y = x W / sqrt(s[0]) + b                  W ~ N(0, W_std^2 s[0] / c)
                                                              b ~ N(0, b_std^2)

        K' = W_std^2 K + b_std^2
        Theta' = K' + W_std^2 Theta                           ntk
        Theta' = c / s[0] K + W_std^2 Theta + [1 with b]      standard

    Args:
        out_dim: output channels; with "standard" `s[1] * out_dim` of them.
        W_std: standard deviation of the weights.
        b_std: standard deviation of the biases; `None` for none.
        batch_axis: of the input.
        channel_axis: of the input, of size `c`.
        parameterization: "ntk" or "standard".
        s: scales of the widths of input and output, for "standard".

    Returns:
        A layer with parameters `(W, b)`: `W` of shape `[c, s[1] * out_dim]`, `b` with the channels
        at `channel_axis` and ones elsewhere, or `None`.

    Raises:
        ValueError: an unknown parameterisation; an input whose channels `W` does not have.

    Cost: `kernel_fn` `O(1)` for each entry of the covariance.

    Source: Jacot et al., "Neural Tangent Kernel" (2018), theorem 1; Sohl-Dickstein et al., "On the
    Infinite Width Limit of Neural Networks with a Standard Parameterization" (2020), section 3.

    Example:
        >>> import jax
        >>> from tangax import stax
        >>> init_fn, apply_fn, kernel_fn = stax.Dense(4, W_std=1.5, b_std=0.1)
        >>> x = jax.random.normal(jax.random.key(0), (5, 3))
        >>> shape, (W, b) = init_fn(jax.random.key(1), x.shape)
        >>> shape, W.shape, b.shape, kernel_fn(x).ntk.shape
        ((5, 4), (3, 4), (1, 4), (5, 5))
    """
    name = f"Dense({out_dim})"
    _check_units(name, out_dim)
    standard = _is_standard(name, parameterization)
    units = out_dim * s[1] if standard else out_dim

    def init_fn(rng: Any, input_shape: Any) -> Any:
        shape = tuple(input_shape)
        axis = checked_axis(name, channel_axis, shape)
        fan_in = shape[axis]
        bias = [units if a == axis else 1 for a in range(len(shape))]
        params = drawn(
            rng, (fan_in, units), bias, W_std, b_std, fan_in / s[0] if standard else None
        )
        return (*shape[:axis], units, *shape[axis + 1 :]), params

    def apply_fn(params: Any, inputs: Any, **kwargs: Any) -> Any:
        W, b = params
        axis = checked_axis(name, channel_axis, inputs.shape)
        _check_channels(name, W.shape[0], inputs.shape, axis)
        scale = 1 / s[0] ** 0.5 if standard else W_std / W.shape[0] ** 0.5
        y = scale * jnp.moveaxis(jnp.tensordot(inputs, W, (axis, 0)), -1, axis)
        return y if b is None else y + (b if standard else b_std * b)

    def rule(c: Covariance, **kwargs: Any) -> Covariance:
        return affine(c, None, W_std, b_std, c.channels / s[0] if standard else None, units)

    return layer(name, init_fn, apply_fn, rule, axes=(batch_axis, channel_axis))


def Conv(
    out_chan: int,
    filter_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    W_std: float = 1.0,
    b_std: float | None = None,
    dimension_numbers: tuple[str, str, str] | None = None,
    parameterization: str = "ntk",
    s: tuple[int, int] = (1, 1),
) -> Layer:
    """A convolution, over any number of axes of positions.

        y[r] = W_std / sqrt(c k) sum_d x[stride r + d] W[d] + b_std b       ("ntk"; k positions d)

        K'[r, r'] = W_std^2 / k sum_d K[stride r + d, stride r' + d] + b_std^2
        Theta' = K' + W_std^2 (the same mean of Theta)

    and with "standard" as for `Dense`, of fan-in `c k`.

    Args:
        out_chan: output channels; with "standard" `s[1] * out_chan` of them.
        filter_shape: sizes of the windows.
        strides: of the windows; ones by default.
        padding: "VALID", "SAME" (zeros around), or "CIRCULAR" (as "SAME", but periodic).
        W_std: standard deviation of the weights.
        b_std: standard deviation of the biases; `None` for none.
        dimension_numbers: as for `jax.lax.conv_general_dilated`; by default channels last, and
            weights as `[*filter_shape, input, output]`.
        parameterization: "ntk" or "standard".
        s: scales of the widths of input and output, for "standard".

    Returns:
        A layer with parameters `(W, b)`, `b` with ones at all axes but the channels, or `None`.

    Raises:
        ValueError: an unknown padding or parameterisation; windows that do not fit.

    Cost: `kernel_fn` the sum of the window's sizes for each entry of the covariance, of pairs of
    positions only if a later layer needs them.

    Source: Novak et al., "Bayesian Deep Convolutional Networks with Many Channels are Gaussian
    Processes" (2019), section 2.2; Arora et al., "On Exact Computation with an Infinitely Wide
    Neural Net" (2019), section 4.

    Example:
        >>> import jax
        >>> from tangax import stax
        >>> net = stax.serial(stax.Conv(8, (3, 3), padding="SAME"), stax.Relu(), stax.Flatten())
        >>> init_fn, apply_fn, kernel_fn = net
        >>> x = jax.random.normal(jax.random.key(0), (5, 4, 4, 3))
        >>> shape, params = init_fn(jax.random.key(1), x.shape)
        >>> shape, kernel_fn(x, None, "nngp").shape
        ((5, 128), (5, 5))
    """
    name = f"Conv({out_chan}, {filter_shape})"
    _check_units(name, out_chan)
    standard = _is_standard(name, parameterization)
    units = out_chan * s[1] if standard else out_chan
    window = windows(name, filter_shape, strides, padding)
    if dimension_numbers is None:
        space = "HWDABEFGJK"[: len(window.sizes)]
        dimension_numbers = f"N{space}C", f"{space}IO", f"N{space}C"
    lhs, rhs, out = dimension_numbers
    _check_dimension_numbers(name, dimension_numbers, len(window.sizes))
    # Sizes and strides are in the order of the filter's axes.
    letters = [c for c in rhs if c not in "IO"]
    before, after = ([c for c in spec if c not in "NC"] for spec in (lhs, out))
    batch, channel = lhs.index("N"), lhs.index("C")
    places = [lhs.index(c) for c in letters]

    def init_fn(rng: Any, input_shape: Any) -> Any:
        shape = tuple(input_shape)
        _check_ndim(name, shape, lhs)
        result = dict(zip(letters, window.outputs([shape[a] for a in places]), strict=True))
        result |= {"N": shape[batch], "C": units}
        sizes = dict(zip(letters, window.sizes, strict=True))
        sizes |= {"I": shape[channel], "O": units}
        bias = [units if c == "C" else 1 for c in out]
        fan_in = shape[channel] * window.size
        scaled = fan_in / s[0] if standard else None
        params = drawn(rng, [sizes[c] for c in rhs], bias, W_std, b_std, scaled)
        return tuple(result[c] for c in out), params

    def apply_fn(params: Any, inputs: Any, **kwargs: Any) -> Any:
        W, b = params
        _check_ndim(name, inputs.shape, lhs)
        channels = inputs.shape[channel]
        _check_channels(name, W.shape[rhs.index("I")], inputs.shape, channel)
        scale = 1 / s[0] ** 0.5 if standard else W_std / (channels * window.size) ** 0.5
        pads = window.pads([inputs.shape[a] for a in places])
        if window.padding == "CIRCULAR":
            inputs = window.padded(inputs, [(a,) for a in places])
            pads = [(0, 0)] * len(pads)
        dtype = jnp.result_type(inputs, W)
        y = scale * jax.lax.conv_general_dilated(
            jnp.asarray(inputs, dtype),
            jnp.asarray(W, dtype),
            window.strides,
            pads,
            dimension_numbers=(lhs, rhs, out),
        )
        return y if b is None else y + (b if standard else b_std * b)

    def rule(c: Covariance, **kwargs: Any) -> Covariance:
        window.check(c.positions)

        def mean(a: jax.Array, axes: list[tuple[int, ...]]) -> jax.Array:
            y = window.sums(a, [axes[before.index(letter)] for letter in letters]) / window.size
            order = [axis for letter in after for axis in axes[before.index(letter)]]
            return jnp.transpose(y, [*order, *range(len(order), y.ndim)])

        fan_in = c.channels * window.size / s[0] if standard else None
        affine_c = affine(c, mean, W_std, b_std, fan_in, units)
        return replace(affine_c, axes=(out.index("N"), out.index("C")))

    return layer(name, init_fn, apply_fn, rule, axes=(batch, channel))


def affine(
    c: Covariance,
    mean: Op | None,
    W_std: float,
    b_std: float | None,
    fan_in: float | None,
    channels: int,
) -> Covariance:
    """After a product with random weights: `mean` over the positions that one output sees.

    `fan_in`: of the standard parameterisation, where weights are not scaled.
    """
    seen = c if mean is None else c.map(mean)
    after = seen.shifted(W_std**2, 0.0 if b_std is None else b_std**2)
    own = after.nngp if fan_in is None else fan_in * seen.nngp + (b_std is not None)
    return replace(
        after,
        ntk=own if after.ntk is None else own + after.ntk,
        channels=channels,
        gaussian=True,
        centred=True,
        shared=frozenset(),
    )


def drawn(
    rng: Any,
    weight: Sequence[int],
    bias: Sequence[int],
    W_std: float,
    b_std: float | None,
    fan_in: float | None,
) -> tuple[jax.Array, jax.Array | None]:
    """Random weights and biases: of variance one, or for a `fan_in` scaled to it."""
    w_key, b_key = jax.random.split(rng)
    W = jax.random.normal(w_key, tuple(weight))
    b = None if b_std is None else jax.random.normal(b_key, tuple(bias))
    if fan_in is None:
        return W, b
    return W * (W_std / math.sqrt(fan_in)), None if b is None or b_std is None else b * b_std


def _check_units(name: str, units: Any) -> None:
    if not is_int(units) or units < 1:
        raise ValueError(f"{name}: the number of output channels must be a positive integer.")


def _is_standard(name: str, parameterization: str) -> bool:
    if str(parameterization).lower() not in _PARAMETERIZATIONS:
        known = f"parameterization must be one of {_PARAMETERIZATIONS}"
        raise ValueError(f"{name}: {known}, got {parameterization!r}.")
    return parameterization.lower() == "standard"


def _check_channels(name: str, known: int, shape: Sequence[int], axis: int) -> None:
    if shape[axis] != known:
        raise ValueError(
            f"{name} has parameters for {known} channels, but axis {axis} of its input "
            f"{tuple(shape)} has {shape[axis]}."
        )


def _check_ndim(name: str, shape: Sequence[int], spec: str) -> None:
    if len(shape) != len(spec):
        raise ValueError(
            f"{name} takes arrays with axes {spec!r}, got {len(shape)} axes: {tuple(shape)}."
        )


def _check_dimension_numbers(name: str, numbers: Any, count: int) -> None:
    lhs, rhs, out = numbers
    space = [set(lhs) - set("NC"), set(rhs) - set("IO"), set(out) - set("NC")]
    fits = all(len(spec) == len(set(spec)) == count + 2 for spec in numbers)
    fits = fits and {"N", "C"} <= set(lhs) & set(out) and {"I", "O"} <= set(rhs)
    if not fits or space[0] != space[1] or space[0] != space[2]:
        raise ValueError(
            f"{name}: dimension_numbers must be three strings like ('NHWC', 'HWIO', 'NHWC') for "
            f"{count} axes of positions, got {numbers}."
        )
