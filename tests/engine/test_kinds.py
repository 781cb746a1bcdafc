"""Where parameters enter, and as what: the kinds of sites, and the axes of their factors."""

import re

import jax
import jax.numpy as jnp
import pytest
from support import cases, models, oracles
from support.arrays import QUICK, assert_equal, uniform
from support.expected import full_ntk

import tangax as nt


def in_turn(name, value, turn):
    """By default one of two values, in turn, for each case."""
    return pytest.param(name, value, marks=() if turn % 2 else pytest.mark.full)


@pytest.mark.parametrize(
    "name, vmap_axes",
    [
        in_turn(name, v, i + j)
        for i, name in enumerate(cases.KINDS)
        for j, v in enumerate((None, 0))
    ],
)
def test_kinds_of_sites(name, vmap_axes):
    case, kinds = cases.get(name), cases.KINDS[name]
    plan = nt.empirical_ntk_fn(case.f, vmap_axes=vmap_axes).explain(
        case.x1, case.x2, case.params, **case.kwargs
    )
    assert " ".join(sorted({site.kind for row in plan.rows for site in row.sites})) == kinds
    apart = "generic" not in kinds and name not in ("joined_kernels", "joined_tables")
    assert not (apart and any(row.why for row in plan.rows))


# The core is compared in test_kernels.py, by this implementation too.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.full if name in cases.CORE else ())
        for name in cases.KINDS
    ],
)
def test_kinds_equal_the_oracle(name):
    case = cases.get(name)
    ntk_fn = nt.empirical_ntk_fn(case.f, (), vmap_axes=0, implementation=3)

    @lambda kernel: jax.jit(kernel, compiler_options=QUICK)
    def kernel(x1, x2, params):
        return ntk_fn(x1, x2, params, **case.kwargs)

    found = kernel(case.x1, case.x2, case.params)
    assert_equal(found, full_ntk(name, given=True), case.tolerance)


# Layers of a stack are in `k`, steps in time, and other places that share a weight, in `s`.
@pytest.mark.parametrize("name", cases.FACTORS)
def test_layers_and_places_have_their_axes(name):
    case = cases.get(name)
    plan = nt.empirical_ntk_fn(case.f, vmap_axes=0).explain(case.x1, None, case.params)
    factors = {row.leaf: row.factors for row in plan.rows}
    for leaf, expected in cases.FACTORS[name].items():
        assert factors[f"params['{leaf}']"] == expected


# By default one of each architecture, and one or more of each library.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in models.CORE else pytest.mark.full)
        for name in models.MODELS
    ],
)
def test_models_have_no_generic_site_larger_than_a_bias(name):
    case = models.get(name)
    plan = nt.empirical_ntk_fn(case.f, vmap_axes=0).explain(case.x1, None, case.params)
    assert plan.rows
    for row in plan.rows:
        assert "generic" not in row.kind or len(row.shape) < 2, f"{row.leaf} {row.sites}"
        looked_up = any(site.primitive == "gather" for site in row.sites)
        assert ("embedding" in row.kind) == looked_up, f"{row.leaf} {row.sites}"


MODELS = [
    pytest.param(name, marks=() if name == "equinox_mlp_itself" else pytest.mark.full)
    for name in models.MODELS
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("implementation", [0, 3])
def test_models_equal_the_oracle(name, implementation):
    case = models.get(name)
    ntk_fn = nt.empirical_ntk_fn(case.f, (), vmap_axes=0, implementation=implementation)
    assert_equal(
        ntk_fn(case.x1, case.x2, case.params),
        oracles.naive_ntk(case.f, case.params, case.x1, case.x2),
    )


def test_a_leaf_that_is_not_factored_is_named_once(caplog):
    def f(params, x):
        return x @ jnp.sin(params["w"]) + x @ jnp.broadcast_to(params["v"], (4, 2)) @ params["u"]

    params = {"w": uniform(0, 4, 2), "v": uniform(1, 2), "u": uniform(2, 2, 2)}
    x = uniform(3, 3, 4)
    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0)
    why = {
        "params['w']": "there is no factored form for sin",
        "params['v']": "its entries are repeated before they enter dot_general",
    }
    assert {row.leaf: row.why for row in ntk_fn.explain(x, None, params).rows if row.why} == why
    for leaf, reason in why.items():
        assert f"{leaf} is not factored: {reason}" in str(ntk_fn.explain(x, None, params))
    with caplog.at_level("INFO", logger="tangax"):
        for n in (3, 2):
            assert_equal(ntk_fn(x[:n], None, params), oracles.naive_ntk(f, params, x[:n]))
    said = [f"The Jacobian of {leaf} is not factored: {reason}." for leaf, reason in why.items()]
    assert sorted(caplog.messages) == sorted(said)


