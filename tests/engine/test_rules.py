"""Rules of a `custom_vjp` that are not linear, or that JAX cannot transpose: `J t` from rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import oracles
from support.arrays import assert_equal, uniform

import tangax as nt
from tangax import _jaxpr
from tangax._shared import derivatives

W, D, X = uniform(0, 4, 3), uniform(1, 4, 3), uniform(2, 5, 4)


def with_rule(backward, forward=jnp.sin):
    """A function of which reverse mode is told `backward(w, g)`."""
    rule = jax.custom_vjp(forward)
    rule.defvjp(lambda w: (forward(w), w), lambda w, g: (backward(w, g),))
    return rule


def doubled_while_small(w, g):
    return jax.lax.while_loop(lambda v: jnp.abs(v).max() < 2, lambda v: 2 * v, g)


def kernel_of_pallas(w, g):
    from jax.experimental import pallas as pl

    def kernel(g_ref, out_ref):
        out_ref[...] = 2 * g_ref[...]

    shape = jax.ShapeDtypeStruct(g.shape, g.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(g)


def called_back(w, g):
    shape = jax.ShapeDtypeStruct(g.shape, g.dtype)
    return jax.pure_callback(lambda g: np.clip(g, -0.1, 0.1), shape, g)


def sum_in_a_loop(w, g):
    return jax.lax.scan(lambda c, _: (c + g * w, None), w, None, 3)[0]


BY_ROWS = {
    "clip": lambda w, g: jnp.clip(g, -0.1, 0.1),
    "round": lambda w, g: jnp.round(10 * g) / 10,
    "sign": lambda w, g: jnp.sign(g) * w,
    "square": lambda w, g: g * g,
    "normalised": lambda w, g: g / jnp.linalg.norm(g),
    "where": lambda w, g: jnp.where(g > 0, g, 0.0),
    "integers": lambda w, g: (10 * g).astype(jnp.int32).astype(g.dtype),
    "affine": lambda w, g: g * w + 1,
    "affine_select": lambda w, g: jnp.where(w > 0.5, g, 1.0),
    "affine_set": lambda w, g: g.at[0].set(w[1]),
    "affine_pad": lambda w, g: jnp.pad(g[1:], [(1, 0), (0, 0)], constant_values=0.5),
    "affine_loop": sum_in_a_loop,
    "constant": lambda w, g: w,
    "loop": doubled_while_small,
    "pallas": kernel_of_pallas,
    "callback": called_back,
}
BY_TRANSPOSE = {
    "scaled": lambda w, g: 2 * g * w,
    "masked": lambda w, g: jnp.where(w > 0.5, g, 0.0) + jnp.where(w > 0.7, jnp.zeros_like(w), g),
    "set": lambda w, g: g.at[0].set(0.0).at[1].add(g[2]),
    "padded": lambda w, g: jnp.pad(g[1:], [(1, 0), (0, 0)]),
    "scan": lambda w, g: jax.lax.scan(lambda c, _: (c + g * w, None), 0 * w, None, 3)[0],
    "cond": lambda w, g: jax.lax.cond(w.sum() > 0, lambda g: g, lambda g: 2 * g, g),
    "called": lambda w, g: jax.jit(lambda g: jnp.cumsum(g, 0) / w)(g),
    "none": lambda w, g: jnp.zeros_like(g),
    "true": lambda w, g: g * jnp.cos(w),
}


def model(rule, w, x):
    return jnp.tanh(x @ rule(w)) * 3


def jacobian(f, w, x):
    """Row by row, each from its own unit cotangent."""
    y, pullback = jax.vjp(lambda w: f(w, x), w)
    return np.stack([pullback(e.reshape(y.shape))[0] for e in jnp.eye(y.size)]).reshape(
        *y.shape, -1
    )


@pytest.mark.parametrize("name", [*BY_ROWS, *BY_TRANSPOSE])
def test_the_jacobian_is_that_of_unit_cotangents(name):
    rule = with_rule((BY_ROWS | BY_TRANSPOSE)[name])
    f = functools.partial(model, rule)
    J, v = jacobian(f, W, X), uniform(3, 5, 3)
    first = np.asarray(f(W, X)) + np.einsum("nop,p->no", J, np.ravel(D))
    assert derivatives.goes_by_rows(lambda w: f(w, X), W) == (name in BY_ROWS)

    @jax.jit
    def calls(w, v, steps):
        expansion = nt.linearize(f, w)
        expanded = jax.vmap(lambda d: expansion(w + d, X))(steps) if mapped else None
        return expansion(w + steps[0], X), nt.empirical_ntk_vp_fn(f, X, None, w)(v), expanded

    mapped = name not in ("pallas", "callback")
    linear, product, expanded = calls(W, v, jnp.stack([D, 0 * D]))
    assert_equal(linear, first)
    assert_equal(product, np.einsum("nop,mqp,mq->no", J, J, v))
    if mapped:
        assert_equal(expanded, np.stack([first, f(W, X)]))
    with pytest.raises(ValueError, match="NTK_VECTOR_PRODUCTS needs forward-mode"):
        nt.empirical_ntk_fn(f, implementation=2)(X, None, W)


@pytest.mark.parametrize("name, degree", [("clip", 3), ("affine", 2), ("loop", 2), ("true", 2)])
def test_higher_derivatives_are_those_of_the_rows(name, degree):
    """The Jacobian of `f` is no product of its equations' where a rule is not linear."""
    rule = with_rule((BY_ROWS | BY_TRANSPOSE)[name])
    f = functools.partial(model, rule)

    def along(g):
        def rows(w):
            y, pullback = jax.vjp(g, w)
            each = jax.vmap(lambda e: jnp.vdot(pullback(e)[0], D))
            return each(jnp.eye(y.size).reshape(-1, *y.shape)).reshape(y.shape)

        return rows

    term, expected, factorial = lambda w: f(w, X), np.asarray(f(W, X)), 1
    for k in range(1, degree + 1):
        if name == "loop" and k > 1:  # no reverse mode through the rule: forward mode
            term = functools.partial(lambda g, w: jax.jvp(g, (w,), (D,))[1], term)
        else:
            term = along(term)
        factorial *= k
        expected = expected + np.asarray(jax.jit(term)(W)) / factorial
    assert_equal(jax.jit(lambda v: nt.taylor_expand(f, W, degree)(v, X))(W + D), expected)


