"""The rows on an accelerator, larger, in full float32 and with TF32: RESULTS-GPU.md and its JSON.

    python gpu.py             sizes that fill an H200
    python gpu.py gpt rnn     rows whose names begin so; the others stay as they were measured
    python gpu.py --small     sizes for a CPU, to try it; prints, and writes nothing

Needs the package and nothing else. Beside Tangax's AUTO runs plain JAX, per-example `jacrev` and an
einsum, where its Jacobians fit.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import floor
import jax
import numpy as np
import on_jax
import peer_jax
from workloads import Workload

import tangax as nt

HERE = Path(__file__).parent
# Full float32, and what tensor cores round to.
PRECISIONS = ("highest", "default")
ROUNDS = 5

# Rows, and their length on a CPU.
ROWS = {
    Workload("cnn traced", "cnn", 10, 500, 500, True): 4,
    Workload("cnn full", "cnn", 10, 200): 4,
    Workload("mlp full", "mlp", 10, 1000): 8,
    Workload("mlp traced", "mlp", 100, 200, None, True): 4,
    Workload("mlp-paper full", "mlp-paper", 8, 1000): 4,
    Workload("resnet18 full", "resnet18-plain", 10, 32): 1,
    Workload("resnet18 blocks", "resnet18-plain", 1, 3500, 2500, True, memory="64GiB"): 3,
    Workload("mixer full", "mixer", 10, 128): 2,
    Workload("vit full", "vit", 10, 128): 2,
    Workload("gpt traced", "gpt", 2, 512, None, True): 2,
    Workload("gpt full", "gpt", 64, 64): 1,
    Workload("gpt-large traced", "gpt-large", 2, 16, None, True): 1,
    Workload("rnn full", "rnn", 10, 128): 2,
    Workload("taylor", "mlp", 10, 1000, degree=6): 2,
}


def shrunk(work: Workload) -> Workload:
    """The row for a CPU."""
    return replace(
        work,
        model=work.model.removesuffix("-large"),
        n=ROWS[work],
        m=None if work.m is None else max(1, ROWS[work] - 1),
        outputs=min(work.outputs, 4),
        memory=work.memory and "4GiB",
    )


def methods(work: Workload, precision: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """A compiled call of each method."""
    if work.degree:
        yield "Tangax", on_jax.taylor(nt.taylor_expand, work)()
        return
    f, params, x1, x2 = on_jax.arguments(work)
    ntk_fn = nt.empirical_ntk_fn(f, on_jax.trace_axes(work), vmap_axes=0, precision=precision)
    if work.memory:
        blocks = nt.batch(ntk_fn, memory=work.memory)
        yield "Tangax", lambda: blocks(x1, x2, params)
        return
    yield "Tangax", on_jax.compiled(ntk_fn, x1, x2, params)
    size = sum(a.size for a in jax.tree.leaves(params))
    if 8 * (work.n + (work.m or 0)) * work.outputs * size < free():
        try:
            yield "JAX jacrev", on_jax.compiled(peer_jax.by_jacobian(work)(f), x1, x2, params)
        except jax.errors.JaxRuntimeError as error:  # out of memory: Tangax's time still counts
            print(f"{work.name}, jacrev: {error}"[:200], flush=True)


def free() -> float:
    """Bytes that the device has, less what is in use; of a CPU what is modest."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", 4 * 2**30) - stats.get("bytes_in_use", 0)


def measure(work: Workload, rates: dict[str, Any]) -> list[dict[str, Any]]:
    """Every method at every precision."""
    stages = floor.counted(work)
    found: list[dict[str, Any]] = []
    reference: Any = None
    for precision in PRECISIONS:
        calls: list[tuple[dict[str, Any], Callable[[], Any]]] = []
        with jax.default_matmul_precision(precision):
            start = time.perf_counter()
            for name, call in methods(work, precision):
                kernel = np.asarray(call())
                row: dict[str, Any] = {"method": name, "precision": precision}
                row["first"] = time.perf_counter() - start
                reference = kernel if reference is None else reference
                row["deviation"] = float(abs(kernel - reference).max() / abs(reference).max())
                row["floor"] = floor.floor(stages, rates[precision])
                calls.append((row | {"runs": []}, call))
                start = time.perf_counter()
            for _ in range(1 if work.memory else ROUNDS):
                for row, call in calls:
                    start = time.perf_counter()
                    call()
                    row["runs"].append(time.perf_counter() - start)
        found += [row | {"seconds": statistics.median(row["runs"])} for row, _ in calls]
        del calls
        on_jax.forget()
    return found


