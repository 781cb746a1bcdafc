"""Models of Equinox: modules of one example, pytrees themselves."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from support.cases.table import integers
from support.models.table import model


def equinox_model(module):
    """`f(params, x)` with the module's floating arrays as `params`."""
    import equinox as eqx

    params, static = eqx.partition(module, eqx.is_inexact_array)
    return lambda params, x: jax.vmap(eqx.combine(params, static))(x), params


@model("equinox", smooth=False)
def equinox_mlp(x):
    import equinox as eqx

    return equinox_model(eqx.nn.MLP(4, 2, 5, 2, key=jax.random.key(0)))


@model("equinox", smooth=False, core=True)
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


@model("equinox", x=(3, 2), core=True)
def equinox_gru(x):
    import equinox as eqx

    return equinox_recurrent(eqx.nn.GRUCell(2, 2, key=jax.random.key(0)), lambda: jnp.zeros(2))


@model("equinox", x=(1, 4, 4))
def equinox_resnet(x):
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 5)

    class ResNet(eqx.Module):
        first: eqx.nn.Conv2d
        norm: eqx.nn.GroupNorm
        inner: eqx.nn.Conv2d
        skip: eqx.nn.Conv2d
        down: eqx.nn.Conv2d
        head: eqx.nn.Linear

        def __call__(self, x):
            x = jax.nn.silu(self.norm(self.first(x)))
            x = x + self.inner(jax.nn.silu(x))
            x = self.skip(x) + self.down(jax.nn.silu(x))
            return self.head(x.mean((1, 2)))

    return equinox_model(
        ResNet(
            eqx.nn.Conv2d(1, 2, 3, padding=1, key=keys[0]),
            eqx.nn.GroupNorm(1, 2),
            eqx.nn.Conv2d(2, 2, 3, padding=1, key=keys[1]),
            eqx.nn.Conv2d(2, 3, 1, stride=2, key=keys[2]),
            eqx.nn.Conv2d(2, 3, 2, stride=2, key=keys[3]),
            eqx.nn.Linear(3, 2, key=keys[4]),
        )
    )


@model("equinox", x=integers(0, 5, 3), core=True)
def equinox_transformer(x):
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 6)

    class Transformer(eqx.Module):
        embed: eqx.nn.Embedding
        position: jax.Array
        norm: eqx.nn.LayerNorm
        attention: eqx.nn.MultiheadAttention
        rms: eqx.nn.RMSNorm
        mlp: eqx.nn.MLP
        head: eqx.nn.Linear

        def __call__(self, ids):
            x = jax.vmap(self.embed)(ids) + self.position
            y = jax.vmap(self.norm)(x)
            x = x + self.attention(y, y, y, mask=jnp.tril(jnp.ones((3, 3), bool)))
            x = x + jax.vmap(self.mlp)(jax.vmap(self.rms)(x))
            return self.head(x.mean(0))

    return equinox_model(
        Transformer(
            eqx.nn.Embedding(5, 4, key=keys[0]),
            jax.random.normal(keys[1], (3, 4)),
            eqx.nn.LayerNorm(4),
            eqx.nn.MultiheadAttention(2, 4, key=keys[2]),
            eqx.nn.RMSNorm(4),
            eqx.nn.MLP(4, 4, 6, 1, jax.nn.gelu, key=keys[3]),
            eqx.nn.Linear(4, 2, key=keys[4]),
        )
    )


@model("equinox", x=(3, 4))
def equinox_mixer(x):
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 3)

    class Mixer(eqx.Module):
        norm1: eqx.nn.LayerNorm
        tokens: eqx.nn.MLP
        norm2: eqx.nn.LayerNorm
        channels: eqx.nn.MLP
        head: eqx.nn.Linear

        def __call__(self, x):
            x = x + jax.vmap(self.tokens, 1, 1)(self.norm1(x))
            x = x + jax.vmap(self.channels)(self.norm2(x))
            return self.head(x.mean(0))

    return equinox_model(
        Mixer(
            eqx.nn.LayerNorm((3, 4)),
            eqx.nn.MLP(3, 3, 5, 1, jax.nn.gelu, key=keys[0]),
            eqx.nn.LayerNorm((3, 4)),
            eqx.nn.MLP(4, 4, 5, 1, jax.nn.gelu, key=keys[1]),
            eqx.nn.Linear(4, 2, key=keys[2]),
        )
    )


@model("equinox", x=(1, 4, 4))
def equinox_unet(x):
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 4)

    class UNet(eqx.Module):
        first: eqx.nn.Conv2d
        down: eqx.nn.Conv2d
        up: eqx.nn.ConvTranspose2d
        last: eqx.nn.Conv2d

        def __call__(self, x):
            skip = jax.nn.silu(self.first(x))
            x = jax.nn.silu(self.up(jax.nn.silu(self.down(skip))))
            return self.last(jnp.concatenate([skip, x]))

    return equinox_model(
        UNet(
            eqx.nn.Conv2d(1, 2, 3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(2, 3, 2, stride=2, key=keys[1]),
            eqx.nn.ConvTranspose2d(3, 2, 2, stride=2, key=keys[2]),
            eqx.nn.Conv2d(4, 1, 3, padding=1, key=keys[3]),
        )
    )
