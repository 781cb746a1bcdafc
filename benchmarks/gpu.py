"""The rows on an accelerator, larger, in full float32 and with TF32: RESULTS-GPU.md and its JSON.

    python gpu.py             sizes that fill an H200
    python gpu.py --small     sizes for a CPU, to try it; prints, and writes nothing

Needs the package and nothing else. Beside Tangax's AUTO runs plain JAX, per-example `jacrev` and an
einsum, where its Jacobians fit.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import networks
import numpy as np
import on_jax
import peer_jax
from workloads import Workload

import tangax as nt

HERE = Path(__file__).parent
MODELS = networks.MODELS | {
    "resnet18": networks.resnet18_plain,
    "gpt-large": partial(networks.gpt, d=768, depth=12, tokens=512, vocabulary=8192),
}
# Full float32, and what tensor cores round to.
PRECISIONS = ("highest", "default")
ROUNDS = 5


@dataclass(frozen=True)
class Large:
    """A row, its length on a CPU; in blocks: how many rows and columns at a time."""

    work: Workload
    small: int
    blocks: tuple[int, int] | None = None


ROWS = [
    Large(Workload("cnn", "cnn", 10, 500, 500, True), 4),
    Large(Workload("cnn full", "cnn", 10, 200), 4),
    Large(Workload("mlp full", "mlp", 10, 1000), 8),
    Large(Workload("mlp traced", "mlp", 100, 200, None, True), 4),
    Large(Workload("mlp-paper full", "mlp-paper", 8, 1000), 4),
    Large(Workload("resnet18 full", "resnet18", 10, 32), 1),
    Large(Workload("resnet18 3500x2500", "resnet18", 1, 3500, 2500, True), 3, (100, 100)),
    Large(Workload("mixer full", "mixer", 10, 128), 2),
    Large(Workload("vit full", "vit", 10, 128), 2),
    Large(Workload("gpt traced", "gpt", 2, 512, None, True), 2),
    Large(Workload("gpt full", "gpt", 64, 64), 1),
    Large(Workload("gpt 12 layers, d = 768", "gpt-large", 2, 16, None, True), 1),
    Large(Workload("rnn full", "rnn", 10, 128), 2),
    Large(Workload("taylor degree 6", "mlp", 10, 1000, degree=6), 2),
]


def shrunk(large: Large) -> Large:
    """The row for a CPU."""
    work = large.work
    model = "gpt" if work.model == "gpt-large" else work.model
    m = None if work.m is None else max(1, large.small - 1)
    outputs = min(work.outputs, 4)
    work = replace(work, model=model, n=large.small, m=m, outputs=outputs)
    return replace(large, work=work, blocks=large.blocks and (2, 1))


def arguments(work: Workload) -> tuple[Callable[..., Any], Any, Any, Any]:
    """`f`, `params`, `x1`, `x2`."""
    f, params = MODELS[work.model](work.outputs)
    model = "gpt" if work.model == "gpt-large" else work.model
    tokens = 512 if work.model == "gpt-large" else 64

    def inputs(n: int, seed: int) -> Any:
        if model == "gpt":
            rng = np.random.default_rng(seed)
            return rng.integers(0, 512, (n, tokens)).astype(np.int32)
        return networks.inputs(model, n, seed)

    x2 = None if work.m is None else inputs(work.m, 2)
    return f, *jax.device_put((params, inputs(work.n, 1), x2))


def in_blocks(ntk_fn: Any, x1: Any, x2: Any, params: Any, rows: int, columns: int) -> np.ndarray:
    """The kernel block by block: factors of rows stay while those of columns pass by."""
    kernel = np.empty((len(x1), len(x2)), np.float32)
    for a in range(0, len(x1), rows):
        first = ntk_fn.factors(x1[a : a + rows], params)
        for b in range(0, len(x2), columns):
            second = ntk_fn.factors(x2[b : b + columns], params)
            kernel[a : a + rows, b : b + columns] = ntk_fn.contract(first, second)
    return kernel


def methods(large: Large, precision: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """A compiled call of each method."""
    work = large.work
    f, params, x1, x2 = arguments(work)
    if work.degree:
        moved = jax.tree.map(lambda w: w * 1.01, params)

        def expanded(params: Any, moved: Any, x: Any) -> Any:
            with jax.default_matmul_precision(precision):
                return nt.taylor_expand(f, params, work.degree)(moved, x)

        yield "Tangax", on_jax.compiled(expanded, params, moved, x1)
        return
    ntk_fn = nt.empirical_ntk_fn(f, on_jax.trace_axes(work), vmap_axes=0, precision=precision)
    if large.blocks is not None:
        yield "Tangax", lambda: in_blocks(ntk_fn, x1, x2, params, *large.blocks or (1, 1))
        return
    yield "Tangax", on_jax.compiled(ntk_fn, x1, x2, params)
    size = sum(a.size for a in jax.tree.leaves(params))
    if 8 * (work.n + (work.m or 0)) * work.outputs * size < free():
        try:
            with jax.default_matmul_precision(precision):
                yield "JAX jacrev", on_jax.compiled(peer_jax.by_jacobian(work)(f), x1, x2, params)
        except jax.errors.JaxRuntimeError as error:  # out of memory: Tangax's time still counts
            print(f"{work.name}, jacrev: {error}"[:200], flush=True)


def free() -> float:
    """Bytes that the device has, less what is in use; of a CPU what is modest."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", 4 * 2**30) - stats.get("bytes_in_use", 0)


