"""Functions of one variable, applied to every entry.

In the limit their inputs are Gaussian, `(u, v)` with variances `p`, `q` and covariance `c`:

    K' = E[f(u) f(v)]        Theta' = Theta E[f'(u) f'(v)] = Theta dK'/dc

the last by Price's theorem. Each layer has both as functions of `c, p, q`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._shared.trees import is_concrete
from ._angles import noisy_angle, polar, triangle, valued
from ._covariance import Covariance, Dual, Moments
from ._layer import Layer, layer, no_closed_form, no_params
from ._quadrature import Term, terms, with_consts


def Relu(do_stabilize: bool = False) -> Layer:
    """`max(x, 0)`.

        K' = (sqrt(p q - c^2) + (pi - theta) c) / (2 pi)
        dK'/dc = (pi - theta) / (2 pi),        cos(theta) = c / sqrt(p q)

    Derivatives: `K'` of parallel inputs has two, `dK'/dc` none. Of it and at an input that is zero
    they are the mean over all directions, infinite terms left out: never NaN.

    Args:
        do_stabilize: nothing; variances are never multiplied here, so none is too large.

    Raises:
        NotImplementedError: `kernel_fn` of inputs that are no Gaussian process: a `Dense` or `Conv`
            layer must come before.

    Cost: about ten operations for each entry of the covariance.

    Source: Cho and Saul, "Kernel Methods for Deep Learning" (2009), section 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from tangax import stax
        >>> print(stax.Relu().apply_fn((), jnp.array([-2.0, 3.0])))
        [0. 3.]
    """
    return _piecewise_linear("Relu", 0.0, 1.0)


def LeakyRelu(alpha: float, do_stabilize: bool = False) -> Layer:
    """`alpha min(x, 0) + max(x, 0)`; see `ABRelu`.

    Args:
        alpha: the slope at negative numbers.
        do_stabilize: see `Relu`.

    Raises:
        NotImplementedError: see `Relu`.

    Cost: see `Relu`.

    Source: Tsuchida et al., "Invariance of Weight Distributions in Rectified MLPs" (2018).

    Example:
        >>> import jax.numpy as jnp
        >>> from tangax import stax
        >>> print(stax.LeakyRelu(0.5).apply_fn((), jnp.array([-2.0, 3.0])))
        [-1.  3.]
    """
    return _piecewise_linear(f"LeakyRelu({alpha})", alpha, 1.0)


def ABRelu(a: float, b: float, do_stabilize: bool = False) -> Layer:
    """`a min(x, 0) + b max(x, 0)`.

        K' = (a - b)^2 / (2 pi) (sqrt(p q - c^2) - theta c) + (a^2 + b^2) / 2 c
        dK'/dc = (a^2 + b^2) / 2 - (a - b)^2 / (2 pi) theta

    Args:
        a: the slope at negative numbers.
        b: the slope at positive numbers.
        do_stabilize: see `Relu`.

    Raises:
        NotImplementedError: see `Relu`.

    Cost: see `Relu`.

    Source: Tsuchida et al., "Invariance of Weight Distributions in Rectified MLPs" (2018).

    Example:
        >>> import jax.numpy as jnp
        >>> from tangax import stax
        >>> print(stax.ABRelu(-1, 2).apply_fn((), jnp.array([-2.0, 3.0])))
        [2. 6.]
    """
    return _piecewise_linear(f"ABRelu({a}, {b})", a, b)


def _piecewise_linear(name: str, a: float, b: float) -> Layer:
    def dual(c: Any, p: Any, q: Any, itself: Any) -> Moments:
        side, first, second, one, two = triangle(c, p, q)
        root, theta, h = polar(side, first, second, itself)
        bend, most = (a - b) ** 2 / (2 * math.pi), (a * a + b * b) / 2
        slope = most - bend * theta
        nngp = valued(bend * root + slope * side, bend * h + most * side)
        # Of a variable with itself the angle is zero, and at a variable that is zero a right one.
        return Moments(one * two * nngp, slope, most - bend * jnp.where(itself, 0, theta))

    def fn(x: jax.Array) -> jax.Array:
        return b * jnp.maximum(x, 0) + (0 if _equals(a, 0) else a * jnp.minimum(x, 0))

    return elementwise(name, fn, dual, odd=_equals(a, b))


def Erf(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Layer:
    """`a erf(b x) + c`.

        K' = a^2 2/pi arcsin(2 b^2 c / sqrt((1 + 2 b^2 p) (1 + 2 b^2 q))) + c^2

    Args:
        a: scale of the output.
        b: scale of the input.
        c: shift of the output.

    Raises:
        NotImplementedError: see `Relu`.

    Cost: about fifteen operations for each entry of the covariance.

    Source: Williams, "Computing with Infinite Networks" (1997), section 3.1.

    Example:
        >>> import jax.numpy as jnp
        >>> from tangax import stax
        >>> print(stax.Erf(2.0).apply_fn((), jnp.array([0.0, 9.0])))
        [0. 2.]
    """

    def dual(k: Any, p: Any, q: Any, itself: Any) -> Moments:
        k, p, q = 2 * b * b * k, 2 * b * b * p, 2 * b * b * q
        cosine, sine, scale = noisy_angle(k, p, q, itself)
        nngp = a * a * 2 / math.pi * jnp.arctan2(cosine, sine) + c * c
        return Moments(nngp, (a * b) ** 2 * 4 / math.pi / (scale * sine))

    fn = lambda x: a * jax.lax.erf(b * x) + c  # noqa: E731
    return elementwise(f"Erf({a}, {b}, {c})", fn, dual, odd=_equals(c, 0))


def Gelu(approximate: bool = False) -> Layer:
    """`x Phi(x)`, with the cumulative distribution of the standard normal.

        K' = c / 4 + c / (2 pi) arctan(c / d) + (c^2 + p q d^2) / (2 pi (1 + p) (1 + q) d)
        d^2 = (1 + p) (1 + q) - c^2

    Args:
        approximate: of the finite network only: by tanh, as in `jax.nn.gelu`.

    Raises:
        NotImplementedError: see `Relu`.

    Cost: about thirty operations for each entry of the covariance.

    Source: Tsuchida et al., "Avoiding Kernel Fixed Points: Computing with ELU and GELU Infinite
    Networks" (2021), section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from tangax import stax
        >>> print(stax.Gelu().apply_fn((), jnp.array([0.0, 9.0])))
        [0. 9.]
    """

    def dual(c: Any, p: Any, q: Any, itself: Any) -> Moments:
        cosine, sine, scale = noisy_angle(c, p, q, itself)
        root = scale * sine  # d
        share = (p / (1 + p)) * (q / (1 + q))
        slope = 0.25 + jnp.arctan2(cosine, sine) / (2 * math.pi)
        nngp = c * slope + (cosine**2 / root + share * root) / (2 * math.pi)
        bend = 1 / root / root + (1 / (1 + p)) * (1 / (1 + q)) - share + 1
        return Moments(nngp, slope + cosine / sine * bend / (2 * math.pi))

    return elementwise("Gelu", lambda x: jax.nn.gelu(x, approximate=approximate), dual)


def Sin(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Layer:
    """`a sin(b x + c)`.

        K' = a^2 / 2 (exp(b^2 (k - (p + q) / 2)) - cos(2 c) exp(-b^2 (k + (p + q) / 2)))

    of the covariance `k`.

    Args:
        a: scale of the output.
        b: scale of the input.
        c: phase.

    Raises:
        NotImplementedError: see `Relu`.

    Cost: two exponentials for each entry of the covariance.

    Source: Pearce et al., "Expressive Priors in Bayesian Neural Networks" (2020), for the cosine.

    Example:
        >>> import jax.numpy as jnp
        >>> from tangax import stax
        >>> print(stax.Sin(2.0).apply_fn((), jnp.array([0.0, jnp.pi / 2])))
        [0. 2.]
    """
    return _sinusoid(f"Sin({a}, {b}, {c})", a, b, c)


def Cos(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Layer:
    """`a cos(b x + c)`; see `Sin`.

    Args:
        a: scale of the output.
        b: scale of the input.
        c: phase.

    Raises:
        NotImplementedError: see `Relu`.

    Cost: see `Sin`.

    Source: see `Sin`.

    Example:
        >>> import jax.numpy as jnp
        >>> from tangax import stax
        >>> print(stax.Cos(2.0).apply_fn((), jnp.array([0.0])))
        [2.]
    """
    return _sinusoid(f"Cos({a}, {b}, {c})", a, b, c + math.pi / 2)


def _sinusoid(name: str, a: Any, b: Any, c: Any) -> Layer:
    """`a sin(b x + c)`."""

    def dual(k: Any, p: Any, q: Any, itself: Any) -> Moments:
        mean, phase = (p + q) / 2, jnp.cos(2 * c)
        # Less one, so that small variances are not lost.
        difference, total = jnp.expm1(b * b * (k - mean)), phase * jnp.expm1(-b * b * (k + mean))
        nngp = difference - total + 2 * jnp.sin(c) ** 2
        return Moments(a * a / 2 * nngp, (a * b) ** 2 / 2 * (difference + total + 1 + phase))

    return elementwise(name, lambda x: a * jnp.sin(b * x + c), dual, odd=_equals(c, 0))


def _equals(number: Any, other: Any) -> bool:
    """Whether two numbers are known to be equal; what is traced is not known."""
    return is_concrete([number, other]) and bool(number == other)


def ElementwiseNumerical(
    fn: Callable[[Any], Any], deg: int, df: Callable[[Any], Any] | None = None
) -> Layer:
    """Any function, with its kernel by Gauss-Hermite quadrature.

        K' = 1/pi sum_ij w_i w_j f(sqrt(2 p) x_i) f(c sqrt(2/p) x_i + sqrt(2 (q - c^2/p)) x_j)

    and with `f'` in place of `f` for the derivative. The error falls fast with `deg` for smooth
    functions; slowly for those with a kink, or of inputs so large that they seem to have one.
    Derivatives are quadratures of theirs, by Price's theorem; of a kink the first of `K'` only.

    Args:
        fn: the function, of arrays, entry by entry.
        deg: number of nodes; 25 do for most smooth functions.
        df: its derivative; by default from `jax.grad`.

    Raises:
        ValueError: `deg` below 1.
        NotImplementedError: see `Relu`.

    Cost: `deg^2` evaluations of `fn` and of `df` for each entry of the covariance, one after the
    other, so that memory does not grow.

    Source: Han et al., "Fast Neural Kernel Embeddings for General Activations" (2022), section 3.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from tangax import stax
        >>> layers = stax.Dense(8), stax.ElementwiseNumerical(jnp.tanh, 25), stax.Dense(1)
        >>> _, _, kernel_fn = stax.serial(*layers)
        >>> kernel_fn(jax.random.normal(jax.random.key(0), (5, 3)), None, "ntk").shape
        (5, 5)
    """
    name = f"ElementwiseNumerical({getattr(fn, '__name__', fn)}, deg={deg})"
    if deg < 1:
        raise ValueError(f"{name}: deg must be positive.")

    def dual(c: Any, p: Any, q: Any, itself: Any) -> Moments:
        f, consts = with_consts(fn, df, c.dtype)
        moments = Term(f, f), Term(f.derivative, f.derivative)
        return Moments(*terms(deg, moments, c, p, q, itself, consts))

    return elementwise(name, fn, dual)


def Elementwise(
    fn: Callable[[Any], Any],
    nngp_fn: Callable[..., Any] | None = None,
    d_nngp_fn: Callable[..., Any] | None = None,
) -> Layer:
    """Any function, with its kernel from you.

        K' = nngp_fn(c, p, q)        dK'/dc = d_nngp_fn(c, p, q)

    Derivatives of kernels are theirs by JAX. At equal inputs they are asked for at `c = p = q`.

    Args:
        fn: the function, of arrays, entry by entry.
        nngp_fn: its moments, of scalars; without it there is no closed form.
        d_nngp_fn: their derivative in `c`; by default from `jax.grad`.

    Raises:
        NotImplementedError: `kernel_fn` without `nngp_fn`; see also `Relu`.

    Cost: of `nngp_fn` and `d_nngp_fn` for each entry of the covariance.

    Source: see `ElementwiseNumerical`.

    Example:
        >>> import jax
        >>> from tangax import stax
        >>> square = stax.Elementwise(lambda x: x**2, lambda c, p, q: p * q + 2 * c**2)
        >>> _, _, kernel_fn = stax.serial(stax.Dense(8), square, stax.Dense(1))
        >>> kernel_fn(jax.random.normal(jax.random.key(0), (5, 3)), None, "ntk").shape
        (5, 5)
    """
    name = f"Elementwise({getattr(fn, '__name__', fn)})"
    if nngp_fn is None:
        return elementwise(name, fn, None)
    moments = jnp.vectorize(nngp_fn)
    slope = jnp.vectorize(jax.grad(nngp_fn) if d_nngp_fn is None else d_nngp_fn)
    return elementwise(name, fn, lambda c, p, q, _: Moments(moments(c, p, q), slope(c, p, q)))


def elementwise(
    name: str, fn: Callable[[Any], Any], dual: Dual | None, *, odd: bool = False
) -> Layer:
    """A layer of a function and its moments; `odd`: whether it keeps a mean of zero."""

    def rule(c: Covariance, **kwargs: Any) -> Covariance:
        assert dual is not None
        if not c.gaussian:
            raise no_closed_form(
                name, "its input is no Gaussian process; put a Dense or Conv layer before it"
            )
        return c.pointwise(dual, odd=odd)

    return layer(
        name, no_params, lambda params, inputs, **kwargs: fn(inputs), None if dual is None else rule
    )
