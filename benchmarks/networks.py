"""The networks of the benchmark: `MODELS[name](outputs)` gives `(f, params)`.

The same file runs on the JAX of Neural Tangents and on today's. Parameters are drawn by NumPy from
the shapes, so every environment has the same ones. Inputs: `[n, 32, 32, 3]`, `[n, 3072]`, ids
`[n, 64]` (`gpt-large`: 512) or sequences `[n, 64, 64]`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Params = Any
Model = tuple[Callable[[Params, Any], Any], Params]
DIMS = ("NHWC", "HWIO", "NHWC")


def drawn(shapes: Any, lead: int = 0) -> Params:
    """Normal parameters for a tree of shapes: weights by their inputs, vectors of size one.

    `lead`: how many axes count layers.
    """
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        own = shape[lead:]
        scale = np.prod(own[:-1]) ** -0.5 if len(own) > 1 else 1.0
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    return jax.tree_util.tree_map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def mlp(widths: Sequence[int]) -> Model:
    """A ReLU network."""

    def f(params: Params, x: Any) -> Any:
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = params[-1]
        return x @ w + b

    return f, drawn([[(i, j), (j,)] for i, j in itertools.pairwise(widths)])


def cnn(outputs: int) -> Model:
    """Three 3x3 convolutions of 32 channels, then a dense layer of all pixels."""

    def f(params: Params, x: Any) -> Any:
        for w, b in params["convs"]:
            x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=DIMS)
            x = jax.nn.relu(x + b)
        return x.reshape(x.shape[0], -1) @ params["w"] + params["b"]

    convs = [[(3, 3, i, 32), (32,)] for i in (3, 32, 32)]
    return f, drawn({"convs": convs, "w": (32 * 32 * 32, outputs), "b": (outputs,)})


# Channels and stride of the blocks of ResNet-18.
BLOCKS = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))


def resnet18_shapes(outputs: int) -> tuple[Any, Any]:
    """The parameters and the statistics of ResNet-18, named as Flax names them."""

    def norm(channels: int, *names: str) -> Any:
        return {"BatchNorm_0": {name: (channels,) for name in names}}

    def level(path: str, names: Sequence[str]) -> Any:
        """One convolution and norm, or both of a block and perhaps a third on the shortcut."""
        convs = {f"Conv_{c}": {"kernel": shape} for c, shape in enumerate(kernels[path])}
        norms = {f"Norm_{c}": norm(shape[-1], *names) for c, shape in enumerate(kernels[path])}
        return convs, norms

    kernels = {"": [(3, 3, 3, 64)]}
    before = 64
    for b, (channels, _) in enumerate(BLOCKS):
        shapes = [(3, 3, before, channels), (3, 3, channels, channels)]
        kernels[f"Block_{b}"] = shapes + [(1, 1, before, channels)] * (before != channels)
        before = channels
    params: dict[str, Any] = {"Dense_0": {"kernel": (512, outputs), "bias": (outputs,)}}
    statistics: dict[str, Any] = {}
    for path in kernels:
        convs, norms = level(path, ("scale", "bias"))
        _, fixed = level(path, ("mean", "var"))
        params |= {path: convs | norms} if path else convs | norms
        statistics |= {path: fixed} if path else fixed
    return params, statistics


def resnet18_drawn(outputs: int) -> tuple[Params, Params]:
    """Its parameters, and its means and variances."""
    shapes, fixed = resnet18_shapes(outputs)
    statistics = jax.tree_util.tree_map(lambda a: 1 + 0.5 * np.tanh(a), drawn(fixed))
    return drawn(shapes), statistics


def resnet18_plain(outputs: int) -> Model:
    """ResNet-18 for images of 32x32, with the statistics of its norms fixed; without Flax."""
    params, statistics = resnet18_drawn(outputs)

    def conv(p: Params, x: Any, stride: int = 1) -> Any:
        strides = (stride, stride)
        return lax.conv_general_dilated(x, p["kernel"], strides, "SAME", dimension_numbers=DIMS)

    def norm(p: Params, fixed: Params, x: Any) -> Any:
        p, fixed = p["BatchNorm_0"], fixed["BatchNorm_0"]
        return (x - fixed["mean"]) * (p["scale"] * lax.rsqrt(fixed["var"] + 1e-5)) + p["bias"]

    def block(p: Params, fixed: Params, x: Any, stride: int) -> Any:
        y = jax.nn.relu(norm(p["Norm_0"], fixed["Norm_0"], conv(p["Conv_0"], x, stride)))
        y = norm(p["Norm_1"], fixed["Norm_1"], conv(p["Conv_1"], y))
        if "Conv_2" in p:
            x = norm(p["Norm_2"], fixed["Norm_2"], conv(p["Conv_2"], x, stride))
        return jax.nn.relu(x + y)

    def f(params: Params, x: Any) -> Any:
        x = jax.nn.relu(norm(params["Norm_0"], statistics["Norm_0"], conv(params["Conv_0"], x)))
        for b, (_, stride) in enumerate(BLOCKS):
            x = block(params[f"Block_{b}"], statistics[f"Block_{b}"], x, stride)
        return x.mean((1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]

    return f, params


def resnet18(outputs: int) -> Model:
    """The same in Flax Linen, as a user has it."""
    import flax.linen as nn

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.BatchNorm(use_running_average=True)(x)

    class Block(nn.Module):
        channels: int
        stride: int

        @nn.compact
        def __call__(self, x: Any) -> Any:
            strides = (self.stride, self.stride)
            y = nn.Conv(self.channels, (3, 3), strides, use_bias=False)(x)
            y = nn.relu(Norm()(y))
            y = Norm()(nn.Conv(self.channels, (3, 3), use_bias=False)(y))
            if x.shape != y.shape:
                x = Norm()(nn.Conv(self.channels, (1, 1), strides, use_bias=False)(x))
            return nn.relu(x + y)

    class ResNet18(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.relu(Norm()(nn.Conv(64, (3, 3), use_bias=False)(x)))
            for channels, stride in BLOCKS:
                x = Block(channels, stride)(x)
            return nn.Dense(outputs)(x.mean((1, 2)))

    model = ResNet18()
    params, statistics = resnet18_drawn(outputs)

    def f(params: Params, x: Any) -> Any:
        return model.apply({"params": params, "batch_stats": statistics}, x)

    return f, params


def norm(x: Any, g: Any, b: Any) -> Any:
    """Layer normalisation over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    return g * x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) + b


