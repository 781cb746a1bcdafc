"""Degenerate shapes and parameters."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import jax
import jax.numpy as jnp

from support.cases.functions import zeros
from support.cases.table import case, signed, value

case("no_parameters", lambda x: jnp.tanh(x), polynomial=0)
case("constant_output", lambda x, w: zeros(x, 2) + 0.7, w=(4,), polynomial=0, core=True)
case("unused_parameter", lambda x, w, v: x @ w, w=(4, 2), v=(3,), polynomial=1, core=True)
case("zero_size_parameter", lambda x, w, v: x @ w + v.sum(), w=(4, 2), v=(0, 3), polynomial=1, core=True)
case("zero_size_contraction", lambda x, w, v: x @ w @ v, w=(4, 0), v=(0, 2), polynomial=2)
case("zero_size_batch", lambda x, w: jnp.tanh(x @ w), n=0, w=(4, 2), core=True)
case("zero_size_second_batch", lambda x, w: jnp.tanh(x @ w), m=0, w=(4, 2))
case("zero_size_output", lambda x, w: jnp.tanh(x @ w), w=(4, 0), core=True)
case("one_example", lambda x, w: jnp.tanh(x @ w), n=1, m=1, w=(4, 2))
case("one_of_everything", lambda x, w: x @ w, n=1, m=1, x=(1,), w=(1, 1), polynomial=1)
case("scalar_output", lambda x, w: jnp.sum(jnp.tanh(x @ w)), w=(4, 2), batched=False, core=True)
case("scalar_per_example", lambda x, w, v: jnp.tanh(x @ w) @ v, w=(4, 3), v=(3,))
case("returns_parameter", lambda x, w: w, w=(4,), batched=False, polynomial=1, core=True)
case("returns_transposed_parameter", lambda x, w: w.T, w=(3, 2), batched=False, polynomial=1)
case("returns_broadcast_parameter", lambda x, w: jnp.broadcast_to(w, (len(x), 4)), w=(4,), polynomial=1, core=True)
case("returns_parameter_and_input", lambda x, w: (jnp.broadcast_to(w, (len(x), 4)), x @ w), w=(4,), polynomial=1)
case("integer_leaf", lambda x, w, count: jnp.tanh(x @ w) * count, w=(4, 2), count=value(lambda: jnp.array(3)), core=True)
case("boolean_leaf", lambda x, w, mask: x @ jnp.where(mask[:, None], w, 0.3), w=(4, 2), mask=value(lambda: jnp.array([True, False, True, True])), polynomial=1)
case("key_leaf", lambda x, w, key: x @ w + jax.random.normal(key, (2,), x.dtype), w=(4, 2), key=value(lambda: jax.random.key(7)), polynomial=1, core=True)
case("raw_key_leaf", lambda x, w, key: x @ w + jax.random.normal(key, (2,), x.dtype), w=(4, 2), key=value(lambda: jax.random.PRNGKey(7)), polynomial=1)
case("none_leaf", lambda x, w, b: x @ w if b is None else x @ w + b, w=(4, 2), b=value(lambda: None), polynomial=1)
case("numpy_leaf", lambda x, w: x @ w, w=lambda rng, lead: signed(rng, (4, 2)), polynomial=1)
case("batch_mixing", lambda x, w: jnp.tanh(x @ w) - jnp.mean(x @ w, 0), w=(4, 2), batched=False, core=True)
case("batch_as_weight_axis", lambda x, w: w[: len(x)] * x, w=(3, 4), batched=False, polynomial=1)
case("batch_axis_last", lambda x, w: jnp.tanh(w @ x.T), w=(2, 4), batched=False)
case("pairwise", lambda x, w: jnp.tanh(x @ w) @ jnp.tanh(x @ w).T, w=(4, 3), n=2, batched=False)
