"""The factor engine: which kinds of sites are found, and that every way to contract agrees."""

import itertools
import re
import warnings

import cases
import jax
import jax.numpy as jnp
import models
import numpy as np
import opt_einsum
import oracles
import pytest
from test_empirical import assert_equal
from test_programs import QUICK

import tangax as nt
from tangax import _contract, _planner
from tangax._axes import KernelAxes
from tangax._factors import Factored, Layout, Materialised, OneHot, product
from tangax._frame import Frame
from tangax._memory import budget

# --- kinds ----------------------------------------------------------------------------------------

KINDS = {
    "dense": """dense dot_weight_left dot_weight_right_last dot_two_batch_swapped dot_everything
        dot_two_contracted_swapped dot_batch_between dot_free_around_contracted einsum_letters
        einsum_weight_left ntk_parameterisation low_rank reshape_transpose_reshape slice
        embedding_one_hot attention_heads attention_causal attention_linear dot_product_attention
        tied_alike tied_two_lengths scan_layers scan_layers_checkpoint scan_layers_unroll
        scan_layers_reverse scan_layers_reshaped scan_layers_scaled scan_length_one rnn_reverse
        rnn_unroll rnn_tied_to_head roll concatenated_weights stacked_weight_and_bias
        stack_of_weights joined_inputs joined_transposed joined_twice joined_batch joined_in_jit
        joined_weight_left joined_parts_of_one joined_and_split joined_flat joined_before_scan
        joined_of_scaled_scan joined_layers_by_units transpose transpose_three_axes reshape
        transpose_of_reshape astype jit_in_jit checkpoint vmap_inside map scan_in_scan
        scan_in_scan_of_stacks joined_layers joined_stacks_of_layers dense_experts
        top_k_experts lora joined_empty_layers joined_empty_slices joined_unstacked_parts
        embedding_of_product""",
    "bias+dense": "dense_bias dense_on_tokens rnn_unrolled scan_layers_bias rnn lstm joined_empty_rest",
    "bias+dense+returned": "gru",
    "dense+returned": "rnn_initial_state rnn_vmapped",
    "conv": """conv_same conv_strides conv_padding conv_rhs_dilation conv_lhs_dilation
        conv_everything conv_groups conv_depthwise conv_nhwc_groups conv_odd_layout conv_1d_causal
        conv_3d conv_flipped conv_transpose conv_kernel_reshaped conv_vmapped scan_conv_layers
        joined_kernels""",
    "embedding": """embedding embedding_take embedding_repeated_ids embedding_columns embedding_clip
        embedding_fill embedding_negative_ids embedding_scaled embedding_two_dimensional_ids
        embedding_vmapped embedding_slices embedding_slices_clamped embedding_of_transposed_table
        embedding_in_two_tables joined_tables""",
    "bias": "joined_bias joined_with_empty",
    "returned": "joined_carry joined_returned",
    "bias+scale": "layer_norm",
    "dense+scale": "rms_norm scan_layers_gain scan_transformer spectral_norm",
    "bias+dense+scale": "batch_norm_fixed group_norm layer_norm_after_dense",
    "dense+embedding": """embedding_tied embedding_and_dense embedding_in_scan
        embedding_by_one_example""",
    "dense+generic": "joined_with_others joined_strided joined_unstacked joined_and_tied",
    "generic": """conv_batch_groups einsum_trace joined_and_split_across joined_nonlinear
        joined_strided_layers joined_associative embedding_two_indices""",
}


@pytest.mark.parametrize(
    "name, kinds", [(name, kinds) for kinds, names in KINDS.items() for name in names.split()]
)
@pytest.mark.parametrize("vmap_axes", [None, 0])
def test_kinds_of_sites(name, kinds, vmap_axes):
    case = cases.get(name)
    plan = nt.empirical_ntk_fn(case.f, vmap_axes=vmap_axes).explain(
        case.x1, case.x2, case.params, **case.kwargs
    )
    assert "+".join(sorted({site.kind for row in plan.rows for site in row.sites})) == kinds
    apart = "generic" not in kinds and name not in ("joined_kernels", "joined_tables")
    assert not (apart and any(row.why for row in plan.rows))


