"""Several outputs, pytrees, keyword arguments."""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import functools

import jax.numpy as jnp

from support.cases.table import case, integers

case("outputs_dict", lambda x, w, v: {"a": x @ w, "b": jnp.tanh(x @ w) @ v}, w=(4, 3), v=(3,), core=True)
case("outputs_tuple", lambda x, w, v: (x @ w, jnp.einsum("ni,j->nij", x, v), x @ w @ v), x=(2,), w=(2, 3), v=(3,), polynomial=2, core=True)
case("outputs_one_without_parameter", lambda x, w: [jnp.tanh(x), x @ w], x=(3,), w=(3, 2), polynomial=1)
case("outputs_of_disjoint_parameters", lambda x, w, v: (jnp.tanh(x @ w), x @ v), w=(4, 2), v=(4,))
case("outputs_same_twice", lambda x, w: (y := x @ w, y), w=(4, 2), polynomial=1)
case("outputs_nested", lambda x, w: {"a": [x @ w, {"b": x[:, :2] * w[0]}], "c": None}, w=(4, 2), polynomial=1)
case("outputs_three_axes", lambda x, w, b: jnp.tanh(x @ w + b), x=(2, 4), w=(4, 3), b=(2, 1), core=True)
case("nested_parameters", lambda x, layers: functools.reduce(lambda h, p: jnp.tanh(h @ p["w"] + p["b"]), layers, x), layers=[{"w": (4, 3), "b": (3,)}, {"w": (3, 2), "b": (2,)}], core=True)
case("nested_input", lambda x, w, v: x["a"] @ w + x["more"][0] @ v, x={"a": (4,), "more": [(3,), (1,)]}, w=(4, 2), v=(3, 2), polynomial=1, core=True)
case("integer_input", lambda x, w: jnp.tanh(x @ w), x=integers(1, 5, 4), w=(4, 2))
case("mixed_input", lambda x, w, v: x["a"] @ w + v[x["id"]], x={"a": (4,), "id": integers(0, 3)}, w=(4, 2), v=(3, 2), polynomial=1)
case("boolean_input", lambda x, w: jnp.where(x, w, 0.3), x=lambda rng, lead: jnp.asarray(rng.random((*lead, 4)) < 0.5), w=(4,), polynomial=1)
case("kwarg_scale", lambda x, w, scale: jnp.tanh(scale * (x @ w)), w=(4, 2), kwargs={"scale": 0.7}, core=True)
case("kwarg_default", lambda x, w, scale=0.7: jnp.tanh(scale * (x @ w)), w=(4, 2))
case("kwarg_static", lambda x, w, train: jnp.tanh(x @ w) if train else x @ w, w=(4, 2), kwargs={"train": False}, polynomial=1)
