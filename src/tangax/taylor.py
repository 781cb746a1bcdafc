"""Taylor expansions of a function in its parameters.

f_lin(new) = f(params) + J (new - params)
f_taylor(new) = sum_{k <= degree} (1/k!) d^k/dt^k f(params + t (new - params)) at t = 0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import jet

from . import _jaxpr
from ._axes import is_int
from ._modes import pushforward
from ._trees import (
    Params,
    check_same_structure,
    describe,
    dtype_is,
    leaf_name,
    named_leaves,
    split_params,
)


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

    Cost: one forward-mode pass, twice to three times the time of `f`.

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

    Cost: with `jax.experimental.jet` about `degree^2 / 2` times the time of `f`; where the function
    does not allow it (relu, scan, checkpoint), nested forward mode, `2^degree` times.

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

    def f_taylor(new_params: Any, *args: Any, **kwargs: Any) -> Any:
        direction = difference(split, params, new_params)
        treedef = None

        def outputs(leaves: list[jax.Array]) -> list[jax.Array]:
            nonlocal treedef
            tree = f(split.merge(leaves), *args, **kwargs)
            flat, treedef = jax.tree.flatten(tree)
            for name, y in named_leaves("f(params, ...)", tree):
                if dtype_is(y, jnp.complexfloating):
                    raise TypeError(f"{name} is complex ({describe(y)}), not a real output.")
            return [jnp.asarray(y) for y in flat]

        terms = derivatives(outputs, split.leaves, direction, int(degree))
        assert treedef is not None
        return treedef.unflatten(
            [
                sum((d / math.factorial(k) for k, d in enumerate(ds[1:], 1)), start=ds[0])
                if jnp.issubdtype(ds[0].dtype, jnp.floating)
                else ds[0]
                for ds in zip(*terms, strict=True)
            ]
        )

    return f_taylor


def difference(split: Params, params: Any, new_params: Any) -> list[jax.Array]:
    """`new_params - params`, leaf by leaf."""
    check_same_structure("params", params, "new_params", new_params)
    flat, _ = jax.tree_util.tree_flatten_with_path(new_params)
    new = {leaf_name("params", path): leaf for path, leaf in flat}
    direction = []
    for name, old in zip(split.paths, split.leaves, strict=True):
        if dtype_is(new[name], jnp.complexfloating):
            raise TypeError(f"{name} is complex in new_params ({describe(new[name])}).")
        if jnp.shape(new[name]) != old.shape:
            msg = f"{name} has shape {old.shape}, but new_params has {describe(new[name])} there."
            raise ValueError(msg)
        direction.append(jnp.asarray(new[name], old.dtype) - old)
    return direction


def derivatives(
    f: Callable[..., list[jax.Array]], leaves: Any, direction: Any, degree: int
) -> list[list[jax.Array]]:
    """The derivatives of orders `0 ... degree` of `f` at `leaves` along `direction`."""
    if degree < 2:
        return nested_derivatives(f, leaves, direction, degree)
    jaxpr = _jaxpr.trace(f, leaves)  # an exception of f itself comes from here
    floating = all(jnp.issubdtype(_jaxpr.shape_dtype(y).dtype, jnp.floating) for y in jaxpr.outvars)
    if not floating or _jaxpr.misleads_jet(jaxpr):
        return nested_derivatives(f, leaves, direction, degree)
    try:
        return jet_derivatives(f, leaves, direction, degree)
    except Exception:  # jet refuses in many ways: missing rules, custom_jvp, scan, checkpoint
        return nested_derivatives(f, leaves, direction, degree)


def jet_derivatives(
    f: Callable[..., list[jax.Array]], leaves: Any, direction: Any, degree: int
) -> list[list[jax.Array]]:
    """Derivatives by Taylor-mode automatic differentiation."""
    series = [[d, *(jnp.zeros_like(d) for _ in range(degree - 1))] for d in direction]
    primal, higher = jet.jet(lambda *w: f(list(w)), tuple(leaves), tuple(series))
    return [primal, *([ds[k] for ds in higher] for k in range(degree))]


def nested_derivatives(
    f: Callable[..., list[jax.Array]], leaves: Any, direction: Any, degree: int
) -> list[list[jax.Array]]:
    """Derivatives by forward mode inside forward mode."""

    def push(g: Callable[..., list[list[jax.Array]]]) -> Callable[..., list[list[jax.Array]]]:
        def pushed(w: Any) -> list[list[jax.Array]]:
            terms, tangents = pushforward(g, w, direction)
            last = [
                t if jnp.issubdtype(t.dtype, jnp.floating) else jnp.zeros_like(y)
                for y, t in zip(terms[-1], tangents[-1], strict=True)
            ]
            return [*terms, last]

        return pushed

    g: Callable[..., list[list[jax.Array]]] = lambda w: [f(w)]  # noqa: E731
    for _ in range(degree):
        g = push(g)
    return g(leaves)
