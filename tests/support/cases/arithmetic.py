"""Arithmetic of single equations."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from support.cases.table import case, positive

case("multiply", lambda x, w: w * x, w=(4,), polynomial=1, core=True)
case("multiply_right", lambda x, w: x * w, w=(4,), polynomial=1)
case("add", lambda x, w: w + x, w=(4,), polynomial=1)
case("add_scaled", lambda x, w: x + 0.3 * w, w=(4,), polynomial=1)
case("input_minus_weight", lambda x, w: x - w, w=(4,), polynomial=1)
case("weight_minus_input", lambda x, w: w - x, w=(4,), polynomial=1)
case("input_over_weight", lambda x, w: x / w, w=(4,))
case("weight_over_input", lambda x, w: w / x, w=(4,), polynomial=1, core=True)
case("negate", lambda x, w: -w * x, w=(4,), polynomial=1)
case("square", lambda x, w: w**2 * x, w=(4,), polynomial=2)
case("cube", lambda x, w: (w * x) ** 3, w=(4,), polynomial=3)
case("times_itself", lambda x, w: w * w + w * x, w=(4,), polynomial=2)
case("negative_power", lambda x, w: w**-2 * x, w=(4,))
case("weight_as_exponent", lambda x, w: x**w, x=positive(4), w=(4,))
case("weight_as_base", lambda x, w: w**x, w=positive(4))
case("product_of_two", lambda x, w, v: w * v * x, w=(4,), v=(4,), polynomial=2, core=True)
case("quotient_of_two", lambda x, w, v: w / v * x, w=(4,), v=(4,))
case("exp", lambda x, w: jnp.exp(w * x), w=(4,))
case("log", lambda x, w: jnp.log(w * x), x=positive(4), w=positive(4))
case("tanh", lambda x, w: jnp.tanh(w * x), w=(4,))
case("sin", lambda x, w: jnp.sin(w * x), w=(4,))
case("abs", lambda x, w: jnp.abs(w) * x, w=(4,), smooth=False)
case("sign", lambda x, w, v: jnp.sign(w) * v * x, w=(4,), v=(4,), smooth=False)
case("sqrt_of_softplus", lambda x, w: jnp.sqrt(jax.nn.softplus(w)) * x, w=(4,))
case("logsumexp", lambda x, w: jax.nn.logsumexp(w * x, axis=-1), w=(4,), core=True)
case("softmax_of_weights", lambda x, w: jax.nn.softmax(w) * x, w=(4,))
case("maximum", lambda x, w: jnp.maximum(w, x), w=(4,), smooth=False, core=True)
case("minimum", lambda x, w: jnp.minimum(x, w), w=(4,), smooth=False)
case("clip", lambda x, w: jnp.clip(w * x, -0.2, 0.2) + w, w=(4,), smooth=False)
case("where", lambda x, w, v: jnp.where(x > 0, w * x, v), w=(4,), v=(4,), polynomial=1, core=True)
case("where_of_weights", lambda x, w, v: jnp.where(w > v, w, v * x), w=(4,), v=(4,), smooth=False)
case("scalar_times_vector", lambda x, s: s * x, s=(), polynomial=1, core=True)
case("scalar_plus_vector", lambda x, s: s + x, s=(), polynomial=1)
case("scalar_power", lambda x, s: x**s, x=positive(4), s=())
case("scalar_scales_vector", lambda x, s, w: (s * w) * x, s=(), w=(4,), polynomial=2)
case("scalar_scales_matrix", lambda x, s, w: x @ (s * w), s=(), w=(4, 2), polynomial=2, core=True)
case("scalar_divides_matrix", lambda x, s, w: x @ (w / s), s=(), w=(4, 2))
case("norm_scales_matrix", lambda x, v, w: x @ (jnp.linalg.norm(v) * w), v=(3,), w=(4, 2))
case("own_norm_scales_matrix", lambda x, w: x @ (w / jnp.linalg.norm(w)), w=(4, 2), core=True)
case("own_entry_scales_matrix", lambda x, w: x @ (w[0, 0] * w), w=(4, 2), polynomial=2)
case("input_scales_matrix", lambda x, w: jax.vmap(lambda a: a @ (a[0] * w))(x), w=(4, 2), polynomial=1)
case("input_sum_scales_matrix", lambda x, w: x @ (x.sum() * w), w=(4, 2), batched=False, polynomial=1)
case("ntk_parameterisation", lambda x, w: x @ (w * 1.4 / np.sqrt(4)), w=(4, 2), polynomial=1, core=True, kinds="dense")
case("constant_array_scalar", lambda x, w: x @ (jnp.asarray(0.7) * w), w=(4, 2), polynomial=1)
case("division_by_constant", lambda x, w: x @ (w / 3.0), w=(4, 2), polynomial=1)
case("constant_over_weight", lambda x, w: x @ (3.0 / w), w=(4, 2))
case("chain_of_constants", lambda x, w: x @ (-(w * 2.0).T / 3.0 * 0.5).T, w=(4, 2), polynomial=1)
case("constant_mask", lambda x, w: x @ (w * np.array([[1.0], [0], [1], [0]])), w=(4, 2), polynomial=1, core=True)
case("astype", lambda x, w: x @ w.astype(x.dtype), w=(4, 2), polynomial=1, kinds="dense")
case("stop_gradient_on_part", lambda x, w: x @ w + x @ lax.stop_gradient(w * w), w=(4, 2), core=True)
case("stop_gradient_on_all", lambda x, w, v: x @ lax.stop_gradient(w) + v, w=(4, 2), v=(2,))
case("used_twice_unalike", lambda x, w: x @ w + x[:, :2] * w[0], w=(4, 2), polynomial=1, core=True)
case("residual_gain", lambda x, w, s: x + s * jnp.tanh(x @ w), w=(4, 4), s=())
case("norm_of_output", lambda x, w: jnp.linalg.norm(x @ w, axis=-1), w=(4, 2))
case("complex_data", lambda x, w, g: (jnp.abs(jnp.exp(1j * x) @ w + 0.3), jnp.abs(jnp.exp(1j * x) * g + 1)), w=(4, 3), g=(4,), core=True)
case("complex_inside", lambda x, w: jnp.abs(jnp.exp(1j * (x * w)) + 0.3), w=(4,))
