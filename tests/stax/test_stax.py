"""Layers of `stax`: their kernels against Neural Tangents', against integrals and finite networks.

`stax_reference.npz` holds what `benchmarks/reference_stax.py` computed with Neural Tangents 0.6.5
in float64: two kernels of x1 with x2 and of x1 with itself, and the outputs of finite networks.
"""

import contextlib
import functools
import gc
import itertools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support import networks_of_stax
from support.networks_of_stax import (
    ACTIVATIONS,
    CASES,
    IMAGES,
    LAYERS,
    LINES,
    VECTORS,
    M,
    N,
    cnn,
    filled,
    relu,
    signature,
)

import tangax as nt
from tangax import stax
from tangax._shared import tuning as _tuning
from tangax.stax import _blocked

REFERENCE = np.load(Path(networks_of_stax.__file__).with_name("stax_reference.npz"))
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
KEY = jax.random.key(0)


def drawn(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# --- Against Neural Tangents


def kernels_of(case, dtype, *, quick):
    """Both kernels of x1 with itself and with x2, by the keys of the reference."""
    kernel_fn = case.build(stax).kernel_fn
    x1, x2 = (case.inputs(n, seed).astype(dtype) for n, seed in ((N, 0), (M, 1)))
    pattern1, pattern2 = case.patterns(N, 0), case.patterns(M, 1)
    found = {}
    for suffix, x, pattern in ((" itself", None, pattern1), ("", x2, (pattern1, pattern2))):
        kwargs = {} if pattern1 is None else {"pattern": pattern}
        call = functools.partial(kernel_fn, **kwargs)
        if quick:
            call = jax.jit(call, compiler_options=QUICK)
        for kind, kernel in call(x1, x)._asdict().items():
            found[kind + suffix] = kernel
    return found


def thinned(index, value, every):
    """A parameter of a test, which only `--full` runs but for one of `every`."""
    return pytest.param(value, marks=() if index % every == 0 else pytest.mark.full)


def difference(kernel, expected):
    """The largest relative error; entries near zero count as a hundredth of the largest."""
    scale = np.abs(expected) + 0.01 * np.abs(expected).max()
    return (np.abs(kernel - expected) / scale).max()


@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_those_of_neural_tangents(name):
    for kind, kernel in kernels_of(CASES[name], np.float64, quick=True).items():
        expected = REFERENCE[f"{name}/{kind}"]
        assert kernel.shape == expected.shape
        assert kernel.dtype == np.float64
        # Of convolutions, its NTK of an image with itself has the root of a rounding error in it.
        tolerance = 5e-9 if kind == "ntk itself" else 1e-10
        assert difference(kernel, expected) < tolerance, kind


@pytest.mark.parametrize("name", [thinned(a, name, 3) for a, name in enumerate(CASES)])
def test_kernels_in_float32(name):
    for kind, kernel in kernels_of(CASES[name], np.float32, quick=False).items():
        assert kernel.dtype == np.float32
        assert difference(kernel, REFERENCE[f"{name}/{kind}"]) < 1e-5, kind


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.random])
def test_finite_networks_equal_those_of_neural_tangents(name):
    case = CASES[name]
    init_fn, apply_fn, _ = case.build(stax)
    x = case.inputs(N, 0)
    shapes = []
    drawn = jax.eval_shape(lambda: shapes.append(init_fn(KEY, x.shape)) or shapes[0][1])
    params = jax.tree.map(filled(), drawn)
    pattern = case.patterns(N, 0)
    kwargs = {} if pattern is None else {"pattern": pattern}
    y = jax.jit(apply_fn, compiler_options=QUICK)(params, x, **kwargs)
    assert y.shape == shapes[0][0]
    np.testing.assert_allclose(y, REFERENCE[f"{name}/y"], rtol=1e-9, atol=1e-10)


def test_every_array_of_the_reference_is_compared():
    kinds = ("nngp itself", "ntk itself", "nngp", "ntk", "y")
    expected = {
        f"{name}/{kind}"
        for name, case in CASES.items()
        for kind in (kinds[:4] if case.random else kinds)
    }
    assert set(REFERENCE.files) == expected | {"signatures"}


def test_layers_have_the_arguments_and_defaults_of_neural_tangents():
    assert [signature(getattr(stax, name)) for name in LAYERS] == REFERENCE["signatures"].tolist()


# --- Moments against integrals


def moments(layer, c, p, q):
    """`E[f(u) f(v)]` and its factor of the NTK, of layers `[n, m]` made from numbers."""
    root = np.linalg.cholesky(np.array([[p, c], [c, q]]))
    x = np.sqrt(2) * root  # two inputs with two channels, whose means of products are c, p, q
    net = stax.serial(stax.Dense(1), layer)
    k = net.kernel_fn(x[:1], x[1:], None)
    return float(k.nngp[0, 0]), float(k.ntk[0, 0]) / c


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("c", (-0.8, 0.3, 0.9))
def test_moments_are_integrals(name, c):
    layer, (p, q) = ACTIVATIONS[name](stax), (1.3, 0.8)
    fn = functools.partial(layer.apply_fn, ())
    # A fine grid of the standard normal plane; kinks cost it digits.
    t = np.linspace(-9, 9, 1801)
    root = np.linalg.cholesky(np.array([[p, c], [c, q]]))
    u, v = root[0, 0] * t[:, None], root[1, 0] * t[:, None] + root[1, 1] * t[None]
    density = np.exp(-(t[:, None] ** 2 + t[None] ** 2) / 2)
    density /= density.sum()
    slope = jax.vmap(jax.vmap(jax.grad(lambda x: jnp.sum(fn(x)))))
    expected = np.sum(density * fn(u) * fn(v))
    expected_slope = np.sum(density * slope(jnp.broadcast_to(u, v.shape)) * slope(v))
    nngp, factor = moments(layer, c, p, q)
    np.testing.assert_allclose(nngp, expected, rtol=1e-4)
    np.testing.assert_allclose(factor, expected_slope, rtol=2e-3)


@pytest.mark.parametrize("name", ("relu", "leaky relu", "erf", "gelu", "sin"))
def test_float32_is_exact_on_the_diagonal(name):
    """Of large and small inputs alike: no square root of a rounding error."""
    x = drawn(6, 3) * np.logspace(-3, 3, 6)[:, None]
    layers = [stax.Dense(1), ACTIVATIONS[name](stax)] * 3
    kernel_fn = stax.serial(*layers, stax.Dense(1)).kernel_fn
    single = kernel_fn(x.astype(np.float32))
    for kernel, expected in zip(single, kernel_fn(x), strict=True):
        np.testing.assert_allclose(np.diag(kernel), np.diag(expected), rtol=2e-5)
        np.testing.assert_array_equal(kernel, kernel.T)


