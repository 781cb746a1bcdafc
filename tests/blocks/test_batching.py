"""Kernels in blocks, against the oracle and in one piece, and the plan that they follow."""

import functools
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from support import oracles
from support.arrays import assert_equal, uniform
from support.images import PARAMS, X1, X2, conv, conv_params, exact_ntk, two

import tangax as nt
from tangax._blocks import fill
from tangax._blocks import plan as _blocks
from tangax._methods import checking
from tangax._shared.memory import budget

# Besides what compiling takes, such small kernels need next to nothing.
SMALL = _blocks.RESERVE + 85_000


# Without the checks of the first call, of which `tests/empirical` has the tests.
UNCHECKED = {"vmap_axes": 0, "check_vmap": False}
MAKERS = {
    "ntk": partial(nt.empirical_ntk_fn, **UNCHECKED),
    "nngp": nt.empirical_nngp_fn,
    "1": partial(nt.empirical_ntk_fn, **UNCHECKED, implementation=1),
    "2": partial(nt.empirical_ntk_fn, **UNCHECKED, implementation=2),
    "3": partial(nt.empirical_ntk_fn, **UNCHECKED, implementation=3),
}
NTK = nt.empirical_ntk_fn(conv, **UNCHECKED)
KINDS = {"ntk": "factors", "nngp": "outputs", "1": "examples", "2": "examples", "3": "factors"}


def naive(name, other, joint, **axes):
    """The kernel of `X1` with another input or with itself."""
    if name == "nngp":
        x2 = None if not other else X1[::-1] if joint else X2
        return oracles.naive_nngp(conv, PARAMS, X1, x2, **axes)
    if joint:
        return exact_ntk(rows2=slice(None, None, -1) if other else None, **axes)
    return exact_ntk(other=other, **axes)


AXES = {
    "traced": {"trace_axes": (-1,)},
    "full": {"trace_axes": ()},
    "diagonal outputs": {"trace_axes": (), "diagonal_axes": (1,)},
    "diagonal examples": {"trace_axes": (-1,), "diagonal_axes": (0,)},
}
# Each pair of a maker, of axes, and of one input or two, by default.
MADE = [
    pytest.param(name, axes, other, marks=() if (i + j + other) % 2 == 0 else pytest.mark.full)
    for i, name in enumerate(MAKERS)
    for j, axes in enumerate(AXES)
    for other in (False, True)
]


@pytest.mark.parametrize("name, axes, other", MADE)
def test_blocks_equal_the_oracle(name, axes, other):
    axes = AXES[axes]
    joint = 0 in axes.get("diagonal_axes", ())
    x2 = None if not other else X1[::-1] if joint else X2
    kernel_fn = nt.batch(MAKERS[name](conv, **axes), 3)
    found = kernel_fn(X1, x2, PARAMS)
    assert isinstance(found, np.ndarray)
    assert_equal(found, naive(name, other, joint, **axes))
    expected = "outputs" if name == "nngp" else "examples" if joint else KINDS[name]
    assert kernel_fn.explain(X1, x2, PARAMS).recipe.kind == expected


def test_leaves_are_multiplied_out_where_that_pays():
    ntk_fn = nt.empirical_ntk_fn(conv, vmap_axes=0)
    many = jax.ShapeDtypeStruct((1000, 5, 5, 2), "float64")
    plan = nt.batch(ntk_fn).explain(many, None, PARAMS)
    # The order of leaves: b, two convolutions, w.
    assert plan.recipe.forms[1:] == ("normal form", "normal form", "kept")
    structured = nt.batch(nt.empirical_ntk_fn(conv, vmap_axes=0, implementation=3))
    assert "normal form" not in structured.explain(many, None, PARAMS).recipe.forms[1:3]


LENGTHS = [(1, None), (2, None), (7, None), (1, 5), (7, 2), (5, 5)]
# Every length by default, with blocks that are even and uneven, of one example and of all.
SIZES = [
    pytest.param(n, m, size, marks=() if (i + j) % 2 == 1 else pytest.mark.full)
    for i, (n, m) in enumerate(LENGTHS)
    for j, size in enumerate((1, 3, 100, None))
]


