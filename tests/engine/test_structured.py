"""The factor engine: its plans, and that every way to contract agrees."""

import itertools
import re
import warnings

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import opt_einsum
import pytest
from support import cases, oracles
from support.arrays import assert_equal, uniform
from support.expected import full_ntk

import tangax as nt
from tangax._engine.contract import cost, materialise, orders, tiles
from tangax._engine.kinds import Factored, Layout, Materialised, OneHot, product
from tangax._engine.output_axes import Frame
from tangax._engine.ranges import Block
from tangax._shared.axes import KernelAxes
from tangax._shared.memory import budget
from tangax._shared.pair import Pair

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
    assert plan.backward == 3 * (4 + 3) * 7 * 3  # from the outputs to the hidden layer
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

    @jax.jit
    def contracted(params, x1, x2):
        first, second = (ntk_fn.factors(x, params, **case.kwargs) for x in (x1, x2))
        return ntk_fn.contract(first, second), ntk_fn.contract(first)

    apart, alone = contracted(case.params, case.x1, case.x2)
    assert_equal(apart, oracles.apply_axes(full_ntk(name, given=True), (-1,), ()))
    assert_equal(alone, oracles.apply_axes(full_ntk(name, given=False), (-1,), ()))


def test_factors_outlive_the_call_that_made_them():
    case = cases.get("dense_bias")
    ntk_fn = nt.empirical_ntk_fn(case.f, vmap_axes=0)
    first, second = (ntk_fn.factors(x, case.params) for x in (case.x1, case.x2))
    expected = oracles.apply_axes(full_ntk("dense_bias", given=True), (-1,), ())
    assert_equal(ntk_fn.contract(first, second), expected)


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
        assert_equal(jax.jit(ntk_fn)(x1, x2, case.params), expected)


@pytest.mark.parametrize("x2", [X2, None], ids=["x1_x2", "x1"])
def test_blocks_of_several_outputs(x2):
    """Each output's entries are taken from among those of all."""

    def f(params, x):
        return {"a": mlp(params, x), "b": jnp.sin(x @ params["w1"])[:, :2]}

    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0, memory=1)
    plan = ntk_fn.explain(X1, x2, PARAMS)
    assert [block.sizes for block in plan.blocks] == [(1, 1, 1, 1)] * 2
    assert_equal(ntk_fn(X1, x2, PARAMS), oracles.naive_ntk(f, PARAMS, X1, x2))


FRAMES = {
    "full": ((), (), 0),
    "traced": ((1,), (), 0),
    "diagonal outputs": ((), (1,), 0),
    "diagonal examples": ((), (0,), 0),
    "traced examples": ((0,), (1,), 0),
    "no batch": ((), (), None),
}


def random_factors(seed, hot, n, s, o, k=3, i=4, j=5):
    layout = Layout(("test",), lambda M: M)
    G = uniform(seed, n, o, s, k, j)
    if hot:  # with repeated ids, and one that is no row
        ids = np.random.default_rng(seed).integers(0, i + 1, (n, s, k))
        return Factored(OneHot(jnp.asarray(ids), i), G, layout)
    return Factored(uniform(seed + 1, n, s, k, i), G, layout)


def terms(order, counts, cut, full):
    """Terms with every number of groups, units and tiles; `full`: with every combination."""
    if full:
        found = itertools.product(dict.fromkeys((counts, cut)), (1, 2, 3), (2, 5))
    else:
        found = [(counts, 1, 5), (cut, 2, 5), (cut, 3, 5), (cut, 1, 5), (counts, 2, 2), (cut, 1, 2)]
    for examples, groups, units in found:
        if units == 5 or order.materialises:
            yield orders.Term(order, examples, groups, units)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("hot", [False, True], ids=["dense", "one-hot"])