@pytest.mark.parametrize("scale", (1e-16, 1e-10, 1e10, 1e17))
def test_relu_is_homogeneous_in_float32(scale):
    """No product of variances leaves the range."""
    x1, x2 = drawn(3, 5, dtype=np.float32), drawn(2, 5, seed=1, dtype=np.float32)
    kernel_fn = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn
    scaled = kernel_fn(x1 * np.float32(scale), x2 * np.float32(scale))
    for found, expected in zip(scaled, kernel_fn(x1, x2), strict=True):
        np.testing.assert_allclose(np.float64(found) / scale**2, expected, rtol=1e-5)


def test_saturated_inputs_in_float32():
    """Erf of large inputs is the sign, whose covariance is an angle; gelu is relu."""
    x1, x2 = drawn(3, 5, dtype=np.float32), drawn(2, 5, seed=1, dtype=np.float32)

    def kernels(layer, scale=1.0):
        kernel_fn = stax.serial(stax.Dense(1), layer, stax.Dense(1)).kernel_fn
        return kernel_fn(x1 * np.float32(scale), x2 * np.float32(scale), "nngp")

    norms = np.linalg.norm(x1, axis=1)[:, None] * np.linalg.norm(x2, axis=1)
    sign = 2 / np.pi * np.arcsin(x1 @ x2.T / norms)
    for scale in (1e4, 1e10, 1e12):
        np.testing.assert_allclose(kernels(stax.Erf(), scale), sign, atol=1e-4)
        gelu = np.float64(kernels(stax.Gelu(), scale)) / scale**2
        np.testing.assert_allclose(gelu, kernels(stax.Relu()), rtol=1e-4)


def test_zero_inputs_and_gradients_are_finite():
    x = np.concatenate([np.zeros((1, 3)), drawn(2, 3)])
    for layer in (stax.Relu(), stax.ElementwiseNumerical(jnp.tanh, 9), stax.Gelu()):
        kernel_fn = stax.serial(stax.Dense(1), layer, stax.Dense(1)).kernel_fn

        def total(x, kernel_fn=kernel_fn):
            k = kernel_fn(x)
            return jnp.sum(k.nngp + k.ntk)

        assert np.isfinite(total(x))
        gradient = jax.grad(total)(jnp.asarray(x))
        assert np.isfinite(gradient).all()
        step = drawn(3, 3, seed=1)
        step[0] = 0
        numeric = (total(x + 1e-5 * step) - total(x - 1e-5 * step)) / 2e-5
        np.testing.assert_allclose(np.sum(gradient * step), numeric, rtol=1e-4)


def test_an_elementwise_layer_of_the_user():
    given = stax.Elementwise(
        lambda x: x**2, lambda c, p, q: p * q + 2 * c**2, lambda c, p, q: 4 * c
    )
    by_gradient = stax.Elementwise(lambda x: x**2, lambda c, p, q: p * q + 2 * c**2)
    numerical = stax.ElementwiseNumerical(lambda x: x**2, 5)
    x1, x2 = drawn(3, 4), drawn(2, 4, seed=1)
    kernels = [
        stax.serial(stax.Dense(1), layer, stax.Dense(1)).kernel_fn(x1, x2)
        for layer in (given, by_gradient, numerical)
    ]
    for other in kernels[1:]:
        for a, b in zip(kernels[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


# --- What is tracked, and blocks


def largest(kernel_fn, *args):
    """Entries of the largest value that a call computes."""

    def sizes(jaxpr):
        for eqn in jaxpr.eqns:
            yield from (int(np.prod(v.aval.shape)) for v in eqn.outvars)
            for value in eqn.params.values():
                for inner in value if isinstance(value, (list, tuple)) else [value]:
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(kernel_fn)(*args).jaxpr))


def test_flatten_tracks_equal_positions_only_and_pooling_pairs():
    x1, x2 = drawn(4, *IMAGES), drawn(3, *IMAGES, seed=1)
    positions = IMAGES[0] * IMAGES[1]

    def net(*last):
        return cnn(relu, *(lambda stax, layer=layer: layer for layer in last), padding="SAME")(stax)

    flat = net(stax.Flatten()).kernel_fn
    assert largest(flat, x1, x2) <= 4 * 3 * (IMAGES[0] + 2) * (IMAGES[1] + 1)
    pooled = net(stax.GlobalAvgPool()).kernel_fn
    assert largest(pooled, x1, x2) >= 4 * 3 * positions**2
    # After the last pooling, pairs are not needed any more.
    conv = [stax.Conv(4, (1, 1)), stax.Relu()]
    once = stax.serial(stax.AvgPool((1, 1)), *conv * 2, stax.Flatten()).kernel_fn
    text = str(jax.make_jaxpr(once)(x1, x2))
    of_pairs = f"[{IMAGES[0]},{IMAGES[0]},{IMAGES[1]},{IMAGES[1]},4,3]"
    roots = [line for line in text.splitlines() if "= sqrt" in line]
    assert of_pairs in text
    assert roots
    assert not any(of_pairs in line for line in roots)