def attention(x: Any, p: Params, heads: int, *, causal: bool) -> Any:
    """Multi-head attention with one product for queries, keys and values."""
    batch, tokens, d = x.shape
    q, k, v = jnp.split((x @ p["qkv"]).reshape(batch, tokens, heads, -1), 3, -1)
    scores = jnp.einsum("bshd,bthd->bhst", q, k) / (d / heads) ** 0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((tokens, tokens), bool)), scores, -1e9)
    mixed = jnp.einsum("bhst,bthd->bshd", jax.nn.softmax(scores), v)
    return mixed.reshape(x.shape) @ p["out"]


def feed_forward(x: Any, up: Any, down: Any) -> Any:
    """Two products with a GELU between them."""
    return jax.nn.gelu(x @ up) @ down


def transformer_block(x: Any, p: Params, heads: int, *, causal: bool) -> Any:
    """A Transformer block, normalised first."""
    x = x + attention(norm(x, p["g1"], p["b1"]), p, heads, causal=causal)
    return x + feed_forward(norm(x, p["g2"], p["b2"]), p["up"], p["down"])


def transformer_shapes(d: int) -> dict[str, tuple[int, ...]]:
    """The parameters of a Transformer block."""
    vectors: dict[str, tuple[int, ...]] = {name: (d,) for name in ("g1", "b1", "g2", "b2")}
    return vectors | {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}


def patches(x: Any) -> Any:
    """`[n, 64, 48]`: an image in patches of 4x4."""
    n = x.shape[0]
    return x.reshape(n, 8, 4, 8, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, 64, 48)


