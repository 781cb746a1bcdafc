"""Models of Flax: NNX and Linen."""

import jax
import jax.numpy as jnp
import numpy as np

from support.cases.table import integers
from support.models.table import in_float64, model

# --- Flax NNX -------------------------------------------------------------------------------------


def nnx_model(module):
    """`f(params, x)` with the module's `nnx.Param`s as `params` and all other state fixed."""
    from flax import nnx

    graph, params, rest = nnx.split(module, nnx.Param, ...)
    rest = in_float64(rest)
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


@model("flax", x=(4, 4, 2), smooth=False, core=True)
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


@model("flax", x=(4, 4, 1), core=True)
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
    rest = {name: in_float64(tree) for name, tree in variables.items() if name != "params"}
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


@model("flax", x=integers(0, 5, 3), core=True)
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