@pytest.mark.parametrize("name", [name for names in KINDS.values() for name in names.split()])
def test_kinds_equal_the_oracle(name):
    case = cases.get(name)
    ntk_fn = nt.empirical_ntk_fn(case.f, (), vmap_axes=0, implementation=3)

    @lambda kernel: jax.jit(kernel, compiler_options=QUICK)
    def kernel(x1, x2, params):
        return ntk_fn(x1, x2, params, **case.kwargs)

    expected = oracles.naive_ntk(case.f, case.params, case.x1, case.x2, kwargs1=case.kwargs)
    tolerance = 1e-5 if name in cases.SINGLE_PRECISION else 1e-10
    assert_equal(kernel(case.x1, case.x2, case.params), expected, tolerance)


# Layers of a stack are in `k`, steps in time, and other places that share a weight, in `s`.
FACTORS = {
    "scan_layers": {"w": "A[1, 3, 3] G[3, 1, 3, 3]"},
    "scan_layers_checkpoint": {"w": "A[1, 3, 3] G[3, 1, 3, 3]"},
    "rnn_unrolled": {"w": "A[3, 1, 2] G[3, 3, 1, 3]", "u": "A[3, 1, 3] G[3, 3, 1, 3]"},
    "rnn": {"w": "A[3, 1, 2] G[3, 3, 1, 3]", "u": "A[3, 1, 3] G[3, 3, 1, 3]"},
    "lstm": {"w": "A[3, 1, 2] G[2, 3, 1, 8]", "u": "A[3, 1, 2] G[2, 3, 1, 8]"},
    "scan_in_scan": {"w": "A[2, 2, 3] G[3, 2, 2, 3]", "u": "A[4, 1, 3] G[3, 4, 1, 3]"},
    "tied_alike": {"w": "A[2, 1, 4] G[4, 2, 1, 4]"},
}


@pytest.mark.parametrize("name", FACTORS)
def test_layers_and_places_have_their_axes(name):
    case = cases.get(name)
    plan = nt.empirical_ntk_fn(case.f, vmap_axes=0).explain(case.x1, None, case.params)
    factors = {row.leaf: row.factors for row in plan.rows}
    for leaf, expected in FACTORS[name].items():
        assert factors[f"params['{leaf}']"] == expected


@pytest.mark.parametrize("name", models.MODELS)
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


def uniform(seed, *shape):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(0.2, 0.9, shape) * rng.choice([-1.0, 1.0], shape))


# --- plans ----------------------------------------------------------------------------------------


def mlp(params, x):
    return jnp.tanh(x @ params["w1"] + params["b"]) @ params["w2"]


PARAMS = {"w1": uniform(0, 5, 7), "b": uniform(1, 7), "w2": uniform(2, 7, 3)}
X1, X2 = uniform(3, 4, 5), uniform(4, 3, 5)


def test_explain_takes_shapes_and_says_where_parameters_enter():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (X1, X2, PARAMS))
    plan = nt.empirical_ntk_fn(mlp, vmap_axes=0).explain(*shapes)
    rows = {row.leaf: row for row in plan.rows}
    assert set(rows) == {"params['w1']", "params['b']", "params['w2']"}
    (site,) = rows["params['w1']"].sites
    assert (site.primitive, site.kind) == ("dot_general", "dense")
    assert re.fullmatch(r"test_structured\.py:\d+", site.source)
    assert rows["params['w1']"].factors == "A[1, 1, 5] G[3, 1, 1, 7]"
    assert rows["params['b']"].factors == "J[3, 7]"
    assert plan.forward == (4 + 3) * (5 * 7 + 7 * 3)
    assert plan.backward == 3 * plan.forward
    assert plan.seconds(1e9) == pytest.approx(2e-9 * plan.multiply_adds)
    for word in ("params['w2']", "dense", "gram", "multiply-adds: forward"):
        assert word in str(plan)