def vit(outputs: int, d: int = 128, depth: int = 4, heads: int = 4) -> Model:
    """A vision Transformer of 64 patches, its blocks one after the other."""

    def f(params: Params, x: Any) -> Any:
        x = patches(x) @ params["embed"] + params["positions"]
        for p in params["blocks"]:
            x = transformer_block(x, p, heads, causal=False)
        return x.mean(1) @ params["head"]

    shapes = {"embed": (48, d), "positions": (64, d), "head": (d, outputs)}
    return f, drawn(shapes | {"blocks": [transformer_shapes(d) for _ in range(depth)]})


def mixer(outputs: int, d: int = 128, depth: int = 4) -> Model:
    """An MLP-Mixer of 64 patches: products along tokens, then along channels."""

    def f(params: Params, x: Any) -> Any:
        x = patches(x) @ params["embed"]
        for p in params["blocks"]:
            y = norm(x, p["g1"], p["b1"]).transpose(0, 2, 1)
            x = x + feed_forward(y, p["token_up"], p["token_down"]).transpose(0, 2, 1)
            x = x + feed_forward(norm(x, p["g2"], p["b2"]), p["up"], p["down"])
        return x.mean(1) @ params["head"]

    block: dict[str, tuple[int, ...]] = {name: (d,) for name in ("g1", "b1", "g2", "b2")}
    block |= {"token_up": (64, 2 * d), "token_down": (2 * d, 64)}
    block |= {"up": (d, 4 * d), "down": (4 * d, d)}
    shapes = {"embed": (48, d), "head": (d, outputs), "blocks": [block] * depth}
    return f, drawn(shapes)


def gpt(
    outputs: int, d: int = 128, depth: int = 4, tokens: int = 64, vocabulary: int = 512
) -> Model:
    """Causal Transformer blocks under `lax.scan`, heads of 32, and a mean-pooled head."""
    heads = d // 32

    def f(params: Params, ids: Any) -> Any:
        x = params["table"][ids] + params["positions"][: ids.shape[1]]

        def block(x: Any, p: Params) -> tuple[Any, None]:
            return transformer_block(x, p, heads, causal=True), None

        x, _ = lax.scan(block, x, params["blocks"])
        return x.mean(1) @ params["head"]

    blocks = {name: (depth, *shape) for name, shape in transformer_shapes(d).items()}
    outer = {"table": (vocabulary, d), "positions": (tokens, d), "head": (d, outputs)}
    return f, drawn(outer) | {"blocks": drawn(blocks, lead=1)}


def rnn(outputs: int, features: int = 64, units: int = 256) -> Model:
    """An LSTM under `lax.scan`, and a head on its last state."""

    def f(params: Params, x: Any) -> Any:
        def step(state: Any, x: Any) -> tuple[Any, None]:
            c, h = state
            gates = x @ params["w"] + h @ params["u"] + params["b"]
            i, g, o, forget = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (c, jax.nn.sigmoid(o) * jnp.tanh(c)), None

        start = jnp.zeros((x.shape[0], units), x.dtype)
        (_, h), _ = lax.scan(step, (start, start), x.transpose(1, 0, 2))
        return h @ params["head"]

    shapes = {"w": (features, 4 * units), "u": (units, 4 * units), "b": (4 * units,)}
    return f, drawn(shapes | {"head": (units, outputs)})


MODELS: dict[str, Callable[[int], Model]] = {
    "mlp": lambda outputs: mlp((3072, 1024, 1024, outputs)),
    "mlp-paper": lambda outputs: mlp((3072, 2048, 2048, 2048, outputs)),
    "cnn": cnn,
    "resnet18": resnet18,
    "mixer": mixer,
    "vit": vit,
    "gpt": gpt,
    "rnn": rnn,
    # On an accelerator.
    "resnet18-plain": resnet18_plain,
    "gpt-large": functools.partial(gpt, d=768, depth=12, tokens=512, vocabulary=8192),
}


def inputs(model: str, n: int, seed: int) -> np.ndarray:
    """Random examples for a model."""
    rng = np.random.default_rng(seed)
    if tokens := {"gpt": 64, "gpt-large": 512}.get(model):
        return rng.integers(0, 512, (n, tokens)).astype(np.int32)
    shapes = {"mlp": (3072,), "mlp-paper": (3072,), "rnn": (64, 64)}
    return rng.standard_normal((n, *shapes.get(model, (32, 32, 3))), np.float32)