def page(results: dict[str, Any]) -> str:
    """RESULTS-GPU.md."""
    rates = ", ".join(f"{2 * v['macs'] / 1e12:.3g} ({k})" for k, v in results["rates"].items())
    flags = results["flags"] and f", XLA_FLAGS `{results['flags']}`"
    lines = [
        "# Results on an accelerator",
        "",
        f"`make bench-gpu`, {results['date']}: {results['device']}, JAX {results['jax']}, Tangax "
        f"{results['tangax']}{flags}; float32, TFLOP/s of a square product {rates}. Medians of "
        'warm runs (in blocks: one run); "ratio": how many times Tangax\'s time. "first": with '
        'tracing and compiling. "deviation" is from Tangax at full float32, over the largest '
        'entry. "floor": the share that Tangax reaches of the rate of the product for the '
        "multiply-adds that are counted, or of the rate of reading.",
        "",
        "| workload | kernel | method | precision | seconds | ratio | first | deviation | floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    behind: list[str] = []
    for name, entry in results["rows"].items():
        own = {r["precision"]: r["seconds"] for r in entry["methods"] if r["method"] == "Tangax"}
        lines += [
            f"| {name} | {entry['shape']} | {row['method']} | {row['precision']} | "
            f"{row['seconds']:.4g} | {row['seconds'] / own[row['precision']]:.2f}x | "
            f"{row['first']:.1f} | {row['deviation']:.0e} | {share(row)} |"
            for row in entry["methods"]
        ]
        behind += [
            f"- `{name}`, {row['precision']}: {row['method']} takes "
            f"{row['seconds'] / own[row['precision']]:.2f} of Tangax's time."
            for row in entry["methods"]
            if row["seconds"] < own[row["precision"]]
        ]
    if behind:
        lines += ["", "## Behind", "", *behind]
    return "\n".join(lines) + "\n"


def share(row: dict[str, Any]) -> str:
    """Of the floor, which is that of Tangax's orders."""
    return f"{row['floor'] / row['seconds']:.2f}" if row["method"] == "Tangax" else "-"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="sizes for a CPU; writes nothing")
    parser.add_argument("rows", nargs="*", help="how the names of the rows begin (all)")
    options = parser.parse_args()
    size = 512 if options.small else 8192
    path = HERE / "results-gpu.json"
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "tangax": nt.__version__,
        "flags": os.environ.get("XLA_FLAGS", ""),
        "rates": {p: floor.rates(size, p) for p in PRECISIONS},
        "rows": {},
    }
    if options.rows and not options.small and path.exists():
        results["rows"] = json.loads(path.read_text())["rows"]
    for large in ROWS:
        if not large.name.startswith(tuple(options.rows) or ""):
            continue
        work = shrunk(large) if options.small else large
        try:
            rows = measure(work, results["rates"])
        except Exception as error:  # out of memory: the other rows are still worth having
            print(f"{work.name}: {type(error).__name__}: {error}"[:200], flush=True)
            continue
        measured = results["rows"] | {work.name: {"shape": work.shape, "methods": rows}}
        results["rows"] = {w.name: measured[w.name] for w in ROWS if w.name in measured}
        for row in rows:
            print(
                f"{work.name:24} {row['method']:11} {row['precision']:8} "
                f"{row['seconds']:9.4f} s, first {row['first']:.1f} s, "
                f"deviation {row['deviation']:.0e}, floor {share(row)}",
                flush=True,
            )
        if not options.small:  # after every row: nothing is lost if the next one fails
            path.write_text(json.dumps(results, indent=1) + "\n")
            (HERE / "RESULTS-GPU.md").write_text(page(results))
    if options.small:
        print(page(results))


if __name__ == "__main__":
    main()