def test_explain_counts_all_arguments():
    given = sum(a.nbytes for a in jax.tree.leaves((X1, X2, PARAMS)))
    for vmap_axes in (None, 0):
        plan = nt.empirical_ntk_fn(mlp, vmap_axes=vmap_axes).explain(X1, X2, PARAMS)
        assert plan.arguments == given


def test_a_budget_that_cannot_be_kept_is_said(caplog):
    tight, wide = (nt.empirical_ntk_fn(mlp, vmap_axes=0, memory=m) for m in (100, "1GiB"))
    kernel = wide(X1, None, PARAMS)
    assert not caplog.messages and "EXCEEDED" not in str(wide.explain(X1, None, PARAMS))
    assert_equal(tight(X1, None, PARAMS), kernel)
    (message,) = caplog.messages
    assert "more than the 100 B of `memory`" in message
    assert "memory 100 B IS EXCEEDED" in str(tight.explain(X1, None, PARAMS))


@pytest.mark.parametrize("implementation", [1, 2])
def test_plain_methods_have_neither_plan_nor_budget(implementation):
    ntk_fn = nt.empirical_ntk_fn(mlp, vmap_axes=0, implementation=implementation)
    with pytest.raises(ValueError, match="has no plan"):
        ntk_fn.explain(X1, X2, PARAMS)
    with pytest.raises(ValueError, match="memory bounds AUTO"):
        nt.empirical_ntk_fn(mlp, implementation=implementation, memory="1GiB")


def test_contract_refuses_what_does_not_belong_together():
    ntk_fn = nt.empirical_ntk_fn(mlp, vmap_axes=0)
    factors = ntk_fn.factors(X1, PARAMS)
    cut = jax.tree.map(lambda a: a[:1], factors)
    other = ntk_fn.factors(X1, PARAMS | {"w2": uniform(9, 7, 4)})
    pair = nt.empirical_ntk_fn(lambda p, x: (mlp(p, x), x @ p["w1"]), vmap_axes=0)
    for first, second, message in (
        (cut, None, r"factors1 were cut or joined: .* had shape \(4, 3\), now \(1, 3\)"),
        (factors, cut, "factors2 were cut or joined"),
        (factors, other, "different parameters: params.'w2'."),
        (factors, pair.factors(X1, PARAMS), "have outputs"),
    ):
        with pytest.raises(ValueError, match=message):
            ntk_fn.contract(first, second)
    with pytest.raises(TypeError, match=r"factors2 must come from ntk_fn\.factors"):
        ntk_fn.contract(factors, X1)


def test_explain_counts_the_bytes_of_every_output_by_its_own_dtype():
    def f(w, x):
        return jnp.tanh(x @ w), (x @ w).astype(jnp.float64)

    w, x = (uniform(seed, 4, 4).astype(jnp.float32) for seed in (0, 1))
    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0)
    single, double = ntk_fn(x, None, w)
    assert (single.dtype, double.dtype) == (jnp.float32, jnp.float64)
    assert ntk_fn.explain(x, None, w).result == single.nbytes + double.nbytes


def test_explain_counts_a_scan_in_full():
    case = cases.get("scan_layers")
    plan = nt.empirical_ntk_fn(case.f, vmap_axes=0).explain(case.x1, None, case.params)
    (w,) = jax.tree.leaves(case.params)
    assert plan.forward == len(case.x1) * w.size


def test_a_wide_layer_is_never_materialised():
    params = {"w1": jax.ShapeDtypeStruct((3072, 1024), "float32")}
    params |= {"b": jax.ShapeDtypeStruct((1024,), "float32")}
    params |= {"w2": jax.ShapeDtypeStruct((1024, 10), "float32")}
    x = jax.ShapeDtypeStruct((20, 3072), "float32")
    plan = nt.empirical_ntk_fn(mlp, (), vmap_axes=0).explain(x, None, params)
    (row,) = (row for row in plan.rows if row.leaf == "params['w1']")
    assert row.order == "gram"
    assert row.largest <= 20 * 20 * (1 + 10 * 10)


