"""Taylor expansions of a function in its parameters.

f_lin(new) = f(params) + J (new - params)
f_taylor(new) = sum_{k <= degree} (1/k!) d^k/dt^k f(params + t (new - params)) at t = 0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .._arguments.inputs import warn_of_statistics
from .._shared.axes import is_int
from .._shared.derivatives import goes_by_rows, pushforward
from .._shared.settings import default_promotion, users_promotion
from .._shared.trees import (
    Params,
    check_same_structure,
    describe,
    dtype_is,
    named_leaves,
    split_params,
)
from . import series


def linearize(f: Callable[..., Any], params: Any) -> Callable[..., Any]:
    """The first-order Taylor expansion of `f` in its parameters, around `params`.

    `f_lin(new_params, *args, **kwargs) = f(params, ...) + J (new_params - params)`.

    Args:
        f: a function `f(params, *args, **kwargs)`.
        params: where to expand. Only floating-point leaves move; others stay as they are here.

    Returns:
        `f_lin`, with outputs of the shapes and dtypes of `f`.

    Raises:
        ValueError: `new_params` of another tree or shapes than `params`, naming the leaf.
        TypeError: complex parameters or outputs; no floating-point parameter.

    Cost: one forward-mode pass, twice to three times the time of `f`; one backward pass where there
    is a `custom_vjp`, and one for each output where its backward rule is not linear or cannot be
    transposed (it clips, rounds, loops, calls a kernel).

    Source: Lee et al., "Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient
    Descent" (2019), section 2.2.

    Example:
        >>> import jax, tangax as nt
        >>> f = lambda w, x: jax.numpy.tanh(x @ w)
        >>> w, v = jax.random.normal(jax.random.key(0), (2, 5, 3))
        >>> x = jax.random.normal(jax.random.key(1), (4, 5))
        >>> nt.linearize(f, w)(v, x).shape
        (4, 3)
    """
    return taylor_expand(f, params, 1)


def taylor_expand(f: Callable[..., Any], params: Any, degree: int) -> Callable[..., Any]:
    """The Taylor expansion of `f` of any degree in its parameters, around `params`.

    `f_taylor(new_params, *args, **kwargs) = sum_k (1/k!) d^k/dt^k f(params + t d, ...)` at `t = 0`,
    for `k = 0 ... degree`, with `d = new_params - params`. Exact if `f` is a polynomial of that
    degree.

    Args:
        f: a function `f(params, *args, **kwargs)`.
        params: where to expand. Only floating-point leaves move; others stay as they are here.
        degree: the highest power, at least 0.

    Returns:
        `f_taylor`, with outputs of the shapes and dtypes of `f`.

    Raises:
        ValueError: a degree that is negative or not an int; `new_params` of another tree or shapes
            than `params`, naming the leaf.
        TypeError: complex parameters or outputs; no floating-point parameter.

    The rule of a `custom_jvp` or `custom_vjp` is its derivative at every order, also where it is
    not that of its value (a straight-through estimator). A rule that is not linear in its cotangent
    (one that clips it) has no Jacobian of its own: `J` of `f` is then what reverse mode gives for
    each output by itself, `J[i] = vjp(e_i)`, and so for the derivatives of `J`.

    Cost: all derivatives in one pass. Products with parameters take `2 degree + 1` times the
    multiply-adds of `f` and read each parameter twice; products of two values that both depend on
    parameters, and nonlinear equations, `degree^2 / 2` times. An equation that has no rule for all
    orders (a `cond`) is differentiated `degree` times, at `2^degree` times its time. So is all of
    `f` where a `custom_vjp` has a backward rule that is not linear or cannot be transposed, with a
    backward pass for each output.

    Source: Griewank and Walther, "Evaluating Derivatives" (2008), chapter 13; Dyer and Gur-Ari,
    "Asymptotics of Wide Networks from Feynman Diagrams" (2020), for the use.

    Example:
        >>> import jax, tangax as nt
        >>> f = lambda w, x: (x @ w) ** 3
        >>> w, v = jax.random.normal(jax.random.key(0), (2, 5, 3))
        >>> x = jax.random.normal(jax.random.key(1), (4, 5))
        >>> bool(jax.numpy.allclose(nt.taylor_expand(f, w, 3)(v, x), f(v, x), rtol=1e-3))
        True
    """
    if not is_int(degree) or degree < 0:
        raise ValueError(f"degree must be an int of at least 0, got {degree!r}.")
    split = split_params(params)
    warn_of_statistics(set(), split)

    def f_taylor(new_params: Any, *args: Any, **kwargs: Any) -> Any:
        direction = difference(split, params, new_params)
        treedef = None

        def outputs(leaves: list[jax.Array]) -> list[jax.Array]:
            nonlocal treedef
            with users_promotion():
                tree = f(split.merge(leaves), *args, **kwargs)
            flat, treedef = jax.tree.flatten(tree)
            for name, y in named_leaves("f(params, ...)", tree):
                if dtype_is(y, jnp.complexfloating):
                    raise TypeError(f"{name} is complex ({describe(y)}), not a real output.")
            return [jnp.asarray(y) for y in flat]

        def expansion(leaves: list[jax.Array], direction: list[jax.Array]) -> list[jax.Array]:
            return [_summed(*ds) for ds in derivatives(outputs, leaves, direction, int(degree))]

        if jax.debug_nans.value or jax.debug_infs.value:
            # Calls are entered here; of a compiled one JAX looks at the results alone, and the
            # numbers that are not finite within `jnp.var` are no mistake.
            expansion = jax.jit(expansion)
        with default_promotion():
            sums = expansion(split.leaves, direction)
        assert treedef is not None
        return treedef.unflatten(sums)

    return f_taylor


def _summed(value: Any, *terms: Any) -> jax.Array:
    """The value and its derivatives of orders `1, 2, ...`, each over the factorial of its order."""
    total = jnp.asarray(value)
    if jnp.issubdtype(total.dtype, jnp.floating):
        for order, term in enumerate(terms, 1):
            total = total if term is None else total + term / float(math.factorial(order))
    return total


def difference(split: Params, params: Any, new_params: Any) -> list[jax.Array]:
    """`new_params - params`, leaf by leaf."""
    check_same_structure("params", params, "new_params", new_params)
    direction = []
    for name, old, new in zip(split.paths, split.leaves, split.of(new_params), strict=True):
        if dtype_is(new, jnp.complexfloating):
            raise TypeError(f"{name} is complex in new_params ({describe(new)}).")
        if jnp.shape(new) != old.shape:
            msg = f"{name} has shape {old.shape}, but new_params has {describe(new)} there."
            raise ValueError(msg)
        direction.append(jnp.asarray(new, old.dtype) - old)
    return direction


def derivatives(
    f: Callable[..., list[jax.Array]], leaves: Any, direction: Any, degree: int
) -> list[series.Series]:
    """The derivatives of orders `0 ... degree` of every output; `None` where one is zero."""
    if degree and (degree == 1 or goes_by_rows(f, leaves)):
        return _nested(f, leaves, direction, degree)
    return series.derivatives(f, leaves, direction, degree)


def _nested(
    f: Callable[..., list[jax.Array]], leaves: Any, direction: Any, degree: int
) -> list[series.Series]:
    """Derivatives of derivatives. Such is a Jacobian of rows: it is none of its equations' own."""
    outputs, slopes = pushforward(f, leaves, direction)
    terms = [list(pair) for pair in zip(outputs, slopes, strict=True)]
    moving = [r for r, y in enumerate(outputs) if dtype_is(y, jnp.inexact)]

    def slope(w: Any) -> list[jax.Array]:
        slopes = pushforward(f, w, direction)[1]
        return [slopes[r] for r in moving]

    for _ in range(1, degree):
        _, slopes = pushforward(slope, leaves, direction)
        for r, y in zip(moving, slopes, strict=True):
            terms[r].append(y)
        slope = partial(lambda g, w: pushforward(g, w, direction)[1], slope)
    return terms
