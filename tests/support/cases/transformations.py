"""Control flow and transformations inside `f`, and custom rules."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from support.cases.functions import scan
from support.cases.table import case, each, value

# --- control flow and transformations inside ------------------------------------------------------

case("jit", lambda x, w: jax.jit(lambda x, w: jnp.tanh(x @ w))(x, w), w=(4, 2))
case("jit_in_jit", lambda x, w: jax.jit(lambda x: jax.jit(jnp.matmul)(jnp.tanh(x), w))(x), w=(4, 2), polynomial=1, core=True, kinds="dense")
case("jit_returns_weight", lambda x, w: x @ jax.jit(lambda w: (w.T, w))(w)[0], w=(2, 4), polynomial=1)
case("jit_called_twice", lambda x, w: (g := jax.jit(lambda h: jnp.tanh(h @ w)))(g(x)), w=(4, 4))
case("named_call", lambda x, w: jax.named_call(lambda x, w: jnp.tanh(x @ w), name="layer")(x, w), w=(4, 2))
case("named_scope", lambda x, w: jax.named_scope("layer")(lambda x: x @ w)(x), w=(4, 2), polynomial=1)
case("closure", lambda x, w: (lambda layer: layer(jnp.tanh(layer(x))))(lambda h: h @ w), w=(4, 4))
case("checkpoint", lambda x, w, v: jax.checkpoint(lambda x: jnp.tanh(x @ w) @ v)(x), w=(4, 3), v=(3, 2), kinds="dense")
case("checkpoint_policy", lambda x, w, v: jax.checkpoint(lambda x, w, v: jnp.tanh(x @ w) @ v, policy=jax.checkpoint_policies.dots_saveable)(x, w, v), w=(4, 3), v=(3, 2), core=True)
case("vmap_inside", lambda x, w: jax.vmap(lambda a: jnp.tanh(w @ a))(x), w=(2, 4), core=True, kinds="dense")
case("vmap_of_out_axis", lambda x, w: jax.vmap(lambda a: jnp.tanh(w @ a), out_axes=1)(x).T, w=(2, 4))
case("ensemble", lambda x, w, v: jax.vmap(lambda w, v: jnp.tanh(x @ w) @ v, out_axes=1)(w, v), w=(2, 4, 3), v=(2, 3, 1), core=True)
case("ensemble_in_axes", lambda x, w: jax.vmap(jnp.matmul, (None, 2), 1)(x, w), w=(4, 2, 3), polynomial=1)
case("gradient_inside", each(lambda x, w: jax.grad(lambda a: jnp.sum(jnp.tanh(a @ w) ** 2))(x)), x=(3,), w=(3, 3), core=True)
case("gradient_in_weights_inside", each(lambda x, w: x[:2] @ jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w) ** 2))(w)[:2]), x=(3,), w=(3, 2))
case("gradient_of_batch_energy", lambda x, w, v: jax.grad(lambda a: jnp.sum(jnp.tanh(a @ w) @ v))(x), x=(3,), w=(3, 3), v=(3,))
case("jvp_inside", lambda x, w: jax.jvp(lambda a: jnp.tanh(a @ w), (x,), (x**2,))[1], w=(4, 2), core=True)
case("hessian_inside", each(lambda x, w: jax.hessian(lambda a: jnp.sum(jnp.tanh(a @ w)))(x)), x=(2,), w=(2, 3))
case("inner_gradient_step", lambda x, w: jnp.tanh(x @ (w - 0.1 * jax.grad(lambda w: jnp.sum(jnp.tanh(np.eye(4) @ w) ** 2))(w))), w=(4, 2))
case("cond_on_weight", lambda x, w, v: lax.cond(w.sum() > 0, lambda: jnp.tanh(x @ w), lambda: x @ v), w=(4, 2), v=(4, 2), smooth=False, core=True)
case("cond_on_input", each(lambda x, w, v: lax.cond(x[0] > 0, lambda: jnp.tanh(x @ w), lambda: x @ v)), w=(4, 2), v=(4, 2), core=True)
case("cond_on_flag", lambda x, w, v, flag: lax.cond(flag, lambda w, v: x @ w, lambda w, v: jnp.sin(x @ v), w, v), w=(4, 2), v=(4, 2), flag=value(lambda: jnp.array(True)))
case("cond_picks_weight", lambda x, w, v, flag: x @ lax.cond(flag, lambda w, v: w, lambda w, v: 2 * v, w, v), w=(4, 2), v=(4, 2), flag=value(lambda: jnp.array(False)), polynomial=1)
case("cond_without_weights", lambda x, w, flag: lax.cond(flag, jnp.tanh, jnp.sin, x) @ w, w=(4, 2), flag=value(lambda: jnp.array(True)), polynomial=1)
case("switch", each(lambda x, w: lax.switch(jnp.argmax(x), [lambda a: a @ w, lambda a: jnp.tanh(a @ w), lambda a: a[:2] * w[0]], x)), x=(3,), w=(3, 2))
case("select_n", lambda x, w: x @ lax.select_n(jnp.array(1), w[0], w[1], w[2]), w=(3, 4, 2), polynomial=1)
case("dropout", lambda x, w: jnp.where(jax.random.bernoulli(jax.random.key(3), 0.5, (4,)), jnp.tanh(x * w) / 0.5, 0.0), w=(4,), core=True)
case("noise_on_weights", lambda x, w: x @ (w + 0.1 * jax.random.normal(jax.random.key(3), (4, 2), x.dtype)), w=(4, 2), polynomial=1)
case("optimization_barrier", lambda x, w: jnp.tanh(x @ lax.optimization_barrier(w)), w=(4, 2))


# --- custom rules ---------------------------------------------------------------------------------

# Their rules call themselves: else JAX takes the rule for the first derivative and the value's own
# for the next, and an expansion the rule for all.


@jax.custom_jvp
def thrice_jvp(w, x):
    """`w x`, with three times its derivative in `w`."""
    return w * x


@thrice_jvp.defjvp
def _(primals, tangents):
    (w, x), (dw, dx) = primals, tangents
    return thrice_jvp(w, x), 3 * dw * x + w * dx


@jax.custom_vjp
def thrice_vjp(w, x):
    """`x @ w`, with three times its derivative in `w`."""
    return x @ w


thrice_vjp.defvjp(lambda w, x: (thrice_vjp(w, x), (w, x)), lambda r, g: (3 * r[1].T @ g, g @ r[0].T))


@jax.custom_vjp
def straight_through(y):
    """The sign, with the identity for its derivative."""
    return jnp.sign(y)


straight_through.defvjp(lambda y: (jnp.sign(y), None), lambda _, g: (g,))


@jax.custom_jvp
def bumpy(y):
    """The sine, with an untrue derivative."""
    return jnp.sin(y)


bumpy.defjvps(lambda dy, out, y: 2 * dy * y)

case("custom_jvp_of_weight", lambda x, w: thrice_jvp(w, x), w=(4,), core=True)
case("custom_jvp_of_weight_view", lambda x, w: thrice_jvp(2.0 * w.T, x), w=(4, 1), x=(4,))
case("custom_jvp_of_activation", lambda x, w: bumpy(x @ w), w=(4, 2))
case("custom_jvp_in_scan", lambda x, w: scan(lambda h, w: thrice_jvp(w, h), x, w), w=(3, 4))
case("custom_vjp_of_weight", lambda x, w: thrice_vjp(w, x), w=(4, 2), forward=False, core=True)
case("custom_vjp_of_weight_view", lambda x, w: thrice_vjp(w.reshape(4, 2), x), w=(8,), forward=False)
case("custom_vjp_of_activation", lambda x, w, v: straight_through(x @ w) @ v, w=(4, 3), v=(3, 2), forward=False, core=True)
case("custom_vjp_of_weight_only", lambda x, w: x @ straight_through(w), w=(4, 2), forward=False)
case("custom_vjp_in_scan", lambda x, w: scan(lambda h, _: jnp.tanh(thrice_vjp(w, h)), x, None, length=2), x=(3,), w=(3, 3), forward=False)


# --- What is set around an equation ---------------------------------------------------------------


@case(w=(4, 2), kinds="scale")
def other_random_numbers(x, w):
    with jax.threefry_partitionable(False):
        key, _ = jax.random.split(jax.random.key(0))
        return x @ (w * jax.random.normal(key, w.shape))


@case(w=(4, 2), core=True)
def other_random_numbers_of_parameters(x, w):
    with jax.threefry_partitionable(False):
        return jnp.sin(x @ jax.random.gamma(jax.random.key(0), jnp.exp(w)))