@pytest.mark.parametrize("n, m, size", SIZES)
def test_lengths(n, m, size):
    ntk_fn = nt.empirical_ntk_fn(conv, **UNCHECKED)
    found = nt.batch(ntk_fn, size)(X1[:n], None if m is None else X2[:m], PARAMS)
    rows2 = None if m is None else slice(m)
    assert_equal(found, exact_ntk(slice(n), rows2, other=m is not None, trace_axes=(-1,)))
    if m is None:
        np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("x2", [None, X2], ids=["same", "other"])
def test_no_examples(x2):
    ntk_fn = nt.empirical_ntk_fn(conv, vmap_axes=0)
    found = nt.batch(ntk_fn, 3)(X1[:0], x2, PARAMS)
    assert found.shape == (0, 0 if x2 is None else 5)


TWO = nt.empirical_kernel_fn(
    two, trace_axes=(), vmap_axes=(0, {"a": 0, "b": 1}, {}), check_vmap=False
)


@functools.cache
def whole_of_two(other):
    return TWO(X1, X2 if other else None, None, PARAMS)


GETS = (None, "ntk", "nngp", ("ntk", "nngp"))
GOTTEN = [
    pytest.param(get, other, marks=() if (i + other) % 2 == 0 else pytest.mark.full)
    for i, get in enumerate(GETS)
    for other in (False, True)
]


@pytest.mark.parametrize("get, other", GOTTEN)
def test_both_kernels_and_several_outputs(get, other):
    x2 = X2 if other else None
    found, whole = nt.batch(TWO, 2)(X1, x2, get, PARAMS), whole_of_two(other)
    if isinstance(get, str):
        jax.tree.map(assert_equal, found, getattr(whole, get))
        return
    assert found._fields == (get or ("nngp", "ntk"))
    assert type(found) is type(TWO(X1, x2, get, PARAMS) if get else whole)
    for name in found._fields:
        jax.tree.map(assert_equal, getattr(found, name), getattr(whole, name))


def test_parameters_in_the_place_of_get():
    kernel_fn = nt.empirical_kernel_fn(conv, **UNCHECKED)
    assert nt.batch(kernel_fn, 3)(X1, X2, PARAMS)._fields == ("nngp", "ntk")


FULLY = nt.empirical_ntk_fn(conv, trace_axes=(), **UNCHECKED)
BLOCKS = [1, pytest.param(2, marks=pytest.mark.full), 3, pytest.param(7, marks=pytest.mark.full)]


@functools.cache
def whole_in_float32():
    params = jax.tree.map(lambda w: w.astype("float32"), PARAMS)
    return params, X1.astype("float32"), np.asarray(FULLY(X1.astype("float32"), None, params))


@pytest.mark.parametrize("size", BLOCKS)
def test_float32_does_not_depend_on_blocks(size):
    params, x, whole = whole_in_float32()
    found = nt.batch(FULLY, size)(x, None, params)
    assert found.dtype == np.float32
    assert np.abs(found - whole).max() < 1e-6 * np.abs(whole).max()


@pytest.mark.parametrize("size", BLOCKS)
def test_float64_does_not_depend_on_blocks(size):
    assert_equal(nt.batch(FULLY, size)(X1, X2, PARAMS), exact_ntk(other=True), 1e-12)


def test_the_same_blocks_give_the_same_bits():
    ntk_fn = nt.empirical_ntk_fn(conv, **UNCHECKED)
    some = nt.batch(ntk_fn, 2, memory=_blocks.RESERVE + 115_000)
    many = nt.batch(ntk_fn, 2, memory="1GiB")
    plans = [fn.explain(X1, None, PARAMS) for fn in (some, many)]
    assert plans[0].resident < plans[1].resident == 4
    np.testing.assert_array_equal(some(X1, None, PARAMS), many(X1, None, PARAMS))


