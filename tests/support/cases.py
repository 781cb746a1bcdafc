"""One table of functions, crossed by the tests with every implementation and every option.

A row is a function of a batch `x` and of named parameters, with the shapes of both:

    case("multiply", lambda x, w: w * x, w=(4,), polynomial=1)

    @case(x=(3, 4), w=(4, 4))
    def rnn(x, w): ...

A tuple is the shape of a float64 array of random numbers (a parameter's, or one example's: the
batch axis comes in front); a function `(rng, lead) -> array` makes any other leaf, `lead` being
the batch axis; lists and dicts are pytrees of these. `get(name)` builds a case when it is asked
for, with `f(params, x, **kwargs)` and `params` a dict. Enable x64 before the first `get`.

`NAMES` lists every row; `CORE` has about one row of each kind, for what is too slow on them all.

Numbers come from a generator seeded by the name. They lie in +-[0.2, 0.95], so that none is 0 or 1.
"""

# A row is one line, however long.
# ruff: noqa: E501
# fmt: off

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclass(frozen=True, eq=False)
class Case:
    """A function and inputs to try it on."""

    name: str
    f: Callable[..., Any]  # f(params, x, **kwargs) of a batch
    params: Any
    x1: Any
    x2: Any
    kwargs: dict
    batched: bool = True  # independent examples, axis 0 everywhere: vmap_axes=0 is right
    forward: bool = True  # has forward mode (not so a custom_vjp)
    reverse: bool = True  # has reverse mode (not so a while_loop over parameters)
    polynomial: int | None = None  # the degree, where f is a polynomial of all params jointly
    smooth: bool = True  # no kinks anywhere (inputs are off the kinks anyway)


CASES: dict[str, Callable[[], Case]] = {}
NAMES: list[str] = []


@functools.cache
def get(name: str) -> Case:
    """The case of that name, built once."""
    return CASES[name]()


def case(name=None, f=None, *, x=(4,), x2=None, n=3, m=2, kwargs=None, **spec):
    """Put `f(x, **params, **kwargs)` into the table; without `f`, a decorator.

    `n` and `m` are the numbers of examples of `x1` and `x2`, `x2` the spec of the latter where it
    differs. What is no field of `Case` in `spec` is a parameter.
    """
    if f is None:
        return lambda f: case(name or f.__name__, f, x=x, x2=x2, n=n, m=m, kwargs=kwargs, **spec)
    flags = {key: spec.pop(key) for key in FLAGS if key in spec}

    def of_params(params, x, **kwargs):
        return f(x, **params, **kwargs)

    def build():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        params, x1 = _fill(spec, rng, ()), _fill(x, rng, (n,))
        second = _fill(x if x2 is None else x2, rng, (m,))
        return Case(name, of_params, params, x1, second, kwargs or {}, **flags)

    assert name not in CASES, f"two cases are called {name!r}"
    CASES[name] = build
    NAMES.append(name)
    return f


FLAGS = ("batched", "forward", "reverse", "polynomial", "smooth")


def _fill(spec, rng, lead):
    """A tree of arrays from a tree of shapes and functions."""

    def leaf(spec):
        return spec(rng, lead) if callable(spec) else jnp.asarray(_signed(rng, lead + spec))

    return jax.tree.map(leaf, spec, is_leaf=lambda s: isinstance(s, tuple) or callable(s))


def _signed(rng, shape):
    return rng.uniform(0.2, 0.95, shape) * rng.choice([-1.0, 1.0], shape)


def positive(*shape):
    """Random numbers in [0.2, 0.95]."""
    return lambda rng, lead: jnp.asarray(rng.uniform(0.2, 0.95, lead + shape))


def integers(low, high, *shape):
    """Random integers, `low` included and `high` not."""
    return lambda rng, lead: jnp.asarray(rng.integers(low, high, lead + shape))


def value(make):
    """One fixed value, e.g. a PRNG key."""
    return lambda rng, lead: make()


def each(f):
    """`f` of one example made a function of a batch by `vmap` inside the function itself."""

    def of_batch(x, **params):
        return jax.vmap(lambda example: f(example, **params))(x)

    of_batch.__name__ = f.__name__
    return of_batch


# --- arithmetic -----------------------------------------------------------------------------------

case("multiply", lambda x, w: w * x, w=(4,), polynomial=1)
case("multiply_right", lambda x, w: x * w, w=(4,), polynomial=1)
case("add", lambda x, w: w + x, w=(4,), polynomial=1)
case("add_scaled", lambda x, w: x + 0.3 * w, w=(4,), polynomial=1)
case("input_minus_weight", lambda x, w: x - w, w=(4,), polynomial=1)
case("weight_minus_input", lambda x, w: w - x, w=(4,), polynomial=1)
case("input_over_weight", lambda x, w: x / w, w=(4,))
case("weight_over_input", lambda x, w: w / x, w=(4,), polynomial=1)
case("negate", lambda x, w: -w * x, w=(4,), polynomial=1)
case("square", lambda x, w: w**2 * x, w=(4,), polynomial=2)
case("cube", lambda x, w: (w * x) ** 3, w=(4,), polynomial=3)
case("times_itself", lambda x, w: w * w + w * x, w=(4,), polynomial=2)
case("negative_power", lambda x, w: w**-2 * x, w=(4,))
case("weight_as_exponent", lambda x, w: x**w, x=positive(4), w=(4,))
case("weight_as_base", lambda x, w: w**x, w=positive(4))
case("product_of_two", lambda x, w, v: w * v * x, w=(4,), v=(4,), polynomial=2)
case("quotient_of_two", lambda x, w, v: w / v * x, w=(4,), v=(4,))
case("exp", lambda x, w: jnp.exp(w * x), w=(4,))
case("log", lambda x, w: jnp.log(w * x), x=positive(4), w=positive(4))
case("tanh", lambda x, w: jnp.tanh(w * x), w=(4,))
case("sin", lambda x, w: jnp.sin(w * x), w=(4,))
case("abs", lambda x, w: jnp.abs(w) * x, w=(4,), smooth=False)
case("sign", lambda x, w, v: jnp.sign(w) * v * x, w=(4,), v=(4,), smooth=False)
case("sqrt_of_softplus", lambda x, w: jnp.sqrt(jax.nn.softplus(w)) * x, w=(4,))
case("logsumexp", lambda x, w: jax.nn.logsumexp(w * x, axis=-1), w=(4,))
case("softmax_of_weights", lambda x, w: jax.nn.softmax(w) * x, w=(4,))
case("maximum", lambda x, w: jnp.maximum(w, x), w=(4,), smooth=False)
case("minimum", lambda x, w: jnp.minimum(x, w), w=(4,), smooth=False)
case("clip", lambda x, w: jnp.clip(w * x, -0.2, 0.2) + w, w=(4,), smooth=False)
case("where", lambda x, w, v: jnp.where(x > 0, w * x, v), w=(4,), v=(4,), polynomial=1)
case("where_of_weights", lambda x, w, v: jnp.where(w > v, w, v * x), w=(4,), v=(4,), smooth=False)
case("scalar_times_vector", lambda x, s: s * x, s=(), polynomial=1)
case("scalar_plus_vector", lambda x, s: s + x, s=(), polynomial=1)
case("scalar_power", lambda x, s: x**s, x=positive(4), s=())
case("scalar_scales_vector", lambda x, s, w: (s * w) * x, s=(), w=(4,), polynomial=2)
case("scalar_scales_matrix", lambda x, s, w: x @ (s * w), s=(), w=(4, 2), polynomial=2)
case("scalar_divides_matrix", lambda x, s, w: x @ (w / s), s=(), w=(4, 2))
case("norm_scales_matrix", lambda x, v, w: x @ (jnp.linalg.norm(v) * w), v=(3,), w=(4, 2))
case("own_norm_scales_matrix", lambda x, w: x @ (w / jnp.linalg.norm(w)), w=(4, 2))
case("own_entry_scales_matrix", lambda x, w: x @ (w[0, 0] * w), w=(4, 2), polynomial=2)
case("input_scales_matrix", lambda x, w: jax.vmap(lambda a: a @ (a[0] * w))(x), w=(4, 2), polynomial=1)
case("input_sum_scales_matrix", lambda x, w: x @ (x.sum() * w), w=(4, 2), batched=False, polynomial=1)
case("ntk_parameterisation", lambda x, w: x @ (w * 1.4 / np.sqrt(4)), w=(4, 2), polynomial=1)
case("constant_array_scalar", lambda x, w: x @ (jnp.asarray(0.7) * w), w=(4, 2), polynomial=1)
case("division_by_constant", lambda x, w: x @ (w / 3.0), w=(4, 2), polynomial=1)
case("constant_over_weight", lambda x, w: x @ (3.0 / w), w=(4, 2))
case("chain_of_constants", lambda x, w: x @ (-(w * 2.0).T / 3.0 * 0.5).T, w=(4, 2), polynomial=1)
case("constant_mask", lambda x, w: x @ (w * np.array([[1.0], [0], [1], [0]])), w=(4, 2), polynomial=1)
case("astype", lambda x, w: x @ w.astype(x.dtype), w=(4, 2), polynomial=1)
case("stop_gradient_on_part", lambda x, w: x @ w + x @ lax.stop_gradient(w * w), w=(4, 2))
case("stop_gradient_on_all", lambda x, w, v: x @ lax.stop_gradient(w) + v, w=(4, 2), v=(2,))
case("used_twice_unalike", lambda x, w: x @ w + x[:, :2] * w[0], w=(4, 2), polynomial=1)
case("residual_gain", lambda x, w, s: x + s * jnp.tanh(x @ w), w=(4, 4), s=())
case("norm_of_output", lambda x, w: jnp.linalg.norm(x @ w, axis=-1), w=(4, 2))
case("complex_inside", lambda x, w: jnp.abs(jnp.exp(1j * (x * w)) + 0.3), w=(4,))


# --- dense layers ---------------------------------------------------------------------------------

