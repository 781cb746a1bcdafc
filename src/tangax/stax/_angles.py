"""The angle between two Gaussian variables, with derivatives of all orders that it has.

Variables have variances `p`, `q` and covariance `c`, and `itself` says which two are one variable:
there rounding must not matter, and `p q - c^2` is zero. That is known of values only: with inputs
moved apart, `c`, `p` and `q` move each its own way. So what is put in place of a value never
replaces its derivative.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_jvp
def valued(value: jax.Array, like: jax.Array) -> jax.Array:
    """`value`, with the derivatives of `like`: of what it would be without rounding."""
    return value


@valued.defjvp
def _valued_jvp(primals: Any, tangents: Any) -> Any:
    return valued(*primals), tangents[1]


def triangle(c: Any, p: Any, q: Any) -> tuple[jax.Array, ...]:
    """`c`, `p`, `q` in other units of the two variables, and the two units.

    The units are powers of two, so that nothing is rounded, near the standard deviations: products
    of variances leave the range of float32.
    """
    one, two = _unit(p), _unit(q)
    return c / one / two, p / one / one, q / two / two, one, two


def _unit(variance: jax.Array) -> jax.Array:
    """A power of two near the standard deviation: its exponent, without its digits."""
    deviation = jnp.sqrt(jax.lax.stop_gradient(jnp.where(variance > 0, variance, 1)))
    info = jnp.finfo(variance.dtype)
    bits = {32: jnp.uint32, 64: jnp.uint64}[info.bits]
    exponent = bits(((1 << info.nexp) - 1) << info.nmant)
    number = jax.lax.bitcast_convert_type(deviation, bits) & exponent
    return jax.lax.bitcast_convert_type(number, variance.dtype)


def area(c: Any, p: Any, q: Any, itself: Any) -> jax.Array:
    """`p q - c^2`: the square of the triangle's third side; exactly zero of one variable."""
    square = p * q - c * c
    return valued(jnp.where(itself, 0, jnp.maximum(square, 0)), square)


@jax.custom_jvp
def polar(c: Any, p: Any, q: Any, itself: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`r = sqrt(p q - c^2)`, the angle `theta = arctan(r / c)`, and `h = r - theta c`.

        dh = -theta dc + r/2 (dp / p + dq / q)
        dr = (q dp + p dq - 2 c dc) / (2 r)        dtheta = (c/2 (dp / p + dq / q) - dc) / r

    `r` and `theta` have a kink where the variables are parallel, `r = 0`: there, and where `r` is
    no more than its rounding error, their derivatives are the mean over all directions, zero. `h`
    has two derivatives everywhere but at a variable that is zero, where its slope in `c` is that of
    a right angle, again the mean; of a zero variable with itself it is that of other variables with
    themselves. No branch decides its value: compilers compute `p q - c^2` more than once, and
    round it differently.
    """
    root = jnp.sqrt(jnp.where(itself, 0, jnp.maximum(p * q - c * c, 0)))
    zero = (root == 0) & (c == 0)
    theta = jnp.where(zero, math.pi / 2, jnp.arctan2(root, jnp.where(zero, 1, c)))
    return root, theta, root - theta * c


@polar.defjvp
def _polar_jvp(primals: Any, tangents: Any) -> Any:
    c, p, q, itself = primals
    dc, dp, dq, _ = tangents
    root, theta, _ = out = polar(c, p, q, itself)
    flat = itself | (root * root <= 8 * jnp.finfo(c.dtype).eps * p * q)
    stretch = dp / jnp.where(p > 0, p, 1) + dq / jnp.where(q > 0, q, 1)
    over = 1 / jnp.where(flat, 1, root)
    d_root = jnp.where(flat, 0, (q * dp + p * dq - 2 * c * dc) * over / 2)
    d_theta = jnp.where(flat, 0, (c * stretch / 2 - dc) * over)
    d_h = root * stretch / 2 - jnp.where(itself, 0, theta) * dc
    return out, (d_root, d_theta, d_h)


def noisy_angle(c: Any, p: Any, q: Any, itself: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cosine and sine between two variables that noise of variance one was added to, each its own.

    And the product of their standard deviations, `sqrt((1 + p) (1 + q))`. All are smooth: the
    variables are nowhere parallel.
    """
    side, first, second, one, two = triangle(c, p, q)
    a, b = 1 / (1 + p), 1 / (1 + q)
    apart = area(side, first, second, itself) * (one * one * a) * (two * two * b)
    square = a * b + p * a * b + q * b * a + apart
    scale = jnp.sqrt(1 + p) * jnp.sqrt(1 + q)
    return c / scale, jnp.sqrt(square), scale