@pytest.fixture
def computed(monkeypatch):
    """The halves and tiles that were computed."""
    halves, tiles = [], []

    class Counting(fill.Halved):
        def half(self, side, block):
            halves.append((side, block))
            return super().half(side, block)

        def tile(self, first, second):
            tiles.append(1)
            return super().tile(first, second)

    monkeypatch.setattr(fill, "Halved", Counting)
    return halves, tiles


@pytest.mark.parametrize("x2", [None, X2], ids=["same", "other"])
@pytest.mark.parametrize("memory", [SMALL, "1GiB"])
def test_halves_are_computed_as_often_as_planned(memory, x2, computed):
    halves, tiles = computed
    ntk_fn = nt.batch(nt.empirical_ntk_fn(conv, **UNCHECKED), 1, memory=memory)
    plan = ntk_fn.explain(X1, x2, PARAMS)
    assert_equal(ntk_fn(X1, x2, PARAMS), exact_ntk(other=x2 is not None, trace_axes=(-1,)))
    assert len(halves) == sum(plan.evaluations)
    assert len(tiles) == plan.tiles == (28 if x2 is None else 35)
    r = plan.resident
    assert (1 <= r < 7) if memory == SMALL else r == 7
    if x2 is not None:
        assert plan.evaluations == (7, 5 * -(-7 // r))
    elif r == 7:
        assert plan.evaluations == (7, 0)
    else:
        starts = range(0, 7, r)
        assert plan.evaluations == (sum(7 - start for start in starts), 0)


def test_a_budget_that_is_just_enough():
    ntk_fn = nt.empirical_ntk_fn(conv, trace_axes=(), **UNCHECKED)
    with pytest.raises(ValueError, match="too small for a pair of examples") as error:
        nt.batch(ntk_fn, memory=_blocks.RESERVE + 1000)(X1, X2, PARAMS)
    least = int(str(error.value).split("at least ")[1].split(" ")[0])
    with pytest.raises(ValueError, match="at least"):
        nt.batch(ntk_fn, memory=least - 4000)(X1, X2, PARAMS)
    found = nt.batch(ntk_fn, memory=least)(X1, X2, PARAMS)
    assert_equal(found, exact_ntk(other=True))


def test_examples_in_place_of_factors_that_do_not_fit():
    def wide(w, x):
        return jnp.tanh(x[:, None, :] * w["scale"]) @ w["w"]  # [n, 200, 30]

    w = {"scale": uniform(0, 200, 1), "w": uniform(1, 4, 30)}
    ntk_fn = nt.empirical_ntk_fn(wide, trace_axes=(1, 2), **UNCHECKED)
    x = uniform(2, 3, 4)
    whole = nt.batch(ntk_fn).explain(x, None, w)
    tight = nt.batch(ntk_fn, memory=_blocks.RESERVE + 35_000_000)
    assert whole.recipe.kind == "factors"
    assert tight.explain(x, None, w).recipe.kind == "examples"

    # Traces add up; at once, the oracle would hold the kernel of all 18,000 outputs.
    def part(w, t):
        return jax.lax.dynamic_slice_in_dim(wide(w, x), t, 20, 1).reshape(3, -1)

    jacobian = jax.jit(jax.jacrev(part))
    total = 0
    for t in range(0, 200, 20):
        flat = [np.asarray(j).reshape(3, 600, -1) for j in jacobian(w, t).values()]
        total += sum(np.einsum("nop,mop->nm", j, j) for j in flat)
    assert_equal(tight(x, None, w), total / 6000)


# Inputs


class Source:
    """Like an array on disk: shape, dtype, slices; never whole."""

    def __init__(self, array, most):
        self.array, self.most, self.shape, self.dtype = array, most, array.shape, array.dtype

    def __getitem__(self, index):
        part = self.array[index]
        assert part.shape[0] <= self.most
        return part


def test_inputs_are_read_block_by_block(tmp_path):
    x = np.asarray(X1)
    expected = exact_ntk(trace_axes=(-1,))
    ntk_fn = nt.batch(nt.empirical_ntk_fn(conv, **UNCHECKED), 2)
    assert_equal(ntk_fn(Source(x, 2), None, PARAMS), expected)
    np.save(tmp_path / "x.npy", x)
    assert_equal(ntk_fn(np.load(tmp_path / "x.npy", mmap_mode="r"), None, PARAMS), expected)
    z = zarr.create_array(tmp_path / "x.zarr", shape=x.shape, chunks=(3, 5, 5, 2), dtype="f8")
    z[...] = x
    assert_equal(ntk_fn(z, None, PARAMS), expected)
    assert_equal(ntk_fn(z, X2, PARAMS), exact_ntk(other=True, trace_axes=(-1,)))


def test_other_byte_orders():
    swapped = np.asarray(X1).astype(">f8")
    assert_equal(nt.batch(NTK, 3)(swapped, None, PARAMS), nt.batch(NTK, 3)(X1, None, PARAMS))


def test_trees_of_inputs_and_axes_that_are_not_the_first():
    def f(params, x, scale, kind):
        y = x["left"].T @ params["w"] + x["all"]
        return (jnp.sin(y) if kind == "sin" else y) * scale[:, None]

    w = {"w": uniform(0, 3, 4)}
    x = {"left": uniform(1, 3, 7), "all": uniform(2, 4)}
    axes = ({"left": 1, "all": None}, 0, {"scale": 0})
    kernel_fn = nt.empirical_kernel_fn(f, vmap_axes=axes)
    kwargs = {"scale": uniform(3, 7), "kind": "sin"}
    jax.tree.map(
        assert_equal,
        nt.batch(kernel_fn, 3)(x, None, w, **kwargs),
        kernel_fn(x, None, w, **kwargs),
    )
    y = {"left": uniform(4, 3, 2), "all": uniform(5, 4)}
    kwargs["scale"] = (kwargs["scale"], uniform(6, 2))
    jax.tree.map(
        assert_equal, nt.batch(kernel_fn, 3)(x, y, w, **kwargs), kernel_fn(x, y, w, **kwargs)
    )


def dropout(params, x, rng):
    masks = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, x.shape[1:]))(rng)
    return jnp.tanh((x * masks) @ params["w"])