case("dense", lambda x, w: x @ w, w=(4, 2), polynomial=1)
case("dense_bias", lambda x, w, b: x @ w + b, w=(4, 2), b=(2,), polynomial=1)
case("dense_bias_twice", lambda x, w, b: (x @ w + b) * b, w=(4, 2), b=(2,), polynomial=2)
case("dense_on_tokens", lambda x, w, b: x @ w + b, x=(3, 4), w=(4, 2), b=(2,), polynomial=1)
case("mlp_relu", lambda x, w, b, v: jax.nn.relu(x @ w + b) @ v, w=(4, 5), b=(5,), v=(5, 2), smooth=False)
case("mlp_gelu", lambda x, w, b, v: jax.nn.gelu(x @ w + b) @ v, w=(4, 5), b=(5,), v=(5, 2))
case("mlp_softplus", lambda x, w, b, v: jax.nn.softplus(x @ w + b) @ v, w=(4, 5), b=(5,), v=(5, 2))
case("mlp_silu", lambda x, w, b, v: jax.nn.silu(x @ w + b) @ v, w=(4, 5), b=(5,), v=(5, 2))
case("mlp_elu", lambda x, w, v: jax.nn.elu(x @ w) @ v, w=(4, 5), v=(5, 2), smooth=False)
case("prelu", lambda x, w, s: jnp.where(x @ w > 0, x @ w, s * (x @ w)), w=(4, 3), s=(), smooth=False)
case("swiglu", lambda x, w, v, u: (jax.nn.silu(x @ w) * (x @ v)) @ u, w=(4, 3), v=(4, 3), u=(3, 2))
case("deep_linear", lambda x, w, v, u: x @ w @ v @ u, w=(4, 3), v=(3, 3), u=(3, 2), polynomial=3)
case("maxout", lambda x, w: (x @ w).reshape(-1, 2, 3).max(-1), w=(4, 6), smooth=False)


# --- dot_general: every split into batch, contracting and free axes -------------------------------


def dot(a, b, contract=((), ()), batch=((), ())):
    return lax.dot_general(a, b, (contract, batch))


case("dot_weight_left", lambda x, w: dot(w, x, ((0,), (1,))).T, w=(4, 2), polynomial=1)
case("dot_weight_left_last", lambda x, w: dot(w, x, ((1,), (1,))).T, w=(2, 4), polynomial=1)
case("dot_weight_right_last", lambda x, w: dot(x, w, ((1,), (1,))), w=(2, 4), polynomial=1)
case("dot_vector", lambda x, w: x @ w, w=(4,), polynomial=1)
case("dot_vector_left", lambda x, w: w @ x.T, w=(4,), polynomial=1)
case("dot_vector_vector", each(lambda x, w: jnp.dot(w, x)), w=(4,), polynomial=1)
case("dot_outer", lambda x, w: dot(x, w), x=(2,), w=(3,), polynomial=1)
case("dot_outer_left", lambda x, w: jnp.moveaxis(dot(w, x), -2, 0), x=(2,), w=(3,), polynomial=1)
case("dot_batch", lambda x, w: dot(x, w, ((2,), (1,)), ((1,), (0,))).swapaxes(0, 1), x=(2, 3), w=(2, 3, 2), polynomial=1)
case("dot_batch_left", lambda x, w: dot(w, x, ((1,), (2,)), ((0,), (1,))).transpose(2, 0, 1), x=(2, 3), w=(2, 3, 2), polynomial=1)
case("dot_batch_axis_last", lambda x, w: dot(x, w, ((1,), (0,)), ((2,), (2,))).transpose(1, 2, 0), x=(3, 2), w=(3, 2, 2), polynomial=1)
case("dot_two_batch", lambda x, w: jnp.einsum("nabi,abij->nabj", x, w), x=(2, 2, 3), w=(2, 2, 3, 2), polynomial=1)
case("dot_two_batch_swapped", lambda x, w: dot(x, w, ((3,), (2,)), ((2, 1), (0, 1))).transpose(2, 0, 1, 3), x=(2, 3, 2), w=(3, 2, 2, 1), polynomial=1)
case("dot_batch_only", lambda x, w: dot(x, w, batch=((1,), (0,))).T, w=(4,), polynomial=1)
case("dot_batch_no_contraction", lambda x, w: jnp.einsum("na,aj->naj", x, w), x=(2,), w=(2, 3), polynomial=1)
case("dot_two_contracted", lambda x, w: jnp.einsum("nab,abj->nj", x, w), x=(2, 3), w=(2, 3, 2), polynomial=1)
case("dot_two_contracted_swapped", lambda x, w: dot(x, w, ((1, 2), (2, 0))), x=(2, 3), w=(3, 2, 2), polynomial=1)
case("dot_all_contracted", lambda x, w: jnp.einsum("nab,ab->n", x, w), x=(2, 3), w=(2, 3), polynomial=1)
case("dot_free_around_contracted", lambda x, w: jnp.einsum("ni,aib->nab", x, w), x=(3,), w=(2, 3, 2), polynomial=1)
case("dot_free_around_contracted_left", lambda x, w: jnp.einsum("aib,nti->natb", w, x), x=(2, 3), w=(2, 3, 1), polynomial=1)
case("dot_contracted_around_free", lambda x, w: jnp.einsum("nab,ajb->nj", x, w), x=(2, 3), w=(2, 4, 3), polynomial=1)
case("dot_batch_between", lambda x, w: jnp.einsum("ntbi,ibj->ntbj", x, w), x=(2, 2, 3), w=(3, 2, 2), polynomial=1)
case("dot_everything", lambda x, w: jnp.einsum("nsabi,jabki->nsajk", x, w), x=(2, 1, 2, 3), w=(2, 1, 2, 2, 3), polynomial=1)
case("einsum_letters", lambda x, w: jnp.einsum("...ij,jkl->...ikl", x, w), x=(2, 3), w=(3, 2, 1), polynomial=1)
case("einsum_weight_left", lambda x, w: jnp.einsum("ji,ni->nj", w, x), w=(2, 4), polynomial=1)
case("einsum_three", lambda x, w, v: jnp.einsum("ni,ij,jk->nk", x, w, v), w=(4, 3), v=(3, 2), polynomial=2)
case("einsum_summed_letter", lambda x, w: jnp.einsum("ni,ij->n", x, w), w=(4, 3), polynomial=1)
case("einsum_trace", lambda x, w: jnp.einsum("ii,nj->nj", w, x), w=(3, 3), polynomial=1)
case("einsum_diagonal", lambda x, w: jnp.einsum("ii,ni->ni", w, x), w=(4, 4), polynomial=1)
case("bilinear", lambda x, w: jnp.einsum("ni,ij,nj->n", x, w, x), w=(4, 4), polynomial=1)
case("bilinear_two_inputs", lambda x, w: jnp.einsum("ni,kij,nj->nk", x["a"], w, x["b"]), x={"a": (3,), "b": (2,)}, w=(2, 3, 2), polynomial=1)
case("weight_on_both_operands", lambda x, w: x @ w @ w.T, w=(4, 2), polynomial=2)
case("weight_sandwich", each(lambda x, w: w @ jnp.diag(x) @ w.T), x=(3,), w=(2, 3), polynomial=2)
case("weight_squared_matrix", lambda x, w: x @ (w @ w), w=(4, 4), polynomial=2)
case("matrix_power", lambda x, w: x @ jnp.linalg.matrix_power(w, 3), w=(3, 3), x=(3,), polynomial=3)
case("low_rank", lambda x, a, b: x @ (a @ b), a=(4, 1), b=(1, 3), polynomial=2)
case("parameters_then_input", lambda x, w, v: (w @ v @ x.T).T, w=(2, 3), v=(3, 4), polynomial=2)
case("quadratic_form", lambda x, w: jnp.sum((x @ w) * (x @ w), -1), w=(4, 3), polynomial=2)
case("multi_dot", lambda x, w, v: jnp.linalg.multi_dot([x, w, v]), w=(4, 3), v=(3, 2), polynomial=2)


# --- layout ---------------------------------------------------------------------------------------

