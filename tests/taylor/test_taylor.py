"""Taylor expansions equal nested forward mode, on every case and by every rule."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import cases, oracles
from support.arrays import assert_equal, has_parameters, mlp, mlp_params, uniform

import tangax as nt
from tangax._shared.derivatives import pushforward
from tangax._shared.trees import split_params
from tangax.taylor import expand as taylor
from tangax.taylor import series

DEGREES = range(5)
WITH_PARAMETERS = [name for name in cases.NAMES if name != "no_parameters"]
CORE = [name for name in cases.CORE if name != "no_parameters"]
# All cases; beyond the core only under `--full`.
EVERY_CASE = [
    pytest.param(name, marks=() if name in CORE else pytest.mark.full) for name in WITH_PARAMETERS
]


# Its rule is not the derivative of its value, and nested modes apply now one, now the other.
UNTRUE = "custom_vjp_of_activation"


def summed_by_default():
    """A sixth of the core, and what has no forward mode: their sums are compared.

    Of the others every derivative is, which finds the same mistakes.
    """
    forward = [name for name in CORE if cases.get(name).forward]
    return forward[::6] + [name for name in CORE if not cases.get(name).forward]


SUMMED = summed_by_default()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "degree_of_case" in metafunc.fixturenames:
        full = metafunc.config.getoption("full")
        rows = [
            (name, degree)
            for name in (WITH_PARAMETERS if full else SUMMED)
            for degree in (DEGREES if full else drawn_degree(name))
        ]
        metafunc.parametrize("name, degree_of_case", rows)


def drawn_degree(name):
    """One degree for a case: zero and one are in it, and tried alone below; high ones are slow."""
    return random.Random(name).choices((2, 3, 4), weights=(6, 2, 1))


def moved(params, seed=0):
    """Other values for the floating-point leaves."""
    rng = np.random.default_rng(seed)

    def move(leaf):
        if not isinstance(leaf, jax.Array | np.ndarray | float):
            return leaf
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        step = rng.uniform(0.1, 0.3, np.shape(leaf)) * rng.choice([-1.0, 1.0], np.shape(leaf))
        return jnp.asarray(leaf + step, jnp.result_type(leaf))

    return jax.tree.map(move, params)


def with_reverse_mode(f, params, new_params, degree):
    """The Taylor expansion by gradients of gradients, for `f` without forward mode."""
    dp = jax.tree.map(jnp.subtract, new_params, params)

    def derivative(g):
        def of_g(w):
            products = jax.tree.map(lambda j, d: jnp.tensordot(j, d, d.ndim), jax.jacrev(g)(w), dp)
            return sum(jax.tree.leaves(products))

        return of_g

    total, term, factorial = 0, f, 1
    for k in range(degree + 1):
        factorial *= max(k, 1)
        total += np.asarray(jax.jit(term)(params)) / factorial
        term = derivative(term)
    return total


def test_expansion_is_the_sum_of_derivatives(name, degree_of_case):
    case, degree = cases.get(name), degree_of_case
    new = moved(case.params)
    f = functools.partial(case.f, x=case.x1, **case.kwargs)
    if case.forward:
        expected = oracles.naive_taylor(jax.jit(f), case.params, new, degree)
    else:
        degree = min(degree, 1 if name == UNTRUE else 2)
        expected = with_reverse_mode(f, case.params, new, degree)

    @jax.jit
    def expansion(params, new, x):
        if degree == 1:
            return nt.linearize(case.f, params)(new, x, **case.kwargs)
        return nt.taylor_expand(case.f, params, degree)(new, x, **case.kwargs)

    assert_equal(expansion(case.params, new, case.x1), expected)


@pytest.mark.parametrize(
    "name", [p for p in EVERY_CASE if cases.get(p.values[0]).polynomial is not None]
)
def test_expansion_of_a_polynomial_is_exact(name):
    case = cases.get(name)
    new = moved(case.params, seed=1)

    @jax.jit
    def both(params, new, x):
        expansion = nt.taylor_expand(case.f, params, case.polynomial)
        return expansion(new, x, **case.kwargs), case.f(new, x, **case.kwargs)

    actual, expected = both(case.params, new, case.x1)
    assert_equal(actual, jax.tree.map(np.asarray, expected))


def nested(f, leaves, direction, degree):
    """Forward mode inside forward mode; where there is none, the transpose of reverse mode."""
    g, found = f, [f(leaves)]
    for _ in range(degree):
        g = functools.partial(lambda g, w: pushforward(g, w, direction)[1], g)
        found.append(g(leaves))
    return list(zip(*found, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in CORE and name not in SUMMED else pytest.mark.full)
        for name in WITH_PARAMETERS
        if name != UNTRUE
    ],
)
def test_every_derivative_is_that_of_nested_forward_mode(name):
    """A rule of `jet` that is silently wrong would differ."""
    case = cases.get(name)

    @jax.jit
    def both(params, new, x):
        split = split_params(params)

        def f(leaves):
            return jax.tree.leaves(case.f(split.merge(leaves), x, **case.kwargs))

        direction = taylor.difference(split, params, new)
        expected = nested(f, split.leaves, direction, 3)
        return series.derivatives(f, split.leaves, direction, 3), expected

    found, expected = both(case.params, moved(case.params), case.x1)
    for actual, terms in zip(found, expected, strict=True):
        assert len(actual) == len(terms) == 4
        if not jnp.issubdtype(actual[0].dtype, jnp.floating):
            assert actual[1:] == [None] * 3
            continue
        scale = max(np.abs(np.asarray(e)).max(initial=0) for e in jax.tree.leaves(expected))
        for order, (a, e) in enumerate(zip(actual, terms, strict=True)):
            a = np.zeros_like(e) if a is None else a
            assert a.shape == e.shape
            np.testing.assert_allclose(a, e, rtol=0, atol=1e-10 * scale, err_msg=f"{order=}")


# --- which way is taken ---------------------------------------------------------------------------


def relu_mlp(params, x):
    return jax.nn.relu(x @ params["w"] + params["b"]) @ params["v"]


def checkpoint_mlp(params, x):
    return jax.checkpoint(mlp)(params, x)


def scanned(params, x):
    return jax.lax.scan(lambda h, _: (jnp.tanh(h @ params["w"][:, :4]), None), x, None, 2)[0]


def looped(params, x):
    return jax.lax.fori_loop(0, x.shape[0], lambda _, h: jnp.sin(h) * params["b"], x @ params["w"])


def branched(params, x):
    h = x @ params["w"]
    return jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, h)


WAYS = ("linear", "product", "by_jet", "by_recursion", "through_loop")


@pytest.mark.parametrize(
    "f, ways",
    [
        (mlp, {"linear", "product", "by_jet"}),
        (checkpoint_mlp, {"linear", "product", "by_jet"}),
        (relu_mlp, {"linear", "product", "by_recursion"}),
        (scanned, {"linear", "product", "by_jet", "through_loop"}),
        (looped, {"linear", "product", "by_jet", "through_loop"}),
        (branched, {"linear", "by_recursion"}),
    ],
)
def test_the_rule_that_an_equation_takes(monkeypatch, f, ways):
    taken = set()

    def spied(way):
        original = getattr(series, way)

        def spy(*args):
            taken.add(way)
            return original(*args)

        return spy

    for way in WAYS:
        monkeypatch.setattr(series, way, spied(way))
    params, x = mlp_params(), uniform(4, 3, 4)
    actual = nt.taylor_expand(f, params, 3)(moved(params), x)
    assert taken - ({"by_jet"} if f is branched else set()) == ways
    assert_equal(actual, oracles.naive_taylor(f, params, moved(params), 3, x))


def test_a_custom_rule_is_the_derivative_at_every_order():
    """Here `y' = (x w)'` though `y = sign(x w)`, and so `y'' = 0`."""
    case = cases.get(UNTRUE)
    new, x = moved(case.params), case.x1
    w, v = case.params["w"], case.params["v"]
    dw, dv = new["w"] - w, new["v"] - v
    first = x @ dw @ v + jnp.sign(x @ w) @ dv
    expected = jnp.sign(x @ w) @ v + first + x @ dw @ dv
    for degree in (2, 4):
        found = nt.taylor_expand(case.f, case.params, degree)(new, x)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_product_with_a_parameter_is_one_for_all_orders():
    """Each parameter is read twice, however high the degree."""

    def f(w, x):
        return jnp.tanh(x @ w) @ w

    w, x = uniform(1, 4, 4), uniform(2, 3, 4)
    expansion = jax.make_jaxpr(lambda w, v, x: nt.taylor_expand(f, w, 5)(v, x))(w, 2 * w, x)
    products = str(expansion).count("dot_general[")
    assert products == 2 + 2  # each product with w, and with its displacement


# --- arguments and results ------------------------------------------------------------------------


PARAMS, X = mlp_params(), uniform(4, 3, 4)


@pytest.mark.parametrize("degree", DEGREES)
def test_at_the_centre_it_is_the_function(degree):
    assert_equal(nt.taylor_expand(mlp, PARAMS, degree)(PARAMS, X), np.asarray(mlp(PARAMS, X)))


def test_degree_zero_is_constant():
    actual = nt.taylor_expand(mlp, PARAMS, 0)(moved(PARAMS), X)
    np.testing.assert_array_equal(actual, mlp(PARAMS, X))


def test_linearize_is_degree_one_and_linear():
    new = moved(PARAMS)
    f_lin = jax.jit(nt.linearize(mlp, PARAMS))
    assert_equal(f_lin(new, X), oracles.naive_taylor(mlp, PARAMS, new, 1, X))
    np.testing.assert_array_equal(
        nt.linearize(mlp, PARAMS)(new, X), nt.taylor_expand(mlp, PARAMS, np.int64(1))(new, X)
    )
    middle = jax.tree.map(lambda a, b: (a + b) / 2, PARAMS, new)
    assert_equal(f_lin(middle, X), np.asarray(f_lin(PARAMS, X) + f_lin(new, X)) / 2, 1e-14)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_positional_and_keyword_arguments(degree):
    def f(params, x, scale, *, shift):
        return mlp(params, x) * scale + shift

    new = moved(PARAMS)
    actual = nt.taylor_expand(f, PARAMS, degree)(new, X, 0.3, shift=0.6)
    assert_equal(actual, oracles.naive_taylor(f, PARAMS, new, degree, X, 0.3, shift=0.6))


@pytest.mark.parametrize("degree", DEGREES)
def test_integer_outputs_stay(degree):
    def f(params, x):
        y = mlp(params, x)
        return {"logits": y, "label": jnp.argmax(y, -1), "sure": y > 0.3, "number": 3}

    new = moved(PARAMS)
    actual = nt.taylor_expand(f, PARAMS, degree)(new, X)
    expected = f(PARAMS, X)
    for key in ("label", "sure", "number"):
        np.testing.assert_array_equal(actual[key], expected[key])
        assert actual[key].dtype == jnp.asarray(expected[key]).dtype
    assert_equal(actual["logits"], oracles.naive_taylor(mlp, PARAMS, new, degree, X))


@pytest.mark.parametrize("degree", [1, 3])
def test_constants_among_the_parameters(degree):
    def f(params, x):
        return params["act"](x @ params["w"]) * params["count"]

    params = {"w": PARAMS["w"], "act": jnp.tanh, "count": 3}
    new = moved(params)
    # Only floating-point leaves move.
    actual = nt.taylor_expand(f, params, degree)(new | {"count": 7}, X)
    expected = oracles.naive_taylor(
        lambda w, x: f(params | {"w": w}, x), params["w"], new["w"], degree, X
    )
    assert_equal(actual, expected)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_kept(degree, dtype):
    params, x = mlp_params(dtype), X.astype(dtype)
    f_taylor = nt.taylor_expand(mlp, params, degree)
    assert jax.eval_shape(f_taylor, params, x).dtype == dtype
    assert jax.eval_shape(f_taylor, mlp_params("float64"), x).dtype == dtype


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_gradient_and_vmap_of_an_expansion(degree):
    new = moved(PARAMS)
    f_taylor = nt.taylor_expand(mlp, PARAMS, degree)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), PARAMS, new)
    together = jax.jit(jax.vmap(f_taylor, (0, None)))(stacked, X)
    assert_equal(together[1], oracles.naive_taylor(mlp, PARAMS, new, degree, X))
    gradient = jax.jit(jax.grad(lambda p: f_taylor(p, X).sum()))(new)
    h, d = 1e-4, moved(jax.tree.map(jnp.zeros_like, PARAMS), seed=2)

    def at(t):
        return f_taylor(jax.tree.map(lambda p, q: p + t * q, new, d), X).sum()

    slope = sum(jnp.vdot(gradient[k], d[k]) for k in d)
    np.testing.assert_allclose(slope, (at(h) - at(-h)) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", [n for n in cases.NAMES if n.startswith("custom_vjp")])
def test_linearize_of_custom_vjp(name, jit):
    """No forward mode: the reverse one, transposed."""
    case = cases.get(name)
    new = moved(case.params)

    def linear(new, x):
        return nt.linearize(case.f, case.params)(new, x)

    actual = (jax.jit(linear) if jit else linear)(new, case.x1)
    f = functools.partial(case.f, x=case.x1)
    assert_equal(actual, with_reverse_mode(f, case.params, new, 1))


@pytest.mark.parametrize("degree", [-1, 1.5, 1.0, True, "2", None, (1,)])
def test_bad_degree(degree):
    with pytest.raises(ValueError, match="degree must be an int of at least 0"):
        nt.taylor_expand(mlp, PARAMS, degree)


EXPANSIONS = pytest.mark.parametrize(
    "expand", [nt.linearize, lambda f, params: nt.taylor_expand(f, params, 3)]
)


@EXPANSIONS
def test_bad_parameters(expand):
    with pytest.raises(TypeError, match=r"params\['w'\] is complex"):
        expand(mlp, PARAMS | {"w": PARAMS["w"] * 1j})(PARAMS, X)
    with pytest.raises(TypeError, match=r"params\['w'\] is complex"):
        expand(mlp, PARAMS | {"w": 1j})(PARAMS, X)
    with pytest.raises(TypeError, match="no floating-point leaf"):
        expand(lambda params, x: x, {"n": 3})({"n": 3}, X)
    with pytest.raises(ValueError, match=r"params\['v'\].*\(5, 2\).*\[5, 3\]"):
        expand(mlp, PARAMS)(PARAMS | {"v": uniform(1, 5, 3)}, X)
    with pytest.raises(ValueError, match=r"new_params\['u'\]"):
        expand(mlp, PARAMS)(PARAMS | {"u": uniform(1, 5, 3)}, X)
    with pytest.raises(TypeError, match=r"params\['w'\] is complex"):
        expand(mlp, PARAMS)(PARAMS | {"w": PARAMS["w"] * 1j}, X)


@EXPANSIONS
def test_complex_outputs_are_refused(expand):
    """Not left silently at their value at `params`."""

    def f(params, x):
        return {"y": jnp.exp(1j * mlp(params, x))}

    with pytest.raises(TypeError, match=r"\['y'\] is complex"):
        expand(f, PARAMS)(moved(PARAMS), X)


@pytest.mark.parametrize("name", ["no_parameters"])
def test_no_parameters(name):
    assert not has_parameters(cases.get(name))


def test_a_power_of_a_negative_number():
    """`jet` takes powers by logarithms."""
    expansion = nt.taylor_expand(lambda w, x: jnp.power(x * w, 3.0), -2.0, 3)
    np.testing.assert_allclose(expansion(-1.9, 1.5), (-1.9 * 1.5) ** 3)


@pytest.mark.parametrize(
    "f, w, new",
    [
        (lambda w: jnp.fmod(w, 1.0), -0.3, -0.25),
        (lambda w: jnp.arctan2(1.0, w), 0.0, 0.1),
        (lambda w: jnp.clip(w, 0.0, 1.0), 0.0, 0.1),
        (lambda w: jnp.log1p(w), 1e-12, 2e-12),
    ],
    ids=["rem", "atan2", "clamp", "log1p"],
)
def test_where_jet_is_wrong_it_is_not_asked(f, w, new):
    w, new = jnp.asarray([w, w]), jnp.asarray([new, new])
    expected = oracles.naive_taylor(f, w, new, 3)
    np.testing.assert_allclose(nt.taylor_expand(f, w, 3)(new), expected, rtol=1e-12)


def test_a_high_degree_and_a_constant_output():
    expansion = jax.jit(lambda w, v: nt.taylor_expand(lambda w: (jnp.exp(w), 2.0), w, 25)(v))
    found, constant = expansion(jnp.float32(0.5), jnp.float32(1.5))
    np.testing.assert_allclose(found, np.exp(1.5), rtol=1e-6)
    assert isinstance(constant, jax.Array) and constant == 2