@pytest.mark.parametrize("x2", [None, "equal", "other"])
def test_keys_go_to_both_sides_as_for_a_kernel_in_one_piece(x2):
    x, keys = uniform(0, 5, 6), jax.random.split(jax.random.key(0), 5)
    other = {"equal": jnp.array(x), "other": uniform(1, 5, 6)}.get(x2)
    w = {"w": uniform(2, 6, 3)}
    ntk_fn = nt.empirical_ntk_fn(dropout, vmap_axes=(0, 0, {"rng": 0}), check_vmap=False)
    assert_equal(nt.batch(ntk_fn, 2)(x, other, w, rng=keys), ntk_fn(x, other, w, rng=keys))


def test_one_key_for_inputs_that_are_equal_on_the_device():
    def f(params, x, rng):
        return jnp.tanh(x @ params["w"]) * jax.random.normal(rng, (3,))

    x, key = np.asarray(uniform(0, 4, 6)), jax.random.key(0)
    w = {"w": uniform(2, 6, 3)}
    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=0)
    for x2 in (x.copy(), Source(x, 4), x[::-1]):
        one = ntk_fn(x, np.asarray(x2.array if isinstance(x2, Source) else x2), w, rng=key)
        assert_equal(nt.batch(ntk_fn, 2)(x, x2, w, rng=key), one)


def test_leaves_that_are_no_arrays():
    def f(params, x, kind):
        y = params["act"](x @ params["w"]) * params["scale"]
        return jnp.sin(y) if kind == "sin" else y

    params = {"act": jnp.tanh, "w": uniform(0, 6, 3), "scale": 0.5, "none": None}
    x = uniform(1, 5, 6)
    for make in (partial(nt.empirical_ntk_fn, vmap_axes=0), nt.empirical_nngp_fn):
        kernel_fn = make(f)
        found = nt.batch(kernel_fn, 2)(x, None, params, kind="sin")
        assert_equal(found, kernel_fn(x, None, params, kind="sin"))