def test_an_embedding_does_not_pay_for_its_vocabulary():
    def f(params, x):
        return params["table"][x].mean(1) @ params["head"]

    shapes = {"table": (50_000, 64), "head": (64, 2)}
    params = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    x = jax.ShapeDtypeStruct((4, 128), "int32")
    for implementation in (0, 3):
        ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0, implementation=implementation)
        (row,) = (r for r in ntk_fn.explain(x, x, params).rows if "table" in r.leaf)
        assert (row.kind, row.order) == ("embedding", "gram")
        assert row.largest < 4 * 50_000 * 64


# --- halves, orders, blocks -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense_bias", "cnn", "embedding_tied", "scan_layers_bias", "rnn"])
def test_factors_contract_to_the_kernel(name):
    case = cases.get(name)
    ntk_fn = nt.empirical_ntk_fn(case.f, vmap_axes=0)
    first = ntk_fn.factors(case.x1, case.params, **case.kwargs)
    second = ntk_fn.factors(case.x2, case.params, **case.kwargs)
    full = oracles.naive_ntk(case.f, case.params, case.x1, case.x2, trace_axes=(-1,))
    assert_equal(ntk_fn.contract(first, second), full)
    both = oracles.naive_ntk(case.f, case.params, case.x1, trace_axes=(-1,))
    assert_equal(jax.jit(ntk_fn.contract)(first), both)


CHOICES = [((), ()), ((1,), ()), ((), (0,)), ((0,), (1,)), ((0, 1), ())]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("implementation", [0, 3])
def test_blocks_of_outputs_change_nothing(choice, implementation):
    """A budget of one byte: outputs one by one."""
    names = ("dense", "conv_strides", "embedding_take")
    case = cases.get(names[(CHOICES.index(choice) + implementation) % 3])
    x1, x2 = case.x1[:2], case.x2[:2]
    rank = jax.eval_shape(case.f, case.params, x1).ndim
    trace, diagonal = (tuple(a for a in axes if a < rank) for axes in choice)
    ntk_fn = nt.empirical_ntk_fn(
        case.f, trace, diagonal, 0, implementation=implementation, memory=1
    )
    plan = ntk_fn.explain(x1, x2, case.params)
    assert [block.sizes for block in plan.blocks] == [(1, 1, 1, 1)]
    expected = oracles.naive_ntk(
        case.f, case.params, x1, x2, trace_axes=trace, diagonal_axes=diagonal
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "trace_axes sums over")
        assert_equal(ntk_fn(x1, x2, case.params), expected)


FRAMES = {
    "full": ((), (), 0),
    "traced": ((1,), (), 0),
    "diagonal outputs": ((), (1,), 0),
    "diagonal examples": ((), (0,), 0),
    "traced examples": ((0,), (1,), 0),
    "no batch": ((), (), None),
}


def random_factors(seed, hot, n, s, o, k=2, i=4, j=5):
    layout = Layout(("test",), lambda M: M)
    G = uniform(seed, n, o, s, k, j)
    if hot:  # with repeated ids, and one that is no row
        ids = np.random.default_rng(seed).integers(0, i + 1, (n, s, k))
        return Factored(OneHot(jnp.asarray(ids), i), G, layout)
    return Factored(uniform(seed + 1, n, s, k, i), G, layout)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("hot", [False, True], ids=["dense", "one-hot"])
