"""Indexing, and reductions of parameters."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from support.cases.table import case, each

# --- indexing -------------------------------------------------------------------------------------

case("index_row", lambda x, w: x * w[1], w=(3, 4), polynomial=1)
case("index_entry", lambda x, w: x * w[1, 2], w=(3, 4), polynomial=1)
case("gather_rows", lambda x, w: x @ w[jnp.array([2, 0, 2, 1])], w=(3, 2), polynomial=1, core=True)
case("gather_columns", lambda x, w: x @ w[:, jnp.array([1, 1, 0])], w=(4, 2), polynomial=1)
case("gather_entries", lambda x, w: x * w[jnp.array([0, 2, 2, 1]), jnp.array([1, 0, 0, 3])], w=(3, 4), polynomial=1)
case("take_along_axis", lambda x, w: jnp.take_along_axis(jnp.tanh(x * w), jnp.argsort(x, axis=1), 1), w=(4,), smooth=False)
case("boolean_mask", lambda x, w: x[:, :2] * w[np.array([True, False, True, False])], w=(4,), polynomial=1)
case("dynamic_slice", lambda x, w: x @ lax.dynamic_slice(w, (1, 0), (4, 2)), w=(6, 3), polynomial=1)
case("dynamic_slice_by_input", each(lambda x, w: x @ lax.dynamic_slice(w, (jnp.argmax(x), 0), (4, 2))), w=(8, 3), polynomial=1, core=True)
case("dynamic_update_slice", lambda x, w, v: x @ lax.dynamic_update_slice(w, v, (1, 0)), w=(4, 3), v=(2, 2), polynomial=1, core=True)
case("at_add", lambda x, w, v: x @ w.at[1].add(v), w=(4, 2), v=(2,), polynomial=1, core=True)
case("at_set", lambda x, w, v: x @ w.at[jnp.array([0, 2])].set(v), w=(4, 2), v=(2,), polynomial=1)
case("at_multiply", lambda x, w, v: x @ w.at[1].multiply(v), w=(4, 2), v=(2,), polynomial=2)
case("at_add_repeated", lambda x, w: x.at[:, jnp.array([0, 0, 3])].add(w), w=(3,), polynomial=1)
case("at_set_of_constant", lambda x, w: x @ w.at[1].set(0.3), w=(4, 2), polynomial=1)
case("top_k_of_input", lambda x, w: lax.top_k(x * w, 2)[0], w=(4,), smooth=False, core=True)
case("sort", lambda x, w: jnp.sort(w) * x, w=(4,), smooth=False, core=True)
case("sort_outputs", lambda x, w: jnp.sort(x @ w, axis=-1), w=(4, 3), smooth=False)
case("searchsorted", lambda x, w: w[jnp.searchsorted(jnp.array([-0.5, 0.0, 0.5]), x)] * x, w=(4,), polynomial=1)
case("searchsorted_in_weights", lambda x, w, v: v[jnp.searchsorted(jnp.sort(w), x)] * x, w=(3,), v=(4,), smooth=False)


# --- reductions of parameters ---------------------------------------------------------------------

case("sum_of_weights", lambda x, w: x * jnp.sum(w, 0), w=(3, 4), polynomial=1)
case("sum_of_all_weights", lambda x, w: x * jnp.sum(w), w=(3, 4), polynomial=1)
case("mean_of_weights", lambda x, w: x @ (w - jnp.mean(w, 0)), w=(4, 2), polynomial=1, core=True)
case("max_of_weights", lambda x, w: x * jnp.max(w, 0), w=(3, 4), smooth=False)
case("prod_of_weights", lambda x, w: x * jnp.prod(w, 0), w=(3, 4), polynomial=3)
case("norm_of_weights", lambda x, w: x * jnp.linalg.norm(w, axis=0), w=(3, 4))
case("std_of_weights", lambda x, w: x @ (w / jnp.std(w, axis=0)), w=(4, 2))
case("argmax_of_weights", lambda x, w: jax.nn.one_hot(jnp.argmax(w), 4, dtype=x.dtype) * w * x, w=(4,), smooth=False, core=True)
case("cumsum", lambda x, w: jnp.cumsum(w) * x, w=(4,), polynomial=1)
case("cumprod", lambda x, w: jnp.cumprod(w) * x, w=(4,), polynomial=4, core=True)
case("cummax", lambda x, w: lax.cummax(w) * x, w=(4,), smooth=False)
case("cumsum_of_activations", lambda x, w: jnp.cumsum(w * x, axis=-1), w=(4,), polynomial=1)
case("cumulative_logsumexp", lambda x, w: lax.cumlogsumexp(w * x, axis=1), w=(4,))
