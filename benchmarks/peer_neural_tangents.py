"""Neural Tangents 0.6.5 on JAX 0.4.25: its three implementations, and `nt.batch`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import neural_tangents as nt
import on_jax
from neural_tangents import stax as stax
from on_jax import Method
from on_jax import forget as forget
from workloads import Workload


def versions() -> dict[str, str]:
    """Of what runs."""
    return on_jax.versions(nt)


def methods(work: Workload) -> dict[str, Method]:
    """By name."""
    if work.degree:
        return {"taylor": on_jax.taylor(nt.taylor_expand, work)}
    make = partial(nt.empirical_ntk_fn, trace_axes=on_jax.trace_axes(work), vmap_axes=0)
    found = {
        name: on_jax.kernel(partial(make, implementation=i), work)
        for i, name in ((3, "structured"), (1, "jacobian"), (2, "vector products"))
    }
    if work.batch_goal is not None:
        found |= {f"batch {size}": batched(make, work, size) for size in (50, 100)}
    return found


def batched(make: Any, work: Workload, size: int) -> Method:
    """Tile by tile, by the implementation that is fastest unbatched."""

    def method() -> Callable[[], Any]:
        f, params, x1, x2 = on_jax.arguments(work)
        run = nt.batch(jax.jit(make(f, implementation=3)), size, 0)
        return lambda: jax.block_until_ready(run(x1, x2, params))

    return method