def test_generic_sites_follow_a_custom_rule():
    """A rule that differs from the true derivative is the user's will."""

    @jax.custom_jvp
    def g(w):
        return jnp.sin(w)

    g.defjvps(lambda t, _, w: 2 * t * jnp.cos(w))

    def f(w, x):
        return x @ g(w)

    w, x = uniform(0, 4, 2), uniform(1, 3, 4)
    kernel = nt.empirical_ntk_fn(f, (), vmap_axes=0)(x, None, w)
    assert_equal(kernel, oracles.naive_ntk(f, w, x))
    (row,) = nt.empirical_ntk_fn(f).explain(x, None, w).rows
    assert row.kind == "generic"


def two_convolutions(params, x):
    w, v = params
    return cases.conv(jnp.tanh(cases.conv(x, w, padding="SAME")), v, (2, 1)).sum((2, 3))


def in_a_checkpointed_loop(params, x):
    block = jax.checkpoint(lambda h, w: jnp.tanh(cases.conv(h, w, padding="SAME")))
    return jax.lax.scan(lambda h, w: (block(h, w), None), x, params)[0].mean((2, 3))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="done where XLA needs it")
@pytest.mark.parametrize(
    "f, shapes, count",
    [
        (two_convolutions, ((3, 2, 3, 3), (2, 3, 2, 2)), 3),
        (in_a_checkpointed_loop, ((2, 2, 2, 3, 3),), 2),
    ],
)
def test_convolutions_and_their_derivatives_run_channels_last(f, shapes, count):
    params = [uniform(a, *shape) for a, shape in enumerate(shapes)]
    params = params if len(params) > 1 else params[0]
    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0, check_vmap=False)
    x = uniform(2, 2, 2, 5, 4)
    traced = str(jax.make_jaxpr(ntk_fn)(x, None, params))
    layouts = re.findall(r"lhs_spec=(.*?), rhs_spec=(.*?), out_spec=(.*?)\)\n", traced)
    assert len(layouts) >= count  # every convolution, and its derivative in its input
    assert set(layouts) == {("(0, 3, 1, 2)", "(3, 2, 0, 1)", "(0, 3, 1, 2)")}
    assert_equal(ntk_fn(x, None, params), oracles.naive_ntk(f, params, x))


# JAX says on GPUs that it rounds second derivatives of max pooling.
@pytest.mark.filterwarnings("ignore:Using reduced precision for gradient of reduce-window")
@pytest.mark.parametrize("name", ["cnn", "conv_everything", "scan_conv_layers"])
def test_kernels_of_convolutions_have_all_derivatives(name):
    case = cases.get(name)
    ntk_fn = nt.empirical_ntk_fn(case.f, (), vmap_axes=0)

    def entry(params):
        return jnp.ravel(ntk_fn(case.x1, None, params))[1]

    direction = jax.tree.map(lambda w: uniform(3, *w.shape), case.params)

    @jax.jit
    def slopes(params):
        forward = jax.jvp(entry, (params,), (direction,))[1]
        products = jax.tree.map(jnp.vdot, jax.grad(entry)(params), direction)
        return forward, sum(jax.tree.leaves(products))

    forward, reverse = slopes(case.params)
    assert_equal(forward, jax.device_get(reverse))