case("transpose", lambda x, w: x @ w.T, w=(2, 4), polynomial=1)
case("transpose_three_axes", lambda x, w: jnp.einsum("nij,ijk->nk", x, w.transpose(2, 0, 1)), x=(2, 3), w=(3, 2, 2), polynomial=1)
case("reshape", lambda x, w: x @ w.reshape(4, 2), w=(2, 4), polynomial=1)
case("reshape_transpose_reshape", lambda x, w: x @ w.reshape(2, 3, 2).transpose(2, 0, 1).reshape(4, 3), w=(12,), polynomial=1)
case("transpose_of_reshape", lambda x, w: x @ w.reshape(2, 2, 3).swapaxes(0, 2).reshape(3, 4).T, w=(4, 3), polynomial=1)
case("ravel", lambda x, w: x @ w.ravel(), x=(6,), w=(2, 3), polynomial=1)
case("squeeze", lambda x, w: x @ w.squeeze(1), w=(4, 1, 2), polynomial=1)
case("expand_dims", lambda x, w: (x[:, None] @ w[None])[:, 0], w=(4, 2), polynomial=1)
case("broadcast_rank_only", lambda x, w: x * lax.broadcast_in_dim(w, (1, 4), (1,)), w=(4,), polynomial=1)
case("broadcast_really", lambda x, w: jnp.einsum("nai,aij->nj", x, jnp.broadcast_to(w, (2, 3, 2))), x=(2, 3), w=(3, 2), polynomial=1)
case("broadcast_of_unit_axis", lambda x, w: x @ jnp.broadcast_to(w, (4, 3)), w=(4, 1), polynomial=1)
case("broadcast_scalar", lambda x, w: x @ jnp.broadcast_to(w, (4, 2)), w=(), polynomial=1)
case("reverse", lambda x, w: x @ w[::-1], w=(4, 2), polynomial=1)
case("flip_both", lambda x, w: x @ jnp.flip(w), w=(4, 2), polynomial=1)
case("stacked_weight_and_bias", lambda x, w, b: jnp.pad(x, ((0, 0), (0, 1)), constant_values=1) @ jnp.concatenate([w, b[None]]), w=(4, 2), b=(2,), polynomial=1)
case("concatenated_weights", lambda x, w, v: x @ jnp.concatenate([w, v], 1), w=(4, 2), v=(4, 1), polynomial=1)
case("stack_of_weights", lambda x, w, v: jnp.einsum("ni,kij->nkj", x, jnp.stack([w, v, w])), w=(4, 2), v=(4, 2), polynomial=1)
case("joined_inputs", lambda x, w, v: x @ jnp.concatenate([0.3 * w, v / 2]), w=(1, 2), v=(3, 2), polynomial=1)
case("joined_transposed", lambda x, w, v: x @ jnp.concatenate([w.T, -v.T]).T, w=(4, 2), v=(4, 1), polynomial=1)
case("joined_twice", lambda x, w, v, u: x @ jnp.concatenate([jnp.concatenate([w, v], 1), u]), w=(1, 2), v=(1, 1), u=(3, 3), polynomial=1)
case("joined_batch", lambda x, w, v: jnp.einsum("nki,kij->nkj", x, jnp.concatenate([w, v])), x=(3, 2), w=(1, 2, 3), v=(2, 2, 3), polynomial=1)
case("joined_weight_left", lambda x, w, v: (jnp.concatenate([w, v]) @ x.T).T, w=(2, 4), v=(1, 4), polynomial=1)
case("joined_with_others", lambda x, w, v: x @ jnp.concatenate([w, jnp.sin(v), jnp.full((1, 2), 0.4)]), w=(2, 2), v=(1, 2))
case("joined_parts_of_one", lambda x, w: x @ jnp.concatenate([w[2:], 0.7 * w[:2]]), w=(4, 2), polynomial=1)
case("joined_and_split", lambda x, w, v, u: sum(jnp.tanh(x @ a) for a in jnp.split(jnp.concatenate([w, v, u], 1), 3, 1)), w=(4, 2), v=(4, 2), u=(4, 2))
case("joined_and_split_across", lambda x, w, v: sum(jnp.tanh(x @ a) for a in jnp.split(jnp.concatenate([w, v], 1), 2, 1)), w=(4, 1), v=(4, 3))
case("joined_flat", lambda x, w, v: jnp.tanh(x @ (flat := jnp.concatenate([w.ravel(), v]))[:8].reshape(4, 2)) @ flat[8:].reshape(2, 1), w=(4, 2), v=(2,))
case("joined_of_scaled_scan", lambda x, w, v: scan(lambda h, x: jnp.tanh(jnp.concatenate([h, x], -1) @ jnp.concatenate([w, 0.6 * v])), zeros(x, 2), time_first(x)), x=(3, 2), w=(2, 2), v=(2, 2))
case("joined_before_scan", lambda x, w, v: (lambda u: scan(lambda h, x: jnp.tanh(h @ u[:, :2] + (x @ u)[:, :2] + (x @ u)[:, 2:]), zeros(x, 2), time_first(x)))(jnp.concatenate([w, v], 1)), x=(3, 2), w=(2, 2), v=(2, 2))
case("joined_layers_by_units", lambda x, w, v: scan(lambda h, u: jnp.tanh(h @ u), x, jnp.concatenate([w, 0.8 * v], 2)), x=(3,), w=(2, 3, 1), v=(2, 3, 2))
case("joined_layers", lambda x, w, v: scan(lambda h, u: jnp.tanh(h @ u), x, jnp.stack([w, 0.8 * v, w])), x=(3,), w=(3, 3), v=(3, 3))
case("joined_stacks_of_layers", lambda x, w, v, u: scan(lambda h, a: jnp.tanh(h @ a), x, jnp.concatenate([w, v[None], 0.7 * u])) @ v, x=(3,), w=(2, 3, 3), v=(3, 3), u=(1, 3, 3))
case("joined_strided", lambda x, w, v: x @ jnp.concatenate([w, v])[::2] + x @ v[:4], w=(3, 2), v=(5, 2), polynomial=1)
case("joined_strided_layers", lambda x, w, v: scan(lambda h, a: jnp.tanh(h @ a), x, jnp.stack([w, v, w, 2 * v])[::2]), x=(3,), w=(3, 3), v=(3, 3))
case("joined_associative", lambda x, w, v: x @ lax.associative_scan(jnp.matmul, jnp.stack([w, v, w]))[-1], x=(3,), w=(3, 3), v=(3, 3), polynomial=3)
case("joined_with_empty", lambda x, w, z: jnp.tanh(x + jnp.concatenate([w, z])[0]), w=(1, 4), z=(0, 4))
case("joined_empty_rest", lambda x, w: x[:, :1] @ (flat := jnp.concatenate([w[:1], 2 * w[1:]]).ravel())[:2].reshape(1, 2) + flat, w=(1, 2), polynomial=1)
case("joined_empty_layers", lambda x, w, z: scan(lambda h, a: jnp.tanh(h @ a.reshape(3, 3)), x, jnp.concatenate([w, z], 1)), x=(3,), w=(2, 1, 3, 3), z=(2, 0, 3, 3))
case("joined_empty_slices", lambda x, w: jnp.tanh(x @ jnp.concatenate([w[:1], w[4:]]).squeeze(0)[:, None]), x=(3,), w=(4, 3))
case("joined_unstacked", lambda x, w, v: (lambda a, b: jnp.tanh(x @ a) @ b @ w @ jnp.sin(v))(*jnp.stack([w.T, v])), x=(3,), w=(3, 3), v=(3, 3))
case("joined_unstacked_parts", lambda x, w, v, u: jnp.tanh(x @ jnp.unstack(jnp.stack([jnp.concatenate([w, v], 1), u]))[0]) + x @ v, x=(3,), w=(3, 2), v=(3, 1), u=(3, 3))
case("joined_and_tied", lambda x, w, v: x @ jnp.concatenate([-w.T, 0.5 * v[:, ::-1]]) + x[:, 1:] @ jnp.sin(w).T + jnp.sin(v) @ v.T, w=(2, 3), v=(1, 2))
case("joined_carry", lambda x, w, v: scan(lambda h, x: jnp.tanh(h + x), jnp.broadcast_to(jnp.concatenate([w, v]), (len(x), 3)), time_first(x)), x=(2, 3), w=(1,), v=(2,))
case("joined_bias", lambda x, w, v: jnp.tanh(x + jnp.concatenate([w, v])), w=(1,), v=(3,))
case("joined_returned", lambda x, w, v: jnp.broadcast_to(jnp.concatenate([w, 2 * v]), (len(x), 3)), w=(1,), v=(2,), polynomial=1)
case("joined_in_jit", lambda x, w, v: jnp.tanh(x @ jax.jit(lambda w, v: jnp.concatenate([w, v], 1))(2 * w, v)), w=(4, 1), v=(4, 2))
case("joined_kernels", lambda x, w, v: conv(x, jnp.concatenate([w, v])), x=(2, 3, 3), w=(1, 2, 2, 2), v=(2, 2, 2, 2), polynomial=1)
case("joined_tables", lambda x, w, v: jnp.concatenate([w, v])[x].sum(1), x=integers(0, 5, 3), w=(2, 3), v=(3, 3), polynomial=1)
case("joined_nonlinear", lambda x, w, v: x * jnp.sin(jnp.concatenate([w, 0.5 * v])), w=(1,), v=(3,))
case("concatenated_with_input", lambda x, w: jnp.concatenate([jnp.broadcast_to(w, (len(x), 2)), x], 1), w=(2,), polynomial=1)
case("class_token", lambda x, c, w: (jnp.concatenate([jnp.broadcast_to(c, (len(x), 1, 3)), x], 1) @ w).sum(1), x=(2, 3), c=(1, 1, 3), w=(3, 2), polynomial=2)
case("slice", lambda x, w: x[:, :2] @ w[:2], w=(4, 2), polynomial=1)
case("slice_strided", lambda x, w: x[:, :2] @ w[::2], w=(4, 2), polynomial=1)
case("slices_of_one_vector", lambda x, theta: jnp.tanh(x @ theta[:12].reshape(4, 3)) @ theta[12:].reshape(3, 2), theta=(18,))
case("split", lambda x, w: sum(x @ part for part in jnp.split(w, 3, axis=1)), w=(4, 6), polynomial=1)
case("tile", lambda x, w: x @ jnp.tile(w, (2, 2)), w=(2, 2), polynomial=1)
case("repeat", lambda x, w: x @ jnp.repeat(w, 2, axis=0), w=(2, 3), polynomial=1)
case("roll", lambda x, w: x @ jnp.roll(w, 1, axis=0), w=(4, 2), polynomial=1)
case("pad_weight", lambda x, w: x @ jnp.pad(w, ((1, 1), (0, 1))), w=(2, 2), polynomial=1)
case("pad_activations", lambda x, w, v: jnp.pad(x @ w, ((0, 0), (1, 2))) @ v, w=(4, 2), v=(5, 2), polynomial=2)
case("triangle", lambda x, w: x @ jnp.tril(w), w=(4, 4), polynomial=1)
case("diagonal_matrix", lambda x, w: x @ jnp.diag(w), w=(4,), polynomial=1)
case("diagonal_of_matrix", lambda x, w: x * jnp.diagonal(w), w=(4, 4), polynomial=1)
case("kronecker", lambda x, w, v: x @ jnp.kron(w, v), w=(2, 2), v=(2, 1), polynomial=2)
case("block_diagonal", lambda x, w, v: x @ jax.scipy.linalg.block_diag(w, v), w=(2, 1), v=(2, 2), polynomial=1)
case("meshgrid", lambda x, w: x @ jnp.meshgrid(w, jnp.arange(4.0))[0], w=(3,), polynomial=1)


# --- indexing -------------------------------------------------------------------------------------

case("index_row", lambda x, w: x * w[1], w=(3, 4), polynomial=1)
case("index_entry", lambda x, w: x * w[1, 2], w=(3, 4), polynomial=1)
case("gather_rows", lambda x, w: x @ w[jnp.array([2, 0, 2, 1])], w=(3, 2), polynomial=1)
case("gather_columns", lambda x, w: x @ w[:, jnp.array([1, 1, 0])], w=(4, 2), polynomial=1)
case("gather_entries", lambda x, w: x * w[jnp.array([0, 2, 2, 1]), jnp.array([1, 0, 0, 3])], w=(3, 4), polynomial=1)
case("take_along_axis", lambda x, w: jnp.take_along_axis(jnp.tanh(x * w), jnp.argsort(x, axis=1), 1), w=(4,), smooth=False)
case("boolean_mask", lambda x, w: x[:, :2] * w[np.array([True, False, True, False])], w=(4,), polynomial=1)
case("dynamic_slice", lambda x, w: x @ lax.dynamic_slice(w, (1, 0), (4, 2)), w=(6, 3), polynomial=1)
case("dynamic_slice_by_input", each(lambda x, w: x @ lax.dynamic_slice(w, (jnp.argmax(x), 0), (4, 2))), w=(8, 3), polynomial=1)
case("dynamic_update_slice", lambda x, w, v: x @ lax.dynamic_update_slice(w, v, (1, 0)), w=(4, 3), v=(2, 2), polynomial=1)
case("at_add", lambda x, w, v: x @ w.at[1].add(v), w=(4, 2), v=(2,), polynomial=1)
case("at_set", lambda x, w, v: x @ w.at[jnp.array([0, 2])].set(v), w=(4, 2), v=(2,), polynomial=1)
case("at_multiply", lambda x, w, v: x @ w.at[1].multiply(v), w=(4, 2), v=(2,), polynomial=2)
case("at_add_repeated", lambda x, w: x.at[:, jnp.array([0, 0, 3])].add(w), w=(3,), polynomial=1)
case("at_set_of_constant", lambda x, w: x @ w.at[1].set(0.3), w=(4, 2), polynomial=1)
case("top_k_of_input", lambda x, w: lax.top_k(x * w, 2)[0], w=(4,), smooth=False)
case("sort", lambda x, w: jnp.sort(w) * x, w=(4,), smooth=False)
case("sort_outputs", lambda x, w: jnp.sort(x @ w, axis=-1), w=(4, 3), smooth=False)
case("searchsorted", lambda x, w: w[jnp.searchsorted(jnp.array([-0.5, 0.0, 0.5]), x)] * x, w=(4,), polynomial=1)
case("searchsorted_in_weights", lambda x, w, v: v[jnp.searchsorted(jnp.sort(w), x)] * x, w=(3,), v=(4,), smooth=False)