@pytest.mark.parametrize("last", (stax.Flatten(), stax.GlobalAvgPool(), stax.Identity()))
def test_blocks_of_examples_do_not_matter(monkeypatch, last):
    net = stax.serial(stax.Conv(2, (2, 2), W_std=1.2, b_std=0.2), stax.Relu(), last)
    x1, x2 = drawn(7, 3, 4, 2), drawn(5, 3, 4, 2, seed=1)
    whole, whole_same = net.kernel_fn(x1, x2), net.kernel_fn(x1)
    each = 12 if last.kernel_fn.name == "Flatten" else 144
    monkeypatch.setattr(_tuning, "CPU", replace(_tuning.CPU, pairs=8 * each * 6))
    original, grids = _blocked.assembled, []
    monkeypatch.setattr(
        _blocked, "assembled", lambda *args: (grids.append(args[2]), original(*args))[1]
    )
    # What was compiled before is not used again.
    net = stax.serial(stax.Conv(2, (2, 2), W_std=1.2, b_std=0.2), stax.Relu(), last)
    for a, b in zip(net.kernel_fn(x1, x2), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    for a, b in zip(net.kernel_fn(x1), whole_same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
        twins = [axis + 1 if axis % 2 == 0 else axis - 1 for axis in range(a.ndim)]
        upper = np.triu_indices(7, 1)
        np.testing.assert_array_equal(a[upper], np.transpose(a, twins)[upper])
    assert set(grids) == {(4, 2), (4, 4)}


def test_blocks_below_the_diagonal_are_left_out(monkeypatch):
    lengths = []
    original = lax.map
    monkeypatch.setattr(_tuning, "CPU", replace(_tuning.CPU, pairs=8 * 4))
    monkeypatch.setattr(
        jax.lax, "map", lambda f, xs, **kw: (lengths.append(len(xs)), original(f, xs, **kw))[1]
    )
    net = stax.serial(stax.Dense(2), stax.Relu())
    x = drawn(8, 3)
    net.kernel_fn(x, drawn(8, 3, seed=1), "nngp")
    net.kernel_fn(x, None, "nngp")
    assert lengths == [16, 10]


def test_patterns_go_with_their_blocks(monkeypatch):
    case = CASES["graph of one axis"]
    x1, x2 = case.inputs(5, 0), case.inputs(4, 1)
    pattern = case.patterns(5, 0), case.patterns(4, 1)
    whole = case.build(stax).kernel_fn(x1, x2, "ntk", pattern=pattern)
    itself = case.build(stax).kernel_fn(x1, None, "ntk", pattern=pattern[0])
    monkeypatch.setattr(_tuning, "CPU", replace(_tuning.CPU, pairs=8 * 48**2 * 4))
    kernel_fn = case.build(stax).kernel_fn
    np.testing.assert_allclose(kernel_fn(x1, x2, "ntk", pattern=pattern), whole, rtol=1e-10)
    found = kernel_fn(x1, None, "ntk", pattern=pattern[0])
    np.testing.assert_allclose(found, itself, rtol=1e-10)


# --- Calls


def test_get():
    x1, x2 = drawn(3, *VECTORS), drawn(2, *VECTORS, seed=1)
    kernel_fn = CASES["mlp relu"].build(stax).kernel_fn
    both = kernel_fn(x1, x2)
    assert both._fields == ("nngp", "ntk")
    assert kernel_fn(x1, x2, ("ntk", "nngp"))._fields == ("ntk", "nngp")
    np.testing.assert_array_equal(kernel_fn(x1, x2, get="ntk"), both.ntk)
    np.testing.assert_array_equal(kernel_fn(x1, x2, ("nngp",)).nngp, both.nngp)
    jitted = jax.jit(kernel_fn, static_argnames="get")(x1, x2, get="ntk")
    np.testing.assert_allclose(jitted, both.ntk, rtol=1e-13)


def test_equal_inputs_are_the_same_inputs():
    x = drawn(3, *IMAGES)
    kernel_fn = CASES["dropout in training"].build(stax).kernel_fn
    itself = kernel_fn(x, None, "ntk")
    np.testing.assert_array_equal(kernel_fn(x, x, "ntk"), itself)
    np.testing.assert_array_equal(kernel_fn(x, x.copy(), "ntk"), itself)
    other = kernel_fn(x, x + 1e-9, "ntk")  # other masks
    assert np.all(np.diag(other) < 0.99 * np.diag(itself))
    # Under jit their values tell.
    jitted = jax.jit(lambda a, b: kernel_fn(a, b, "ntk"))
    np.testing.assert_allclose(jitted(x, x), itself, rtol=1e-12)
    np.testing.assert_allclose(jitted(x, x + 1e-9), other, rtol=1e-12)


def test_equal_patterns_are_the_same_patterns():
    x, pattern = drawn(3, *LINES), np.abs(drawn(3, 6, 6, seed=1))
    layers = stax.Aggregate(), stax.Dropout(0.5), stax.GlobalAvgPool()
    kernel_fn = stax.serial(*layers).kernel_fn
    itself = kernel_fn(x, None, "nngp", pattern=pattern)
    np.testing.assert_array_equal(kernel_fn(x, x, "nngp", pattern=(pattern, pattern)), itself)
    np.testing.assert_array_equal(
        kernel_fn(x, None, "nngp", pattern=(pattern, pattern.copy())), itself
    )
    other = kernel_fn(x, None, "nngp", pattern=(pattern, pattern + 1e-9))
    assert np.all(np.diag(other) < 0.99 * np.diag(itself))


@pytest.mark.parametrize("dtype", (np.int32, np.float16, jnp.bfloat16, bool))
def test_short_dtypes_give_float32(dtype):
    x = (drawn(3, *VECTORS) > 0).astype(dtype)
    kernel = CASES["mlp erf"].build(stax).kernel_fn(x, None, "nngp")
    assert kernel.dtype == np.float32
    expected = CASES["mlp erf"].build(stax).kernel_fn(x.astype(np.float64), None, "nngp")
    np.testing.assert_allclose(kernel, expected, rtol=1e-5)


def test_networks_of_several_inputs():
    branches = stax.parallel(stax.Dense(3, 1.2), stax.serial(stax.Conv(3, (2,)), stax.Flatten()))
    # 3 channels from a vector and 5 * 3 from a line, joined.
    init_fn, apply_fn, kernel_fn = stax.serial(
        branches, stax.FanInConcat(), stax.Dense(4), stax.Relu()
    )
    x1 = drawn(4, *VECTORS), drawn(4, *LINES, seed=1)
    x2 = drawn(2, *VECTORS, seed=2), drawn(2, *LINES, seed=3)
    shape, params = init_fn(KEY, tuple(x.shape for x in x1))
    assert shape == (4, 4)
    assert apply_fn(params, x1).shape == shape
    k = kernel_fn(x1, x2)
    assert k.nngp.shape == k.ntk.shape == (4, 2)
    own = [
        layer.kernel_fn(a, b, "nngp")
        for layer, a, b in zip(
            (stax.Dense(3, 1.2), stax.serial(stax.Conv(3, (2,)), stax.Flatten())),
            x1,
            x2,
            strict=True,
        )
    ]
    joined = stax.serial(branches, stax.FanInConcat()).kernel_fn(x1, x2, "nngp")
    np.testing.assert_allclose(joined, (3 * own[0] + 15 * own[1]) / 18, rtol=1e-12)


@pytest.mark.parametrize("turned", (False, True))
def test_a_branch_that_flattens_leaves_the_others_their_positions(turned):
    branches = [stax.Flatten(), stax.serial(stax.Conv(5, (2,)), stax.Relu(), stax.Flatten())]
    branches = branches[::-1] if turned else branches
    x1, x2 = drawn(4, *LINES), drawn(3, *LINES, seed=1)
    net = stax.serial(stax.FanOut(2), stax.parallel(*branches), stax.FanInConcat(-1))
    own = [branch.kernel_fn(x1, x2, "nngp") for branch in branches]
    sizes = [branch.init_fn(KEY, x1.shape)[0][1] for branch in branches]
    expected = sum(size * k for size, k in zip(sizes, own, strict=True)) / sum(sizes)
    np.testing.assert_allclose(net.kernel_fn(x1, x2, "nngp"), expected, rtol=1e-12)
    # One that sees positions only where they are joined.
    joined = stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.serial(stax.Identity(), stax.Dense(3)), stax.Conv(3, (1,))),
        stax.FanInConcat(1),
        stax.Flatten(),
    )
    assert joined.kernel_fn(x1, x2, "nngp").shape == (4, 3)