def test_every_order_is_the_product_of_jacobians(frame, hot):
    trace, diagonal, batch = FRAMES[frame]
    n, m, o = (3, 3, 2) if 0 in trace + diagonal else (3, 2, 2)
    if batch is None:
        n = m = 1
    shapes = [(o,) if batch is None else (count, o) for count in (n, m)]
    ax = KernelAxes(len(shapes[0]), trace, diagonal)
    place = Frame(ax, batch, *shapes)
    f1, f2 = random_factors(0, hot, n, 4, o), random_factors(7, hot, m, 3, o)
    J1, J2 = (jax.vmap(product)(f).reshape(-1, o, 2 * 4 * 5) for f in (f1, f2))
    if batch is None:
        J1, J2 = J1[0], J2[0]
    expected = jnp.einsum(J1, [*ax.first, 99], J2, [*ax.second, 99], ax.result)
    pair = [_contract.unfolded(f, place.counts(side)) for side, f in enumerate((f1, f2))]
    zero = jnp.zeros(place.kernel_shape(*place.counts(0)[::2], place.counts(1)[2]))
    for order in _planner.allowed(*pair):
        for tiles in ((n, m), (2, 1)) if batch is not None else ((1, 1),):
            if place.joint and tiles != (n, m):
                tiles = (2, 2)
            for built, groups in itertools.product((False, True), (1, 2)):
                if built and order != "materialise":
                    continue
                term = _contract.Term(order, tiles, groups, built)
                kernel = place.restored(
                    _contract.contract([pair], place, [term], zero, in_turn=built)
                )
                np.testing.assert_allclose(kernel, expected, rtol=1e-12, atol=1e-12)


def test_factors_of_different_layouts_meet_in_the_leaf():
    f1 = random_factors(0, False, 2, 3, 2)
    J2 = Materialised(uniform(9, 2, 2, 2 * 4 * 5))
    place = Frame(KernelAxes(2, (), ()), 0, (2, 2), (2, 2))
    f1, f2 = _contract.unfolded(f1, (1, 1, 2)), _contract.unfolded(J2, (1, 1, 2))
    term = _planner.plan_pair(f1, f2, place, 2**20, factored=True).term
    assert term.order == "materialise"
    kernel = _contract.contract([(f1, f2)], place, [term], jnp.zeros((2, 2, 1, 2, 2)), in_turn=True)
    kernel, f1 = place.restored(kernel), random_factors(0, False, 2, 3, 2)
    J1 = jax.vmap(product)(f1).reshape(2, 2, -1)
    np.testing.assert_allclose(kernel, jnp.einsum("nop,mqp->nmoq", J1, J2.J), rtol=1e-12)


def test_costs_are_those_of_the_design():
    n, m, s, t, k, i, j, o = 3, 2, 4, 5, 2, 7, 6, 3
    f1, f2 = random_factors(0, False, n, s, o, k, i, j), random_factors(1, False, m, t, o, k, i, j)
    place = Frame(KernelAxes(2, (), ()), 0, (n, o), (m, o))
    cost = {
        order: _planner.cost(
            _contract.unfolded(f1, (1, 1, o)),
            _contract.unfolded(f2, (1, 1, o)),
            place,
            _contract.Term(order, (n, m), k),
        ).multiply_adds
        for order in _contract.ORDERS
    }
    materialised = (n * s + m * t) * o * k * i * j + n * m * o * o * k * i * j
    gram = n * m * s * t * k * (i + o * o * j) + n * m * s * t * k * o * o
    assert cost["materialise"] == materialised
    assert cost["gram"] == gram
    assert cost["second"] == m * t * o * k * i * j + n * m * o * s * k * i * j + (
        n * m * o * o * s * k * j
    )
    assert opt_einsum.__version__  # what counts them


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "memory, expected",
    [
        (123, 123),
        (2e9, 2 * 10**9),
        ("2GiB", 2**31),
        ("1.5 kB", 1500),
        ("10 MiB", 10 * 2**20),
        ("7", 7),
    ],
)
def test_memory_budgets(memory, expected):
    assert budget(memory) == expected


@pytest.mark.parametrize("memory", [0, -1, 0.5, "much", "", "-1GB", "1.2.3GB", True])
def test_bad_memory_budgets(memory):
    with pytest.raises(ValueError, match=r'memory must be.*"2GiB"'):
        nt.empirical_ntk_fn(mlp, memory=memory)


