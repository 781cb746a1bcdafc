"""What the peers on JAX share: one row's function and arguments, compiled ahead of time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import networks
from workloads import Workload

Method = Callable[[], Callable[[], Any]]


@functools.lru_cache(maxsize=1)
def arguments(work: Workload) -> tuple[Callable[..., Any], Any, Any, Any]:
    """`f`, `params`, `x1`, `x2`, on the device."""
    f, params = networks.MODELS[work.model](work.outputs)
    x1 = jnp.asarray(networks.inputs(work.model, work.n, 1))
    x2 = None if work.m is None else jnp.asarray(networks.inputs(work.model, work.m, 2))
    return f, jax.device_put(params), x1, x2


def trace_axes(work: Workload) -> tuple[int, ...]:
    """As the empirical functions want them."""
    return (-1,) if work.traced else ()


def compiled(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """A call without arguments of what was traced and compiled now."""
    run = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready(run(*args))


def kernel(make: Callable[[Callable[..., Any]], Any], work: Workload) -> Method:
    """A method from what makes a kernel function `(x1, x2, params)` of `f`."""

    def method() -> Callable[[], Any]:
        f, params, x1, x2 = arguments(work)
        return compiled(make(f), x1, x2, params)

    return method


def taylor(taylor_expand: Callable[..., Any], work: Workload) -> Method:
    """A Taylor expansion of `f`, evaluated at other parameters."""

    def method() -> Callable[[], Any]:
        f, params, x, _ = arguments(work)
        moved = jax.tree_util.tree_map(lambda w: w * 1.01, params)

        def expanded(params: Any, moved: Any, x: Any) -> Any:
            return taylor_expand(f, params, work.degree)(moved, x)

        return compiled(expanded, params, moved, x)

    return method


def forget() -> None:
    """Everything compiled, and the arguments of the row before."""
    jax.clear_caches()


def versions(*modules: Any) -> dict[str, str]:
    """By name."""
    return {module.__name__: module.__version__ for module in (*modules, jax)}
