"""Dense layers, and every split of `dot_general` into batch, contracting and free axes."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp

from support.cases.functions import dot
from support.cases.table import case, each

# --- dense layers ---------------------------------------------------------------------------------

case("dense", lambda x, w: x @ w, w=(4, 2), polynomial=1, core=True, kinds="dense")
case("dense_bias", lambda x, w, b: x @ w + b, w=(4, 2), b=(2,), polynomial=1, core=True, kinds="bias dense")
case("dense_bias_twice", lambda x, w, b: (x @ w + b) * b, w=(4, 2), b=(2,), polynomial=2)
case("dense_on_tokens", lambda x, w, b: x @ w + b, x=(3, 4), w=(4, 2), b=(2,), polynomial=1, core=True, kinds="bias dense")
case("mlp_relu", lambda x, w, b, v: jax.nn.relu(x @ w + b) @ v, w=(4, 5), b=(5,), v=(5, 2), smooth=False, core=True)
case("mlp_gelu", lambda x, w, b, v: jax.nn.gelu(x @ w + b) @ v, w=(4, 5), b=(5,), v=(5, 2), core=True)
case("mlp_softplus", lambda x, w, b, v: jax.nn.softplus(x @ w + b) @ v, w=(4, 5), b=(5,), v=(5, 2))
case("mlp_silu", lambda x, w, b, v: jax.nn.silu(x @ w + b) @ v, w=(4, 5), b=(5,), v=(5, 2))
case("mlp_elu", lambda x, w, v: jax.nn.elu(x @ w) @ v, w=(4, 5), v=(5, 2), smooth=False)
case("prelu", lambda x, w, s: jnp.where(x @ w > 0, x @ w, s * (x @ w)), w=(4, 3), s=(), smooth=False)
case("swiglu", lambda x, w, v, u: (jax.nn.silu(x @ w) * (x @ v)) @ u, w=(4, 3), v=(4, 3), u=(3, 2))
case("deep_linear", lambda x, w, v, u: x @ w @ v @ u, w=(4, 3), v=(3, 3), u=(3, 2), polynomial=3, core=True)
case("maxout", lambda x, w: (x @ w).reshape(-1, 2, 3).max(-1), w=(4, 6), smooth=False)


# --- dot_general: every split into batch, contracting and free axes -------------------------------

case("dot_weight_left", lambda x, w: dot(w, x, ((0,), (1,))).T, w=(4, 2), polynomial=1, core=True, kinds="dense")
case("dot_weight_left_last", lambda x, w: dot(w, x, ((1,), (1,))).T, w=(2, 4), polynomial=1)
case("dot_weight_right_last", lambda x, w: dot(x, w, ((1,), (1,))), w=(2, 4), polynomial=1, kinds="dense")
case("dot_vector", lambda x, w: x @ w, w=(4,), polynomial=1, core=True)
case("dot_vector_left", lambda x, w: w @ x.T, w=(4,), polynomial=1)
case("dot_vector_vector", each(lambda x, w: jnp.dot(w, x)), w=(4,), polynomial=1)
case("dot_outer", lambda x, w: dot(x, w), x=(2,), w=(3,), polynomial=1, core=True)
case("dot_outer_left", lambda x, w: jnp.moveaxis(dot(w, x), -2, 0), x=(2,), w=(3,), polynomial=1)
case("dot_batch", lambda x, w: dot(x, w, ((2,), (1,)), ((1,), (0,))).swapaxes(0, 1), x=(2, 3), w=(2, 3, 2), polynomial=1, core=True)
case("dot_batch_left", lambda x, w: dot(w, x, ((1,), (2,)), ((0,), (1,))).transpose(2, 0, 1), x=(2, 3), w=(2, 3, 2), polynomial=1)
case("dot_batch_axis_last", lambda x, w: dot(x, w, ((1,), (0,)), ((2,), (2,))).transpose(1, 2, 0), x=(3, 2), w=(3, 2, 2), polynomial=1)
case("dot_two_batch", lambda x, w: jnp.einsum("nabi,abij->nabj", x, w), x=(2, 2, 3), w=(2, 2, 3, 2), polynomial=1)
case("dot_two_batch_swapped", lambda x, w: dot(x, w, ((3,), (2,)), ((2, 1), (0, 1))).transpose(2, 0, 1, 3), x=(2, 3, 2), w=(3, 2, 2, 1), polynomial=1, core=True, kinds="dense")
case("dot_batch_only", lambda x, w: dot(x, w, batch=((1,), (0,))).T, w=(4,), polynomial=1)
case("dot_batch_no_contraction", lambda x, w: jnp.einsum("na,aj->naj", x, w), x=(2,), w=(2, 3), polynomial=1)
case("dot_two_contracted", lambda x, w: jnp.einsum("nab,abj->nj", x, w), x=(2, 3), w=(2, 3, 2), polynomial=1)
case("dot_two_contracted_swapped", lambda x, w: dot(x, w, ((1, 2), (2, 0))), x=(2, 3), w=(3, 2, 2), polynomial=1, core=True, kinds="dense")
case("dot_all_contracted", lambda x, w: jnp.einsum("nab,ab->n", x, w), x=(2, 3), w=(2, 3), polynomial=1)
case("dot_free_around_contracted", lambda x, w: jnp.einsum("ni,aib->nab", x, w), x=(3,), w=(2, 3, 2), polynomial=1, core=True, kinds="dense")
case("dot_free_around_contracted_left", lambda x, w: jnp.einsum("aib,nti->natb", w, x), x=(2, 3), w=(2, 3, 1), polynomial=1)
case("dot_contracted_around_free", lambda x, w: jnp.einsum("nab,ajb->nj", x, w), x=(2, 3), w=(2, 4, 3), polynomial=1)
case("dot_batch_between", lambda x, w: jnp.einsum("ntbi,ibj->ntbj", x, w), x=(2, 2, 3), w=(3, 2, 2), polynomial=1, kinds="dense")
case("dot_everything", lambda x, w: jnp.einsum("nsabi,jabki->nsajk", x, w), x=(2, 1, 2, 3), w=(2, 1, 2, 2, 3), polynomial=1, core=True, kinds="dense")
case("einsum_letters", lambda x, w: jnp.einsum("...ij,jkl->...ikl", x, w), x=(2, 3), w=(3, 2, 1), polynomial=1, kinds="dense")
case("einsum_weight_left", lambda x, w: jnp.einsum("ji,ni->nj", w, x), w=(2, 4), polynomial=1, kinds="dense")
case("einsum_three", lambda x, w, v: jnp.einsum("ni,ij,jk->nk", x, w, v), w=(4, 3), v=(3, 2), polynomial=2)
case("einsum_summed_letter", lambda x, w: jnp.einsum("ni,ij->n", x, w), w=(4, 3), polynomial=1)
case("einsum_trace", lambda x, w: jnp.einsum("ii,nj->nj", w, x), w=(3, 3), polynomial=1, kinds="generic")
case("einsum_diagonal", lambda x, w: jnp.einsum("ii,ni->ni", w, x), w=(4, 4), polynomial=1)
case("bilinear", lambda x, w: jnp.einsum("ni,ij,nj->n", x, w, x), w=(4, 4), polynomial=1, core=True)
case("bilinear_two_inputs", lambda x, w: jnp.einsum("ni,kij,nj->nk", x["a"], w, x["b"]), x={"a": (3,), "b": (2,)}, w=(2, 3, 2), polynomial=1)
case("weight_on_both_operands", lambda x, w: x @ w @ w.T, w=(4, 2), polynomial=2, core=True)
case("weight_sandwich", each(lambda x, w: w @ jnp.diag(x) @ w.T), x=(3,), w=(2, 3), polynomial=2)
case("weight_squared_matrix", lambda x, w: x @ (w @ w), w=(4, 4), polynomial=2)
case("matrix_power", lambda x, w: x @ jnp.linalg.matrix_power(w, 3), w=(3, 3), x=(3,), polynomial=3)
case("low_rank", lambda x, a, b: x @ (a @ b), a=(4, 1), b=(1, 3), polynomial=2, core=True, kinds="dense")
case("parameters_then_input", lambda x, w, v: (w @ v @ x.T).T, w=(2, 3), v=(3, 4), polynomial=2)
case("quadratic_form", lambda x, w: jnp.sum((x @ w) * (x @ w), -1), w=(4, 3), polynomial=2)
case("multi_dot", lambda x, w, v: jnp.linalg.multi_dot([x, w, v]), w=(4, 3), v=(3, 2), polynomial=2)