def test_hyperparameters_can_be_traced():
    x = drawn(3, *VECTORS)

    def total(h):
        layers = [stax.Dense(3, h["W"], h["b"]), stax.LeakyRelu(h["alpha"])]
        layers += [stax.Dense(3), stax.Sin(h["a"], 0.5, h["c"]), stax.Dense(3), stax.Erf(c=h["c"])]
        return jnp.sum(stax.serial(*layers, stax.Dense(1)).kernel_fn(x).ntk)

    h = {"W": 1.3, "b": 0.2, "alpha": 0.1, "a": 1.4, "c": 0.3}
    gradient = jax.jit(jax.grad(total))(h)
    for name in h:
        up, down = ({**h, name: h[name] + step} for step in (1e-5, -1e-5))
        np.testing.assert_allclose(gradient[name], (total(up) - total(down)) / 2e-5, rtol=1e-5)


def test_layers_of_layers_are_layers():
    block = stax.serial(stax.Dense(3), stax.Relu())
    init_fn, apply_fn, kernel_fn = stax.serial(block, stax.serial(block, stax.Dense(2)))
    shape, params = init_fn(KEY, (5, 4))
    assert shape == (5, 2)
    assert [w.shape for w in jax.tree.leaves(params)] == [(4, 3), (3, 3), (3, 2)]
    flat = stax.serial(stax.Dense(3), stax.Relu(), stax.Dense(3), stax.Relu(), stax.Dense(2))
    x = drawn(5, 4)
    np.testing.assert_array_equal(kernel_fn(x, None, "ntk"), flat.kernel_fn(x, None, "ntk"))
    unpacked = stax.serial((init_fn, apply_fn, kernel_fn), stax.Relu())
    assert unpacked.kernel_fn(x, None, "ntk").shape == (5, 5)


def test_arguments_reach_every_layer():
    """`rng` through every combinator, a mask of its own for each; `pattern` likewise."""
    drop = stax.Dropout(0.5)
    aggregate = stax.Aggregate()
    branch = stax.serial(drop, aggregate)
    net = stax.serial(
        stax.FanOut(2), stax.parallel(branch, stax.serial(branch)), stax.FanInConcat(0), drop
    )
    x = np.ones((3, 5, 4))
    pattern = np.broadcast_to(np.eye(5), (3, 5, 5))
    shape, params = net.init_fn(KEY, x.shape)
    y = net.apply_fn(params, x, rng=KEY, pattern=2 * pattern)
    assert y.shape == shape == (6, 5, 4)
    assert set(np.unique(y)) == {0.0, 8.0}
    assert not np.array_equal(y[:3] > 0, y[3:] > 0)
    np.testing.assert_array_equal(y, net.apply_fn(params, x, rng=KEY, pattern=2 * pattern))
    other = net.apply_fn(params, x, rng=jax.random.key(1), pattern=2 * pattern)
    assert not np.array_equal(y, other)


def test_a_layer_of_the_user_gets_what_it_takes():
    plain = (lambda rng, shape: (shape, ()), lambda params, x: jnp.sin(x))
    keyed = (lambda rng, shape: (shape, ()), lambda params, x, rng=None: x + (rng is not None))
    init_fn, apply_fn, _ = stax.serial(plain, keyed)
    x = drawn(3, 4)
    _, params = init_fn(KEY, x.shape)
    np.testing.assert_allclose(apply_fn(params, x, pattern=1), np.sin(x))
    np.testing.assert_allclose(apply_fn(params, x, rng=KEY), np.sin(x) + 1)


def test_circular_padding_is_periodic():
    net = stax.serial(
        stax.Conv(3, (3, 2), padding="CIRCULAR"), stax.AvgPool((2, 3), None, "CIRCULAR")
    )
    x = drawn(2, *IMAGES)
    shape, params = net.init_fn(KEY, x.shape)
    assert shape == (2, *IMAGES)
    rolled = net.apply_fn(params, np.roll(x, (2, 3), (1, 2)))
    expected = np.roll(net.apply_fn(params, x), (2, 3), (1, 2))
    np.testing.assert_allclose(rolled, expected, rtol=1e-10, atol=1e-12)


def test_flatten_batch_axes():
    x = drawn(3, 4, 5, seed=4)
    for axis, out in itertools.product((0, 1, 2, -1), (0, 1, -1)):
        init_fn, apply_fn, kernel_fn = stax.Flatten(axis, out)
        y = apply_fn((), x)
        assert init_fn(None, x.shape)[0] == y.shape
        rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        np.testing.assert_array_equal(y, rows if out == 0 else rows.T)
        expected = rows @ rows.T / rows.shape[1]
        np.testing.assert_allclose(kernel_fn(x, None, "nngp"), expected, rtol=1e-12)


def test_unknown_batch_size_in_shapes():
    layers = stax.Conv(4, (3, 3), padding="SAME"), stax.AvgPool((2, 2)), stax.Flatten()
    shape, _ = stax.serial(*layers).init_fn(KEY, (-1, 6, 5, 3))
    assert shape == (-1, 5 * 4 * 4)


# --- Errors


def test_a_layer_without_a_closed_form_says_so_by_name():
    foreign = (lambda rng, shape: (shape, ()), lambda params, x, **kwargs: x)
    image, vector = np.ones((2, *IMAGES)), np.ones((2, *VECTORS))
    nets = {
        r"Elementwise\(tanh\)": (stax.serial(stax.Dense(2), stax.Elementwise(jnp.tanh)), vector),
        r"Relu": (stax.serial(stax.Dense(2), stax.Relu(), stax.Relu()), vector),
        r"Erf\(1.0": (stax.serial(stax.Conv(2, (2, 2)), stax.Flatten(), stax.Erf()), image),
        r"Cos\(1.0": (stax.serial(stax.Dense(2), stax.Relu(), stax.Cos()), vector),
        r"layer 1 of serial": (stax.serial(stax.Dense(2), foreign), vector),
        r"LayerNorm\(-1\)": (stax.serial(stax.Dense(2), stax.Relu(), stax.LayerNorm()), vector),
        r"LayerNorm\(1\).*channels": (stax.serial(stax.Dense(2), stax.LayerNorm(1)), image),
        r"LayerNorm\(\(0, 3\)\).*batch": (
            stax.serial(stax.Dense(2), stax.LayerNorm((0, 3))),
            image,
        ),
        r"FanInSum.*Dense or Conv": (
            stax.serial(
                stax.FanOut(2), stax.parallel(stax.Identity(), stax.Identity()), stax.FanInSum()
            ),
            vector,
        ),
    }
    for message, (net, x) in nets.items():
        shape, params = net.init_fn(KEY, x.shape)
        assert net.apply_fn(params, x).shape == shape
        with pytest.raises(NotImplementedError, match=message):
            net.kernel_fn(x)