def measure(large: Large) -> list[dict[str, Any]]:
    """Every method at every precision."""
    found: list[dict[str, Any]] = []
    reference: Any = None
    for precision in PRECISIONS:
        calls: list[tuple[dict[str, Any], Callable[[], Any]]] = []
        start = time.perf_counter()
        for name, call in methods(large, precision):
            compiling = time.perf_counter() - start
            row: dict[str, Any] = {"method": name, "precision": precision, "compile": compiling}
            kernel = np.asarray(call())
            reference = kernel if reference is None else reference
            row["deviation"] = float(abs(kernel - reference).max() / abs(reference).max())
            calls.append((row | {"runs": []}, call))
            start = time.perf_counter()
        for _ in range(1 if large.blocks else ROUNDS):
            for row, call in calls:
                start = time.perf_counter()
                call()
                row["runs"].append(time.perf_counter() - start)
        found += [row | {"seconds": statistics.median(row["runs"])} for row, _ in calls]
        del calls
        on_jax.forget()
    return found


def rate(precision: str, size: int) -> float:
    """FLOP/s of a square product."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
    with jax.default_matmul_precision(precision):
        run = on_jax.compiled(jnp.matmul, a, a)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times[1:])


def page(results: dict[str, Any]) -> str:
    """RESULTS-GPU.md."""
    rates = ", ".join(f"{v / 1e12:.3g} ({k})" for k, v in results["rates"].items())
    lines = [
        "# Results on an accelerator",
        "",
        f"`make bench-gpu`, {results['date']}: {results['device']}, JAX {results['jax']}, Tangax "
        f'{results["tangax"]}; float32, TFLOP/s of a square product {rates}. Medians; "deviation" '
        "is from Tangax at full float32, over the largest entry.",
        "",
        "| workload | kernel | method | precision | seconds | compile | deviation |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in results["rows"].items():
        lines += [
            f"| {name} | {entry['shape']} | {row['method']} | {row['precision']} | "
            f"{row['seconds']:.4g} | {compiled(row)} | {row['deviation']:.0e} |"
            for row in entry["methods"]
        ]
    return "\n".join(lines) + "\n"


def compiled(row: dict[str, Any]) -> str:
    """Seconds, where it is not part of the first call."""
    return f"{row['compile']:.2f}" if row["compile"] > 0.01 else "-"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="sizes for a CPU; writes nothing")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "tangax": nt.__version__,
        "rates": {p: rate(p, 512 if options.small else 8192) for p in PRECISIONS},
        "rows": {},
    }
    for large in map(shrunk, ROWS) if options.small else ROWS:
        try:
            rows = measure(large)
        except Exception as error:  # out of memory: the other rows are still worth having
            print(f"{large.work.name}: {type(error).__name__}: {error}"[:200], flush=True)
            continue
        results["rows"][large.work.name] = {"shape": large.work.shape, "methods": rows}
        for row in rows:
            print(
                f"{large.work.name:24} {row['method']:11} {row['precision']:8} "
                f"{row['seconds']:9.4f} s, compiled in {compiled(row)} s, "
                f"deviation {row['deviation']:.0e}",
                flush=True,
            )
        if not options.small:  # after every row: nothing is lost if the next one fails
            (HERE / "results-gpu.json").write_text(json.dumps(results, indent=1) + "\n")
            (HERE / "RESULTS-GPU.md").write_text(page(results))
    if options.small:
        print(page(results))


if __name__ == "__main__":
    main()