def test_leaves_on_disk_without_examples(tmp_path):
    table = np.asarray(uniform(1, 6))
    z = zarr.create_array(tmp_path / "x.zarr", shape=(6,), chunks=(3,), dtype="f8")
    z[...] = table
    f = lambda w, x: jnp.tanh((x["x"] + x["all"]) @ w)  # noqa: E731
    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=({"x": 0, "all": None}, 0, {}))
    w, x = uniform(0, 6, 3), uniform(2, 5, 6)
    found = nt.batch(ntk_fn, 2)({"x": x, "all": z}, None, w)
    assert_equal(found, ntk_fn({"x": x, "all": table}, None, w))


def test_calls_of_one_shape_are_compiled_once():
    traced = []

    def f(params, x):
        traced.append(1)
        return conv(params, x)

    ntk_fn = nt.batch(nt.empirical_ntk_fn(f, **UNCHECKED), 3)
    first = ntk_fn(X1, None, PARAMS)
    count = len(traced)
    other = jax.tree.map(lambda w: w * 2, PARAMS)
    assert_equal(ntk_fn(X1 + 1, None, other), oracles.naive_ntk(conv, other, X1 + 1, trace_axes=-1))
    assert_equal(ntk_fn(X1, None, PARAMS), first)
    assert len(traced) == count


def test_floats_are_compiled_once_whatever_their_value():
    """In parameters, inputs and keyword arguments."""
    traced = []

    def f(params, x, scale, kind):
        traced.append(1)
        y = (x["x"] * x["shift"]) @ params["w"] * scale["by"] + params["c"]
        return jnp.sin(y) if kind == "sin" else y

    axes = ({"x": 0, "shift": None}, 0, {})
    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=axes, check_vmap=False)
    batched, x, w, counts = nt.batch(ntk_fn, 2), uniform(0, 5, 3), uniform(1, 3, 2), []
    for c in (0.1, 0.2, 0.3):
        inputs, kwargs = {"x": x, "shift": c}, {"scale": {"by": c}, "kind": "sin"}
        before = len(traced)
        found = batched(inputs, None, {"w": w, "c": c}, **kwargs)
        counts.append(len(traced) - before)
        naive = lambda p, x, c=c, kwargs=kwargs: f(p, {"x": x, "shift": c}, **kwargs)  # noqa: E731
        weights = {"w": w, "c": jnp.asarray(c)}
        assert_equal(found, oracles.naive_ntk(naive, weights, x, trace_axes=(-1,)))
    assert counts[0] > 0 == counts[1] == counts[2]


def test_other_floats_are_another_kernel(tmp_path):
    f = lambda params, x, scale: jnp.tanh(x @ params["w"] * scale)  # noqa: E731
    ntk_fn = nt.batch(nt.empirical_ntk_fn(f, vmap_axes=0), 2, store=tmp_path / "k")
    x, w = uniform(0, 5, 3), {"w": uniform(1, 3, 2)}
    ntk_fn(x, None, w, scale=0.1)
    ntk_fn(x, None, w, scale=0.1)
    with pytest.raises(ValueError, match="these differ: keyword arguments of x1, keyword"):
        ntk_fn(x, None, w, scale=0.2)


def test_a_float_whose_value_f_asks_for():
    def f(params, x, scale):
        return jnp.sin(x @ params["w"]) * (scale if scale > 0.15 else 3.0)

    ntk_fn = nt.batch(nt.empirical_ntk_fn(f, **UNCHECKED), 2)
    x, w = uniform(0, 5, 3), {"w": uniform(1, 3, 2)}
    for scale in (0.1, 0.2, 0.3):
        naive = lambda p, x, c=scale: f(p, x, c)  # noqa: E731
        expected = oracles.naive_ntk(naive, w, x, trace_axes=(-1,))
        assert_equal(ntk_fn(x, None, w, scale=scale), expected)
        assert ntk_fn.explain(x, None, w, scale=scale).n == 5