# --- reductions of parameters ---------------------------------------------------------------------

case("sum_of_weights", lambda x, w: x * jnp.sum(w, 0), w=(3, 4), polynomial=1)
case("sum_of_all_weights", lambda x, w: x * jnp.sum(w), w=(3, 4), polynomial=1)
case("mean_of_weights", lambda x, w: x @ (w - jnp.mean(w, 0)), w=(4, 2), polynomial=1)
case("max_of_weights", lambda x, w: x * jnp.max(w, 0), w=(3, 4), smooth=False)
case("prod_of_weights", lambda x, w: x * jnp.prod(w, 0), w=(3, 4), polynomial=3)
case("norm_of_weights", lambda x, w: x * jnp.linalg.norm(w, axis=0), w=(3, 4))
case("std_of_weights", lambda x, w: x @ (w / jnp.std(w, axis=0)), w=(4, 2))
case("argmax_of_weights", lambda x, w: jax.nn.one_hot(jnp.argmax(w), 4, dtype=x.dtype) * w * x, w=(4,), smooth=False)
case("cumsum", lambda x, w: jnp.cumsum(w) * x, w=(4,), polynomial=1)
case("cumprod", lambda x, w: jnp.cumprod(w) * x, w=(4,), polynomial=4)
case("cummax", lambda x, w: lax.cummax(w) * x, w=(4,), smooth=False)
case("cumsum_of_activations", lambda x, w: jnp.cumsum(w * x, axis=-1), w=(4,), polynomial=1)
case("cumulative_logsumexp", lambda x, w: lax.cumlogsumexp(w * x, axis=1), w=(4,))


# --- convolutions ---------------------------------------------------------------------------------


def conv(x, w, strides=None, padding="VALID", layout="NCHW", kernel="OIHW", **options):
    strides = strides or (1,) * (x.ndim - 2)
    numbers = (layout, kernel, layout)
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=numbers, **options)


