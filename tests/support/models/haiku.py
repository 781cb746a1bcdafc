"""Models of Haiku."""

import jax
import jax.numpy as jnp

from support.cases.table import integers
from support.models.table import model


def haiku_model(body, x):
    import haiku as hk

    transformed = hk.without_apply_rng(hk.transform(body))
    return transformed.apply, transformed.init(jax.random.key(0), x)


@model("haiku", smooth=False)
def haiku_mlp(x):
    import haiku as hk

    return haiku_model(lambda x: hk.nets.MLP([5, 2])(x), x)


@model("haiku", x=(4, 4, 1), smooth=False, core=True)
def haiku_conv(x):
    import haiku as hk

    def body(x):
        x = jax.nn.relu(hk.Conv2D(2, 3)(x))
        return hk.Linear(2)(hk.LayerNorm(-1, True, True)(x).mean((1, 2)))

    return haiku_model(body, x)


@model("haiku", x=(3, 2), core=True)
def haiku_lstm(x):
    import haiku as hk

    def body(x):
        lstm = hk.LSTM(2)
        return hk.dynamic_unroll(lstm, x.swapaxes(0, 1), lstm.initial_state(len(x)))[0][-1]

    return haiku_model(body, x)


@model("haiku", x=(4, 4, 1), smooth=False)
def haiku_resnet(x):
    import haiku as hk

    def body(x, training):
        def norm(x):
            return hk.BatchNorm(True, True, 0.9)(x, is_training=training)

        x = jax.nn.relu(norm(hk.Conv2D(2, 3, with_bias=False)(x)))
        x = x + hk.Conv2D(2, 3)(jax.nn.relu(norm(x)))
        x = hk.Conv2D(3, 1, stride=2)(x) + hk.Conv2D(3, 3, stride=2)(jax.nn.relu(x))
        return hk.Linear(2)(x.mean((1, 2)))

    transformed = hk.without_apply_rng(hk.transform_with_state(body))
    params, state = transformed.init(jax.random.key(0), x, True)
    return lambda params, x: transformed.apply(params, state, x, False)[0], params


@model("haiku", x=integers(0, 5, 3))
def haiku_transformer(x):
    import haiku as hk

    def norm(x):
        return hk.LayerNorm(-1, True, True)(x)

    def body(ids):
        x = hk.Embed(5, 4)(ids)
        x = x + hk.get_parameter("position", (3, 4), init=hk.initializers.RandomNormal())
        mask = jnp.tril(jnp.ones((1, 1, 3, 3), bool))
        y = norm(x)
        x = x + hk.MultiHeadAttention(2, 2, w_init=hk.initializers.RandomNormal(0.5), model_size=4)(
            y, y, y, mask=mask
        )
        x = x + hk.Linear(4)(jax.nn.gelu(hk.Linear(6)(norm(x))))
        return hk.Linear(2)(x.mean(1))

    return haiku_model(body, x)


@model("haiku", x=(3, 4))
def haiku_mixer(x):
    import haiku as hk

    def norm(x):
        return hk.LayerNorm(-1, True, True)(x)

    def body(x):
        y = jax.nn.gelu(hk.Linear(5)(norm(x).swapaxes(1, 2)))
        x = x + hk.Linear(3)(y).swapaxes(1, 2)
        x = x + hk.Linear(4)(jax.nn.gelu(hk.Linear(5)(norm(x))))
        return hk.Linear(2)(x.mean(1))

    return haiku_model(body, x)


@model("haiku", x=(4, 4, 1))
def haiku_unet(x):
    import haiku as hk

    def body(x):
        skip = jax.nn.silu(hk.Conv2D(2, 3)(x))
        x = jax.nn.silu(hk.Conv2D(3, 2, stride=2)(skip))
        x = jax.nn.silu(hk.Conv2DTranspose(2, 2, stride=2)(x))
        return hk.Conv2D(1, 3)(jnp.concatenate([skip, x], -1))

    return haiku_model(body, x)