@pytest.mark.parametrize("implementation", [0, 1])
def test_f_is_checked_once(monkeypatch, implementation):
    """Neither for each tile, also where they are computed operation by operation, nor anew for a
    kernel that is finished; in other blocks `f` may close over something else."""
    checked = []
    for check in ("check_examples_are_independent", "_differences"):
        monkeypatch.setattr(checking, check, lambda *args: checked.append(1) or {})

    def f(params, x, flag, names):
        return jnp.tanh(x @ params["w"]) if flag else x @ params["w"]

    w, x, flag = {"w": uniform(0, 3, 2)}, uniform(1, 6, 3), jnp.asarray(True)
    ntk_fn = nt.empirical_ntk_fn(f, vmap_axes=0, implementation=implementation)
    stored = nt.batch(ntk_fn, 2, store=zarr.storage.MemoryStore())
    for batched, count in ((stored, 1), (stored, 1), (nt.batch(ntk_fn, 3), 2)):
        batched(x, None, w, flag=flag, names=[{"a set, so no key"}])
        assert len(checked) == count


def test_what_could_not_be_checked_is_when_it_can():
    """Of one example nothing is known; of an `f` that closes over something else, nothing anew."""
    mode = {"train": False}

    def f(w, x, names):
        return jnp.tanh(x @ w) - (x @ w).mean(0) * mode["train"]

    w, x, names = uniform(0, 3, 2), uniform(1, 5, 3), [{"a set, so no key"}]
    kernel_fn = nt.empirical_ntk_fn(f, vmap_axes=0)
    nt.batch(kernel_fn, 2)(x, None, w, names=names)
    mode["train"] = True
    batched = nt.batch(kernel_fn, 3)
    batched(x[:1], None, w, names=names)
    with pytest.raises(ValueError, match="f mixes examples"):
        batched(x, None, w, names=names)


def test_values_are_asked_for_where_there_are_no_halves():
    """Pairs of equal examples: a kernel call for each tile, whose plan has the values too."""

    def f(w, x, flag, get):
        return get * jnp.tanh(x @ w) if flag else x @ w

    w, x, flag = uniform(0, 3, 2), uniform(1, 5, 3), jnp.array(True)
    for implementation in (0, 1):
        ntk_fn = nt.empirical_ntk_fn(f, (), (0,), 0, implementation)
        batched = nt.batch(ntk_fn, 2)
        kernel = batched(x, None, w, flag=flag, get=3)
        g = lambda w, x: f(w, x, True, 3)  # noqa: E731
        assert_equal(kernel, oracles.naive_ntk(g, w, x, trace_axes=(), diagonal_axes=(0,)))
        assert batched.explain(x, None, w, flag=flag, get=3).recipe.kind == "examples"


def test_no_vmap_axes_are_taken_as_zero_and_checked():
    assert_equal(
        nt.batch(nt.empirical_ntk_fn(conv), 3)(X1, None, PARAMS),
        exact_ntk(trace_axes=(-1,)),
    )

    def mixing(params, x):
        return conv(params, x - x.mean(0))

    for make in (nt.empirical_ntk_fn, nt.empirical_nngp_fn):
        with pytest.raises(ValueError, match="f mixes examples"):
            nt.batch(make(mixing), 3)(X1, None, PARAMS)


def test_a_jitted_kernel_function_is_taken_as_it_is():
    kernel_fn = jax.jit(nt.empirical_kernel_fn(conv, vmap_axes=0), static_argnames="get")
    found = nt.batch(kernel_fn, 3)(X1, None, "ntk", PARAMS)
    assert_equal(found, exact_ntk(trace_axes=(-1,)))


def test_a_function_that_reads_values():
    def f(params, x, flag):
        return conv(params, x) if flag else conv(params, -x)

    ntk_fn = nt.empirical_ntk_fn(f, **UNCHECKED)
    found = nt.batch(ntk_fn, 3)(X1, None, PARAMS, flag=jnp.asarray(True))
    assert_equal(found, exact_ntk(trace_axes=(-1,)))


