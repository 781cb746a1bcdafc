"""Plain JAX: per-example `jacrev` and one einsum for each leaf; `vjp`, then `jvp`, per pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import on_jax
from on_jax import Method
from on_jax import forget as forget
from workloads import Workload


def versions() -> dict[str, str]:
    """Of what runs."""
    return on_jax.versions()


def letters(work: Workload) -> str:
    """The einsum of two Jacobians."""
    return "noz,moz->nm" if work.traced else "noz,mqz->nmoq"


def by_jacobian(work: Workload) -> Callable[..., Any]:
    """Whole Jacobians, example by example, then an einsum for each leaf."""

    def make(f: Callable[..., Any]) -> Callable[..., Any]:
        def jacobians(x: Any, params: Any) -> list[jax.Array]:
            one = lambda x: jax.jacrev(lambda w: f(w, x[None])[0])(params)  # noqa: E731
            return [j.reshape(*j.shape[:2], -1) for j in jax.tree.leaves(jax.vmap(one)(x))]

        def kernel(x1: Any, x2: Any, params: Any) -> jax.Array:
            first = jacobians(x1, params)
            second = first if x2 is None else jacobians(x2, params)
            pairs = zip(first, second, strict=True)
            terms = [jnp.einsum(letters(work), a, b) for a, b in pairs]
            return sum(terms[1:], terms[0]) / (work.outputs if work.traced else 1)

        return kernel

    return make


def by_products(work: Workload) -> Callable[..., Any]:
    """For every pair of examples and output, a backward and a forward pass."""

    def make(f: Callable[..., Any]) -> Callable[..., Any]:
        def pair(a: Any, b: Any, params: Any) -> jax.Array:
            f1 = lambda w: f(w, a[None])[0]  # noqa: E731
            y, pullback = jax.vjp(lambda w: f(w, b[None])[0], params)
            column = lambda e: jax.jvp(f1, (params,), pullback(e))[1]  # noqa: E731
            kernel = jax.vmap(column, out_axes=1)(jnp.eye(y.size, dtype=y.dtype))
            return jnp.trace(kernel) / work.outputs if work.traced else kernel

        def kernel(x1: Any, x2: Any, params: Any) -> jax.Array:
            row = jax.vmap(pair, (None, 0, None))
            return jax.vmap(row, (0, None, None))(x1, x1 if x2 is None else x2, params)

        return kernel

    return make


def methods(work: Workload) -> dict[str, Method]:
    """By name."""
    if work.degree:
        return {}
    kinds = {"jacobian": by_jacobian, "vector products": by_products}
    return {name: on_jax.kernel(make(work), work) for name, make in kinds.items()}
