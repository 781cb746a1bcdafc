"""What no method can beat on this machine: multiply-adds over the rate of a matrix product.

Of forward and backward passes, and of the contraction that Tangax has chosen; or the bytes that
must be read, over the rate of a copy. The larger of the two.

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


def rates() -> dict[str, float]:
    """Multiply-adds a second of a float32 product, bytes a second of a copy, read and written."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32))
    with jax.default_matmul_precision("highest"):
        product = jax.jit(jnp.matmul).lower(a, a).compile()
    large = jnp.concatenate([a] * 4)
    copy = jax.jit(lambda a: a + 1).lower(large).compile()
    return {
        "macs": SIZE**3 / best(lambda: product(a, a), 4),
        "bytes": 2 * large.nbytes / best(lambda: copy(large), 4),
    }


def counted(work: Workload) -> dict[str, int]:
    """Multiply-adds by stage, and bytes of arguments and result."""
    f, params, x1, x2 = on_jax.arguments(work)
    if work.degree:
        # Of the first product two orders are not zero; of the others each, and all but the lowest
        # take a second product, with the displacement of the weights.
        first, *others = [w.size for w in jax.tree.leaves(params) if w.ndim == 2]
        macs = work.n * (2 * first + (2 * work.degree + 1) * sum(others))
        size = sum(a.nbytes for a in jax.tree.leaves(params))
        return {"forward": macs, "bytes": 2 * size}
    ntk_fn = nt.empirical_ntk_fn(f, on_jax.trace_axes(work), vmap_axes=0)
    plan = ntk_fn.explain(x1, x2, params)
    return {
        "forward": plan.forward,
        "backward": plan.backward,
        "contraction": plan.contraction,
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