def test_lengths_that_change_the_layout():
    """x1 and x2 use slices of a leaf that differ, so that neither is in the other's layout."""

    def f(params, x):
        return jnp.tanh(x @ params["w"][: x.shape[1]])

    w = {"w": uniform(0, 6, 3)}
    x, y = uniform(1, 3, 4), uniform(2, 5, 6)
    found = nt.batch(nt.empirical_ntk_fn(f, **UNCHECKED), 2)(x, y, w)
    assert_equal(found, oracles.naive_ntk(f, w, x, y, trace_axes=(-1,)))


# Explaining


def test_the_plan_is_told_without_data():
    x1 = jax.ShapeDtypeStruct((60_000, 5, 5, 2), "float64")
    x2 = jax.ShapeDtypeStruct((50_000, 5, 5, 2), "float64")
    params = jax.eval_shape(conv_params)
    plan = nt.batch(nt.empirical_ntk_fn(conv, **UNCHECKED), memory="400MiB", store="x").explain(
        x1, x2, params
    )
    assert (plan.n, plan.m) == (60_000, 50_000)
    assert plan.bytes <= plan.memory == 400 * 2**20
    assert plan.multiply_adds == plan.evaluating + plan.contracting > 0
    assert plan.seconds(1e9) == 2 * plan.multiply_adds / 1e9
    text = str(plan)
    for part in (
        "ntk: [60000, 50000] float64, 22.4 GiB on disk",
        "on disk",
        "60,000 of x1",
        "rounds",
        "leaves multiplied out",
    ):
        assert part in text, text
    with pytest.raises(ValueError, match="store="):
        nt.batch(nt.empirical_ntk_fn(conv, **UNCHECKED), memory="1GiB").explain(x1, x2, params)


def test_blocks_are_even():
    plan = nt.batch(nt.empirical_ntk_fn(conv, **UNCHECKED)).explain(
        jax.ShapeDtypeStruct((300, 5, 5, 2), "float64"), None, PARAMS
    )
    assert plan.blocks == (3, 3)
    assert plan.recipe.block * 3 - 300 < plan.recipe.chunk
    assert plan.recipe.block % plan.recipe.chunk == 0


def test_sizes_fall_by_half():
    assert _blocks.halvings(7) == [7, 4, 2, 1]


# What is refused


@pytest.mark.parametrize(
    "options, words",
    [
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"batch_size": 2.0}, "batch_size must be a positive integer"),
        ({"memory": "much"}, "memory must be"),
        ({"on_nonfinite": "stop"}, "on_nonfinite must be one of"),
    ],
)
def test_unknown_options(options, words):
    with pytest.raises(ValueError, match=words):
        nt.batch(NTK, **options)


def test_what_is_no_kernel_function():
    with pytest.raises(TypeError, match="batch takes what empirical_kernel_fn"):
        nt.batch(conv)


@pytest.mark.parametrize(
    "name, words",
    [
        ("device_count", r"run one process on each .* join the kernels"),
        ("store_on_device", r"host's memory.*jax\.device_put"),
        ("memroy", r"'memroy'. See help"),
    ],
)
def test_arguments_that_are_none_here(name, words):
    with pytest.raises(TypeError, match=f"batch has no argument '{name}'") as error:
        nt.batch(NTK, 2, **{name: 1})
    assert re.search(words, str(error.value))


def test_examples_of_unequal_number():
    with pytest.raises(ValueError, match=r"x1\['b'\] has 3"):
        nt.batch(NTK)({"a": X1, "b": X1[:3]}, None, PARAMS)


def test_a_traced_batch_axis():
    with pytest.raises(ValueError, match=r"trace_axes.*examples.*diagonal_axes"):
        nt.batch(nt.empirical_ntk_fn(conv, trace_axes=(0,), vmap_axes=0))(X1, None, PARAMS)


def test_tracers():
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: nt.batch(NTK)(x, None, PARAMS))(X1)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda key: nt.batch(NTK)(X1, X2, PARAMS, rng=key))(jax.random.key(0))


