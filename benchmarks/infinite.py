"""Kernels of infinite width, by the `kernel_fn` of `stax`: Tangax and Neural Tangents alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Infinite:
    """The NTK of `n` images of CIFAR shape with as many others, `stride` pixels apart.

    `part`: what Neural Tangents computes of them, where all are too many; its time is scaled by the
    number of pairs.
    """

    name: str
    build: Callable[[Any], Any]
    n: int = 500
    stride: int = 1
    part: int = 500

    def images(self, seed: int, count: int) -> np.ndarray:
        """The first of them."""
        x = np.random.default_rng(seed).standard_normal((self.n, 32, 32, 3), np.float32)
        return x[:count, :: self.stride, :: self.stride]


def mlp(stax: Any) -> Any:
    """Three hidden layers."""
    layers = [stax.Dense(512, 1.4, 0.1), stax.Relu()] * 3
    return stax.serial(stax.Flatten(), *layers, stax.Dense(10))


def cnn(last: str) -> Callable[[Any], Any]:
    """Three convolutions, and what follows."""

    def build(stax: Any) -> Any:
        conv = stax.Conv(32, (3, 3), padding="SAME", W_std=1.4, b_std=0.1)
        return stax.serial(*[conv, stax.Relu()] * 3, getattr(stax, last)(), stax.Dense(10))

    return build


INFINITE = {
    work.name: work
    for work in (
        Infinite("infinite mlp", mlp),
        Infinite("infinite cnn, flattened", cnn("Flatten")),
        Infinite("infinite cnn, pooled, 8x8", cnn("GlobalAvgPool"), stride=4, part=100),
    )
}


def prepared(work: Infinite, stax: Any, count: int) -> Callable[[], Any]:
    """A call without arguments, compiled when it is first made."""
    import jax

    kernel_fn = jax.jit(work.build(stax)[2], static_argnums=2)
    x1, x2 = (jax.device_put(work.images(seed, count)) for seed in (0, 1))
    return lambda: jax.block_until_ready(kernel_fn(x1, x2, "ntk"))
