"""Whole models of Flax, Equinox and Haiku, as rows of the table in `cases.py`.

`get(name)` builds one, and skips the test where its library is missing. All parameters are cast to
float64 and shaken a little, so that no bias is zero and no gain is one.
"""

import functools
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, _fill, integers

MODELS: dict[str, Callable[[], Case]] = {}
LIBRARIES: dict[str, str] = {}


@functools.cache
def get(name: str) -> Case:
    """The model of that name, built once; the test is skipped without its library."""
    pytest.importorskip(LIBRARIES[name])
    return MODELS[name]()


def model(library, *, x=(4,), **flags):
    """Put a builder `x -> (f, params)` into the table; `x` is one example's shape."""

    def register(make):
        name = make.__name__

        def build():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            x1, x2 = _fill(x, rng, (3,)), _fill(x, rng, (2,))
            f, params = make(x1)
            return Case(
                name,
                f,
                _float64(params, lambda shape: 0.1 * rng.normal(size=shape)),
                x1,
                x2,
                {},
                **flags,
            )

        assert name not in MODELS, f"two models are called {name!r}"
        MODELS[name], LIBRARIES[name] = build, library
        return make

    return register


def _float64(tree, noise=lambda shape: 0.0):
    """Floating leaves in float64, with noise added; all other leaves as they are."""

    def leaf(a):
        if not hasattr(a, "dtype") or not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        return jnp.asarray(np.asarray(a, np.float64) + noise(a.shape))

    return jax.tree.map(leaf, tree)


# --- Flax NNX -------------------------------------------------------------------------------------


def nnx_model(module):
    """`f(params, x)` with the module's `nnx.Param`s as `params` and all other state fixed."""
    from flax import nnx

    graph, params, rest = nnx.split(module, nnx.Param, ...)
    rest = _float64(rest)
    return lambda params, x: nnx.merge(graph, params, rest)(x), params


@model("flax", smooth=False)
def nnx_mlp(x):
    from flax import nnx

    rngs = nnx.Rngs(0)
    return nnx_model(
        nnx.Sequential(nnx.Linear(4, 5, rngs=rngs), nnx.relu, nnx.Linear(5, 2, rngs=rngs))
    )


@model("flax", x=(6, 6, 1), smooth=False)
def nnx_cnn(x):
    from flax import nnx

    rngs = nnx.Rngs(0)
    return nnx_model(
        nnx.Sequential(
            nnx.Conv(1, 3, (3, 3), rngs=rngs),
            nnx.relu,
            lambda x: nnx.max_pool(x, (2, 2), (2, 2)),
            nnx.Conv(3, 2, (2, 2), padding="VALID", rngs=rngs),
            lambda x: nnx.gelu(x).reshape(len(x), -1),
            nnx.Linear(8, 2, rngs=rngs),
        )
    )


