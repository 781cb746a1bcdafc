"""Attention, normalisation and tied weights."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from support.cases.functions import conv, standardise
from support.cases.table import case, value

# --- attention ------------------------------------------------------------------------------------

@case(x=(3, 4), q=(4, 2), k=(4, 2), v=(4, 2))
def attention(x, q, k, v):
    scores = (x @ q) @ (x @ k).swapaxes(1, 2) / np.sqrt(2)
    return jax.nn.softmax(scores) @ (x @ v)


@case(x=(3, 4), q=(4, 2, 2), k=(4, 2, 2), v=(4, 2, 2), o=(2, 2, 2), core=True, kinds="dense")
def attention_heads(x, q, k, v, o):
    q, k, v = (jnp.einsum("nti,ihj->nthj", x, w) for w in (q, k, v))
    scores = jnp.einsum("nthj,nshj->nhts", q, k) / np.sqrt(2)
    return jnp.einsum("nhts,nshj,hjo->nto", jax.nn.softmax(scores), v, o)


@case(x=(3, 4), qkv=(4, 12), o=(4, 2), core=True, kinds="dense")
def attention_causal(x, qkv, o):
    q, k, v = (part.reshape(*x.shape[:2], 2, 2) for part in jnp.split(x @ qkv, 3, axis=-1))
    scores = jnp.einsum("nthj,nshj->nhts", q, k)
    scores = jnp.where(np.tril(np.ones((3, 3), bool)), scores, -1e9)
    heads = jnp.einsum("nhts,nshj->nthj", jax.nn.softmax(scores), v)
    return heads.reshape(*x.shape[:2], 4) @ o


@case(x=(3, 4), q=(2, 4), k=(4, 4), v=(4, 2))
def attention_learned_queries(x, q, k, v):
    return jax.nn.softmax(q @ (x @ k).swapaxes(1, 2)) @ (x @ v)


@case(x=(3, 4), a=(4, 2), b=(4, 2), c=(4, 2), u=(2, 2), kinds="dense")
def attention_linear(x, a, b, c, u):
    q, k, v = jax.nn.elu(x @ a) + 1, jax.nn.elu(x @ b) + 1, x @ c
    state = jnp.einsum("nsi,nsj->nij", k, v)
    return jnp.einsum("nti,nij->ntj", q, state) / jnp.einsum("nti,nsi->nt", q, k)[..., None] @ u


@case(x=(3, 4), w=(3, 4, 4), kinds="dense", tolerance=1e-5)
def dot_product_attention(x, w):
    q, k, v = (jnp.einsum("nti,ij->ntj", x, part).reshape(len(x), 3, 2, 2) for part in w)
    return jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(len(x), 3, 4)[:, :, :2]


# --- normalisation --------------------------------------------------------------------------------

case("layer_norm", lambda x, g, b: standardise(x) * g + b, x=(2, 4), g=(4,), b=(4,), polynomial=1, core=True, kinds="bias scale")
case("layer_norm_after_dense", lambda x, w, g, b: standardise(x @ w) * g + b, w=(4, 3), g=(3,), b=(3,), kinds="bias dense scale")
case("layer_norm_one_plus_gain", lambda x, g: standardise(x) * (1 + g), x=(2, 4), g=(4,), polynomial=1)
case("rms_norm", lambda x, w, g: (x @ w) * lax.rsqrt(jnp.mean((x @ w) ** 2, -1, keepdims=True)) * g, w=(4, 3), g=(3,), core=True, kinds="dense scale")
case("batch_norm_fixed", lambda x, w, g, b: (x @ w - 0.2) / np.sqrt(0.7) * g + b, w=(4, 3), g=(3,), b=(3,), polynomial=2, kinds="bias dense scale")
case("batch_norm_of_batch", lambda x, w, g: standardise(x @ w, 0) * g, w=(4, 3), g=(3,), batched=False, core=True)
case("weight_norm", lambda x, w, g: x @ (g * w / jnp.linalg.norm(w, axis=0)), w=(4, 3), g=(3,), core=True)
case("weight_standardised", lambda x, w: x @ standardise(w, 0), w=(4, 3))
case("normalised_input", lambda x, w: (x / jnp.linalg.norm(x, axis=-1, keepdims=True)) @ w, w=(4, 2), polynomial=1)


@case(x=(2, 2, 4), w=(4, 4), g=(4,), b=(4,), core=True, kinds="bias dense scale")
def group_norm(x, w, g, b):
    groups = (x @ w).reshape(len(x), 2, 2, 2, 2)
    return (standardise(groups, (1, 2, 4)).reshape(x.shape) * g + b).mean((1, 2))


@case(x=(4,), w=(4, 3), core=True, kinds="dense scale")
def spectral_norm(x, w):
    def unit(v):
        return v / jnp.linalg.norm(v)

    u = np.array([0.3, -0.5, 0.8])
    for _ in range(3):
        u = unit(w.T @ unit(w @ u))
    return x @ (w / (unit(w @ u) @ w @ u))


@case(x=(4,), w=(4, 3), u=value(lambda: jnp.array([0.3, -0.5, 0.8])))
def spectral_norm_stopped(x, w, u):
    v = lax.stop_gradient(w @ u / jnp.linalg.norm(w @ u))
    return x @ (w / (v @ w @ lax.stop_gradient(u)))


# --- tied weights ---------------------------------------------------------------------------------

case("tied_alike", lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w), w=(4, 4), core=True, kinds="dense", factors={"w": "A[2, 1, 4] G[4, 2, 1, 4]"})
case("tied_transposed", lambda x, w: jnp.tanh(x @ w) @ w.T, w=(4, 3))
case("tied_autoencoder", lambda x, w, b, c: jnp.tanh(x @ w + b) @ w.T + c, w=(4, 2), b=(2,), c=(4,), core=True)
case("tied_reshaped", lambda x, w: jnp.tanh(x @ w) @ w.reshape(3, 4), w=(4, 3), core=True)
case("tied_reversed", lambda x, w: jnp.tanh(x @ w) @ w[::-1, ::-1], w=(4, 4))
case("tied_dense_and_bias", lambda x, w: x @ w + w[0] * w[1], w=(4, 2), polynomial=2)
case("tied_dense_and_conv", lambda x, w: conv((x @ w)[:, None], w[None, None], padding="SAME"), x=(3, 3), w=(3, 3), polynomial=2)
case("tied_linear", lambda x, w: x @ w @ w @ w, w=(4, 4), polynomial=3)
case("tied_two_lengths", lambda x, w: jnp.tanh(x @ w).sum(1) @ w, x=(3, 4), w=(4, 4), kinds="dense")
case("tied_scaled_twice", lambda x, w: jnp.tanh(x @ (2.0 * w)) @ (w / 3.0), w=(4, 4))
case("siamese", lambda x, w: jnp.sum(jnp.tanh(x["a"] @ w) * jnp.tanh(x["b"] @ w), -1), x={"a": (4,), "b": (4,)}, w=(4, 3))


@case(x=(3, 2), w=(2, 3), u=(3, 3), b=(3,), core=True, kinds="bias dense", factors={"w": "A[3, 1, 2] G[3, 3, 1, 3]", "u": "A[3, 1, 3] G[3, 3, 1, 3]"})
def rnn_unrolled(x, w, u, b):
    h = jnp.zeros((len(x), 3))
    for t in range(3):
        h = jnp.tanh(x[:, t] @ w + h @ u + b)
    return h
