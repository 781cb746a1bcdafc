"""Networks of `stax`, for Tangax and for Neural Tangents alike.

`benchmarks/reference_stax.py` computes their kernels with Neural Tangents, and
`test_stax_reference.py` with Tangax. Positions are no square, so that none is taken for another.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

VECTORS, LINES, IMAGES = (7,), (6, 3), (8, 6, 3)


@dataclass(frozen=True)
class Case:
    """A network, made by a `stax`; the shape of an example, the batch being in front."""

    build: Callable[[Any], Any]
    shape: tuple[int, ...]
    batch_axis: int = 0
    pattern: Callable[[np.random.Generator, int], np.ndarray] | None = None
    random: bool = False  # the finite network draws a mask
    full: bool = False  # run under `--full` only
    traits: tuple[Any, ...] = ()  # of each pair of them a case is run by default

    def inputs(self, n: int, seed: int) -> np.ndarray:
        x = np.random.default_rng(seed).standard_normal((n, *self.shape))
        return np.moveaxis(x, 0, self.batch_axis)

    def patterns(self, n: int, seed: int) -> np.ndarray | None:
        if self.pattern is None:
            return None
        return self.pattern(np.random.default_rng(100 + seed), n)


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def filled(seed: int = 3) -> Callable[[Any], np.ndarray]:
    """A function that draws the value of each array of a tree in turn."""
    rng = np.random.default_rng(seed)
    return lambda leaf: rng.standard_normal(leaf.shape)


LAYERS = [
    "serial",
    "parallel",
    "FanOut",
    "FanInSum",
    "FanInConcat",
    "Identity",
    "Dense",
    "Conv",
    "Flatten",
    "AvgPool",
    "SumPool",
    "GlobalAvgPool",
    "GlobalSumPool",
    "LayerNorm",
    "Dropout",
    "Aggregate",
    "Relu",
    "LeakyRelu",
    "ABRelu",
    "Erf",
    "Gelu",
    "Sin",
    "Cos",
    "ElementwiseNumerical",
]


def signature(layer: Callable[..., Any]) -> str:
    """Names and defaults of arguments: `FanInConcat(axis=-1)`."""
    parts = []
    for p in inspect.signature(layer).parameters.values():
        default = "..." if callable(p.default) else repr(p.default)
        star = "*" if p.kind is p.VAR_POSITIONAL else ""
        parts.append(f"{star}{p.name}" + ("" if p.default is p.empty else f"={default}"))
    return f"{layer.__name__}({', '.join(parts)})"


def mlp(activation: Callable[[Any], Any], **dense: Any) -> Callable[[Any], Any]:
    def build(stax: Any) -> Any:
        layers = [stax.Dense(8, 1.3, 0.2, **dense), activation(stax)]
        return stax.serial(*layers, *layers, stax.Dense(2, 1.1, 0.1, **dense))

    return build


def cnn(
    activation: Callable[[Any], Any], *last: Callable[[Any], Any], **conv: Any
) -> Callable[[Any], Any]:
    def build(stax: Any) -> Any:
        layers = [stax.Conv(4, (3, 2), W_std=1.4, b_std=0.1, **conv), activation(stax)]
        return stax.serial(*layers, *layers, *(make(stax) for make in last))

    return build


def relu(stax: Any) -> Any:
    return stax.Relu()


def flatten(stax: Any) -> Any:
    return stax.Flatten()


def pooled(stax: Any) -> Any:
    return stax.GlobalAvgPool()


def dense(stax: Any) -> Any:
    return stax.Dense(2, 1.2, 0.3)


def wave(x: Any) -> Any:
    """Entire, so that quadrature converges."""
    import jax.numpy as jnp

    return x * jnp.sin(x / 2)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": relu,
    "relu stable": lambda stax: stax.Relu(do_stabilize=True),
    "leaky relu": lambda stax: stax.LeakyRelu(0.2),
    "abrelu": lambda stax: stax.ABRelu(-0.5, 2.0),
    "erf": lambda stax: stax.Erf(),
    "erf a b c": lambda stax: stax.Erf(1.5, 0.7, 0.3),
    "gelu": lambda stax: stax.Gelu(),
    "sin": lambda stax: stax.Sin(),
    "sin a b c": lambda stax: stax.Sin(1.5, 0.7, 0.3),
    "cos": lambda stax: stax.Cos(1.5, 0.7, 0.3),
    "numerical": lambda stax: stax.ElementwiseNumerical(wave, 40),
}


def residual(stax: Any) -> Any:
    conv = lambda: stax.Conv(4, (3, 3), padding="SAME", b_std=0.1)  # noqa: E731
    main = stax.serial(stax.Relu(), conv(), stax.Relu(), conv())
    block = stax.serial(stax.FanOut(2), stax.parallel(main, stax.Identity()), stax.FanInSum())
    return stax.serial(conv(), block, block, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(2))


def concatenated(axis: int) -> Callable[[Any], Any]:
    def build(stax: Any) -> Any:
        one = stax.Conv(4, (3, 3), padding="SAME", W_std=1.2)
        two = stax.Conv(6, (1, 1), b_std=0.3) if axis == -1 else stax.Conv(4, (1, 1), b_std=0.3)
        branches = stax.serial(stax.FanOut(2), stax.parallel(one, two), stax.FanInConcat(axis))
        rest = [stax.Conv(3, (2, 2)), stax.Relu(), stax.GlobalAvgPool(), stax.Dense(2)]
        return stax.serial(stax.Conv(3, (1, 1)), branches, *rest)

    return build


def channels_first(stax: Any) -> Any:
    numbers = ("NCHW", "OIHW", "NCHW")
    conv = stax.Conv(4, (3, 2), (2, 1), "SAME", b_std=0.1, dimension_numbers=numbers)
    pool = stax.AvgPool((2, 2), channel_axis=1)
    return stax.serial(conv, stax.Relu(), pool, stax.GlobalAvgPool(channel_axis=1), stax.Dense(2))


def axes_in_other_order(stax: Any) -> Any:
    conv = stax.Conv(4, (3, 2), (2, 1), dimension_numbers=("NHWC", "WHIO", "NWHC"))
    return stax.serial(conv, stax.Relu(), stax.AvgPool((2, 1)), stax.Flatten(), stax.Dense(2))


def dropout(mode: str) -> Callable[[Any], Any]:
    def build(stax: Any) -> Any:
        conv = stax.Conv(4, (2, 2), b_std=0.1)
        layers = [conv, stax.Relu(), stax.Dropout(0.7, mode), conv, stax.Relu()]
        return stax.serial(*layers, stax.GlobalAvgPool(), stax.Dropout(0.5, mode), stax.Dense(2))

    return build


def normalised(axis: Any) -> Callable[[Any], Any]:
    def build(stax: Any) -> Any:
        conv = stax.Conv(4, (2, 2), b_std=0.1)
        layers = [conv, stax.LayerNorm(axis, eps=0.01), stax.Relu()]
        return stax.serial(*layers, *layers, stax.GlobalAvgPool(), stax.Dense(2))

    return build


def graph(*vertices: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda rng, n: rng.integers(0, 3, (n, *vertices, *vertices)).astype(float)


def sparse(*vertices: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    def edges(rng: np.random.Generator, n: int) -> np.ndarray:
        ends = np.stack([rng.integers(0, size, (n, 9, 2)) for size in vertices], axis=2)
        return np.where(rng.random((n, 9, 1, 1)) < 0.8, ends, -1).astype(np.int32)

    return edges


def aggregate(**options: Any) -> Callable[[Any], Any]:
    def build(stax: Any) -> Any:
        layers = [stax.Dense(4, b_std=0.1), stax.Aggregate(**options), stax.Dense(4), stax.Relu()]
        return stax.serial(*layers, *layers, stax.GlobalAvgPool(), stax.Dense(2))

    return build


def pool(kind: str, *last: Callable[[Any], Any], **options: Any) -> Callable[[Any], Any]:
    return cnn(relu, lambda stax: getattr(stax, kind)((2, 3), **options), *last)


CASES: dict[str, Case] = {}
for i, (name, activation) in enumerate(ACTIVATIONS.items()):
    CASES[f"mlp {name}"] = Case(mlp(activation), VECTORS)
    CASES[f"cnn {name} pooled"] = Case(cnn(activation, pooled, dense), IMAGES, full=i % 4 != 0)
CASES["mlp standard"] = Case(mlp(relu, parameterization="standard"), VECTORS)
CASES["mlp standard s"] = Case(
    lambda stax: stax.serial(
        stax.Dense(8, 1.3, 0.2, parameterization="standard", s=(1, 3)),
        stax.Relu(),
        stax.Dense(8, 1.3, None, parameterization="standard", s=(3, 2)),
        stax.Relu(),
        stax.Dense(2, 1.3, 0.1, parameterization="standard", s=(2, 1)),
    ),
    VECTORS,
)
CASES["mlp without biases"] = Case(
    lambda stax: stax.serial(stax.Dense(8), stax.Relu(), stax.Dense(2)), VECTORS
)
WINDOWS: dict[str, Callable[..., Callable[[Any], Any]]] = {
    "cnn {} flattened": functools.partial(cnn, relu, flatten, dense),
    "cnn {} pooled": functools.partial(cnn, relu, pooled, dense),
    "average {}": functools.partial(pool, "AvgPool", pooled, dense),
    "sums {}": functools.partial(pool, "SumPool", flatten, dense),
}
PADDINGS, STRIDES = ("SAME", "VALID", "CIRCULAR"), ((1, 1), (2, 1))
for (i, name), (j, padding), (k, strides) in itertools.product(
    *map(enumerate, (WINDOWS, PADDINGS, STRIDES))
):
    CASES[name.format(f"{padding} {strides}")] = Case(
        WINDOWS[name](padding=padding, strides=strides),
        IMAGES,
        full=(i + j + k) % 2 == 1,
        traits=(name, padding, strides),
    )
for padding in PADDINGS:
    CASES[f"cnn {padding} (2, 1) open"] = Case(cnn(relu, padding=padding, strides=(2, 1)), IMAGES)
CASES["average, edges normalised"] = Case(
    pool("AvgPool", flatten, dense, padding="SAME", normalize_edges=True), IMAGES
)
CASES["cnn standard"] = Case(cnn(relu, pooled, parameterization="standard"), IMAGES)
CASES["cnn standard flattened"] = Case(
    cnn(
        relu,
        flatten,
        lambda stax: stax.Dense(2, 1.2, parameterization="standard"),
        parameterization="standard",
    ),
    IMAGES,
)
CASES["global sum"] = Case(cnn(relu, lambda stax: stax.GlobalSumPool(), dense), IMAGES)
CASES["lines"] = Case(
    lambda stax: stax.serial(
        stax.Conv(4, (3,), (2,), "SAME", b_std=0.1), stax.Erf(), stax.GlobalAvgPool()
    ),
    LINES,
)
CASES["dense on pixels"] = Case(mlp(relu), IMAGES)
CASES["channels first"] = Case(channels_first, (3, 8, 6))
CASES["axes in other order"] = Case(axes_in_other_order, IMAGES)
CASES["batch last"] = Case(
    lambda stax: stax.serial(
        stax.Dense(4, batch_axis=1, channel_axis=0),
        stax.Relu(),
        stax.Dense(2, batch_axis=1, channel_axis=0),
    ),
    VECTORS,
    batch_axis=1,
)
CASES["residual"] = Case(residual, IMAGES)
CASES["joined channels"] = Case(concatenated(-1), IMAGES)
CASES["joined positions"] = Case(concatenated(1), IMAGES)
CASES["dropout in training"] = Case(dropout("train"), IMAGES, random=True)
CASES["dropout in testing"] = Case(dropout("test"), IMAGES)
CASES["normalised channels"] = Case(normalised(-1), IMAGES)
CASES["normalised positions"] = Case(normalised((1, 3)), IMAGES)
CASES["graph"] = Case(aggregate(), LINES, pattern=graph(6))
CASES["graph of both axes"] = Case(aggregate(), IMAGES, pattern=graph(8, 6))
CASES["graph of one axis"] = Case(aggregate(aggregate_axis=2), IMAGES, pattern=graph(6))
CASES["sparse graph"] = Case(aggregate(implementation="SPARSE"), IMAGES, pattern=sparse(8, 6))
CASES["sparse graph of one axis"] = Case(
    aggregate(aggregate_axis=(1,), implementation="SPARSE"), IMAGES, pattern=sparse(8)
)

N, M = 3, 2
