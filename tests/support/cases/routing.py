"""Routing of examples, and adapters on a frozen weight."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from support.cases.table import case, each

# --- routing --------------------------------------------------------------------------------------

SEGMENTS = np.array([0, 1, 0, 1])

case("segment_sum", each(lambda x, w: jax.ops.segment_sum(w * x, SEGMENTS, 2)), w=(4,), polynomial=1, core=True)
case("segment_sum_of_weights", lambda x, w: x[:, :2] @ jax.ops.segment_sum(w, SEGMENTS, 2), w=(4, 2), polynomial=1)
case("segment_max", each(lambda x, w: jax.ops.segment_max(w * x, SEGMENTS, 2)), w=(4,), smooth=False)
case("graph_layer", lambda x, w, v: jnp.tanh(np.tri(3) @ jnp.tanh(np.tri(3) @ x @ w) @ v), x=(3, 4), w=(4, 3), v=(3, 1))
case("one_hot_routing", lambda x, w: jnp.einsum("ne,ni,eij->nj", jax.nn.one_hot(jnp.argmax(x[:, :3], 1), 3, dtype=x.dtype), x, w), w=(3, 4, 2), polynomial=1)
case("gathered_experts", lambda x, w: jnp.einsum("ni,nij->nj", x, w[jnp.argmax(x[:, :3], 1)]), w=(3, 4, 2), polynomial=1, core=True)
case("dense_experts", lambda x, g, w: jnp.einsum("ne,ni,eij->nj", jax.nn.softmax(x @ g), x, w), g=(4, 3), w=(3, 4, 2), kinds="dense")


@case(g=(4, 3), w=(3, 4, 2), smooth=False, core=True, kinds="dense")
def top_k_experts(x, g, w):
    gates, experts = lax.top_k(x @ g, 2)
    gates = jnp.sum(jax.nn.softmax(gates)[..., None] * jax.nn.one_hot(experts, 3, dtype=x.dtype), 1)
    return jnp.einsum("ne,ni,eij->nj", gates, x, w)


@case(g=(4, 3), w=(3, 4, 2), smooth=False)
def top_k_gathered(x, g, w):
    gates, experts = lax.top_k(jax.nn.softmax(x @ g), 2)
    return jnp.einsum("nk,ni,nkij->nj", gates, x, w[experts])


# --- adapters on a frozen weight ------------------------------------------------------------------

case("lora", lambda x, a, b: x @ (np.eye(4, 3) + a @ b), a=(4, 1), b=(1, 3), polynomial=2, core=True, kinds="dense")
case("lora_on_weight", lambda x, w, a, b: x @ (w + 0.5 * (a @ b)), w=(4, 3), a=(4, 1), b=(1, 3), polynomial=2)
case("lora_stopped", lambda x, w, a, b: x @ lax.stop_gradient(w) + (x @ a) @ b, w=(4, 3), a=(4, 1), b=(1, 3), kinds="dense")
case("dora", lambda x, a, b, g: x @ (g * (v := np.eye(4, 3) + a @ b) / jnp.linalg.norm(v, axis=0)), a=(4, 1), b=(1, 3), g=(3,))
case("hypernetwork", each(lambda x, w: jnp.tanh(w @ x).reshape(2, 2) @ x[:2]), w=(4, 4), core=True)
case("hypernetwork_of_weight", lambda x, z, w: x @ jnp.tanh(z @ w).reshape(4, 2), z=(3,), w=(3, 8))
case("film", lambda x, w, g, b: jnp.tanh(x["h"] @ w * (x["z"] @ g) + x["z"] @ b), x={"h": (3,), "z": (2,)}, w=(3, 2), g=(2, 2), b=(2, 2))