def test_the_default_budget_is_a_share_of_what_is_free():
    assert 2**20 < budget(None) < 2**50


# --- both kernels ---------------------------------------------------------------------------------


def test_both_kernels_run_f_once():
    calls = []

    def f(params, x):
        calls.append(None)
        return mlp(params, x)

    def traces(get):
        calls.clear()
        jax.make_jaxpr(lambda: nt.empirical_kernel_fn(f, vmap_axes=0)(X1, X2, get, PARAMS))()
        return len(calls)

    assert traces(("nngp", "ntk")) == traces("ntk")
    kernels = nt.empirical_kernel_fn(mlp, vmap_axes=0)(X1, X2, None, PARAMS)
    assert_equal(kernels.nngp, oracles.naive_nngp(mlp, PARAMS, X1, X2, trace_axes=(-1,)))
    assert_equal(kernels.ntk, oracles.naive_ntk(mlp, PARAMS, X1, X2, trace_axes=(-1,)))


# --- functions whose sites differ between the two inputs, and others that were once wrong ---------

T3, T4 = uniform(10, 2, 3, 3), uniform(11, 2, 4, 3)
UNLIKE = {
    "slices by the width": (
        lambda w, x: x[0] @ w[: x[0].shape[-1]] + x[1] @ w[x[0].shape[-1] :],
        uniform(12, 4, 3),
        (uniform(13, 2, 2), uniform(14, 2, 2)),
        (uniform(15, 2, 3), uniform(16, 2, 1)),
    ),
    "slices by the length": (
        lambda w, x: x[..., -1, :] @ w[x.shape[-2] - 1] + x[..., -2, :] @ w[x.shape[-2] - 2],
        uniform(17, 4, 3, 2),
        T3,
        T4,
    ),
    "a slice for each step": (
        lambda w, x: sum(x[..., t, :] @ w[t] for t in range(x.shape[-2])),
        uniform(18, 4, 3, 2),
        T3,
        T4,
    ),
    "a split weight": (
        lambda w, x: sum(jnp.tanh(x @ a) for a in jnp.split(2 * w, [1, 3], 1)[::2]),
        uniform(26, 4, 4),
        uniform(27, 2, 4),
        uniform(28, 3, 4),
    ),
    "iterated": (
        lambda w, x: sum(jnp.tanh(x @ a) for a in w) + x @ w[1],
        uniform(26, 3, 4, 4),
        uniform(27, 2, 4),
        uniform(28, 3, 4),
    ),
    "a bias for long inputs": (
        lambda p, x: x.sum(-2) @ p["w"] + (p["b"] if x.shape[-2] > 3 else 0),
        {"w": uniform(19, 3, 2), "b": uniform(20, 2)},
        T3,
        T4,
    ),
    "ids of eight bits": (
        lambda w, x: jnp.take(w, x, axis=0).sum(1),
        uniform(21, 256, 3),
        np.array([[1, 255, 7], [0, 1, 1]], np.uint8),
        np.array([[1, 1, 7], [255, 3, 1]], np.uint8),
    ),
    "a stack that is frozen": (
        lambda p, x: jax.lax.scan(
            lambda h, w: (jnp.tanh(h @ jax.lax.stop_gradient(w)), None), x @ p["w"], p["stack"]
        )[0],
        {"w": uniform(22, 3, 4), "stack": uniform(23, 3, 4, 4)},
        uniform(24, 2, 3),
        uniform(25, 3, 3),
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
@pytest.mark.parametrize("implementation", [0, 3])
def test_sites_that_differ_between_the_inputs(name, implementation):
    f, params, x1, x2 = UNLIKE[name]
    ntk_fn = nt.empirical_ntk_fn(f, (), implementation=implementation)
    assert_equal(ntk_fn(x1, x2, params), oracles.naive_ntk(f, params, x1, x2))
