"""Tangax: AUTO, and every implementation that AUTO could have been."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import on_jax
from on_jax import Method
from on_jax import forget as forget
from workloads import Workload

import tangax as nt
from tangax import stax as stax


def versions() -> dict[str, str]:
    """Of what runs."""
    return on_jax.versions(nt)


def stages(work: Workload) -> dict[str, Method]:
    """What a kernel begins with: `f`, then that with backward passes and the factors."""
    if work.degree or work.memory:
        return {}
    f, params, x1, x2 = on_jax.arguments(work)
    ntk_fn = nt.empirical_ntk_fn(f, on_jax.trace_axes(work), vmap_axes=0)
    sides = [x1] if x2 is None else [x1, x2]

    def forward(params: Any, sides: Any) -> Any:
        return [f(params, x) for x in sides]

    def factors(params: Any, sides: Any) -> Any:
        return [ntk_fn.factors(x, params) for x in sides]

    return {
        "forward": lambda: on_jax.compiled(forward, params, sides),
        "factors": lambda: on_jax.compiled(factors, params, sides),
    }


def methods(work: Workload) -> dict[str, Method]:
    """By name."""
    if work.degree:
        return {"taylor": on_jax.taylor(nt.taylor_expand, work)}
    if work.memory:
        return {"auto": in_blocks(work, work.memory)}
    make = partial(nt.empirical_ntk_fn, trace_axes=on_jax.trace_axes(work), vmap_axes=0)
    found = {
        name: on_jax.kernel(partial(make, implementation=i), work)
        for i, name in enumerate(("auto", "jacobian", "vector products", "structured"))
    }
    if work.batch_goal is not None:
        found["batch"] = in_blocks(work, None)
    return found


def in_blocks(work: Workload, memory: str | None) -> Method:
    """By `batch`; to disk it is compiled anew each time, as the store is another."""

    def method() -> Callable[[], Any]:
        f, params, x1, x2 = on_jax.arguments(work)
        ntk_fn = nt.empirical_ntk_fn(f, on_jax.trace_axes(work), vmap_axes=0)
        if not work.to_disk:
            compiled = nt.batch(ntk_fn, memory=memory)
            return lambda: compiled(x1, x2, params)

        def run() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                stored = nt.batch(ntk_fn, memory=memory, store=f"{folder}/kernel.zarr")
                return stored(x1, x2, params)[...]

        return run

    return method