def test_trees_and_outputs_that_are_no_numbers():
    clip = with_rule(BY_ROWS["clip"])

    def f(p, x):
        y = x @ clip(p["w"])
        return {"y": y * p["b"], "label": jnp.argmax(y, -1), "short": y[0].astype(jnp.float32)}

    params, new = {"w": W, "b": uniform(4, 3)}, {"w": W + D, "b": uniform(5, 3)}
    leaves = lambda p: jnp.concatenate([p["w"].ravel(), p["b"]])  # noqa: E731
    found = nt.linearize(f, params)(new, X)
    for key in ("y", "short"):
        g = lambda p, key=key: f(p, X)[key].astype(float)  # noqa: E731
        y, pullback = jax.vjp(g, params)
        rows = [leaves(pullback(e.reshape(y.shape))[0]) for e in jnp.eye(y.size)]
        step = jnp.stack(rows) @ (leaves(new) - leaves(params))
        tolerance = 1e-6 if key == "short" else 1e-12
        np.testing.assert_allclose(found[key], y + step.reshape(y.shape), rtol=tolerance)
    np.testing.assert_array_equal(found["label"], f(params, X)["label"])

    def both(p, x):
        return {key: f(p, x)[key] for key in ("y", "short")}

    vector = jax.tree.map(jnp.ones_like, both(params, X))
    pulled = jax.vjp(lambda p: both(p, X), params)  # the rule is asked for one entry at a time
    units = [jax.tree.map(jnp.zeros_like, vector) for _ in range(18)]
    for i, unit in enumerate(units):
        key, at = ("y", divmod(i, 3)) if i < 15 else ("short", i - 15)
        unit[key] = unit[key].at[at].set(1)
    rows = jnp.stack([leaves(pulled[1](unit)[0]) for unit in units])
    product = nt.empirical_ntk_vp_fn(both, X, None, params)(vector)
    got = jnp.concatenate([product["y"].ravel(), product["short"].astype(float)])
    np.testing.assert_allclose(got, rows @ rows.sum(0), rtol=1e-5)