def test_dependent_branches_are_refused_and_independent_ones_are_not():
    x = drawn(2, *VECTORS)
    dense = lambda: stax.Dense(3)  # noqa: E731
    block = stax.serial(dense(), stax.Relu())

    def total(*branches):
        fan = stax.serial(
            stax.FanOut(len(branches)), stax.parallel(*branches), stax.FanInSum(), dense()
        )
        return stax.serial(dense(), fan).kernel_fn(x, None, "nngp")

    total(stax.Identity(), dense(), dense())
    total(block, dense())
    total(block, stax.serial(dense(), stax.Erf()))  # erf keeps the mean zero
    inner = stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.serial(stax.Relu(), dense()), stax.Identity()),
        stax.FanInSum(),
    )
    total(stax.serial(dense(), inner), stax.Identity())
    for branches in (
        (stax.Identity(), stax.Relu()),
        (block, block),
        (inner, stax.Identity()),
        (stax.Identity(), stax.Identity(), dense()),
    ):
        with pytest.raises(NotImplementedError, match="FanInSum"):
            total(*branches)


MISTAKES = {
    "window too large": (
        lambda: stax.Conv(2, (9, 9)).init_fn(KEY, (2, *IMAGES)),
        ValueError,
        r"Conv\(2, \(9, 9\)\): no window.*SAME",
    ),
    "window too large, kernel": (
        lambda: stax.Conv(2, (9, 9)).kernel_fn(np.ones((2, *IMAGES))),
        ValueError,
        r"Conv\(2, \(9, 9\)\): no window",
    ),
    "axes of a convolution": (
        lambda: stax.Conv(2, (3, 3)).init_fn(KEY, (2, *LINES)),
        ValueError,
        r"Conv\(2, \(3, 3\)\) takes arrays with axes 'NHWC'",
    ),
    "axes of a convolution, kernel": (
        lambda: stax.Conv(2, (3, 3)).kernel_fn(np.ones((2, *LINES))),
        ValueError,
        r"Conv\(2, \(3, 3\)\)",
    ),
    "channels of a convolution": (
        lambda: stax.Conv(2, (3, 3)).apply_fn((np.ones((3, 3, 4, 2)), None), np.ones((2, *IMAGES))),
        ValueError,
        r"Conv\(2, \(3, 3\)\) has parameters for 4 channels",
    ),
    "channels of dense": (
        lambda: stax.Dense(2).apply_fn((np.ones((3, 2)), None), np.ones((2, 4))),
        ValueError,
        r"Dense\(2\) has parameters for 3 channels.*\(2, 4\) has 4",
    ),
    "dense of a vector": (
        lambda: stax.Dense(2).init_fn(KEY, (4,)),
        ValueError,
        r"Dense\(2\) takes arrays with a batch and a channel axis",
    ),
    "pool too large": (
        lambda: stax.AvgPool((9, 1)).init_fn(KEY, (2, *IMAGES)),
        ValueError,
        r"AvgPool\(\(9, 1\)\): no window",
    ),
    "pool of other axes": (
        lambda: stax.SumPool((2,)).kernel_fn(np.ones((2, *IMAGES))),
        ValueError,
        r"SumPool\(\(2,\)\) has windows of 1 axes",
    ),
    "no pattern": (
        lambda: stax.Aggregate().apply_fn((), np.ones((2, *LINES))),
        ValueError,
        r"Aggregate needs its graph: pass pattern=",
    ),
    "no pattern, kernel": (
        lambda: stax.Aggregate().kernel_fn(np.ones((2, *LINES))),
        ValueError,
        r"Aggregate needs its graph: pass pattern=",
    ),
    "pattern of another shape": (
        lambda: stax.Aggregate().apply_fn((), np.ones((2, *LINES)), pattern=np.ones((2, 5, 5))),
        ValueError,
        r"Aggregate: pattern has shape \(2, 5, 5\), expected \(2, 6, 6\)",
    ),
    "sparse pattern of another shape": (
        lambda: stax.Aggregate(implementation="SPARSE").apply_fn(
            (), np.ones((2, *LINES)), pattern=np.ones((2, 6, 6), int)
        ),
        ValueError,
        r"Aggregate: a sparse pattern",
    ),
    "sparse pattern of floats": (
        lambda: stax.Aggregate(implementation="SPARSE").apply_fn(
            (), np.ones((2, *LINES)), pattern=np.ones((2, 6, 2))
        ),
        TypeError,
        r"Aggregate: a sparse pattern holds integers",
    ),
    "aggregate over channels": (
        lambda: stax.Aggregate(aggregate_axis=-1).init_fn(None, (2, *LINES)),
        ValueError,
        r"Aggregate: aggregate_axis -1",
    ),
    "implementation of aggregate": (
        lambda: stax.Aggregate(implementation="FAST"),
        ValueError,
        r"Aggregate: implementation must be one of",
    ),
    "dropout without a key": (
        lambda: stax.serial(stax.Dense(2), stax.Dropout(0.5)).apply_fn(
            [(np.ones((3, 2)), None), ()], np.ones((2, 3))
        ),
        ValueError,
        r"Dropout\(0.5\) in training needs a key",
    ),
    "rate": (lambda: stax.Dropout(0.0), ValueError, r"Dropout\(0.0\): rate"),
    "mode": (lambda: stax.Dropout(0.5, "eval"), ValueError, r"Dropout\(0.5\): mode"),
    "sums of other shapes": (
        lambda: stax.FanInSum().apply_fn((), [np.ones((2, 3)), np.ones((2, 4))]),
        ValueError,
        r"FanInSum: its branches do not match: \[\(2, 3\), \(2, 4\)\]",
    ),
    "sums of other shapes, init": (
        lambda: stax.FanInSum().init_fn(None, [(2, 3), (2, 4)]),
        ValueError,
        r"FanInSum: its branches do not match",
    ),
    "sums of other shapes, kernel": (
        lambda: stax.serial(
            stax.FanOut(2),
            stax.parallel(stax.Conv(2, (2, 2)), stax.Conv(2, (1, 1))),
            stax.FanInSum(),
        ).kernel_fn(np.ones((2, *IMAGES))),
        ValueError,
        r"FanInSum: its branches do not match",
    ),
    "joins of other shapes": (
        lambda: stax.FanInConcat(-1).init_fn(None, [(2, 5, 3), (2, 4, 3)]),
        ValueError,
        r"FanInConcat\(-1\): its branches do not match",
    ),
    "joined batches": (
        lambda: stax.serial(
            stax.FanOut(2), stax.parallel(stax.Dense(2), stax.Dense(2)), stax.FanInConcat(0)
        ).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"FanInConcat\(0\): along the batch axis",
    ),
    "sum of one": (
        lambda: stax.serial(stax.Dense(2), stax.FanInSum()).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"FanInSum joins branches",
    ),
    "sum of one array": (
        lambda: stax.FanInSum().apply_fn((), np.ones((5, 3))),
        ValueError,
        r"FanInSum joins branches",
    ),
    "sum of one shape": (
        lambda: stax.serial(stax.Dense(2), stax.FanInSum()).init_fn(KEY, (5, 3)),
        ValueError,
        r"FanInSum joins branches",
    ),
    "join of one array": (
        lambda: stax.FanInConcat().apply_fn((), np.ones((5, 4, 3))),
        ValueError,
        r"FanInConcat\(-1\) joins branches",
    ),
    "join along an axis that is not there": (
        lambda: stax.FanInConcat(5).init_fn(None, [(5, 3), (5, 4)]),
        ValueError,
        r"FanInConcat\(5\): axes has axis 5, which is out of range",
    ),
    "branches with other axes": (
        lambda: stax.serial(
            stax.FanOut(2), stax.parallel(stax.Flatten(), stax.Flatten(0, 1)), stax.FanInConcat()
        ).kernel_fn(np.ones((2, *LINES))),
        ValueError,
        r"FanInConcat\(-1\): its branches have batch and channels at different axes",
    ),
    "copies of copies": (
        lambda: stax.serial(stax.FanOut(2), stax.FanOut(2)).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"FanOut\(2\) takes one input, got 2",
    ),
    "window that is a number": (lambda: stax.AvgPool(2), TypeError, r"AvgPool\(2\): windows and"),
    "filter that is a number": (lambda: stax.Conv(2, 3), TypeError, r"Conv\(2, 3\): windows and"),
    "normalised axis twice": (
        lambda: stax.LayerNorm((-1, 2)).apply_fn((), np.ones((2, *LINES))),
        ValueError,
        r"LayerNorm\(\(-1, 2\)\): axes=\(-1, 2\) repeats axis 2",
    ),
    "one axis for batch and channels": (
        lambda: stax.GlobalAvgPool(channel_axis=0).apply_fn((), np.ones((2, *LINES))),
        ValueError,
        r"GlobalAvgPool: axes=\(0, 0\) repeats axis 0",
    ),
    "batch of another layer": (
        lambda: stax.serial(stax.Dense(4, batch_axis=1, channel_axis=0), stax.Flatten(0)).kernel_fn(
            np.ones((2, 3))
        ),
        ValueError,
        r"Flatten takes the batch at axis 0",
    ),
    "vertices that are not there": (
        lambda: stax.Aggregate(implementation="SPARSE").apply_fn(
            (), np.ones((2, *LINES)), pattern=np.full((2, 1, 2), 6)
        ),
        ValueError,
        r"Aggregate: pattern has vertices beyond the \(6,\)",
    ),
    "no channels": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 0))),
        ValueError,
        r"x1 has no channels or positions",
    ),
    "half a unit": (lambda: stax.Dense(3.5), ValueError, r"Dense\(3.5\): the number of output"),
    "no units": (
        lambda: stax.Conv(0, (3,)),
        ValueError,
        r"Conv\(0, \(3,\)\): the number of output",
    ),
    "a list of layers": (
        lambda: stax.serial([stax.Dense(2), stax.Relu()]),
        TypeError,
        r"layer 0 of serial is a list: write serial\(\*layers\)",
    ),
    "a shape for branches": (
        lambda: stax.parallel(stax.Dense(2), stax.Dense(2)).init_fn(KEY, (4, 5)),
        ValueError,
        r"parallel takes a shape for each branch, got one, \(4, 5\)",
    ),
    "a layer for a function": (
        lambda: nt.empirical_ntk_fn(stax.Dense(2)),
        TypeError,
        r"got a layer: pass its apply_fn",
    ),
    "a tree for a function": (
        lambda: nt.empirical_nngp_fn({}),
        TypeError,
        r"f must be a function f\(params, x\), got dict",
    ),
    "dense of branches": (
        lambda: stax.serial(stax.FanOut(2), stax.Dense(2)).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"Dense\(2\) takes one input, got 2",
    ),
    "branches and copies": (
        lambda: stax.serial(stax.FanOut(3), stax.parallel(stax.Dense(2))).init_fn(KEY, (2, 3)),
        ValueError,
        r"parallel has 1 layers, but input shapes: 3",
    ),
    "branches and copies, kernel": (
        lambda: stax.serial(
            stax.FanOut(3), stax.parallel(stax.Dense(2), stax.Dense(2)), stax.FanInSum()
        ).kernel_fn(np.ones((2, 3))),
        ValueError,
        r"parallel has 2 layers, but inputs: 3",
    ),
    "parameters of another network": (
        lambda: stax.serial(stax.Dense(2), stax.Relu()).apply_fn([()], np.ones((2, 3))),
        ValueError,
        r"serial has 2 layers, but parameters: 1",
    ),
    "parameterization": (
        lambda: stax.Dense(2, parameterization="mup"),
        ValueError,
        r"Dense\(2\): parameterization must be one of .*'mup'",
    ),
    "parameterization of a convolution": (
        lambda: stax.Conv(2, (3, 3), parameterization="mup"),
        ValueError,
        r"Conv\(2, \(3, 3\)\): parameterization must be one of",
    ),
    "padding": (
        lambda: stax.Conv(2, (3, 3), padding="REFLECT"),
        ValueError,
        r"Conv\(2, \(3, 3\)\): padding must be one of .*'REFLECT'",
    ),
    "padding of a pool": (
        lambda: stax.AvgPool((3, 3), padding="REFLECT"),
        ValueError,
        r"AvgPool\(\(3, 3\)\): padding must be one of",
    ),
    "strides": (lambda: stax.Conv(2, (3, 3), (2,)), ValueError, r"Conv.*differ in length"),
    "dimension numbers": (
        lambda: stax.Conv(2, (3, 3), dimension_numbers=("NHWC", "HWIO", "NHW")),
        ValueError,
        r"Conv.*dimension_numbers",
    ),
    "axes of layers differ": (
        lambda: stax.serial(stax.Conv(2, (3, 3)), stax.AvgPool((2, 2), channel_axis=1)).kernel_fn(
            np.ones((2, *IMAGES))
        ),
        ValueError,
        r"AvgPool\(\(2, 2\)\) takes the channels at axis 1, but its input has them at axis 3",
    ),
    "no call": (
        lambda: stax.serial(stax.Dense(2), stax.Relu),
        TypeError,
        r"layer 1 of serial is .*Relu\(\), not Relu",
    ),
    "no layers": (lambda: stax.serial(), ValueError, r"serial needs a layer"),
    "no copies": (lambda: stax.FanOut(0), ValueError, r"FanOut: num must be positive"),
    "degree": (
        lambda: stax.ElementwiseNumerical(jnp.tanh, 0),
        ValueError,
        r"ElementwiseNumerical\(tanh, deg=0\): deg must be positive",
    ),
    "unknown kernel": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), None, "cov1"),
        ValueError,
        r"get must be",
    ),
    "unknown argument": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), mask_constant=0.0),
        TypeError,
        r"kernel_fn has no argument 'mask_constant'",
    ),
    "other positions": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), np.ones((2, 4))),
        ValueError,
        r"x1 and x2 differ in more than the number of examples",
    ),
    "one axis": (
        lambda: stax.Dense(2).kernel_fn(np.ones(3)),
        ValueError,
        r"x1 needs a batch and a channel axis",
    ),
    "a list for one input": (
        lambda: stax.Dense(2).kernel_fn([[1.0, 2.0]]),
        TypeError,
        r"x1 must be an array",
    ),
    "a list for the other": (
        lambda: stax.Dense(2).kernel_fn(np.ones((1, 2)), [[1.0, 2.0]]),
        TypeError,
        r"x2 must be an array.* got float as x2\[0\]\[0\].*jnp.asarray\(x2\)",
    ),
    "a kernel for the other": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), "ntk"),
        TypeError,
        r"x2 must be an array, got 'ntk'. Name kernels by get='ntk'",
    ),
    "parameters": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3)), None, [np.ones((3, 2))]),
        TypeError,
        r"get must be .*got list.*takes no parameters",
    ),
    "a key": (
        lambda: stax.Dense(2).kernel_fn(KEY, np.ones((2, 3))),
        TypeError,
        r"x1 must hold numbers, got key",
    ),
    "complex": (
        lambda: stax.Dense(2).kernel_fn(np.ones((2, 3), complex)),
        TypeError,
        r"x1 is complex",
    ),
    "one input of two": (
        lambda: stax.serial(stax.parallel(stax.Dense(2), stax.Dense(2)), stax.FanInSum()).kernel_fn(
            np.ones((2, 3))
        ),
        ValueError,
        r"x1: the network has 2 inputs",
    ),
    "examples of two inputs": (
        lambda: stax.serial(stax.parallel(stax.Dense(2), stax.Dense(2)), stax.FanInSum()).kernel_fn(
            (np.ones((2, 3)), np.ones((3, 3)))
        ),
        ValueError,
        r"x1: its inputs have different numbers of examples",
    ),
    "x2 partly None": (
        lambda: stax.parallel(stax.Dense(2), stax.Dense(2)).kernel_fn(
            (np.ones((2, 3)), np.ones((2, 3))), (np.ones((2, 3)), None)
        ),
        ValueError,
        r"x2\[1\] is None and x2\[0\] is not",
    ),
    "batch": (
        lambda: nt.batch(stax.Dense(2).kernel_fn, 2),
        TypeError,
        r"kernel_fn of a stax network goes block by block itself",
    ),
    "batch_axis_out": (lambda: stax.Flatten(0, 2), ValueError, r"Flatten: batch_axis_out"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()


# --- Under every setting of JAX


def everything():
    """Layers of every kind in one network, and an input of it."""
    conv = lambda: stax.Conv(2, (2, 1), padding="SAME", W_std=1.2, b_std=0.1)  # noqa: E731
    main = stax.serial(stax.Relu(), conv())
    block = stax.serial(stax.FanOut(2), stax.parallel(main, stax.Identity()), stax.FanInSum())
    join = stax.serial(stax.FanOut(2), stax.parallel(conv(), conv()), stax.FanInConcat())
    functions = [stax.Erf(), stax.Gelu(), stax.Sin(), stax.ABRelu(-0.5, 1.0)]
    functions += [stax.ElementwiseNumerical(jnp.tanh, 2)]
    functions += [stax.Elementwise(jnp.square, lambda c, p, q: p * q + 2 * c**2)]
    dense = [layer for each in functions for layer in (stax.Dense(2, b_std=0.1), each)]
    return stax.serial(
        *(stax.Conv(2, (1, 1)), block, stax.LayerNorm(), stax.Cos(), join),
        *(stax.AvgPool((2, 1)), stax.SumPool((1, 2)), conv(), stax.Dropout(0.9)),
        *(stax.Aggregate(), stax.GlobalAvgPool(), *dense, stax.Flatten(), stax.Dense(1)),
    )


@contextlib.contextmanager
def checking_leaks():
    """JAX collects garbage at the end of each trace: of what is new here, not of the whole run."""
    gc.collect()
    gc.freeze()
    try:
        with jax.checking_leaks():
            yield
    finally:
        gc.unfreeze()


SETTINGS = {
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "strict dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "nans": lambda: jax.debug_nans(True),
    "leaks": checking_leaks,
    "no jit": jax.disable_jit,
}


def gradients(call):
    """Of both kernels, of values equal to one another, and of the finite network, in float32."""
    init_fn, apply_fn, kernel_fn = everything()
    x = drawn(2, 3, 2, 2, dtype=np.float32)
    pattern = np.abs(drawn(2, 2, 1, 2, 1, seed=1, dtype=np.float32))

    def total(a, b):
        k = kernel_fn(a, b, pattern=(pattern, pattern))
        return jnp.sum(k.nngp + k.ntk)

    def finite(x):
        params = jax.tree.map(lambda w: w.astype(np.float32), init_fn(KEY, x.shape)[1])
        return jnp.sum(apply_fn(params, x, rng=KEY, pattern=pattern))

    return call(jax.grad(total))(x, x.copy()), call(jax.grad(finite))(x)


@functools.cache
def plain_gradients():
    return gradients(functools.partial(jax.jit, compiler_options=QUICK))


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_jax(setting):
    """Nothing is promoted, not a number, leaked or dependent on `jit`, forward and backward."""
    quick = functools.partial(jax.jit, compiler_options=QUICK)
    expected = plain_gradients()
    with SETTINGS[setting]():
        found = gradients((lambda f: f) if setting == "no jit" else quick)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("setting", SETTINGS)
def test_calls_under_settings_of_jax(setting):
    """What is not traced: values that tell whether inputs are equal, sparse patterns, blocks."""
    net = stax.serial(stax.Dense(2), stax.Aggregate(implementation="SPARSE"), stax.Relu())
    edges = np.array([[[[0, 1]], [[0, 0]]], [[[1, -1]], [[0, 0]]]])
    x = drawn(2, 2, 1, dtype=np.float32)
    expected = net.kernel_fn(x, None, "ntk", pattern=edges)
    with SETTINGS[setting]():
        params = jax.tree.map(lambda w: w.astype(np.float32), net.init_fn(KEY, x.shape)[1])
        assert net.apply_fn(params, x, pattern=edges).dtype == np.float32
        for other in (None, x.copy(), x.astype(np.int32)):
            found = net.kernel_fn(x, other, "ntk", pattern=(edges, edges))
            if other is None or other.dtype == x.dtype:
                np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- Against finite networks


def test_aggregate_under_vmap_axes():
    """A graph for each example, as the page on empirical kernels has it."""
    case = CASES["graph of one axis"]
    init_fn, apply_fn, _ = case.build(stax)
    x1, x2 = case.inputs(4, 0), case.inputs(3, 1)
    pattern = case.patterns(4, 0), case.patterns(3, 1)
    _, params = init_fn(KEY, x1.shape)
    mapped = nt.empirical_kernel_fn(apply_fn, vmap_axes=(0, 0, {"pattern": 0}))
    whole = nt.empirical_kernel_fn(apply_fn, implementation=1)
    for a, b in zip(
        mapped(x1, x2, params, pattern=pattern), whole(x1, x2, params, pattern=pattern), strict=True
    ):
        assert a.shape == (4, 3)
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def wide(kind, width):
    """The layers of a network that is known to converge; the last one is of width one."""
    last = stax.Dense(1, 1.2, 0.1)
    if kind == "mlp":
        return [*[stax.Dense(width, 1.4, 0.2), stax.Relu()] * 2, last]
    if kind == "cnn":
        conv = stax.Conv(width, (3, 3), padding="SAME", W_std=1.4, b_std=0.2)
        return [*[conv, stax.Relu()] * 2, stax.GlobalAvgPool(), last]
    main = stax.serial(stax.Relu(), stax.Dense(width), stax.Erf(), stax.Dense(width))
    block = stax.serial(stax.FanOut(2), stax.parallel(main, stax.Identity()), stax.FanInSum())
    return [stax.Dense(width), block, block, stax.Relu(), last]


@pytest.mark.parametrize("kind", ["mlp", pytest.param("cnn", marks=pytest.mark.full), "residual"])
def test_finite_networks_approach_the_limit(kind):
    """At the rate of one over the square root of the width, by our own factored kernels."""
    shape = (4, 3, 3) if kind == "cnn" else VECTORS
    x1, x2 = (drawn(n, *shape, seed=n, dtype=np.float32) for n in (4, 3))
    errors = {"nngp": [], "ntk": []}
    widths, keys = (8, 64, 512), jax.random.split(jax.random.key(2), 12)
    for width in widths:
        layers = wide(kind, width)
        init_fn, apply_fn, kernel_fn = stax.serial(*layers)
        body = stax.serial(*layers[:-1])
        limit = kernel_fn(x1, x2)
        ntk_fn = nt.empirical_ntk_fn(apply_fn, vmap_axes=0)
        plan = str(ntk_fn.explain(x1, x2, init_fn(KEY, x1.shape)[1]))
        assert "generic" not in plan

        def sample(key, init_fn=init_fn, body=body, ntk_fn=ntk_fn, width=width):
            _, params = init_fn(key, x1.shape)
            params = jax.tree.map(lambda w: w.astype(np.float32), params)
            # Outputs are draws themselves. This is their kernel, given all layers but the last.
            h1, h2 = (body.apply_fn(params[:-1], x) for x in (x1, x2))
            return 1.2**2 * h1 @ h2.T / width + 0.1**2, ntk_fn(x1, x2, params)

        samples = jax.jit(lambda keys: lax.map(sample, keys))(keys)
        for found, name in zip(samples, errors, strict=True):
            expected = getattr(limit, name)
            error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
            errors[name].append(error)
    for name, found in errors.items():
        slope = np.polyfit(np.log(widths), np.log(found), 1)[0]
        assert -0.65 < slope < -0.35, (name, found)
        assert found[-1] < 0.2, (name, found)


# --- Monte Carlo


def test_monte_carlo_is_the_mean_over_initialisations():
    init_fn, apply_fn, _ = stax.serial(*wide("mlp", 16))
    x1, x2 = drawn(4, *VECTORS), drawn(3, *VECTORS, seed=1)
    kernel_fn = nt.monte_carlo_kernel_fn(init_fn, apply_fn, KEY, [1, 3], vmap_axes=0)
    found = list(kernel_fn(x1, x2))
    assert [k._fields for k in found] == [("nngp", "ntk")] * 2
    empirical = nt.empirical_kernel_fn(apply_fn, vmap_axes=0)
    key, samples = KEY, []
    for _ in range(3):
        key, sample = jax.random.split(key)
        _, params = init_fn(jax.random.split(sample)[0], x1.shape)
        samples.append(empirical(x1, x2, params))
    for count, mean in zip((1, 3), found, strict=True):
        for kind in ("nngp", "ntk"):
            expected = np.mean([getattr(k, kind) for k in samples[:count]], 0)
            np.testing.assert_allclose(getattr(mean, kind), expected, rtol=1e-10)
    single = nt.monte_carlo_kernel_fn(init_fn, apply_fn, KEY, 3, vmap_axes=0)
    np.testing.assert_allclose(single(x1, x2, "ntk"), found[1].ntk, rtol=1e-12)
    blocks = nt.monte_carlo_kernel_fn(init_fn, apply_fn, KEY, 3, 2, vmap_axes=0)
    np.testing.assert_allclose(blocks(x1, x2, "ntk"), found[1].ntk, rtol=1e-10)


def test_monte_carlo_approaches_dropout_and_standard_parameters():
    """Where the limit is hard to get right: masks that two inputs share, scales in the weights."""
    drop = [stax.Dense(256, 1.4), stax.Relu(), stax.Dropout(0.8), stax.Dense(1)]
    standard = [stax.Dense(256, 1.4, 0.3, parameterization="standard"), stax.Erf()]
    standard += [stax.Dense(1, 1.2, 0.1, parameterization="standard")]
    x = drawn(3, *VECTORS, dtype=np.float32)
    for layers in (drop, standard):
        init_fn, apply_fn, kernel_fn = stax.serial(*layers)
        expected = kernel_fn(x)
        estimate = nt.monte_carlo_kernel_fn(init_fn, apply_fn, KEY, 60, trace_axes=())
        # Dropout draws one mask for the whole batch: one "example".
        ntk = estimate(x, None, "ntk")[..., 0, 0]
        error = np.linalg.norm(ntk - expected.ntk) / np.linalg.norm(expected.ntk)
        assert error < 0.06


def test_monte_carlo_of_another_library():
    def init_fn(key, shape):
        return None, jax.random.normal(key, (shape[-1], 4))

    def apply_fn(params, x):  # takes no rng
        return jnp.tanh(x @ params)

    x = drawn(3, 5)
    kernel_fn = nt.monte_carlo_kernel_fn(init_fn, apply_fn, KEY, 2, vmap_axes=0)
    assert kernel_fn(x).ntk.shape == (3, 3)
    forwarded = lambda params, x, **kwargs: apply_fn(params, x, **kwargs)  # noqa: E731
    other = nt.monte_carlo_kernel_fn(init_fn, forwarded, KEY, 2, vmap_axes=0)
    np.testing.assert_array_equal(other(x, rng=None).ntk, kernel_fn(x).ntk)


@pytest.mark.parametrize("n_samples", (0, [], [1, 0], [3, 1], [1, 1], 1.5, "3", True))
def test_monte_carlo_wants_positive_counts(n_samples):
    with pytest.raises(ValueError, match="n_samples"):
        nt.monte_carlo_kernel_fn(lambda: 0, lambda: 0, KEY, n_samples)


def test_monte_carlo_wants_a_batch_size():
    with pytest.raises(ValueError, match="batch_size"):
        nt.monte_carlo_kernel_fn(lambda: 0, lambda: 0, KEY, 1, -1)
