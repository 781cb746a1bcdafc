"""Tables that are looked up."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from support.cases.functions import scan
from support.cases.table import case, each, integers

case("embedding", lambda x, w: w[x], x=integers(0, 5, 3), w=(5, 2), polynomial=1, core=True, kinds="embedding")
case("embedding_of_one_id", lambda x, w: w[x], x=integers(0, 5), w=(5, 2), polynomial=1)
case("embedding_take", lambda x, w: jnp.take(w, x, axis=0), x=integers(0, 5, 3), w=(5, 2), polynomial=1, kinds="embedding")
case("embedding_columns", lambda x, w: jnp.take(w, x, axis=1).swapaxes(0, 1), x=integers(0, 5, 3), w=(2, 5), polynomial=1, kinds="embedding")
case("embedding_repeated_ids", lambda x, w: w[x].sum(1), x=integers(0, 2, 4), w=(2, 3), polynomial=1, core=True, kinds="embedding")
case("embedding_two_dimensional_ids", lambda x, w: w[x].sum(1), x=integers(0, 5, 2, 2), w=(5, 2), polynomial=1, kinds="embedding")
case("embedding_one_hot", lambda x, w: jax.nn.one_hot(x, 5, dtype=w.dtype) @ w, x=integers(0, 5, 3), w=(5, 2), polynomial=1, kinds="dense")
case("embedding_clip", lambda x, w: w.at[x].get(mode="clip"), x=integers(3, 9, 3), w=(5, 2), polynomial=1, core=True, kinds="embedding")
case("embedding_fill", lambda x, w: w.at[x].get(mode="fill", fill_value=0.3), x=integers(3, 7, 4), w=(5, 2), polynomial=1, core=True, kinds="embedding")
case("embedding_drop_negative", lambda x, w: w.at[x].get(mode="drop", fill_value=0.0, wrap_negative_indices=False), x=integers(-3, 5, 4), w=(5, 2), polynomial=1, core=True)
case("embedding_negative_ids", lambda x, w: w[x], x=integers(-5, 0, 3), w=(5, 2), polynomial=1, core=True, kinds="embedding")
case("embedding_promised_in_bounds", lambda x, w: w.at[x].get(mode="promise_in_bounds"), x=integers(0, 5, 3), w=(5, 2), polynomial=1)
case("embedding_two_indices", lambda x, w: w[x[:, 0], x[:, 1]], x=integers(0, 3, 2), w=(3, 3, 2), polynomial=1, kinds="generic")
case("embedding_of_scaled", lambda x, w: jnp.tanh((0.7 * w)[x]), x=integers(0, 5, 3), w=(5, 2), core=True, kinds="embedding")
case("embedding_scaled", lambda x, w: jnp.tanh(w[x] * np.sqrt(2.0)), x=integers(0, 5, 3), w=(5, 2), kinds="embedding")
case("embedding_in_two_tables", lambda x, w, v: w[x] + v[x // 2], x=integers(0, 6, 2), w=(6, 2), v=(3, 2), polynomial=1, kinds="embedding")
case("embedding_slices", lambda x, w: jax.vmap(lambda i: lax.dynamic_index_in_dim(w, i, keepdims=False))(x), x=integers(0, 2), w=(2, 3), polynomial=1, kinds="embedding")
case("embedding_vmapped", lambda x, w: jax.vmap(jax.vmap(lambda i: w[i]))(x).sum(1), x=integers(0, 5, 3), w=(5, 2), polynomial=1, kinds="embedding")
case("embedding_slices_clamped", lambda x, w: jax.vmap(lambda i: lax.dynamic_slice(w, (0, i), (2, 1))[:, 0])(x), x=integers(2, 9), w=(2, 5), polynomial=1, kinds="embedding")
case("embedding_in_scan", lambda x, w, u: scan(lambda h, i: jnp.tanh(h @ u + w[i]), jnp.zeros((len(x), 2)), x.T), x=integers(0, 4, 3), w=(4, 2), u=(2, 2), kinds="dense embedding")
case("embedding_by_one_example", each(lambda x, w, v: jnp.tanh(w[x]) @ v), x=integers(0, 5), w=(5, 3), v=(3, 2), kinds="dense embedding")
case("embedding_and_dense", lambda x, w, v: jnp.tanh(w[x]).mean(1) @ v, x=integers(0, 5, 3), w=(5, 4), v=(4, 2), kinds="dense embedding")
case("embedding_tied", lambda x, w: jnp.tanh(w[x]).mean(1) @ w.T, x=integers(0, 4, 3), w=(4, 3), core=True, kinds="dense embedding")
case("embedding_tied_columns", lambda x, w: jnp.tanh(jnp.take(w, x, axis=1)).mean(2).T @ w, x=integers(0, 5, 3), w=(2, 5), core=True, kinds="dense embedding")
case("embedding_position", lambda x, w, p, v: jnp.tanh(w[x] + p).sum(1) @ v, x=integers(0, 5, 3), w=(5, 2), p=(3, 2), v=(2, 2), core=True)
case("embedding_of_transposed_table", lambda x, w: w.T[x], x=integers(0, 5, 3), w=(2, 5), polynomial=1, kinds="embedding")
case("embedding_of_product", lambda x, a, b: (a @ b)[x], x=integers(0, 5, 3), a=(5, 1), b=(1, 2), polynomial=2, kinds="dense")