def test_memory_of_rows_is_bounded(monkeypatch):
    """A few rows at a time, whatever their number."""
    f = functools.partial(model, with_rule(BY_ROWS["clip"]))
    first = nt.linearize(f, W)(W + D, X)
    product = nt.empirical_ntk_vp_fn(f, X, None, W)(first)
    for rows in (1, 4 * (W.nbytes + first.nbytes)):
        monkeypatch.setattr(derivatives, "ROW_BYTES", rows)
        assert_equal(nt.linearize(f, W)(W + D, X), np.asarray(first))
        assert_equal(nt.empirical_ntk_vp_fn(f, X, None, W)(first), np.asarray(product))


def test_a_kernel_of_a_rule_that_is_not_linear():
    f = functools.partial(model, with_rule(BY_ROWS["clip"]))
    J = jacobian(f, W, X)
    for implementation in (0, 1, 3):
        kernel = nt.empirical_ntk_fn(f, (), implementation=implementation)(X, None, W)
        assert_equal(kernel, np.einsum("nop,mqp->nmoq", J, J))
    assert_equal(oracles.naive_ntk(f, W, X), np.einsum("nop,mqp->nmoq", J, J))


def test_a_hijax_primitive_whose_rule_is_not_linear():
    hijax = pytest.importorskip("jax.experimental.hijax")
    base = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive  # of JAX 0.10

    class Clipped(base):
        def __init__(self, w):
            self.in_avals, self.out_aval, self.params = (jax.typeof(w),), jax.typeof(w), {}
            super().__init__()

        def expand(self, w):
            return jnp.sin(w)

        def vjp_fwd(self, nonzero, w):
            return self(w), w

        def vjp_bwd_retval(self, w, g):
            return (jnp.clip(g, -0.1, 0.1),)

    f = functools.partial(model, lambda w: Clipped(w)(w))
    J = jacobian(f, W, X)
    kernel = np.einsum("nop,mqp->nmoq", J, J)
    for implementation in (0, 1, 3):
        assert_equal(nt.empirical_ntk_fn(f, (), implementation=implementation)(X, None, W), kernel)
    assert_equal(nt.linearize(f, W)(W + D, X) - f(W, X), J @ np.ravel(D))
    v = uniform(3, 5, 3)
    assert_equal(nt.empirical_ntk_vp_fn(f, X, None, W)(v), np.einsum("nmoq,mq->no", kernel, v))


def test_what_is_linear():
    def linear(f):
        return _jaxpr.is_linear_if_transposed(_jaxpr.trace(f, W))

    assert linear(lambda v: jnp.concatenate([v, 0 * v, jnp.zeros((1, 3))]))
    assert not linear(lambda v: jnp.concatenate([v, jnp.ones((1, 3))]))
    assert linear(lambda v: jax.lax.fori_loop(0, 3, lambda i, c: c * D + v, jnp.zeros_like(v)))
    assert not linear(lambda v: jax.lax.fori_loop(0, 3, lambda i, c: c * D + v, D))
    assert linear(lambda v: jax.lax.cond(D.sum() > 0, jnp.zeros_like, lambda v: v, v))
    assert not linear(lambda v: jax.lax.cond(D.sum() > 0, jnp.ones_like, lambda v: v, v))