case("conv_valid", lambda x, w: conv(x, w), x=(2, 4, 4), w=(2, 2, 3, 3), polynomial=1)
case("conv_same", lambda x, w: conv(x, w, padding="SAME"), x=(2, 3, 3), w=(2, 2, 3, 3), polynomial=1)
case("conv_strides", lambda x, w: conv(x, w, (2, 1)), x=(2, 5, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_strides_same", lambda x, w: conv(x, w, (2, 2), "SAME"), x=(2, 5, 4), w=(2, 2, 3, 3), polynomial=1)
case("conv_even_same", lambda x, w: conv(x, w, padding="SAME"), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_padding", lambda x, w: conv(x, w, padding=((2, 0), (0, 1))), x=(2, 3, 3), w=(2, 2, 3, 2), polynomial=1)
case("conv_negative_padding", lambda x, w: conv(x, w, padding=((-1, 0), (0, -1))), x=(2, 4, 4), w=(2, 2, 2, 2), polynomial=1)
case("conv_one_by_one", lambda x, w: conv(x, w), x=(3, 2, 2), w=(2, 3, 1, 1), polynomial=1)
case("conv_whole_window", lambda x, w: conv(x, w)[:, :, 0, 0], x=(2, 3, 3), w=(2, 2, 3, 3), polynomial=1)
case("conv_rhs_dilation", lambda x, w: conv(x, w, rhs_dilation=(2, 1)), x=(2, 5, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_lhs_dilation", lambda x, w: conv(x, w, padding=((1, 1), (2, 2)), lhs_dilation=(2, 3)), x=(2, 2, 2), w=(2, 2, 2, 2), polynomial=1)
case("conv_everything", lambda x, w: conv(x, w, (2, 1), ((2, 1), (1, 2)), lhs_dilation=(2, 1), rhs_dilation=(1, 2), feature_group_count=2), x=(4, 3, 3), w=(4, 2, 3, 2), polynomial=1)
case("conv_groups", lambda x, w: conv(x, w, feature_group_count=2), x=(4, 3, 3), w=(6, 2, 3, 2), polynomial=1)
case("conv_depthwise", lambda x, w: conv(x, w, feature_group_count=3), x=(3, 3, 3), w=(3, 1, 2, 2), polynomial=1)
case("conv_depthwise_multiplier", lambda x, w: conv(x, w, feature_group_count=2), x=(2, 3, 3), w=(4, 1, 3, 2), polynomial=1)
case("conv_separable", lambda x, w, v: conv(jnp.tanh(conv(x, w, feature_group_count=2)), v), x=(2, 3, 3), w=(2, 1, 2, 2), v=(2, 2, 1, 1))
case("conv_nhwc", lambda x, w: conv(x, w, layout="NHWC", kernel="HWIO"), x=(4, 4, 2), w=(3, 3, 2, 2), polynomial=1)
case("conv_nhwc_groups", lambda x, w: conv(x, w, layout="NHWC", kernel="HWIO", feature_group_count=2), x=(3, 3, 4), w=(2, 3, 2, 4), polynomial=1)
case("conv_odd_layout", lambda x, w: conv(x, w, layout="NWCH", kernel="WOHI", padding="SAME"), x=(3, 2, 3), w=(3, 2, 2, 2), polynomial=1)
case("conv_batch_last", lambda x, w: conv(x.transpose(1, 2, 3, 0), w, layout="CHWN", kernel="IHWO").transpose(3, 0, 1, 2), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_1d", lambda x, w, b: conv(x, w, layout="NWC", kernel="WIO") + b, x=(5, 2), w=(3, 2, 2), b=(2,), polynomial=1)
case("conv_1d_causal", lambda x, w: conv(x, w, padding=((2, 0),), layout="NWC", kernel="WIO"), x=(3, 2), w=(3, 2, 2), polynomial=1)
case("conv_1d_jnp", each(lambda x, w: jnp.convolve(x, w, mode="same")), x=(5,), w=(3,), polynomial=1)
case("conv_3d", lambda x, w: conv(x, w, layout="NDHWC", kernel="DHWIO"), x=(3, 2, 3, 2), w=(2, 2, 2, 2, 2), polynomial=1)
case("conv_flipped", lambda x, w: conv(x, w[:, :, ::-1, ::-1]), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_kernel_reshaped", lambda x, w: conv(x, w.reshape(2, 2, 2, 2)), x=(2, 3, 3), w=(8, 2), polynomial=1)
case("conv_kernel_scaled", lambda x, w, s: conv(x, w * s), x=(2, 3, 3), w=(2, 2, 2, 2), s=(2, 1, 1, 1), polynomial=2)
case("conv_transpose", lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME"), x=(2, 2, 2), w=(3, 3, 2, 1), polynomial=1)
case("conv_transpose_valid", lambda x, w: lax.conv_transpose(x, w, (1, 2), "VALID", transpose_kernel=True), x=(2, 2, 2), w=(2, 2, 1, 2), polynomial=1)
case("conv_transpose_by_hand", lambda x, w: conv(x, w[::-1, ::-1], padding=((1, 1), (1, 1)), layout="NHWC", kernel="HWIO", lhs_dilation=(2, 2)), x=(2, 2, 2), w=(2, 2, 2, 1), polynomial=1)
case("conv_weight_as_input", lambda x, w: conv(w, x[:, None]).swapaxes(0, 1)[:, 0], x=(2, 2), w=(1, 1, 4, 4), polynomial=1)
case("conv_weight_on_both_sides", lambda x, w: conv(conv(x, w, padding="SAME"), conv(w, w, padding="SAME")), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=3)
case("conv_batch_groups", lambda x, w: jnp.concatenate([conv(one, w, batch_group_count=2) for one in x]), x=(2, 2, 3, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_batch_groups_vmapped", each(lambda x, w: conv(x, w, batch_group_count=2)[0]), x=(2, 2, 3, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_vmapped", each(lambda x, w: conv(x[None], w)[0]), x=(2, 3, 3), w=(2, 2, 2, 2), polynomial=1)
case("conv_patches", lambda x, w: jnp.einsum("nphw,pk->nkhw", lax.conv_general_dilated_patches(x, (2, 2), (1, 1), "VALID"), w), x=(1, 3, 3), w=(4, 2), polynomial=1)
case("global_pooling", lambda x, w, v: jnp.mean(jnp.tanh(conv(x, w)), (2, 3)) @ v, x=(2, 4, 4), w=(3, 2, 3, 3), v=(3, 2))
case("two_spatial_sizes", lambda x, w, v: jnp.mean(jnp.tanh(conv(x, w)), (2, 3)) @ v, x=(2, 4, 4), x2=(2, 3, 5), w=(3, 2, 3, 3), v=(3, 2))


@case(x=(4, 4, 1), w=(3, 3, 1, 2), b=(2,), v=(2, 2, 2, 2), u=(2, 3), smooth=False)
def cnn(x, w, b, v, u):
    x = jax.nn.relu(conv(x, w, padding="SAME", layout="NHWC", kernel="HWIO") + b)
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jnp.mean(conv(x, v, layout="NHWC", kernel="HWIO"), (1, 2)) @ u


@case(x=(4, 4, 1), w=(3, 3, 1, 2), u=(8, 3))
def average_pooling_and_flatten(x, w, u):
    x = jnp.tanh(conv(x, w, padding="SAME", layout="NHWC", kernel="HWIO"))
    x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    return x.reshape(len(x), -1) @ u


# --- embeddings -----------------------------------------------------------------------------------

case("embedding", lambda x, w: w[x], x=integers(0, 5, 3), w=(5, 2), polynomial=1)
case("embedding_of_one_id", lambda x, w: w[x], x=integers(0, 5), w=(5, 2), polynomial=1)
case("embedding_take", lambda x, w: jnp.take(w, x, axis=0), x=integers(0, 5, 3), w=(5, 2), polynomial=1)
case("embedding_columns", lambda x, w: jnp.take(w, x, axis=1).swapaxes(0, 1), x=integers(0, 5, 3), w=(2, 5), polynomial=1)
case("embedding_repeated_ids", lambda x, w: w[x].sum(1), x=integers(0, 2, 4), w=(2, 3), polynomial=1)
case("embedding_two_dimensional_ids", lambda x, w: w[x].sum(1), x=integers(0, 5, 2, 2), w=(5, 2), polynomial=1)
case("embedding_one_hot", lambda x, w: jax.nn.one_hot(x, 5, dtype=w.dtype) @ w, x=integers(0, 5, 3), w=(5, 2), polynomial=1)
case("embedding_clip", lambda x, w: w.at[x].get(mode="clip"), x=integers(3, 9, 3), w=(5, 2), polynomial=1)
case("embedding_fill", lambda x, w: w.at[x].get(mode="fill", fill_value=0.3), x=integers(3, 7, 4), w=(5, 2), polynomial=1)
case("embedding_drop_negative", lambda x, w: w.at[x].get(mode="drop", fill_value=0.0, wrap_negative_indices=False), x=integers(-3, 5, 4), w=(5, 2), polynomial=1)
case("embedding_negative_ids", lambda x, w: w[x], x=integers(-5, 0, 3), w=(5, 2), polynomial=1)
case("embedding_promised_in_bounds", lambda x, w: w.at[x].get(mode="promise_in_bounds"), x=integers(0, 5, 3), w=(5, 2), polynomial=1)
case("embedding_two_indices", lambda x, w: w[x[:, 0], x[:, 1]], x=integers(0, 3, 2), w=(3, 3, 2), polynomial=1)
case("embedding_scaled", lambda x, w: jnp.tanh(w[x] * np.sqrt(2.0)), x=integers(0, 5, 3), w=(5, 2))
case("embedding_in_two_tables", lambda x, w, v: w[x] + v[x // 2], x=integers(0, 6, 2), w=(6, 2), v=(3, 2), polynomial=1)
case("embedding_slices", lambda x, w: jax.vmap(lambda i: lax.dynamic_index_in_dim(w, i, keepdims=False))(x), x=integers(0, 2), w=(2, 3), polynomial=1)
case("embedding_vmapped", lambda x, w: jax.vmap(jax.vmap(lambda i: w[i]))(x).sum(1), x=integers(0, 5, 3), w=(5, 2), polynomial=1)
case("embedding_slices_clamped", lambda x, w: jax.vmap(lambda i: lax.dynamic_slice(w, (0, i), (2, 1))[:, 0])(x), x=integers(2, 9), w=(2, 5), polynomial=1)
case("embedding_in_scan", lambda x, w, u: scan(lambda h, i: jnp.tanh(h @ u + w[i]), jnp.zeros((len(x), 2)), x.T), x=integers(0, 4, 3), w=(4, 2), u=(2, 2))
case("embedding_by_one_example", each(lambda x, w, v: jnp.tanh(w[x]) @ v), x=integers(0, 5), w=(5, 3), v=(3, 2))
case("embedding_and_dense", lambda x, w, v: jnp.tanh(w[x]).mean(1) @ v, x=integers(0, 5, 3), w=(5, 4), v=(4, 2))
case("embedding_tied", lambda x, w: jnp.tanh(w[x]).mean(1) @ w.T, x=integers(0, 4, 3), w=(4, 3))
case("embedding_position", lambda x, w, p, v: jnp.tanh(w[x] + p).sum(1) @ v, x=integers(0, 5, 3), w=(5, 2), p=(3, 2), v=(2, 2))
case("embedding_of_transposed_table", lambda x, w: w.T[x], x=integers(0, 5, 3), w=(2, 5), polynomial=1)
case("embedding_of_product", lambda x, a, b: (a @ b)[x], x=integers(0, 5, 3), a=(5, 1), b=(1, 2), polynomial=2)


# --- attention ------------------------------------------------------------------------------------


@case(x=(3, 4), q=(4, 2), k=(4, 2), v=(4, 2))
def attention(x, q, k, v):
    scores = (x @ q) @ (x @ k).swapaxes(1, 2) / np.sqrt(2)
    return jax.nn.softmax(scores) @ (x @ v)


@case(x=(3, 4), q=(4, 2, 2), k=(4, 2, 2), v=(4, 2, 2), o=(2, 2, 2))
def attention_heads(x, q, k, v, o):
    q, k, v = (jnp.einsum("nti,ihj->nthj", x, w) for w in (q, k, v))
    scores = jnp.einsum("nthj,nshj->nhts", q, k) / np.sqrt(2)
    return jnp.einsum("nhts,nshj,hjo->nto", jax.nn.softmax(scores), v, o)


@case(x=(3, 4), qkv=(4, 12), o=(4, 2))
def attention_causal(x, qkv, o):
    q, k, v = (part.reshape(*x.shape[:2], 2, 2) for part in jnp.split(x @ qkv, 3, axis=-1))
    scores = jnp.einsum("nthj,nshj->nhts", q, k)
    scores = jnp.where(np.tril(np.ones((3, 3), bool)), scores, -1e9)
    heads = jnp.einsum("nhts,nshj->nthj", jax.nn.softmax(scores), v)
    return heads.reshape(*x.shape[:2], 4) @ o


@case(x=(3, 4), q=(2, 4), k=(4, 4), v=(4, 2))
def attention_learned_queries(x, q, k, v):
    return jax.nn.softmax(q @ (x @ k).swapaxes(1, 2)) @ (x @ v)


@case(x=(3, 4), a=(4, 2), b=(4, 2), c=(4, 2), u=(2, 2))
def attention_linear(x, a, b, c, u):
    q, k, v = jax.nn.elu(x @ a) + 1, jax.nn.elu(x @ b) + 1, x @ c
    state = jnp.einsum("nsi,nsj->nij", k, v)
    return jnp.einsum("nti,nij->ntj", q, state) / jnp.einsum("nti,nsi->nt", q, k)[..., None] @ u


@case(x=(3, 4), w=(3, 4, 4))
def dot_product_attention(x, w):
    q, k, v = (jnp.einsum("nti,ij->ntj", x, part).reshape(len(x), 3, 2, 2) for part in w)
    return jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(len(x), 3, 4)[:, :, :2]


# --- normalisation --------------------------------------------------------------------------------


def standardise(x, axes=-1):
    return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)


case("layer_norm", lambda x, g, b: standardise(x) * g + b, x=(2, 4), g=(4,), b=(4,), polynomial=1)
case("layer_norm_after_dense", lambda x, w, g, b: standardise(x @ w) * g + b, w=(4, 3), g=(3,), b=(3,))
case("layer_norm_one_plus_gain", lambda x, g: standardise(x) * (1 + g), x=(2, 4), g=(4,), polynomial=1)
case("rms_norm", lambda x, w, g: (x @ w) * lax.rsqrt(jnp.mean((x @ w) ** 2, -1, keepdims=True)) * g, w=(4, 3), g=(3,))
case("batch_norm_fixed", lambda x, w, g, b: (x @ w - 0.2) / np.sqrt(0.7) * g + b, w=(4, 3), g=(3,), b=(3,), polynomial=2)
case("batch_norm_of_batch", lambda x, w, g: standardise(x @ w, 0) * g, w=(4, 3), g=(3,), batched=False)
case("weight_norm", lambda x, w, g: x @ (g * w / jnp.linalg.norm(w, axis=0)), w=(4, 3), g=(3,))
case("weight_standardised", lambda x, w: x @ standardise(w, 0), w=(4, 3))
case("normalised_input", lambda x, w: (x / jnp.linalg.norm(x, axis=-1, keepdims=True)) @ w, w=(4, 2), polynomial=1)


@case(x=(2, 2, 4), w=(4, 4), g=(4,), b=(4,))
def group_norm(x, w, g, b):
    groups = (x @ w).reshape(len(x), 2, 2, 2, 2)
    return (standardise(groups, (1, 2, 4)).reshape(x.shape) * g + b).mean((1, 2))


@case(x=(4,), w=(4, 3))
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

case("tied_alike", lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w), w=(4, 4))
case("tied_transposed", lambda x, w: jnp.tanh(x @ w) @ w.T, w=(4, 3))
case("tied_autoencoder", lambda x, w, b, c: jnp.tanh(x @ w + b) @ w.T + c, w=(4, 2), b=(2,), c=(4,))
case("tied_reshaped", lambda x, w: jnp.tanh(x @ w) @ w.reshape(3, 4), w=(4, 3))
case("tied_reversed", lambda x, w: jnp.tanh(x @ w) @ w[::-1, ::-1], w=(4, 4))
case("tied_dense_and_bias", lambda x, w: x @ w + w[0] * w[1], w=(4, 2), polynomial=2)
case("tied_dense_and_conv", lambda x, w: conv((x @ w)[:, None], w[None, None], padding="SAME"), x=(3, 3), w=(3, 3), polynomial=2)
case("tied_linear", lambda x, w: x @ w @ w @ w, w=(4, 4), polynomial=3)
case("tied_two_lengths", lambda x, w: jnp.tanh(x @ w).sum(1) @ w, x=(3, 4), w=(4, 4))
case("tied_scaled_twice", lambda x, w: jnp.tanh(x @ (2.0 * w)) @ (w / 3.0), w=(4, 4))
case("siamese", lambda x, w: jnp.sum(jnp.tanh(x["a"] @ w) * jnp.tanh(x["b"] @ w), -1), x={"a": (4,), "b": (4,)}, w=(4, 3))


@case(x=(3, 2), w=(2, 3), u=(3, 3), b=(3,))
def rnn_unrolled(x, w, u, b):
    h = jnp.zeros((len(x), 3))
    for t in range(3):
        h = jnp.tanh(x[:, t] @ w + h @ u + b)
    return h


# --- recurrent and scan ---------------------------------------------------------------------------


def scan(step, carry, xs, **options):
    """The last carry."""
    return lax.scan(lambda carry, x: (step(carry, x), None), carry, xs, **options)[0]


def zeros(x, *shape):
    return jnp.zeros((len(x), *shape))


def time_first(x):
    return x.swapaxes(0, 1)


case("scan_layers", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, w), x=(3,), w=(3, 3, 3))
case("scan_layers_linear", lambda x, w: scan(jnp.matmul, x, w), x=(3,), w=(3, 3, 3), polynomial=3)
case("scan_layers_bias", lambda x, w, b: scan(lambda h, p: h + jnp.tanh(h @ p[0] + p[1]), x, (w, b)), x=(3,), w=(3, 3, 3), b=(3, 3))
case("scan_layers_checkpoint", lambda x, w: scan(jax.checkpoint(lambda h, w: jnp.tanh(h @ w)), x, w), x=(3,), w=(3, 3, 3))
case("scan_layers_unroll", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, w, unroll=2), x=(3,), w=(3, 3, 3))
case("scan_layers_reverse", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, w, reverse=True), x=(3,), w=(3, 3, 3))
case("scan_layers_reshaped", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w.T), x, w.reshape(2, 3, 3)), x=(3,), w=(6, 3))
case("scan_layers_scaled", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, 0.5 * w), x=(3,), w=(3, 3, 3))
case("scan_layers_gain", lambda x, w, g: scan(lambda h, p: jnp.tanh(h @ p[0]) * p[1], x, (w, g)), x=(3,), w=(3, 3, 3), g=(3, 3))
case("scan_length_one", lambda x, w: scan(lambda h, w: jnp.tanh(h @ w), x, w), x=(3,), w=(1, 3, 3))
case("scan_length_zero", lambda x, w, v: scan(lambda h, w: jnp.tanh(h @ w), x @ v, w), x=(3,), w=(0, 2, 2), v=(3, 2))
case("scan_conv_layers", lambda x, w: scan(lambda h, w: jnp.tanh(conv(h, w, padding="SAME")), x, w).mean((2, 3)), x=(2, 3, 3), w=(2, 2, 2, 3, 3))
case("scan_constants_only", lambda x, w: scan(lambda h, _: jnp.tanh(h @ w), x, None, length=3), x=(3,), w=(3, 3))
case("scan_data_only", lambda x, w: scan(lambda h, a: h + jnp.tanh(a), zeros(x, 4), time_first(x)) @ w, x=(3, 4), w=(4, 2), polynomial=1)
case("rnn", lambda x, w, u, b: scan(lambda h, a: jnp.tanh(a @ w + h @ u + b), zeros(x, 3), time_first(x)), x=(3, 2), w=(2, 3), u=(3, 3), b=(3,))
case("rnn_reverse", lambda x, w, u: scan(lambda h, a: jnp.tanh(a @ w + h @ u), zeros(x, 3), time_first(x), reverse=True), x=(3, 2), w=(2, 3), u=(3, 3))
case("rnn_unroll", lambda x, w, u: scan(lambda h, a: jnp.tanh(a @ w + h @ u), zeros(x, 3), time_first(x), unroll=2), x=(5, 2), w=(2, 3), u=(3, 3))
case("rnn_initial_state", lambda x, h, u: scan(lambda h, a: jnp.tanh(a + h @ u), jnp.broadcast_to(h, (len(x), 3)), time_first(x)), x=(3, 3), h=(3,), u=(3, 3))
case("rnn_tied_to_head", lambda x, u: scan(lambda h, a: jnp.tanh(a + h @ u), zeros(x, 3), time_first(x)) @ u, x=(3, 3), u=(3, 3))
case("rnn_vmapped", each(lambda x, u, h: scan(lambda h, a: jnp.tanh(a + u @ h), h, x)), x=(3, 3), u=(3, 3), h=(3,))
case("rnn_scalar_gain", lambda x, s, u: scan(lambda h, a: jnp.tanh(a + s * (h @ u)), zeros(x, 3), time_first(x)), x=(3, 3), s=(), u=(3, 3))
case("rnn_embedding", lambda x, w, u: scan(lambda h, i: jnp.tanh(w[i] + h @ u), zeros(x, 3), time_first(x)), x=integers(0, 4, 3), w=(4, 3), u=(3, 3))
case("rnn_outputs", lambda x, u: time_first(lax.scan(lambda h, a: (jnp.tanh(a + h @ u),) * 2, zeros(x, 2), time_first(x))[1]), x=(3, 2), u=(2, 2))
case("scan_data_and_weights", lambda x, w, u: scan(lambda h, p: jnp.tanh(p[0] @ p[1] + h @ u), zeros(x, 3), (time_first(x), w)), x=(3, 2), w=(3, 2, 3), u=(3, 3))
case("scan_weight_as_carry", lambda x, w: scan(lambda c, _: (jnp.tanh(c[0] @ c[1]), c[1] * 0.9), (x, w), None, length=3)[0], x=(3,), w=(3, 3))
case("scan_weight_in_carry_kept", lambda x, w: scan(lambda c, _: (jnp.tanh(c[0] @ c[1]), c[1]), (x, w), None, length=2)[0], x=(3,), w=(3, 3))
case("scan_carry_made_of_weight", lambda x, w, v: x @ scan(lambda c, v: c @ v, w, v), x=(3,), w=(3, 2), v=(2, 2, 2), polynomial=3)
case("scan_returns_weight_slices", lambda x, w: jnp.einsum("ni,kij->nkj", x, lax.scan(lambda c, w: (c, w.T), 0, w)[1]), x=(3,), w=(2, 2, 3), polynomial=1)
case("scan_returns_constant_weight", lambda x, w: jnp.einsum("ni,kij->nkj", x, lax.scan(lambda c, _: (c, w), 0, None, length=2)[1]), x=(3,), w=(3, 2), polynomial=1)
case("scan_counts", lambda x, w: lax.scan(lambda c, w: ((c[0] + 1, c[1] @ w * c[0]), None), (1, x), w)[0][1], x=(3,), w=(3, 3, 3), polynomial=3)
case("scan_indexes_weights", lambda x, w: scan(lambda h, i: jnp.tanh(h @ w[i]), x, jnp.arange(3)), x=(3,), w=(3, 3, 3))
case("map", lambda x, w: lax.map(lambda a: jnp.tanh(a @ w), x), w=(4, 2))
case("map_batches", lambda x, w: lax.map(lambda a: jnp.tanh(a @ w), x, batch_size=2), w=(4, 2))
case("map_over_weights", lambda x, w: time_first(lax.map(lambda w: jnp.tanh(x @ w), w)), w=(3, 4, 2))
case("fori_loop", lambda x, w: lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ w + i), x), x=(3,), w=(3, 3))
case("fori_loop_indexes_weights", lambda x, w: lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ w[i]), x), x=(3,), w=(2, 3, 3))
case("while_loop", lambda x, w: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0, x))[1], x=(3,), w=(3, 3), reverse=False)
case("solve_without_transpose", each(lambda x, w: lax.custom_linear_solve(lambda v: 0.7 * v, jnp.tanh(w * x), lambda _, b: b / 0.7)), x=(3,), w=(3,), reverse=False)
case("while_loop_of_data", lambda x, w: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(2 * c[1])), (0, x))[1] @ w, x=(3,), w=(3, 2), polynomial=1)
case("fori_loop_dynamic", each(lambda x, w: lax.fori_loop(0, 1 + jnp.argmax(x), lambda i, h: jnp.tanh(h @ w), x)), x=(3,), w=(3, 3), reverse=False, smooth=False)
case("associative_scan", lambda x, a, b: lax.associative_scan(lambda l, r: (l[0] * r[0], l[1] * r[0] + r[1]), (jnp.broadcast_to(a, x.shape), x * b), axis=1)[1], x=(4, 2), a=(2,), b=(2,), polynomial=4)


