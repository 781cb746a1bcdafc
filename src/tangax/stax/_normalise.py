"""Layers that scale: normalisation and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ._axes import checked_axes
from ._covariance import Covariance
from ._layer import Layer, layer, no_closed_form, no_params


def LayerNorm(
    axis: int | Sequence[int] = -1, eps: float = 1e-12, batch_axis: int = 0, channel_axis: int = -1
) -> Layer:
    """Normalisation without parameters: `(x - mean) / sqrt(var + eps)`.

        K'[s, s'] = K[s, s'] / sqrt((p[s] + eps) (q[s'] + eps)),     p, q: variances over `axis`

    Args:
        axis: over which mean and variance are taken.
        eps: added to the variance.
        batch_axis: of the input.
        channel_axis: of the input.

    Raises:
        ValueError: axes that an input does not have, or twice.
        NotImplementedError: `kernel_fn` without the channels, or with the batch, among `axis`; of
            inputs that are no Gaussian process: a `Dense` or `Conv` layer must come before.

    Cost: a few operations for each entry of the covariance.

    Source: Ba et al., "Layer Normalization" (2016), section 3; Xiao et al., "Disentangling
    Trainability and Generalization in Deep Neural Networks" (2020), appendix, for the limit.

    Example:
        >>> import jax
        >>> from tangax import stax
        >>> _, _, kernel_fn = stax.serial(stax.Dense(8), stax.LayerNorm(), stax.Relu())
        >>> x = jax.random.normal(jax.random.key(0), (5, 3))
        >>> kernel_fn(x, None, "nngp").shape
        (5, 5)
    """
    name = f"LayerNorm({axis})"

    def apply_fn(params: Any, inputs: Any, **kwargs: Any) -> Any:
        over = checked_axes(name, axis, inputs.shape)
        mean = jnp.mean(inputs, over, keepdims=True)
        return (inputs - mean) / jnp.sqrt(jnp.var(inputs, over, keepdims=True) + eps)

    def rule(c: Covariance, **kwargs: Any) -> Covariance:
        shape = (0,) * (len(c.positions) + 2)
        over = checked_axes(name, axis, shape)
        batch, channel = c.axes
        if channel not in over:
            raise no_closed_form(name, f"it does not normalise over the channels, axis {channel}")
        if batch in over:
            raise no_closed_form(name, f"it normalises over the batch, axis {batch}")
        if not c.gaussian:
            raise no_closed_form(name, "its input is no Gaussian process; put Dense or Conv before")
        means = [place for place, a in enumerate(c.places) if a in over]

        def scales(variance: jax.Array) -> tuple[jax.Array, jax.Array]:
            if means:
                variance = jnp.broadcast_to(
                    jnp.mean(variance, means, keepdims=True), variance.shape
                )
            scale = jax.lax.rsqrt(variance + eps)
            return c.spread(scale, 0), c.spread(scale, 1)

        (p, p_twin), (q, q_twin) = map(scales, c.variances())
        factor = p[..., :, None] * q_twin[..., None, :]
        return replace(
            c,
            nngp=c.nngp * factor,
            ntk=None if c.ntk is None else c.ntk * factor,
            own1=c.own1 * p * p_twin,
            own2=c.own2 * q * q_twin,
        )

    def init_fn(rng: Any, input_shape: Any) -> Any:
        checked_axes(name, axis, input_shape)
        return input_shape, ()

    return layer(name, init_fn, apply_fn, rule, axes=(batch_axis, channel_axis))


def Dropout(rate: float, mode: str = "train") -> Layer:
    """Dropout: entries are kept with probability `rate`, and divided by it.

        K' = K / rate of one variable with itself, else K      in training; in testing the identity

    Examples of x1 and x2 are the same, with the same masks, where all of x1 and x2 are equal, or x2
    is `None`; else none of them are. Derivatives at equal inputs are those of shared masks.

    Args:
        rate: the probability of keeping an entry.
        mode: "train" or "test".

    Raises:
        ValueError: another `mode`; `rate` outside (0, 1]; `apply_fn` in training without `rng`.

    Cost: of a product for each entry of the covariance.

    Source: Schoenholz et al., "Deep Information Propagation" (2017), section 4, for the limit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from tangax import stax
        >>> _, apply_fn, _ = stax.Dropout(0.5)
        >>> sorted(set(apply_fn((), jnp.ones(9), rng=jax.random.key(0)).tolist()))
        [0.0, 2.0]
    """
    name = f"Dropout({rate})"
    if mode not in ("train", "test"):
        raise ValueError(f"{name}: mode must be 'train' or 'test', got {mode!r}.")
    if not 0 < rate <= 1:
        raise ValueError(f"{name}: rate, of entries that are kept, must be in (0, 1], got {rate}.")
    train = mode == "train"

    def apply_fn(params: Any, inputs: Any, *, rng: Any = None, **kwargs: Any) -> Any:
        if not train:
            return inputs
        if rng is None:
            raise ValueError(
                f"{name} in training needs a key: apply_fn(params, x, rng=jax.random.key(0)), or "
                "make it with mode='test'."
            )
        return jnp.where(jax.random.bernoulli(rng, rate, inputs.shape), inputs / rate, 0)

    def rule(c: Covariance, **kwargs: Any) -> Covariance:
        if not train:
            return c
        own1, own2 = (jnp.where(c.own_itself, own / rate, own) for own in (c.own1, c.own2))
        dropped = replace(c, own1=own1, own2=own2, gaussian=False)
        if c.same is None:
            return dropped
        factor = jnp.where(c.itself(c.same), 1 / rate, 1.0).astype(c.nngp.dtype)
        ntk = None if c.ntk is None else c.ntk * factor
        return replace(dropped, nngp=c.nngp * factor, ntk=ntk)

    return layer(name, no_params, apply_fn, rule)