def test_outputs_of_two_kinds():
    f = lambda w, x: {"a" if x.shape[1] == 3 else "b": x[:, :2] @ w}  # noqa: E731
    with pytest.raises(ValueError, match="same tree for x1 and x2"):
        nt.batch(nt.empirical_ntk_fn(f, vmap_axes=0))(
            uniform(0, 4, 3), uniform(1, 4, 2), uniform(2, 2, 2)
        )


def test_tiny_budgets():
    with pytest.raises(ValueError, match="too small for a pair of examples"):
        nt.batch(NTK, memory=3)(X1, X2, PARAMS)


def test_inputs_without_examples():
    with pytest.raises(ValueError, match="no leaf of x1 an axis of examples"):
        nt.batch(nt.empirical_ntk_fn(conv, vmap_axes=(None, 0, {})))(X1, None, PARAMS)


# Entries that are not finite


def with_nan(at):
    return X1.at[at, 0, 0, 0].set(jnp.nan)


def test_the_first_pair_that_is_not_finite_is_named():
    x = with_nan(5)
    for make in (nt.empirical_ntk_fn, nt.empirical_nngp_fn):
        kernel_fn = make(conv) if make is nt.empirical_nngp_fn else make(conv, **UNCHECKED)
        with pytest.warns(RuntimeWarning, match=r"x1\[0\] with x2\[5\]"):
            found = nt.batch(kernel_fn, 3)(x, None, PARAMS)
        assert np.isnan(found[5]).all() and np.isfinite(found[:5, :5]).all()
        with pytest.raises(FloatingPointError, match=r"x1\[\d\] with x2\[5\]"):
            nt.batch(kernel_fn, 3, on_nonfinite="raise")(x, None, PARAMS)
        nt.batch(kernel_fn, 3, on_nonfinite="ignore")(x, None, PARAMS)
    diagonal_fn = nt.empirical_ntk_fn(conv, diagonal_axes=(0,), trace_axes=(), **UNCHECKED)
    with pytest.warns(RuntimeWarning, match=r"x1\[5\] with x2\[5\]"):
        nt.batch(diagonal_fn, 2)(x, None, PARAMS)
    full_fn = nt.empirical_ntk_fn(conv, trace_axes=(), **UNCHECKED)
    with pytest.warns(RuntimeWarning, match=r"x1\[0\] with x2\[4\]"):
        nt.batch(full_fn, 2)(X1, with_nan(4), PARAMS)


def test_what_is_infinite_is_not_finite():
    w, x = np.full((4, 1), 1e100), np.ones((3, 4)) * np.array([1, 1e100, 1])[:, None]
    nngp_fn = nt.batch(nt.empirical_nngp_fn(lambda w, x: x @ w), 2)
    with pytest.warns(RuntimeWarning, match=r"x1\[1\] with x2\[1\]"):
        found = nngp_fn(x, None, w)
    assert np.isinf(found[1, 1]) and not np.isnan(found).any()


# Progress


def test_a_bar_only_if_asked_for(capsys):
    nt.batch(NTK, 3)(X1, None, PARAMS)
    assert capsys.readouterr() == ("", "")
    nt.batch(NTK, 3, progress=True)(X1, None, PARAMS)
    told = capsys.readouterr().err
    assert "49.0/49.0" in told and "6 of 6 tiles" in told and "pairs/s" in told


# Memory, measured

CHILD = Path(__file__).parents[1] / "support" / "processes" / "peak.py"


def check_peak(tmp_path, memory, n):
    """What a fresh process grows by while it computes."""
    import networks  # of the benchmark: not for the children that import this file

    inputs = tmp_path / "x.npy"
    np.save(inputs, networks.inputs("cnn", n, 1))
    run = [sys.executable, CHILD, memory, str(inputs)]
    process = subprocess.run(run, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < budget(memory)


def test_memory_stays_within_the_budget(tmp_path):
    check_peak(tmp_path, "384MiB", 40)


@pytest.mark.crash
@pytest.mark.parametrize("memory", ["384MiB", "640MiB", "1GiB"])
def test_memory_stays_within_three_budgets(tmp_path, memory):
    check_peak(tmp_path, memory, 400)