def test_every_order_is_the_product_of_jacobians(frame, hot, request):
    trace, diagonal, batch = FRAMES[frame]
    n, m, o = (3, 3, 2) if 0 in trace + diagonal else (3, 2, 2)
    if batch is None:
        n = m = 1
    shapes = [(o,) if batch is None else (count, o) for count in (n, m)]
    ax = KernelAxes(len(shapes[0]), trace, diagonal)
    place = Frame(ax, batch, *shapes)
    f1, f2 = random_factors(0, hot, n, 4, o), random_factors(7, hot, m, 3, o)
    cut = (n, m) if batch is None else (2, 2) if place.joint else (2, 1)
    full = request.config.getoption("full")

    @jax.jit
    def kernels(f1, f2):
        J1, J2 = (jax.vmap(product)(f).reshape(-1, o, 3 * 4 * 5) for f in (f1, f2))
        if batch is None:
            J1, J2 = J1[0], J2[0]
        expected = jnp.einsum(J1, [*ax.first, 99], J2, [*ax.second, 99], ax.result)
        pair = Pair(f1, f2).map(tiles.unfolded, Pair(place.counts(0), place.counts(1)))
        zero = jnp.zeros(place.kernel_shape(*place.counts(0)[::2], place.counts(1)[2]))
        found = {}
        for order in orders.allowed(pair):
            for term in terms(order, (n, m), cut, full):
                kernel = tiles.contract([pair], place, [term], zero, in_turn=term.groups == 1)
                found[str(term)] = place.restored(kernel)
        return found, expected

    found, expected = kernels(f1, f2)
    assert len(found) >= 3
    for term, kernel in found.items():
        np.testing.assert_allclose(kernel, expected, rtol=1e-12, atol=1e-12, err_msg=term)


def test_A_is_repeated_for_several_outputs_where_it_is_smaller():
    """So the test before takes both ways: pieces of `j` are shorter than `i`, or not."""
    several, single = (
        [tiles.unfolded(random_factors(0, False, n, 4, o), (1, 1, o)) for n in (3, 2)]
        for o in (2, 1)
    )
    assert materialise.repeats(*several)
    assert not materialise.repeats(materialise.of_units(several[0], Block(5, 2), 0), several[1])
    assert not materialise.repeats(*single)
    assert not materialise.repeats(several[0], single[1])
    assert not materialise.repeats(single[1], several[0])


def test_factors_of_different_layouts_meet_in_the_leaf():
    f1 = random_factors(0, False, 2, 3, 2)
    J2 = Materialised(uniform(9, 2, 2, 3 * 4 * 5))
    place = Frame(KernelAxes(2, (), ()), 0, (2, 2), (2, 2))
    pair = Pair(f1, J2).map(lambda f: tiles.unfolded(f, (1, 1, 2)))
    term = cost.plan_pair(pair, place, 2**20, factored=True).term
    assert term.order == orders.MATERIALISE
    kernel = tiles.contract([pair], place, [term], jnp.zeros((2, 2, 1, 2, 2)), in_turn=True)
    kernel, f1 = place.restored(kernel), random_factors(0, False, 2, 3, 2)
    J1 = jax.vmap(product)(f1).reshape(2, 2, -1)
    np.testing.assert_allclose(kernel, jnp.einsum("nop,mqp->nmoq", J1, J2.J), rtol=1e-12)


