"""What a plan says a call holds against what the compiler allots, and blocks where it is much."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import oracles
from support.arrays import assert_equal

import tangax as nt
from tangax._shared import tuning


def normal(seed, *shape, dtype=None):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def mlp(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def mlp_params(*widths, dtype="float32"):
    pairs = itertools.pairwise(widths)
    return [
        (normal(a, i, o, dtype=dtype) / i**0.5, normal(a, o, dtype=dtype))
        for a, (i, o) in enumerate(pairs)
    ]


def cnn(params, x):
    for w in params["convs"]:
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims))
    return x.reshape(x.shape[0], -1) @ params["w"]


def cnn_params(outputs):
    convs = [normal(0, 3, 3, 3, 16, dtype="float32"), normal(1, 3, 3, 16, 16, dtype="float32")]
    return {"convs": convs, "w": normal(2, 16 * 16 * 16, outputs, dtype="float32")}


def tokens(params, ids):
    x = params["table"][ids]

    def block(x, p):
        q, k, v = (x @ p[a] for a in ("q", "k", "v"))
        x = x + jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v
        return x + jnp.tanh(x @ p["up"]) @ p["down"], None

    x, _ = jax.lax.scan(block, x, params["blocks"])
    return x.mean(1) @ params["head"]


def tokens_params(outputs, vocabulary=64, d=32, depth=3):
    shapes = {"q": (d, d), "k": (d, d), "v": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    blocks = {
        k: normal(a, depth, *s, dtype="float32") / s[0] ** 0.5
        for a, (k, s) in enumerate(shapes.items())
    }
    table = normal(8, vocabulary, d, dtype="float32")
    return {"table": table, "blocks": blocks, "head": normal(9, d, outputs, dtype="float32")}


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


IDS = shape(8, 32, dtype="int32")
# Function, parameters, x1, x2, trace_axes, diagonal_axes, budget in MiB.
PLANS = {
    "1,000 classes, full": (mlp, (32, 128, 1000), shape(4, 32), shape(3, 32), (), (), 16),
    "1,000 classes, full, one side": (mlp, (32, 128, 1000), shape(4, 32), None, (), (), 16),
    "1,000 classes, traced": (mlp, (32, 128, 1000), shape(4, 32), None, (-1,), (), 8),
    "1,000 classes, diagonal": (mlp, (32, 128, 1000), shape(4, 32), shape(5, 32), (), (-1,), 8),
    "wide, with room": (mlp, (512, 512, 4), shape(8, 512), shape(8, 512), (), (), None),
    "convolutions, with room": (cnn, 10, shape(4, 16, 16, 3), shape(6, 16, 16, 3), (), (), None),
    "convolutions": (cnn, 100, shape(4, 16, 16, 3), shape(6, 16, 16, 3), (), (), 64),
    "convolutions, traced": (cnn, 100, shape(4, 16, 16, 3), None, (-1,), (), 32),
    "convolutions, one by one": (cnn, 100, shape(9, 16, 16, 3), None, (-1,), (0,), 32),
    "attention, with room": (tokens, 2, IDS, None, (), (), None),
    "attention, full": (tokens, 50, IDS, IDS, (), (), 64),
    "attention, traced": (tokens, 50, IDS, None, (-1,), (), 64),
}
PARAMS = {mlp: lambda w: mlp_params(*w), cnn: cnn_params, tokens: tokens_params}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_bounds_what_the_compiler_allots(name):
    f, make, x1, x2, trace, diagonal, budget = PLANS[name]
    params = PARAMS[f](make)
    memory = None if budget is None else budget * 2**20
    ntk_fn = nt.empirical_ntk_fn(f, trace, diagonal, vmap_axes=0, memory=memory)
    plan = ntk_fn.explain(x1, x2, params)
    found = jax.jit(ntk_fn).lower(x1, x2, params).compile().memory_analysis()
    real = found.argument_size_in_bytes + found.output_size_in_bytes
    real += found.temp_size_in_bytes - found.alias_size_in_bytes
    assert real <= plan.bytes, f"{real / plan.bytes:.2f} of the bound\n{plan}"
    assert real >= plan.bytes / 4, f"the bound is loose: {real / plan.bytes:.2f} of it\n{plan}"
    if memory is not None:
        copied = plan.result if x2 is None else 0  # the half that is mirrored
        assert plan.peak_bytes <= memory + copied, str(plan)
        assert max(plan.blocks[0].runs) > 1, str(plan)
        assert "outputs in blocks of" in str(plan)


def test_blocks_of_one_side_leave_out_what_is_below_the_diagonal():
    params, x = mlp_params(32, 128, 1000), shape(4, 32)
    ntk_fn = nt.empirical_ntk_fn(mlp, (), vmap_axes=0, memory="16MiB")
    (both,), (one,) = (ntk_fn.explain(x, x2, params).blocks for x2 in (x, None))
    for block, share in ((both, 1), (one, 0.5)):
        assert min(block.runs[2:]) > 4
        assert block.passes[1] == pytest.approx(share * block.runs[2] * 1000, rel=0.15)


def pooled(params, x):
    (w1, b), (w2, _) = params
    return jnp.tanh(x @ w1 + b).mean(1) @ w2


@pytest.mark.parametrize(
    "f, widths, shape, leaf, order",
    [
        (mlp, (256, 256, 4), (256, 256), "params[1][0]", "gram"),
        (pooled, (16, 32, 4), (128, 8, 16), "params[0][0]", "materialise"),
    ],
)
def test_tiles_of_one_side_leave_out_what_is_below_the_diagonal(f, widths, shape, leaf, order):
    params, x = mlp_params(*widths), normal(0, *shape, dtype="float32")
    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0, check_vmap=False)
    both, one = ({row.leaf: row for row in ntk_fn.explain(x, x2, params).rows} for x2 in (x, None))
    whole = shape[0], shape[0]
    assert one[leaf].order == order and one[leaf].tiles != whole
    assert one[leaf].multiply_adds < 0.8 * both[leaf].multiply_adds
    assert one["params[0][1]"].tiles == whole  # a bias, whose product its weight has too
    expected = nt.empirical_ntk_fn(f, (), vmap_axes=0, implementation=1)(x, None, params)
    np.testing.assert_allclose(ntk_fn(x, None, params), expected, rtol=1e-4, atol=1e-2)


BLOCKED = [
    pytest.param(trace, diagonal, same, marks=pytest.mark.full if slow else ())
    for trace, diagonal, same, slow in (
        ((), (), False, False),
        ((), (), True, False),
        ((-1,), (), False, True),
        ((-1,), (), True, False),
        ((), (-1,), False, False),
        ((), (-1,), True, True),
        ((), (0,), False, True),
        ((), (0,), True, False),
    )
]


@pytest.mark.parametrize("trace, diagonal, same", BLOCKED)
def test_blocks_that_do_not_divide_the_outputs(trace, diagonal, same):
    """Prime numbers of outputs: the last block begins early, and counts nothing twice."""
    params = mlp_params(5, 7, 13, dtype=float)
    x1, x2 = normal(50, 5, 5), None if same else normal(51, 5, 5)
    expected = oracles.naive_ntk(mlp, params, x1, x2, trace_axes=trace, diagonal_axes=diagonal)
    runs = set()
    for memory, whole in (("30kB", True), ("60kB", False), ("100kB", True)):
        ntk_fn = nt.empirical_ntk_fn(mlp, trace, diagonal, vmap_axes=0, memory=memory)
        runs |= {ntk_fn.explain(x1, x2, params).blocks[0].runs}
        # The call and its halves go by the same blocks: one of them for each budget.
        kernel = jax.jit(ntk_fn if whole else in_halves(ntk_fn))(x1, x2, params)
        assert_equal(kernel, expected)
        if same and not diagonal:
            twin = kernel if trace else kernel.swapaxes(2, 3)
            assert (kernel == twin.swapaxes(0, 1)).all()
    assert len(runs) == 3


def in_halves(ntk_fn):
    """The kernel as `factors` and `contract` make it."""

    def kernel(x1, x2, params):
        return ntk_fn.contract(
            *(None if x is None else ntk_fn.factors(x, params) for x in (x1, x2))
        )

    return kernel


def both(params, x):
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return hidden @ params["head"], jnp.outer(hidden @ params["head"][:, 0], params["b"])[:, :5]


@pytest.mark.parametrize(
    "trace, diagonal, same", [((), (), True), ((-1,), (), False), ((), (-1,), True)]
)
def test_outputs_pulled_back_some_at_a_time_change_nothing(monkeypatch, trace, diagonal, same):
    """Three at a time of 7 and 5 outputs, whose factors all stay, and blocks of no more."""
    params = {"w": normal(70, 5, 6), "b": normal(71, 6), "head": normal(72, 6, 7)}
    x1, x2 = normal(73, 4, 5), None if same else normal(74, 3, 5)
    expected = [
        oracles.naive_ntk(f, params, x1, x2, trace_axes=trace, diagonal_axes=diagonal)
        for f in (lambda p, x: both(p, x)[0], lambda p, x: both(p, x)[1])
    ]
    widest = 4 * 7 * 8  # bytes of the largest array of a backward pass: the first output
    monkeypatch.setattr(tuning, "CPU", replace(tuning.CPU, pulled=3 * widest))
    ntk_fn = nt.empirical_ntk_fn(both, trace, diagonal, vmap_axes=0, memory="1GiB")
    for kernel_fn in (ntk_fn, in_halves(ntk_fn)):
        assert_equal(list(jax.jit(kernel_fn)(x1, x2, params)), expected)
    text = str(jax.make_jaxpr(ntk_fn.factors)(x1, params))
    assert "scan[" in text and "dynamic_update_slice" in text


def test_blocks_stay_in_cache_whatever_the_budget():
    """400 traced outputs of a network whose widest array has half a MiB for each."""
    params = {"w": shape(64, 256), "head": shape(256, 400)}

    def f(params, x):
        return (jnp.tanh(x @ params["w"]).mean(1)) @ params["head"]

    def blocks(memory, trace=(-1,), diagonal=()):
        ntk_fn = nt.empirical_ntk_fn(f, trace, diagonal, vmap_axes=0, memory=memory)
        (found,) = ntk_fn.explain(shape(16, 32, 64), None, params).blocks
        return found

    (d, r, o, _), (least, *_) = blocks("16GiB").sizes, blocks("1GiB", (), (-1,)).sizes
    assert (d, o) == (1, 1) and 8 <= r <= 32 and 8 <= least <= 32
    assert blocks("1GiB").sizes == blocks("16GiB").sizes
    assert blocks("16MiB").sizes[1] < r
    assert blocks("16GiB", ()).sizes == (1, 1, 400, 400)  # cut, they would be pulled back again


def test_a_plan_far_above_its_budget_is_refused(caplog):
    """200 examples of 1,000 outputs that all meet: 160 GB for the half that is mirrored alone."""
    params, x = jax.eval_shape(lambda: mlp_params(32, 128, 1000)), shape(200, 32)
    ntk_fn = nt.empirical_ntk_fn(mlp, (), vmap_axes=0, memory="1GiB")
    message = (
        r"149 GiB are held .*, 149 times the 1 GiB of `memory`: .* 1000 outputs .* trace_axes or"
    )
    message += r" diagonal_axes.*; or take fewer examples at a time, as nt\.batch does; .*vmap_axes"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ntk_fn, x, None, params)
    assert str(ntk_fn.explain(x, None, params)).count("A CALL IS REFUSED") == 1
    traced = nt.empirical_ntk_fn(mlp, (-1,), vmap_axes=0, memory="1GiB")
    assert jax.eval_shape(traced, x, None, params).shape == (200, 200)
    assert "REFUSED" not in str(traced.explain(x, None, params)) and not caplog.messages
    wide = shape(20_000, 32)  # one output, so that there is nothing to trace
    single = nt.empirical_ntk_fn(lambda p, x: mlp(p, x)[:, :1], (), vmap_axes=0, memory="10MiB")
    with pytest.raises(ValueError, match="of `memory`: take fewer examples at a time"):
        jax.eval_shape(single, wide, None, params)


def test_layers_one_by_one_change_nothing():
    """A scanned stack is contracted layer by layer where a layer is worth a step of a loop."""
    params = {"stack": normal(60, 3, 128, 128) / 12, "head": normal(61, 128, 2)}

    def f(params, x):
        x, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["stack"])
        return x.sum(1) @ params["head"]

    x = normal(62, 48, 32, 128)
    ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0)
    (row,) = (r for r in ntk_fn.explain(x, x, params).rows if "stack" in r.leaf)
    assert row.groups == 1
    expected = nt.empirical_ntk_fn(f, (), vmap_axes=0, implementation=1)(x, x, params)
    assert_equal(ntk_fn(x, x, params), expected)


@pytest.mark.full
def test_fifty_thousand_logits():
    """The Jacobian of one leaf would have 40 billion entries."""
    d, vocabulary = 8, 50_000

    def f(params, ids):
        return jnp.tanh(params["table"][ids].mean(1) @ params["w"]) @ params["head"]

    params = {"table": normal(0, vocabulary, d), "w": normal(1, d, d)}
    params["head"] = normal(2, d, vocabulary)
    ids = jnp.asarray([[1, 2, 49_999, 2], [2, 7, 8, 9]])
    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=0, memory="1GiB")
    assert ntk_fn.explain(ids, None, params).blocks[0].runs[1] > 1
    h = jnp.tanh(params["table"][ids].mean(1) @ params["w"])
    inner = {k: params[k] for k in ("table", "w")}
    hidden = nt.empirical_ntk_fn(
        lambda p, x: jnp.tanh(p["table"][x].mean(1) @ p["w"]), (), vmap_axes=0
    )(ids, None, inner)
    gram = params["head"] @ params["head"].T
    expected = h @ h.T + jnp.einsum("nmij,ij->nm", hidden, gram) / vocabulary
    assert_equal(ntk_fn(ids, None, params), expected)
