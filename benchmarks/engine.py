"""Figures of the factor engine: every implementation on the same work, in turn.

    python benchmarks/engine.py            every workload
    python benchmarks/engine.py cnn gpt    those whose name contains a word

For each: seconds to trace and compile, the median of the warm runs, and the ratio to AUTO.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import tangax as nt


@dataclass(frozen=True)
class Work:
    """A function, its arguments, the traced axes, and the implementations worth their time."""

    f: Callable[[Any, Any], Any]
    params: Any
    x1: Any
    x2: Any
    trace: tuple[int, ...]
    implementations: tuple[int, ...] = (0, 1, 2, 3)


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal, float32."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def mlp(*widths: int) -> tuple[Callable[[Any, Any], Any], Any]:
    """A ReLU network in standard parameterisation."""

    def f(params: Any, x: Any) -> Any:
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = params[-1]
        return x @ w + b

    pairs = itertools.pairwise(widths)
    return f, [(normal(a, i, o) / i**0.5, normal(a, o)) for a, (i, o) in enumerate(pairs)]


def cnn() -> tuple[Callable[[Any, Any], Any], Any]:
    """Three 3x3 convolutions of 32 channels and a dense layer, for 32x32x3 images."""
    dims = ("NHWC", "HWIO", "NHWC")

    def f(params: Any, x: Any) -> Any:
        for w, b in params["convs"]:
            x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)
            x = jax.nn.relu(x + b)
        return x.reshape(x.shape[0], -1) @ params["w"] + params["b"]

    channels = (3, 32, 32, 32)
    convs = [
        (normal(a, 3, 3, channels[a], 32) / (9 * channels[a]) ** 0.5, normal(a, 32))
        for a in range(3)
    ]
    flat = 32 * 32 * 32
    return f, {"convs": convs, "w": normal(5, flat, 10) / flat**0.5, "b": normal(6, 10)}


def gpt(
    outputs: int, d: int = 128, vocabulary: int = 512, depth: int = 4
) -> tuple[Callable[[Any, Any], Any], Any]:
    """Causal Transformer blocks under `lax.scan`, and a mean-pooled head."""
    heads = 4

    def norm(x: Any, g: Any) -> Any:
        return g * (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-5)

    def block(x: Any, p: Any) -> tuple[Any, None]:
        batch, tokens, _ = x.shape
        q, k, v = jnp.split((norm(x, p["g1"]) @ p["qkv"]).reshape(batch, tokens, heads, -1), 3, -1)
        scores = jnp.einsum("bshd,bthd->bhst", q, k) / (d / heads) ** 0.5
        mask = jnp.tril(jnp.ones((tokens, tokens), bool))
        attention = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        mixed = jnp.einsum("bhst,bthd->bshd", attention, v).reshape(x.shape)
        x = x + mixed @ p["out"]
        return x + jax.nn.gelu(norm(x, p["g2"]) @ p["up"]) @ p["down"], None

    def f(params: Any, ids: Any) -> Any:
        x = params["table"][ids] + params["positions"][: ids.shape[1]]
        x, _ = lax.scan(block, x, params["blocks"])
        return x.mean(1) @ params["head"]

    shapes = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    blocks = {k: normal(a, depth, *s) / s[0] ** 0.5 for a, (k, s) in enumerate(shapes.items())}
    blocks |= {"g1": normal(7, depth, d), "g2": normal(8, depth, d)}
    params = {
        "table": normal(9, vocabulary, d),
        "positions": normal(10, 64, d),
        "blocks": blocks,
        "head": normal(11, d, outputs) / d**0.5,
    }
    return f, params


def tokens(seed: int, n: int) -> jax.Array:
    """64 ids of a vocabulary of 512."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, 512, (n, 64)))


def workloads() -> dict[str, Callable[[], Work]]:
    """Each is built when it is run."""

    def images(make: Any, n: int, m: int | None, trace: tuple[int, ...], *shape: int) -> Work:
        f, params = make()
        x2 = None if m is None else normal(101, m, *shape)
        return Work(f, params, normal(100, n, *shape), x2, trace)

    def text(outputs: int, n: int, trace: tuple[int, ...]) -> Work:
        f, params = gpt(outputs)
        return Work(f, params, tokens(0, n), tokens(1, n), trace, (0, 1, 3))

    paper, wide = partial(mlp, 3072, 2048, 2048, 2048, 8), partial(mlp, 3072, 1024, 1024, 100)
    return {
        "mlp-paper 16 full": lambda: images(paper, 16, None, (), 3072),
        "mlp 5x5 traced": lambda: images(wide, 5, 5, (-1,), 3072),
        "cnn 5x20 full": lambda: images(cnn, 5, 20, (), 32, 32, 3),
        "cnn 5x20 traced": lambda: images(cnn, 5, 20, (-1,), 32, 32, 3),
        "gpt 64x64 full, 2 outputs": lambda: text(2, 64, ()),
        "gpt 64x64 traced, 2 outputs": lambda: text(2, 64, (-1,)),
        "gpt 16x16 full, 10 outputs": lambda: text(10, 16, ()),
        "gpt 16x16 traced, 10 outputs": lambda: text(10, 16, (-1,)),
    }


def measure(work: Work, seconds: float) -> dict[int, tuple[float, list[float]]]:
    """For each implementation the time to compile, and warm runs, in turn, of so long in all."""
    found: dict[int, tuple[float, list[float]]] = {}
    compiled, kernels = {}, {}
    for i in work.implementations:
        ntk_fn = nt.empirical_ntk_fn(work.f, work.trace, (), 0, i)
        start = time.perf_counter()
        compiled[i] = jax.jit(ntk_fn).lower(work.x1, work.x2, work.params).compile()
        found[i] = (time.perf_counter() - start, [])
        kernels[i] = np.asarray(compiled[i](work.x1, work.x2, work.params))
        error = np.abs(kernels[i] - kernels[0]).max() / np.abs(kernels[0]).max()
        assert error < 1e-3, (i, error)
    for _ in range(20):
        for i, run in compiled.items():
            runs = found[i][1]
            if sum(runs) < seconds:
                start = time.perf_counter()
                jax.block_until_ready(run(work.x1, work.x2, work.params))
                runs.append(time.perf_counter() - start)
    return found


def main() -> None:
    """Print one line for each implementation of each workload."""
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, {jax.device_count()} device(s)")
    for name, make in workloads().items():
        if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
            continue
        found = measure(make(), seconds=5)
        auto = statistics.median(found[0][1])
        for i, (compiling, runs) in found.items():
            run, method = statistics.median(runs), nt.NtkImplementation(i).name
            print(
                f"{name:30} {method:23} compile {compiling:6.2f} s  run {run:8.4f} s "
                f"({min(runs):.4f} to {max(runs):.4f}, {len(runs)} runs)  {run / auto:7.2f} x AUTO",
                flush=True,
            )


if __name__ == "__main__":
    main()
