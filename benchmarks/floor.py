"""What no method can beat on this machine: multiply-adds over the rate of a matrix product.

Of forward and backward passes, and of the contraction in the orders that Tangax has chosen; or the
bytes that must be read and written, over the rate of reading. The larger of the two.

    python floor.py 'cnn 5x20 full' ...

prints a line of JSON: the two rates, and the floor of every row.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import on_jax
from workloads import WORKLOADS, Workload

import tangax as nt

SIZE = 4096


def best(run: Callable[[], Any], runs: int) -> float:
    """Seconds of the fastest run, the first left out."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times[1:])


def rates(size: int = SIZE, precision: str = "highest") -> dict[str, float]:
    """Multiply-adds a second of a float32 product, bytes a second of a sum that reads an array."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
    with jax.default_matmul_precision(precision):
        product = jax.jit(jnp.matmul).lower(a, a).compile()
    large = jnp.concatenate([a] * 4)
    read = jax.jit(jnp.sum).lower(large).compile()
    return {
        "macs": size**3 / best(lambda: product(a, a), 4),
        "bytes": large.nbytes / best(lambda: read(large), 4),
    }


def counted(work: Workload) -> dict[str, int]:
    """Multiply-adds by stage, and bytes of arguments and result."""
    f, params, x1, x2 = on_jax.arguments(work)
    if work.degree:
        # Of a ReLU network the input of layer l has l orders, l = 1, 2, ...; all up to the degree
        # meet the weight, and all below it the weight's displacement.
        layers = [w.size for w in jax.tree.leaves(params) if w.ndim == 2]
        orders = [min(l, work.degree + 1) + min(l, work.degree) for l in range(1, 1 + len(layers))]
        macs = work.n * sum(map(math.prod, zip(orders, layers, strict=True)))
        size = sum(a.nbytes for a in jax.tree.leaves(params))
        return {"forward": macs, "bytes": 2 * size}
    ntk_fn = nt.empirical_ntk_fn(f, on_jax.trace_axes(work), vmap_axes=0)
    if work.memory:
        blocks = nt.batch(ntk_fn, memory=work.memory).explain(x1, x2, params)
        macs = {"backward": blocks.evaluating, "contraction": blocks.contracting}
        return {"forward": 0, **macs, "bytes": x1.nbytes + 4 * work.pairs}
    plan = ntk_fn.explain(x1, x2, params)
    # The product of a bias is often that of its weight's cotangents: not counted.
    rows = [row for row in plan.rows if {site.kind for site in row.sites} != {"bias"}]
    return {
        "forward": plan.forward,
        "backward": plan.backward,
        "contraction": sum(row.multiply_adds for row in rows),
        "bytes": plan.arguments + plan.result,
    }


def floor(stages: dict[str, int], rate: dict[str, float]) -> float:
    """Seconds."""
    macs = sum(count for stage, count in stages.items() if stage != "bytes")
    return max(macs / rate["macs"], stages["bytes"] / rate["bytes"])


def main() -> None:
    """Print rates and floors."""
    rate = rates()
    found = {}
    for name in sys.argv[1:]:
        stages = counted(WORKLOADS[name])
        found[name] = {**stages, "seconds": floor(stages, rate)}
        on_jax.forget()
    print(json.dumps({"rates": rate, "rows": found}))
    assert all(math.isfinite(row["seconds"]) for row in found.values())


if __name__ == "__main__":
    main()