@case(x=(3, 2), w=(2, 8), u=(2, 8), b=(8,))
def lstm(x, w, u, b):
    def step(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(x @ w + h @ u + b, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    return scan(step, (zeros(x, 2), zeros(x, 2)), time_first(x))[0]


@case(x=(3, 2), w=(2, 6), u=(2, 6), b=(6,), h=(2,))
def gru(x, w, u, b, h):
    def step(h, x):
        (r, z, n), (hr, hz, hn) = jnp.split(x @ w + b, 3, -1), jnp.split(h @ u, 3, -1)
        z = jax.nn.sigmoid(z + hz)
        return (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * h

    return scan(step, jnp.broadcast_to(h, (len(x), 2)), time_first(x))


@case(x=(2, 3), w=(2, 3, 3), u=(3, 3))
def scan_in_scan(x, w, u):
    def over_layers(h, x):
        return scan(lambda h, w: jnp.tanh(h @ w + x @ u), h, w)

    return scan(over_layers, zeros(x, 3), time_first(x))


@case(x=(3,), w=(2, 2, 3, 3))
def scan_in_scan_of_stacks(x, w):
    return scan(lambda h, w: scan(lambda h, w: jnp.tanh(h @ w), h, w), x, w)


@case(x=(3,), w=(3, 3, 3), u=(3, 3))
def scan_with_jit_and_cond(x, w, u):
    def step(h, layer):
        i, w = layer
        h = lax.cond(i % 2 == 0, jnp.tanh, jnp.sin, h)
        return jax.jit(lambda h, w: h @ w + h @ u)(h, w)

    return scan(step, x, (jnp.arange(3), w))


@case(x=(3, 4), w=(2, 4, 6), g=(2, 4), o=(2, 2, 4), head=(4, 2))
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


@case(x=(4,), w=(2, 4, 3))
def ref_summed_in_scan(x, w):
    total = jax.new_ref(zeros(x, 3))

    def add(carry, w):
        total[...] += jnp.tanh(x @ w)
        return carry, None

    lax.scan(add, 0, w)
    return total[...]


@case(x=(4,), w=(4, 3), u=(3, 2))
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


# --- control flow and transformations inside ------------------------------------------------------

case("jit", lambda x, w: jax.jit(lambda x, w: jnp.tanh(x @ w))(x, w), w=(4, 2))
case("jit_in_jit", lambda x, w: jax.jit(lambda x: jax.jit(jnp.matmul)(jnp.tanh(x), w))(x), w=(4, 2), polynomial=1)
case("jit_returns_weight", lambda x, w: x @ jax.jit(lambda w: (w.T, w))(w)[0], w=(2, 4), polynomial=1)
case("jit_called_twice", lambda x, w: (g := jax.jit(lambda h: jnp.tanh(h @ w)))(g(x)), w=(4, 4))
case("named_call", lambda x, w: jax.named_call(lambda x, w: jnp.tanh(x @ w), name="layer")(x, w), w=(4, 2))
case("named_scope", lambda x, w: jax.named_scope("layer")(lambda x: x @ w)(x), w=(4, 2), polynomial=1)
case("closure", lambda x, w: (lambda layer: layer(jnp.tanh(layer(x))))(lambda h: h @ w), w=(4, 4))
case("checkpoint", lambda x, w, v: jax.checkpoint(lambda x: jnp.tanh(x @ w) @ v)(x), w=(4, 3), v=(3, 2))
case("checkpoint_policy", lambda x, w, v: jax.checkpoint(lambda x, w, v: jnp.tanh(x @ w) @ v, policy=jax.checkpoint_policies.dots_saveable)(x, w, v), w=(4, 3), v=(3, 2))
case("vmap_inside", lambda x, w: jax.vmap(lambda a: jnp.tanh(w @ a))(x), w=(2, 4))
case("vmap_of_out_axis", lambda x, w: jax.vmap(lambda a: jnp.tanh(w @ a), out_axes=1)(x).T, w=(2, 4))
case("ensemble", lambda x, w, v: jax.vmap(lambda w, v: jnp.tanh(x @ w) @ v, out_axes=1)(w, v), w=(2, 4, 3), v=(2, 3, 1))
case("ensemble_in_axes", lambda x, w: jax.vmap(jnp.matmul, (None, 2), 1)(x, w), w=(4, 2, 3), polynomial=1)
case("gradient_inside", each(lambda x, w: jax.grad(lambda a: jnp.sum(jnp.tanh(a @ w) ** 2))(x)), x=(3,), w=(3, 3))
case("gradient_in_weights_inside", each(lambda x, w: x[:2] @ jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w) ** 2))(w)[:2]), x=(3,), w=(3, 2))
case("gradient_of_batch_energy", lambda x, w, v: jax.grad(lambda a: jnp.sum(jnp.tanh(a @ w) @ v))(x), x=(3,), w=(3, 3), v=(3,))
case("jvp_inside", lambda x, w: jax.jvp(lambda a: jnp.tanh(a @ w), (x,), (x**2,))[1], w=(4, 2))
case("hessian_inside", each(lambda x, w: jax.hessian(lambda a: jnp.sum(jnp.tanh(a @ w)))(x)), x=(2,), w=(2, 3))
case("inner_gradient_step", lambda x, w: jnp.tanh(x @ (w - 0.1 * jax.grad(lambda w: jnp.sum(jnp.tanh(np.eye(4) @ w) ** 2))(w))), w=(4, 2))
case("cond_on_weight", lambda x, w, v: lax.cond(w.sum() > 0, lambda: jnp.tanh(x @ w), lambda: x @ v), w=(4, 2), v=(4, 2), smooth=False)
case("cond_on_input", each(lambda x, w, v: lax.cond(x[0] > 0, lambda: jnp.tanh(x @ w), lambda: x @ v)), w=(4, 2), v=(4, 2))
case("cond_on_flag", lambda x, w, v, flag: lax.cond(flag, lambda w, v: x @ w, lambda w, v: jnp.sin(x @ v), w, v), w=(4, 2), v=(4, 2), flag=value(lambda: jnp.array(True)))
case("cond_picks_weight", lambda x, w, v, flag: x @ lax.cond(flag, lambda w, v: w, lambda w, v: 2 * v, w, v), w=(4, 2), v=(4, 2), flag=value(lambda: jnp.array(False)), polynomial=1)
case("cond_without_weights", lambda x, w, flag: lax.cond(flag, jnp.tanh, jnp.sin, x) @ w, w=(4, 2), flag=value(lambda: jnp.array(True)), polynomial=1)
case("switch", each(lambda x, w: lax.switch(jnp.argmax(x), [lambda a: a @ w, lambda a: jnp.tanh(a @ w), lambda a: a[:2] * w[0]], x)), x=(3,), w=(3, 2))
case("select_n", lambda x, w: x @ lax.select_n(jnp.array(1), w[0], w[1], w[2]), w=(3, 4, 2), polynomial=1)
case("dropout", lambda x, w: jnp.where(jax.random.bernoulli(jax.random.key(3), 0.5, (4,)), jnp.tanh(x * w) / 0.5, 0.0), w=(4,))
case("noise_on_weights", lambda x, w: x @ (w + 0.1 * jax.random.normal(jax.random.key(3), (4, 2), x.dtype)), w=(4, 2), polynomial=1)
case("optimization_barrier", lambda x, w: jnp.tanh(x @ lax.optimization_barrier(w)), w=(4, 2))