def test_costs_are_those_of_the_design():
    n, m, s, t, k, i, j, o = 3, 2, 4, 5, 2, 7, 6, 3
    f1, f2 = random_factors(0, False, n, s, o, k, i, j), random_factors(1, False, m, t, o, k, i, j)
    place = Frame(KernelAxes(2, (), ()), 0, (n, o), (m, o))
    pair = Pair(f1, f2).map(lambda f: tiles.unfolded(f, (1, 1, o)))
    counted = {
        order.name: cost.cost(pair, place, orders.Term(order, (n, m), k, j)).multiply_adds
        for order in orders.ORDERS
    }
    materialised = (n * s + m * t) * o * k * i * j + n * m * o * o * k * i * j
    gram = n * m * s * t * k * (i + o * o * j) + n * m * s * t * k * o * o
    assert counted["materialise"] == materialised
    assert counted["gram"] == gram
    assert counted["second"] == m * t * o * k * i * j + n * m * o * s * k * i * j + (
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
def test_sites_that_differ_between_the_inputs(name):
    f, params, x1, x2 = UNLIKE[name]

    @jax.jit
    def kernels(params, x1, x2):
        return [nt.empirical_ntk_fn(f, (), implementation=i)(x1, x2, params) for i in (0, 3)]

    expected = oracles.naive_ntk(f, params, x1, x2)
    for kernel in kernels(params, x1, x2):
        assert_equal(kernel, expected)


# --- one flat vector of parameters ----------------------------------------------------------------


def flat_mlp(w, x):
    """What `ravel_pytree` gives: weights and biases are slices of one leaf."""
    for start, (i, j) in ((0, (3, 4)), (16, (4, 4)), (36, (4, 2))):
        x = jnp.tanh(x @ w[start : start + i * j].reshape(i, j) + w[start + i * j :][:j])
    return x


def overlapping(w, x):
    """Two biases that share entries, a weight in two layouts, and one that stands apart."""
    hidden = jnp.tanh(x @ w[10:19].reshape(3, 3) + w[0:3]) + w[2:5] * x
    return (hidden @ w[10:19].reshape(3, 3).T + hidden) @ w[20:26].reshape(3, 2) + w[7]


def in_a_loop(w, x):
    """Slices of one vector, the same at every step, and of a stack of vectors, one for each."""
    flat, stack = w[:20], w[20:].reshape(3, 12)

    def step(h, layer):
        h = jnp.tanh(h @ flat[:9].reshape(3, 3) + flat[9:12] + flat[17:20] * h)
        return h @ layer[:9].reshape(3, 3) + layer[9:] + flat[11:14], None

    return jax.lax.scan(step, x, stack)[0]


def by_length(w, x):
    """Another slice for every length: those of `x1` and of `x2` overlap in part."""
    t = x.shape[-2]
    return x.sum(-2) @ w[t : t + 6].reshape(3, 2) + w[12 : 12 + t].sum() * x[..., 0, :2] + w[-2:]


FLAT = {
    "every part by itself": (flat_mlp, 46, (4, 3), (3, 3), 6),
    "overlapping": (overlapping, 26, (4, 3), (3, 3), 4),
    "in a loop": (in_a_loop, 56, (3, 3), (2, 3), None),
    "by length": (by_length, 20, (3, 2, 3), (2, 4, 3), 3),
}


@pytest.mark.parametrize("name", FLAT)
def test_slices_of_one_vector_stay_apart(name):
    f, size, shape1, shape2, parts = FLAT[name]
    w, x1, x2 = uniform(30, size), uniform(31, *shape1), uniform(32, *shape2)
    ntk_fn, factored = (nt.empirical_ntk_fn(f, (), vmap_axes=0, implementation=i) for i in (0, 3))
    kernels = jax.jit(lambda x1, x2, w: (ntk_fn(x1, x2, w), factored(x1, None, w)))(x1, x2, w)
    assert_equal(kernels[0], oracles.naive_ntk(f, w, x1, x2))
    assert_equal(kernels[1], oracles.naive_ntk(f, w, x1))
    rows = ntk_fn.explain(x1, None, w).rows
    assert parts is None or len(rows) == parts
    if name == "every part by itself":
        assert [row.factors[0] for row in rows] == ["A", "J"] * 3
        assert rows[1].factors == "J[2, 4]"  # and not of all 46 entries


def test_a_flat_vector_compiles_to_the_work_of_its_tree():
    """As many matrix products, of the same sizes, as of the tree that was flattened."""
    shapes = [(3, 4), (4,), (4, 4), (4,), (4, 2), (2,)]
    tree, x = [uniform(40 + a, *s) for a, s in enumerate(shapes)], uniform(31, 4, 3)
    flat, unravel = jax.flatten_util.ravel_pytree(tree)

    def f(params, x):
        for w, b in zip(params[::2], params[1::2], strict=True):
            x = jnp.tanh(x @ w + b)
        return x

    def products(f, params):
        ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0)
        text = str(jax.make_jaxpr(lambda x, w: ntk_fn(x, None, w))(x, params))
        return sorted(re.findall(r":(f64\[[\d,]*\]) = dot_general", text))

    assert products(lambda w, x: f(unravel(w), x), flat) == products(f, tree)