@model("flax", x=(4, 4, 2), smooth=False)
def nnx_resnet(x):
    from flax import nnx

    class ResNet(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(2, 2, (3, 3), use_bias=False, rngs=rngs)
            self.norm1 = nnx.BatchNorm(2, use_running_average=True, rngs=rngs)
            self.conv2 = nnx.Conv(2, 2, (3, 3), use_bias=False, rngs=rngs)
            self.norm2 = nnx.BatchNorm(2, use_running_average=True, rngs=rngs)
            self.head = nnx.Linear(2, 2, rngs=rngs)

        def __call__(self, x):
            y = nnx.relu(self.norm1(self.conv1(x)))
            x = nnx.relu(x + self.norm2(self.conv2(y)))
            return self.head(x.mean((1, 2)))

    return nnx_model(ResNet(nnx.Rngs(0)))


@model("flax", x=integers(0, 5, 3))
def nnx_transformer(x):
    from flax import nnx

    def attend(query, key, value, mask=None, **_):
        # Flax's default calls JAX's, which takes the softmax in float32 whatever its input.
        scores = jnp.einsum("nthj,nshj->nhts", query, key) / np.sqrt(query.shape[-1])
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        return jnp.einsum("nhts,nshj->nthj", weights, value)

    class Transformer(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(5, 4, dtype=float, rngs=rngs)
            self.position = nnx.Embed(3, 4, dtype=float, rngs=rngs)
            self.norm1, self.norm2 = nnx.LayerNorm(4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(
                2, 4, decode=False, attention_fn=attend, rngs=rngs
            )
            self.up, self.down = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, ids):
            x = self.embed(ids) + self.position(jnp.arange(3))
            x = x + self.attention(self.norm1(x), mask=nnx.make_causal_mask(ids))
            x = x + self.down(nnx.gelu(self.up(self.norm2(x))))
            return self.head(x.mean(1))

    return nnx_model(Transformer(nnx.Rngs(0)))


@model("flax", x=(3, 4))
def nnx_mixer(x):
    from flax import nnx

    class Mixer(nnx.Module):
        def __init__(self, rngs):
            self.norm1, self.norm2 = nnx.LayerNorm(4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs)
            self.tokens1, self.tokens2 = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)
            self.channels1 = nnx.Linear(4, 5, rngs=rngs)
            self.channels2 = nnx.Linear(5, 4, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            y = self.tokens1(self.norm1(x).swapaxes(1, 2))
            x = x + self.tokens2(nnx.gelu(y)).swapaxes(1, 2)
            x = x + self.channels2(nnx.gelu(self.channels1(self.norm2(x))))
            return self.head(x.mean(1))

    return nnx_model(Mixer(nnx.Rngs(0)))


@model("flax", x=(4, 4, 1))
def nnx_unet(x):
    from flax import nnx

    class UNet(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(1, 2, (3, 3), rngs=rngs)
            self.down = nnx.Conv(2, 3, (2, 2), strides=(2, 2), rngs=rngs)
            self.up = nnx.ConvTranspose(3, 2, (2, 2), strides=(2, 2), rngs=rngs)
            self.last = nnx.Conv(4, 1, (3, 3), rngs=rngs)

        def __call__(self, x):
            skip = nnx.silu(self.first(x))
            x = nnx.silu(self.up(nnx.silu(self.down(skip))))
            return self.last(jnp.concatenate([skip, x], -1))

    return nnx_model(UNet(nnx.Rngs(0)))


# --- Flax Linen -----------------------------------------------------------------------------------


def linen_model(body, x):
    """`f(params, x)` of one compact `body(x)`, with the other collections fixed."""
    from flax import linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return body(x)

    variables = Model().init(jax.random.key(0), x)
    rest = {name: _float64(tree) for name, tree in variables.items() if name != "params"}
    return lambda params, x: Model().apply({"params": params, **rest}, x), variables["params"]


@model("flax", smooth=False)
def linen_mlp(x):
    from flax import linen as nn

    return linen_model(lambda x: nn.Dense(2)(nn.relu(nn.Dense(5)(x))), x)


@model("flax", x=(4, 4, 1))
def linen_cnn(x):
    from flax import linen as nn

    def body(x):
        x = nn.avg_pool(nn.gelu(nn.Conv(3, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(2)(nn.GroupNorm(num_groups=1)(x).reshape(len(x), -1))

    return linen_model(body, x)


@model("flax", x=(4, 4, 2), smooth=False)
def linen_resnet(x):
    from flax import linen as nn

    def body(x):
        y = nn.BatchNorm(use_running_average=True)(nn.Conv(2, (3, 3), use_bias=False)(x))
        y = nn.BatchNorm(use_running_average=True)(nn.Conv(2, (3, 3), use_bias=False)(nn.relu(y)))
        return nn.Dense(2)(nn.relu(x + y).mean((1, 2)))

    return linen_model(body, x)


@model("flax", x=integers(0, 5, 3))
def linen_transformer(x):
    from flax import linen as nn

    def body(ids):
        embed = nn.Embed(5, 4)
        x = embed(ids) + nn.Embed(3, 4)(jnp.arange(3))
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=nn.make_causal_mask(ids))
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(6)(nn.LayerNorm()(x))))
        return embed.attend(x.mean(1))

    return linen_model(body, x)


@model("flax", x=(3, 4))
def linen_mixer(x):
    from flax import linen as nn

    def body(x):
        y = nn.Dense(3)(nn.gelu(nn.Dense(5)(nn.LayerNorm()(x).swapaxes(1, 2))))
        x = x + y.swapaxes(1, 2)
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(5)(nn.LayerNorm()(x))))
        return nn.Dense(2)(x.mean(1))

    return linen_model(body, x)


@model("flax", x=(4, 4, 1))
def linen_unet(x):
    from flax import linen as nn

    def body(x):
        skip = nn.silu(nn.Conv(2, (3, 3))(x))
        x = nn.silu(nn.Conv(3, (2, 2), strides=(2, 2))(skip))
        x = nn.silu(nn.ConvTranspose(2, (2, 2), strides=(2, 2))(x))
        return nn.Conv(1, (3, 3))(jnp.concatenate([skip, x], -1))

    return linen_model(body, x)


@model("flax", x=(3, 2))
def linen_lstm(x):
    from flax import linen as nn

    return linen_model(
        lambda x: nn.RNN(nn.OptimizedLSTMCell(2, param_dtype=jnp.float64))(x)[:, -1], x
    )


# --- Equinox: modules of one example, pytrees themselves ------------------------------------------


def equinox_model(module):
    """`f(params, x)` with the module's floating arrays as `params`."""
    import equinox as eqx

    params, static = eqx.partition(module, eqx.is_inexact_array)
    return lambda params, x: jax.vmap(eqx.combine(params, static))(x), params


@model("equinox", smooth=False)
def equinox_mlp(x):
    import equinox as eqx

    return equinox_model(eqx.nn.MLP(4, 2, 5, 2, key=jax.random.key(0)))


@model("equinox", smooth=False)
def equinox_mlp_itself(x):
    """The module as `params`: its leaves are arrays and functions."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0))
    first, last = eqx.nn.Linear(4, 5, key=keys[0]), eqx.nn.Linear(5, 2, key=keys[1])

    class Net(eqx.Module):
        first: eqx.nn.Linear
        activation: Callable
        last: eqx.nn.Linear

        def __call__(self, x):
            return self.last(self.activation(self.first(x)))

    return lambda net, x: jax.vmap(net)(x), Net(first, jax.nn.relu, last)


@model("equinox", x=(1, 6, 6), smooth=False)
def equinox_cnn(x):
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 3)
    return equinox_model(
        eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(1, 2, 3, key=keys[0]),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.AvgPool2d(2, 2),
                eqx.nn.Conv2d(2, 2, 2, key=keys[1]),
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.Linear(2, 2, key=keys[2]),
            ]
        )
    )


@model("equinox", x=(3, 4))
def equinox_attention(x):
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0))
    net = {
        "norm": eqx.nn.LayerNorm(4),
        "attention": eqx.nn.MultiheadAttention(2, 4, key=keys[0]),
        "head": eqx.nn.Linear(4, 2, key=keys[1]),
    }
    params, static = eqx.partition(net, eqx.is_inexact_array)

    def f(params, x):
        net = eqx.combine(params, static)

        def of_one(x):
            y = jax.vmap(net["norm"])(x)
            return net["head"](jnp.mean(x + net["attention"](y, y, y), 0))

        return jax.vmap(of_one)(x)

    return f, params


def equinox_recurrent(cell, initial):
    """`f(params, x)` that scans a cell over the axis of time."""
    import equinox as eqx

    params, static = eqx.partition(cell, eqx.is_inexact_array)

    def f(params, x):
        cell = eqx.combine(params, static)

        def of_one(x):
            return jax.lax.scan(lambda h, a: (cell(a, h), None), initial(), x)[0]

        return jax.vmap(of_one)(x)

    return f, params


@model("equinox", x=(3, 2))
def equinox_lstm(x):
    import equinox as eqx

    cell = eqx.nn.LSTMCell(2, 2, key=jax.random.key(0))
    return equinox_recurrent(cell, lambda: (jnp.zeros(2), jnp.zeros(2)))


@model("equinox", x=(3, 2))
def equinox_gru(x):
    import equinox as eqx

    return equinox_recurrent(eqx.nn.GRUCell(2, 2, key=jax.random.key(0)), lambda: jnp.zeros(2))


# --- Haiku ----------------------------------------------------------------------------------------


def haiku_model(body, x):
    import haiku as hk

    transformed = hk.without_apply_rng(hk.transform(body))
    return transformed.apply, transformed.init(jax.random.key(0), x)


@model("haiku", smooth=False)
def haiku_mlp(x):
    import haiku as hk

    return haiku_model(lambda x: hk.nets.MLP([5, 2])(x), x)


@model("haiku", x=(4, 4, 1), smooth=False)
def haiku_conv(x):
    import haiku as hk

    def body(x):
        x = jax.nn.relu(hk.Conv2D(2, 3)(x))
        return hk.Linear(2)(hk.LayerNorm(-1, True, True)(x).mean((1, 2)))

    return haiku_model(body, x)


@model("haiku", x=(3, 2))
def haiku_lstm(x):
    import haiku as hk

    def body(x):
        lstm = hk.LSTM(2)
        return hk.dynamic_unroll(lstm, x.swapaxes(0, 1), lstm.initial_state(len(x)))[0][-1]

    return haiku_model(body, x)
