"""Recurrent networks and stacks of layers; `Ref`s, written in place."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp
from jax import lax

from support.cases.functions import conv, scan, standardise, time_first, zeros
from support.cases.table import case, each, integers

# --- recurrent and scan ---------------------------------------------------------------------------

case("scan_layers", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, w), x=(3,), w=(3, 3, 3), core=True, kinds="dense", factors={"w": "A[1, 3, 3] G[3, 1, 3, 3]"})
case("scan_layers_linear", lambda x, w: scan(jnp.matmul, x, w), x=(3,), w=(3, 3, 3), polynomial=3)
case("scan_layers_bias", lambda x, w, b: scan(lambda h, p: h + jnp.tanh(h @ p[0] + p[1]), x, (w, b)), x=(3,), w=(3, 3, 3), b=(3, 3), core=True, kinds="bias dense")
case("scan_layers_checkpoint", lambda x, w: scan(jax.checkpoint(lambda h, w: jnp.tanh(h @ w)), x, w), x=(3,), w=(3, 3, 3), core=True, kinds="dense", factors={"w": "A[1, 3, 3] G[3, 1, 3, 3]"})
case("scan_layers_unroll", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, w, unroll=2), x=(3,), w=(3, 3, 3), kinds="dense")
case("scan_layers_reverse", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, w, reverse=True), x=(3,), w=(3, 3, 3), kinds="dense")
case("scan_layers_reshaped", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w.T), x, w.reshape(2, 3, 3)), x=(3,), w=(6, 3), kinds="dense")
case("scan_layers_scaled", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, 0.5 * w), x=(3,), w=(3, 3, 3), kinds="dense")
case("scan_layers_gain", lambda x, w, g: scan(lambda h, p: jnp.tanh(h @ p[0]) * p[1], x, (w, g)), x=(3,), w=(3, 3, 3), g=(3, 3), kinds="dense scale")
case("scan_length_one", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, w), x=(3,), w=(1, 3, 3), core=True, kinds="dense")
case("scan_length_zero", lambda x, w, v: scan(lambda h, w: jnp.tanh(h @ w), x @ v, w), x=(3,), w=(0, 2, 2), v=(3, 2), core=True)
case("scan_conv_layers", lambda x, w: scan(lambda h, w: jnp.tanh(conv(h, w, padding="SAME")), x, w).mean((2, 3)), x=(2, 3, 3), w=(2, 2, 2, 3, 3), kinds="conv")
case("scan_constants_only", lambda x, w: scan(lambda h, _: jnp.tanh(h @ w), x, None, length=3), x=(3,), w=(3, 3))
case("scan_data_only", lambda x, w: scan(lambda h, a: h + jnp.tanh(a), zeros(x, 4), time_first(x)) @ w, x=(3, 4), w=(4, 2), polynomial=1)
case("rnn", lambda x, w, u, b: scan(lambda h, a: jnp.tanh(a @ w + h @ u + b), zeros(x, 3), time_first(x)), x=(3, 2), w=(2, 3), u=(3, 3), b=(3,), core=True, kinds="bias dense", factors={"w": "A[3, 1, 2] G[3, 3, 1, 3]", "u": "A[3, 1, 3] G[3, 3, 1, 3]"})
case("rnn_reverse", lambda x, w, u: scan(lambda h, a: jnp.tanh(a @ w + h @ u), zeros(x, 3), time_first(x), reverse=True), x=(3, 2), w=(2, 3), u=(3, 3), core=True, kinds="dense")
case("rnn_unroll", lambda x, w, u: scan(lambda h, a: jnp.tanh(a @ w + h @ u), zeros(x, 3), time_first(x), unroll=2), x=(5, 2), w=(2, 3), u=(3, 3), kinds="dense")
case("rnn_initial_state", lambda x, h, u: scan(lambda h, a: jnp.tanh(a + h @ u), jnp.broadcast_to(h, (len(x), 3)), time_first(x)), x=(3, 3), h=(3,), u=(3, 3), core=True, kinds="dense returned")
case("rnn_tied_to_head", lambda x, u: scan(lambda h, a: jnp.tanh(a + h @ u), zeros(x, 3), time_first(x)) @ u, x=(3, 3), u=(3, 3), kinds="dense")
case("rnn_vmapped", each(lambda x, u, h: scan(lambda h, a: jnp.tanh(a + u @ h), h, x)), x=(3, 3), u=(3, 3), h=(3,), kinds="dense returned")
case("rnn_scalar_gain", lambda x, s, u: scan(lambda h, a: jnp.tanh(a + s * (h @ u)), zeros(x, 3), time_first(x)), x=(3, 3), s=(), u=(3, 3))
case("rnn_embedding", lambda x, w, u: scan(lambda h, i: jnp.tanh(w[i] + h @ u), zeros(x, 3), time_first(x)), x=integers(0, 4, 3), w=(4, 3), u=(3, 3))
case("rnn_outputs", lambda x, u: time_first(lax.scan(lambda h, a: (jnp.tanh(a + h @ u),) * 2, zeros(x, 2), time_first(x))[1]), x=(3, 2), u=(2, 2))
case("scan_data_and_weights", lambda x, w, u: scan(lambda h, p: jnp.tanh(p[0] @ p[1] + h @ u), zeros(x, 3), (time_first(x), w)), x=(3, 2), w=(3, 2, 3), u=(3, 3), core=True)
case("scan_weight_as_carry", lambda x, w: scan(lambda c, _: (jnp.tanh(c[0] @ c[1]), c[1] * 0.9), (x, w), None, length=3)[0], x=(3,), w=(3, 3), core=True)
case("scan_weight_in_carry_kept", lambda x, w: scan(lambda c, _: (jnp.tanh(c[0] @ c[1]), c[1]), (x, w), None, length=2)[0], x=(3,), w=(3, 3))
case("scan_carry_made_of_weight", lambda x, w, v: x @ scan(lambda c, v: c @ v, w, v), x=(3,), w=(3, 2), v=(2, 2, 2), polynomial=3)
case("scan_returns_weight_slices", lambda x, w: jnp.einsum("ni,kij->nkj", x, lax.scan(lambda c, w: (c, w.T), 0, w)[1]), x=(3,), w=(2, 2, 3), polynomial=1)
case("scan_returns_constant_weight", lambda x, w: jnp.einsum("ni,kij->nkj", x, lax.scan(lambda c, _: (c, w), 0, None, length=2)[1]), x=(3,), w=(3, 2), polynomial=1, core=True)
case("scan_counts", lambda x, w: lax.scan(lambda c, w: ((c[0] + 1, c[1] @ w * c[0]), None), (1, x), w)[0][1], x=(3,), w=(3, 3, 3), polynomial=3)
case("scan_indexes_weights", lambda x, w: scan(lambda h, i: jnp.tanh(h @ w[i]), x, jnp.arange(3)), x=(3,), w=(3, 3, 3))
case("map", lambda x, w: lax.map(lambda a: jnp.tanh(a @ w), x), w=(4, 2), core=True, kinds="dense")
case("map_batches", lambda x, w: lax.map(lambda a: jnp.tanh(a @ w), x, batch_size=2), w=(4, 2))
case("map_over_weights", lambda x, w: time_first(lax.map(lambda w: jnp.tanh(x @ w), w)), w=(3, 4, 2))
case("fori_loop", lambda x, w: lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ w + i), x), x=(3,), w=(3, 3), core=True)
case("fori_loop_indexes_weights", lambda x, w: lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ w[i]), x), x=(3,), w=(2, 3, 3))
case("while_loop", lambda x, w: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0, x))[1], x=(3,), w=(3, 3), reverse=False, core=True)
case("solve_without_transpose", each(lambda x, w: lax.custom_linear_solve(lambda v: 0.7 * v, jnp.tanh(w * x), lambda _, b: b / 0.7)), x=(3,), w=(3,), reverse=False, core=True)
case("while_loop_of_data", lambda x, w: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(2 * c[1])), (0, x))[1] @ w, x=(3,), w=(3, 2), polynomial=1)
case("fori_loop_dynamic", each(lambda x, w: lax.fori_loop(0, 1 + jnp.argmax(x), lambda i, h: jnp.tanh(h @ w), x)), x=(3,), w=(3, 3), reverse=False, smooth=False)
case("associative_scan", lambda x, a, b: lax.associative_scan(lambda l, r: (l[0] * r[0], l[1] * r[0] + r[1]), (jnp.broadcast_to(a, x.shape), x * b), axis=1)[1], x=(4, 2), a=(2,), b=(2,), polynomial=4, core=True)


@case(x=(3, 2), w=(2, 8), u=(2, 8), b=(8,), core=True, kinds="bias dense", factors={"w": "A[3, 1, 2] G[2, 3, 1, 8]", "u": "A[3, 1, 2] G[2, 3, 1, 8]"})
def lstm(x, w, u, b):
    def step(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(x @ w + h @ u + b, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    return scan(step, (zeros(x, 2), zeros(x, 2)), time_first(x))[0]


@case(x=(3, 2), w=(2, 6), u=(2, 6), b=(6,), h=(2,), kinds="bias dense returned")
def gru(x, w, u, b, h):
    def step(h, x):
        (r, z, n), (hr, hz, hn) = jnp.split(x @ w + b, 3, -1), jnp.split(h @ u, 3, -1)
        z = jax.nn.sigmoid(z + hz)
        return (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * h

    return scan(step, jnp.broadcast_to(h, (len(x), 2)), time_first(x))


@case(x=(2, 3), w=(2, 3, 3), u=(3, 3), core=True, kinds="dense", factors={"w": "A[2, 2, 3] G[3, 2, 2, 3]", "u": "A[4, 1, 3] G[3, 4, 1, 3]"})
def scan_in_scan(x, w, u):
    def over_layers(h, x):
        return scan(lambda h, w: jnp.tanh(h @ w + x @ u), h, w)

    return scan(over_layers, zeros(x, 3), time_first(x))


@case(x=(3,), w=(2, 2, 3, 3), kinds="dense")
def scan_in_scan_of_stacks(x, w):
    return scan(lambda h, w: scan(lambda h, w: jnp.tanh(h @ w), h, w), x, w)


@case(x=(3,), w=(3, 3, 3), u=(3, 3))
def scan_with_jit_and_cond(x, w, u):
    def step(h, layer):
        i, w = layer
        h = lax.cond(i % 2 == 0, jnp.tanh, jnp.sin, h)
        return jax.jit(lambda h, w: h @ w + h @ u)(h, w)

    return scan(step, x, (jnp.arange(3), w))


@case(x=(3, 4), w=(2, 4, 6), g=(2, 4), o=(2, 2, 4), head=(4, 2), core=True, kinds="dense scale")
def scan_transformer(x, w, g, o, head):
    def block(h, p):
        w, g, o = p
        q, k, v = jnp.split((standardise(h) * g) @ w, 3, axis=-1)
        return h + jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v @ o

    return scan(jax.checkpoint(block), x, (w, g, o)).mean(1) @ head


@case(x=(4, 2), a=(2,), b=(2, 2), c=(2, 2))
def state_space(x, a, b, c):
    def step(h, u):
        h = jnp.exp(-jnp.exp(a)) * h + u @ b
        return h, h @ c

    return lax.scan(step, zeros(x, 2), time_first(x))[1][-1]


# --- Refs, written in place -----------------------------------------------------------------------

@case(x=(4,), w=(2, 4, 3), core=True)
def ref_summed_in_scan(x, w):
    total = jax.new_ref(zeros(x, 3))

    def add(carry, w):
        total[...] += jnp.tanh(x @ w)
        return carry, None

    lax.scan(add, 0, w)
    return total[...]


@case(x=(4,), w=(4, 3), u=(3, 2), core=True)
def ref_filled_in_loop(x, w, u):
    h = jax.new_ref(zeros(x, 3))

    def fill(i, carry):  # JAX 0.10.2 has no derivative of `h[:, i] = ...`
        row = jnp.tanh(x @ lax.dynamic_index_in_dim(w, i, 1, keepdims=True))
        h[...] = jnp.where(jnp.arange(3) == i, row, h[...])
        return carry

    lax.fori_loop(0, 3, fill, 0)
    return h[...] @ u


@case(x=(4,), w=(4, 3), s=())
def ref_holds_a_scale(x, w, s):
    scale = jax.new_ref(jnp.array(1.0))
    scale[...] = scale[...] * jnp.sin(s) * jnp.sum(w)
    return x @ (w * scale[...])


@case(x=(4,), w=(4, 3), b=(3,))
def ref_added_to(x, w, b):
    y = jax.new_ref(jnp.tanh(x @ w))
    jax.ref.addupdate(y, ..., jnp.broadcast_to(b, (len(x), 3)))
    jax.jit(lambda y: jax.ref.addupdate(y, ..., x[:, :3] * b))(y)
    return y[...]