# --- custom rules ---------------------------------------------------------------------------------


@jax.custom_jvp
def thrice_jvp(w, x):
    """`w x`, with three times its derivative in `w`."""
    return w * x


@thrice_jvp.defjvp
def _(primals, tangents):
    (w, x), (dw, dx) = primals, tangents
    return w * x, 3 * dw * x + w * dx


@jax.custom_vjp
def thrice_vjp(w, x):
    """`x @ w`, with three times its derivative in `w`."""
    return x @ w


thrice_vjp.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (3 * r[1].T @ g, g @ r[0].T))


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

case("custom_jvp_of_weight", lambda x, w: thrice_jvp(w, x), w=(4,))
case("custom_jvp_of_weight_view", lambda x, w: thrice_jvp(2.0 * w.T, x), w=(4, 1), x=(4,))
case("custom_jvp_of_activation", lambda x, w: bumpy(x @ w), w=(4, 2))
case("custom_jvp_in_scan", lambda x, w: scan(lambda h, w: thrice_jvp(w, h), x, w), w=(3, 4))
case("custom_vjp_of_weight", lambda x, w: thrice_vjp(w, x), w=(4, 2), forward=False)
case("custom_vjp_of_weight_view", lambda x, w: thrice_vjp(w.reshape(4, 2), x), w=(8,), forward=False)
case("custom_vjp_of_activation", lambda x, w, v: straight_through(x @ w) @ v, w=(4, 3), v=(3, 2), forward=False)
case("custom_vjp_of_weight_only", lambda x, w: x @ straight_through(w), w=(4, 2), forward=False)
case("custom_vjp_in_scan", lambda x, w: scan(lambda h, _: jnp.tanh(thrice_vjp(w, h)), x, None, length=2), x=(3,), w=(3, 3), forward=False)


# --- linear algebra -------------------------------------------------------------------------------


def gram(w):
    return w @ w.T + np.eye(len(w))


case("solve", lambda x, w: jnp.linalg.solve(gram(w), x.T).T, x=(3,), w=(3, 3))
case("inverse", lambda x, w: x @ jnp.linalg.inv(gram(w)), x=(3,), w=(3, 3))
case("cholesky", lambda x, w: x @ jnp.linalg.cholesky(gram(w)), x=(3,), w=(3, 3))
case("triangular_solve", lambda x, w: jax.scipy.linalg.solve_triangular(jnp.tril(w) + 2 * np.eye(3), x.T, lower=True).T, x=(3,), w=(3, 3))
case("slogdet", lambda x, w: x * jnp.linalg.slogdet(gram(w))[1], x=(3,), w=(3, 3))
case("determinant", lambda x, w: x * jnp.linalg.det(w), x=(3,), w=(3, 3), polynomial=3)
case("eigh", lambda x, w: (lambda e: x @ (e[1] * jnp.exp(e[0])) @ e[1].T)(jnp.linalg.eigh(gram(w))), x=(3,), w=(3, 3))
case("eigenvalues", lambda x, w: x * jnp.linalg.eigvalsh(gram(w)), x=(3,), w=(3, 3))
case("qr", lambda x, w: x @ jnp.linalg.qr(w)[0], x=(3,), w=(3, 2))
case("singular_values", lambda x, w: x * jnp.linalg.svd(w, compute_uv=False), x=(3,), w=(3, 3))
case("matrix_exponential", lambda x, w: x @ jax.scipy.linalg.expm(w - w.T), x=(3,), w=(3, 3))
case("gaussian_process", each(lambda x, s: jnp.linalg.solve(jnp.exp(-s * (x[:, None] - x) ** 2) + 0.1 * np.eye(3), x)), x=(3,), s=positive())
case("deep_equilibrium", lambda x, w, u: jnp.linalg.solve(np.eye(3) - 0.3 * jnp.tanh(w), (x @ u).T).T, w=(3, 3), u=(4, 3))
case("fft_of_weight", lambda x, w: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), 4), w=(4,), polynomial=1)
case("fourier_layer", lambda x, re, im: jnp.fft.irfft(jnp.fft.rfft(x) * lax.complex(re, im), 4), re=(3,), im=(3,), polynomial=1)
case("fft_of_activations", lambda x, w: jnp.abs(jnp.fft.fft(x @ w)), w=(4, 3))


# --- routing --------------------------------------------------------------------------------------

SEGMENTS = np.array([0, 1, 0, 1])

case("segment_sum", each(lambda x, w: jax.ops.segment_sum(w * x, SEGMENTS, 2)), w=(4,), polynomial=1)
case("segment_sum_of_weights", lambda x, w: x[:, :2] @ jax.ops.segment_sum(w, SEGMENTS, 2), w=(4, 2), polynomial=1)
case("segment_max", each(lambda x, w: jax.ops.segment_max(w * x, SEGMENTS, 2)), w=(4,), smooth=False)
case("graph_layer", lambda x, w, v: jnp.tanh(np.tri(3) @ jnp.tanh(np.tri(3) @ x @ w) @ v), x=(3, 4), w=(4, 3), v=(3, 1))
case("one_hot_routing", lambda x, w: jnp.einsum("ne,ni,eij->nj", jax.nn.one_hot(jnp.argmax(x[:, :3], 1), 3, dtype=x.dtype), x, w), w=(3, 4, 2), polynomial=1)
case("gathered_experts", lambda x, w: jnp.einsum("ni,nij->nj", x, w[jnp.argmax(x[:, :3], 1)]), w=(3, 4, 2), polynomial=1)
case("dense_experts", lambda x, g, w: jnp.einsum("ne,ni,eij->nj", jax.nn.softmax(x @ g), x, w), g=(4, 3), w=(3, 4, 2))


@case(g=(4, 3), w=(3, 4, 2), smooth=False)
def top_k_experts(x, g, w):
    gates, experts = lax.top_k(x @ g, 2)
    gates = jnp.sum(jax.nn.softmax(gates)[..., None] * jax.nn.one_hot(experts, 3, dtype=x.dtype), 1)
    return jnp.einsum("ne,ni,eij->nj", gates, x, w)


