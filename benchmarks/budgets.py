"""Kernels under budgets from 16 MiB to 16 GiB, and by default: RESULTS-BUDGETS.md and its JSON.

    python budgets.py              every row; those of another JAX stay as they were measured
    python budgets.py "gpt 64"     rows whose names begin so

Exits with the number of rows on which a budget takes more than 1.3 times as long as the best,
those left out that cannot be kept, or for which backward passes are repeated. Budgets that compile
to the same program are measured once. Compared are seconds of CPU time of all threads, which say
the same on a machine that others use.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import networks
import numpy as np

import tangax as nt

HERE = Path(__file__).parent
BUDGETS = ("16MiB", "64MiB", "256MiB", "1GiB", "4GiB", "16GiB", None)
GOAL, ROUNDS = 1.3, 4
# A program that takes as many seconds is run twice.
LONG = 4.0

Made = tuple[Callable[..., Any], Any, Any]


@dataclass(frozen=True)
class Row:
    """A network and its examples, and whether its outputs are traced."""

    make: Callable[[], Made]
    traced: bool = True


def of(model: str, outputs: int, n: int) -> Callable[[], Made]:
    """A network of the other benchmarks."""
    return lambda: (*networks.MODELS[model](outputs), jnp.asarray(networks.inputs(model, n, 1)))


def mlp(widths: tuple[int, ...], n: int) -> Made:
    """A ReLU network of other widths."""
    x = np.random.default_rng(1).standard_normal((n, widths[0]), np.float32)
    return (*networks.mlp(widths), jnp.asarray(x))


def words(vocabulary: int, n: int, tokens: int, d: int = 64) -> Made:
    """Two Transformer blocks, one after the other, and logits of the next word."""
    shapes = {"table": (vocabulary, d), "head": (d, vocabulary)}
    blocks = [networks.transformer_shapes(d) for _ in range(2)]

    def f(params: Any, ids: Any) -> Any:
        x = params["table"][ids]
        for p in params["blocks"]:
            x = networks.transformer_block(x, p, 4, causal=True)
        return x[:, -1] @ params["head"]

    ids = np.random.default_rng(1).integers(0, vocabulary, (n, tokens))
    return f, networks.drawn(shapes | {"blocks": blocks}), jnp.asarray(ids)


def bag(vocabulary: int, outputs: int, n: int, tokens: int, d: int = 64) -> Made:
    """The mean of embedded words, and two layers."""

    def f(params: Any, ids: Any) -> Any:
        return jnp.tanh(params["table"][ids].mean(1) @ params["w"]) @ params["head"]

    shapes = {"table": (vocabulary, d), "w": (d, d), "head": (d, outputs)}
    ids = np.random.default_rng(1).integers(0, vocabulary, (n, tokens))
    return f, networks.drawn(shapes), jnp.asarray(ids)


def pixels(n: int, size: int, channels: int = 16) -> Made:
    """Three convolutions, whose outputs are the pixels of an image."""

    def f(params: Any, x: Any) -> Any:
        for a, w in enumerate(params):
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=networks.DIMS)
            x = jax.nn.relu(x) if a < 2 else x
        return x.reshape(x.shape[0], -1)

    shapes = [(3, 3, 3, channels), (3, 3, channels, channels), (3, 3, channels, 1)]
    x = np.random.default_rng(1).standard_normal((n, size, size, 3), np.float32)
    return f, networks.drawn(shapes), jnp.asarray(x)


ROWS = {
    "mlp 1000 traced": Row(lambda: mlp((256, 512, 512, 1000), 32)),
    "cnn 100 traced": Row(of("cnn", 100, 8)),
    "resnet18 10 traced": Row(of("resnet18-plain", 10, 4)),
    "mixer 20 traced": Row(of("mixer", 20, 8)),
    "vit 100 traced": Row(of("vit", 100, 4)),
    "gpt 64 traced": Row(of("gpt", 64, 8)),
    "rnn 40 traced": Row(of("rnn", 40, 8)),
    "words 400 traced": Row(lambda: words(400, 16, 32)),
    "words 2000 traced": Row(lambda: words(2000, 4, 32)),
    "bag 200 traced": Row(lambda: bag(5000, 200, 32, 64)),
    "pixels 576 traced": Row(lambda: pixels(4, 24)),
    "mlp 10 full": Row(of("mlp", 10, 64), False),
    "words 400 full": Row(lambda: words(400, 2, 16), False),
}


def measured(row: Row) -> dict[str, Any]:
    """By budget, the least CPU and wall seconds of a call, and the backward passes."""
    f, params, x = row.make()
    params = jax.device_put(params)
    programs: dict[str, Callable[[], Any]] = {}
    found: dict[str, Any] = {}
    for budget in BUDGETS:
        ntk_fn = nt.empirical_ntk_fn(f, (-1,) if row.traced else (), vmap_axes=0, memory=budget)
        plan = ntk_fn.explain(x, None, params)
        lowered = jax.jit(lambda x, p, fn=ntk_fn: fn(x, None, p)).lower(x, params)
        text = lowered.as_text()
        if text not in programs:
            run = lowered.compile()
            programs[text] = lambda run=run: jax.block_until_ready(run(x, params))
        passes = sum(sum(block.passes) for block in plan.blocks)
        found[str(budget or "default")] = {
            "program": text,
            "passes": passes,
            "held": plan.peak_bytes,
            "kept": plan.peak_bytes <= plan.memory,
        }
    runs: dict[str, list[tuple[float, float]]] = {text: [] for text in programs}
    for _ in range(ROUNDS):  # in turn; the first of each is colder, and the least counts
        for text, run in programs.items():
            if sum(cpu for cpu, _ in runs[text]) < ROUNDS * LONG / 2 or len(runs[text]) < 2:
                start = time.process_time(), time.perf_counter()
                run()
                runs[text].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    for entry in found.values():
        cpu, wall = zip(*runs[entry.pop("program")], strict=True)
        entry |= {"seconds": min(cpu), "wall": min(wall)}
    jax.clear_caches()
    return found


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """By budget, how much slower than the best."""
    best = min(entry["seconds"] for entry in found.values())
    return {budget: entry["seconds"] / best for budget, entry in found.items()}


def repeats(found: dict[str, Any], budget: str) -> float:
    """How many times as many backward passes as with the largest budget."""
    return found[budget]["passes"] / found["16GiB"]["passes"]


def worst(found: dict[str, Any]) -> float:
    """The largest ratio of the budgets that are kept, and need no more passes.

    Blocks that do not divide the outputs add a few.
    """
    counted = [b for b in found if found[b]["kept"] and repeats(found, b) < 1.1]
    return max(ratios(found)[budget] for budget in counted)


def table(results: dict[str, Any]) -> str:
    """One table for each JAX."""
    names = [str(budget or "default") for budget in BUDGETS]
    lines = [
        "# Budgets",
        "",
        "`make bench-budgets`, on two cores of a CPU: how many times the best of the budgets each "
        "takes, in CPU time, the least of several calls made in turn. In brackets what is not "
        "expected to keep up: with a star, budgets smaller than what the forward pass leaves "
        "behind, which are exceeded; with a number, those too small for the cotangents of all "
        "outputs that meet each other, and how many times as many backward passes that makes.",
    ]
    for version, rows in results.items():
        lines += ["", f"## JAX {version}", "", f"| kernel | best | {' | '.join(names)} |"]
        lines.append("|---" * (2 + len(names)) + "|")
        for name, found in rows.items():
            best = min(entry["seconds"] for entry in found.values())
            cells = []
            for budget, ratio in ratios(found).items():
                passes = repeats(found, budget)
                why = "" if found[budget]["kept"] else "*"
                why += f", {passes:.1f}" if passes >= 1.1 else ""
                cells.append(f"({ratio:.2f}{why})" if why else f"{ratio:.2f}")
            lines.append(f"| {name} | {best:.3g} s | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, then write."""
    prefixes = tuple(sys.argv[1:]) or ("",)
    file = HERE / "results-budgets.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    rows = results.setdefault(jax.__version__, {})
    slow = 0
    for name, row in ROWS.items():
        if not name.startswith(prefixes):
            continue
        rows[name] = measured(row)
        slow += worst(rows[name]) > GOAL
        shown = {budget: round(ratio, 2) for budget, ratio in ratios(rows[name]).items()}
        print(f"{name}: {worst(rows[name]):.2f} {shown}", flush=True)
        results[jax.__version__] = {key: rows[key] for key in ROWS if key in rows}
        file.write_text(json.dumps(results, indent=1) + "\n")
        (HERE / "RESULTS-BUDGETS.md").write_text(table(results))
    return slow


if __name__ == "__main__":
    sys.exit(main())