@case(g=(4, 3), w=(3, 4, 2), smooth=False)
def top_k_gathered(x, g, w):
    gates, experts = lax.top_k(jax.nn.softmax(x @ g), 2)
    return jnp.einsum("nk,ni,nkij->nj", gates, x, w[experts])


# --- adapters on a frozen weight ------------------------------------------------------------------

case("lora", lambda x, a, b: x @ (np.eye(4, 3) + a @ b), a=(4, 1), b=(1, 3), polynomial=2)
case("lora_on_weight", lambda x, w, a, b: x @ (w + 0.5 * (a @ b)), w=(4, 3), a=(4, 1), b=(1, 3), polynomial=2)
case("lora_stopped", lambda x, w, a, b: x @ lax.stop_gradient(w) + (x @ a) @ b, w=(4, 3), a=(4, 1), b=(1, 3))
case("dora", lambda x, a, b, g: x @ (g * (v := np.eye(4, 3) + a @ b) / jnp.linalg.norm(v, axis=0)), a=(4, 1), b=(1, 3), g=(3,))
case("hypernetwork", each(lambda x, w: jnp.tanh(w @ x).reshape(2, 2) @ x[:2]), w=(4, 4))
case("hypernetwork_of_weight", lambda x, z, w: x @ jnp.tanh(z @ w).reshape(4, 2), z=(3,), w=(3, 8))
case("film", lambda x, w, g, b: jnp.tanh(x["h"] @ w * (x["z"] @ g) + x["z"] @ b), x={"h": (3,), "z": (2,)}, w=(3, 2), g=(2, 2), b=(2, 2))


# --- degenerate shapes and parameters -------------------------------------------------------------

case("no_parameters", lambda x: jnp.tanh(x), polynomial=0)
case("constant_output", lambda x, w: zeros(x, 2) + 0.7, w=(4,), polynomial=0)
case("unused_parameter", lambda x, w, v: x @ w, w=(4, 2), v=(3,), polynomial=1)
case("zero_size_parameter", lambda x, w, v: x @ w + v.sum(), w=(4, 2), v=(0, 3), polynomial=1)
case("zero_size_contraction", lambda x, w, v: x @ w @ v, w=(4, 0), v=(0, 2), polynomial=2)
case("zero_size_batch", lambda x, w: jnp.tanh(x @ w), n=0, w=(4, 2))
case("zero_size_second_batch", lambda x, w: jnp.tanh(x @ w), m=0, w=(4, 2))
case("zero_size_output", lambda x, w: jnp.tanh(x @ w), w=(4, 0))
case("one_example", lambda x, w: jnp.tanh(x @ w), n=1, m=1, w=(4, 2))
case("one_of_everything", lambda x, w: x @ w, n=1, m=1, x=(1,), w=(1, 1), polynomial=1)
case("scalar_output", lambda x, w: jnp.sum(jnp.tanh(x @ w)), w=(4, 2), batched=False)
case("scalar_per_example", lambda x, w, v: jnp.tanh(x @ w) @ v, w=(4, 3), v=(3,))
case("returns_parameter", lambda x, w: w, w=(4,), batched=False, polynomial=1)
case("returns_transposed_parameter", lambda x, w: w.T, w=(3, 2), batched=False, polynomial=1)
case("returns_broadcast_parameter", lambda x, w: jnp.broadcast_to(w, (len(x), 4)), w=(4,), polynomial=1)
case("returns_parameter_and_input", lambda x, w: (jnp.broadcast_to(w, (len(x), 4)), x @ w), w=(4,), polynomial=1)
case("integer_leaf", lambda x, w, count: jnp.tanh(x @ w) * count, w=(4, 2), count=value(lambda: jnp.array(3)))
case("boolean_leaf", lambda x, w, mask: x @ jnp.where(mask[:, None], w, 0.3), w=(4, 2), mask=value(lambda: jnp.array([True, False, True, True])), polynomial=1)
case("key_leaf", lambda x, w, key: x @ w + jax.random.normal(key, (2,), x.dtype), w=(4, 2), key=value(lambda: jax.random.key(7)), polynomial=1)
case("raw_key_leaf", lambda x, w, key: x @ w + jax.random.normal(key, (2,), x.dtype), w=(4, 2), key=value(lambda: jax.random.PRNGKey(7)), polynomial=1)
case("none_leaf", lambda x, w, b: x @ w if b is None else x @ w + b, w=(4, 2), b=value(lambda: None), polynomial=1)
case("numpy_leaf", lambda x, w: x @ w, w=lambda rng, lead: _signed(rng, (4, 2)), polynomial=1)
case("batch_mixing", lambda x, w: jnp.tanh(x @ w) - jnp.mean(x @ w, 0), w=(4, 2), batched=False)
case("batch_as_weight_axis", lambda x, w: w[: len(x)] * x, w=(3, 4), batched=False, polynomial=1)
case("batch_axis_last", lambda x, w: jnp.tanh(w @ x.T), w=(2, 4), batched=False)
case("pairwise", lambda x, w: jnp.tanh(x @ w) @ jnp.tanh(x @ w).T, w=(4, 3), n=2, batched=False)


# --- several outputs, pytrees, kwargs -------------------------------------------------------------

case("outputs_dict", lambda x, w, v: {"a": x @ w, "b": jnp.tanh(x @ w) @ v}, w=(4, 3), v=(3,))
case("outputs_tuple", lambda x, w, v: (x @ w, jnp.einsum("ni,j->nij", x, v), x @ w @ v), x=(2,), w=(2, 3), v=(3,), polynomial=2)
case("outputs_one_without_parameter", lambda x, w: [jnp.tanh(x), x @ w], x=(3,), w=(3, 2), polynomial=1)
case("outputs_of_disjoint_parameters", lambda x, w, v: (jnp.tanh(x @ w), x @ v), w=(4, 2), v=(4,))
case("outputs_same_twice", lambda x, w: (y := x @ w, y), w=(4, 2), polynomial=1)
case("outputs_nested", lambda x, w: {"a": [x @ w, {"b": x[:, :2] * w[0]}], "c": None}, w=(4, 2), polynomial=1)
case("outputs_three_axes", lambda x, w, b: jnp.tanh(x @ w + b), x=(2, 4), w=(4, 3), b=(2, 1))
case("nested_parameters", lambda x, layers: functools.reduce(lambda h, p: jnp.tanh(h @ p["w"] + p["b"]), layers, x), layers=[{"w": (4, 3), "b": (3,)}, {"w": (3, 2), "b": (2,)}])
case("nested_input", lambda x, w, v: x["a"] @ w + x["more"][0] @ v, x={"a": (4,), "more": [(3,), (1,)]}, w=(4, 2), v=(3, 2), polynomial=1)
case("integer_input", lambda x, w: jnp.tanh(x @ w), x=integers(1, 5, 4), w=(4, 2))
case("mixed_input", lambda x, w, v: x["a"] @ w + v[x["id"]], x={"a": (4,), "id": integers(0, 3)}, w=(4, 2), v=(3, 2), polynomial=1)
case("boolean_input", lambda x, w: jnp.where(x, w, 0.3), x=lambda rng, lead: jnp.asarray(rng.random((*lead, 4)) < 0.5), w=(4,), polynomial=1)
case("kwarg_scale", lambda x, w, scale: jnp.tanh(scale * (x @ w)), w=(4, 2), kwargs={"scale": 0.7})
case("kwarg_default", lambda x, w, scale=0.7: jnp.tanh(scale * (x @ w)), w=(4, 2))
case("kwarg_static", lambda x, w, train: jnp.tanh(x @ w) if train else x @ w, w=(4, 2), kwargs={"train": False}, polynomial=1)


# --- about one row of each kind -------------------------------------------------------------------

CORE = """
multiply weight_over_input product_of_two logsumexp maximum where scalar_times_vector
scalar_scales_matrix own_norm_scales_matrix ntk_parameterisation constant_mask stop_gradient_on_part
used_twice_unalike dense dense_bias dense_on_tokens mlp_relu mlp_gelu deep_linear
dot_weight_left dot_vector dot_outer dot_batch dot_two_batch_swapped dot_two_contracted_swapped
dot_free_around_contracted dot_everything bilinear weight_on_both_operands low_rank
transpose reshape_transpose_reshape broadcast_really reverse stacked_weight_and_bias
joined_inputs joined_with_others joined_flat joined_of_scaled_scan joined_before_scan joined_layers
joined_strided joined_unstacked joined_and_tied joined_empty_layers solve_without_transpose
slices_of_one_vector dynamic_slice_by_input dynamic_update_slice at_add gather_rows triangle roll
top_k_of_input sort mean_of_weights cumprod argmax_of_weights
conv_same conv_everything conv_groups conv_depthwise conv_nhwc conv_1d conv_3d conv_flipped
conv_transpose conv_weight_as_input conv_batch_groups two_spatial_sizes cnn
embedding embedding_repeated_ids embedding_clip embedding_fill embedding_negative_ids embedding_tied
embedding_position attention_heads attention_causal layer_norm rms_norm group_norm batch_norm_of_batch
weight_norm spectral_norm tied_alike tied_autoencoder tied_reshaped rnn_unrolled
scan_layers scan_layers_checkpoint scan_layers_bias scan_length_one scan_length_zero rnn rnn_reverse
rnn_initial_state scan_data_and_weights scan_weight_as_carry scan_returns_constant_weight
scan_in_scan scan_transformer lstm map fori_loop while_loop associative_scan
ref_summed_in_scan ref_filled_in_loop jit_in_jit checkpoint_policy vmap_inside ensemble gradient_inside jvp_inside cond_on_weight
cond_on_input dropout custom_jvp_of_weight custom_vjp_of_weight custom_vjp_of_activation
solve eigh fourier_layer segment_sum gathered_experts top_k_experts lora hypernetwork
constant_output unused_parameter zero_size_parameter zero_size_batch zero_size_output scalar_output
returns_parameter returns_broadcast_parameter integer_leaf key_leaf batch_mixing
outputs_dict outputs_tuple outputs_three_axes nested_parameters nested_input kwarg_scale
""".split()  # noqa: SIM905

# JAX takes this softmax in float32 whatever its input: equal to 1e-5 or so, and no row of NAMES.
SINGLE_PRECISION = ["dot_product_attention"]
NAMES = [name for name in NAMES if name not in SINGLE_PRECISION]
