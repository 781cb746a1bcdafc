"""Derivatives of `stax` kernels, most of all at equal inputs, where values are made exact.

The oracle is differences of the kernels' own values at inputs that are apart, which
`test_stax_reference.py` compares with Neural Tangents'; closed forms; and a recursion in long
doubles.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import QUICK
from support.networks_of_stax import LINES, VECTORS, drawn, graph

from tangax import stax

FULL = pytest.mark.full


def jitted(f):
    return jax.jit(f, compiler_options=QUICK)


def mlp(*activations):
    layers = [(stax.Dense(4, 1.3, 0.2), each) for each in activations]
    return stax.serial(*itertools.chain(*layers), stax.Dense(1, 1.1, 0.1))


def wave(x):
    return x * jnp.sin(x / 2) + 0.3


def residual():
    main = stax.serial(stax.Relu(), stax.Dense(3, 1.2, 0.1))
    block = stax.serial(stax.FanOut(2), stax.parallel(main, stax.Identity()), stax.FanInSum())
    return stax.serial(stax.Dense(3), block, stax.Erf(1.5, 0.7, 0.3), stax.Dense(1))


def concatenated():
    one, two = stax.Conv(2, (2,), padding="SAME"), stax.Conv(2, (1,), b_std=0.3)
    branches = stax.serial(stax.FanOut(2), stax.parallel(one, two), stax.FanInConcat(1))
    return stax.serial(branches, stax.Conv(2, (2,)), stax.Gelu(), stax.GlobalAvgPool())


def conv(*, padding):
    return stax.Conv(2, (2, 2), padding=padding, W_std=1.3, b_std=0.1)


@dataclass(frozen=True)
class Net:
    """A network; the shape of an example; whether the NTK has a kink at equal inputs."""

    build: Callable[[], Any]
    shape: tuple[int, ...] = VECTORS
    kink: bool = False
    # What it has stands in another net as well, or is derived by JAX alone: with `--full` only.
    full: bool = False


def of_the_user():
    return stax.Elementwise(lambda x: x**2, lambda c, p, q: p * q + 2 * c**2)


def pooled():
    layers = [conv(padding="CIRCULAR"), stax.Relu(), stax.AvgPool((2, 1)), stax.GlobalSumPool()]
    return stax.serial(*layers)


def averaged():
    layers = [conv(padding="CIRCULAR"), stax.Relu(), stax.AvgPool((2, 1)), conv(padding="VALID")]
    return stax.serial(*layers, stax.Erf(), stax.GlobalSumPool())


NETS = {
    "dense": Net(lambda: stax.serial(stax.Dense(3, 1.2, 0.3), stax.Dense(1))),
    "relu": Net(lambda: mlp(stax.Relu(), stax.Relu()), kink=True),
    "leaky relu": Net(lambda: mlp(stax.LeakyRelu(0.2)), kink=True, full=True),
    "abrelu": Net(lambda: mlp(stax.ABRelu(-0.5, 2.0)), kink=True, full=True),
    "erf": Net(lambda: mlp(stax.Erf(1.5, 0.7, 0.3)), full=True),
    "gelu": Net(lambda: mlp(stax.Gelu()), full=True),
    "sin": Net(lambda: mlp(stax.Sin(1.5, 0.7, 0.3), stax.Cos())),
    "numerical": Net(lambda: mlp(stax.ElementwiseNumerical(wave, 25)), full=True),
    "of the user": Net(lambda: mlp(of_the_user())),
    "residual": Net(residual, kink=True),
    "joined positions": Net(concatenated, LINES),
    "normalised once": Net(lambda: mlp(stax.LayerNorm(), stax.Erf())),
    "normalised": Net(
        lambda: mlp(stax.LayerNorm(), stax.Erf(), stax.LayerNorm(), stax.Sin()), full=True
    ),
    "dropout in testing": Net(lambda: mlp(stax.Dropout(0.5, "test"), stax.Erf()), full=True),
    "flattened": Net(
        lambda: stax.serial(conv(padding="SAME"), stax.Relu(), stax.Flatten(), stax.Dense(1)),
        (3, 2, 2),
        kink=True,
    ),
    "pooled": Net(pooled, (4, 3, 2), kink=True),
    "pooled twice": Net(averaged, (4, 3, 2), kink=True, full=True),
    "sums": Net(
        lambda: stax.serial(stax.SumPool((2, 1)), conv(padding="SAME"), stax.Gelu()),
        (3, 2, 2),
        full=True,
    ),
    "graph": Net(
        lambda: stax.serial(stax.Dense(2), stax.Aggregate(), stax.Erf(), stax.GlobalAvgPool()),
        LINES,
    ),
}


def kernels_of(name):
    """Both kernels as a function of two inputs, the shape of an example, whether it has a kink."""
    net = NETS[name]
    kernel_fn = net.build().kernel_fn
    pattern = graph(net.shape[0])(np.random.default_rng(5), 3) if name == "graph" else None
    kwargs = {} if pattern is None else {"pattern": pattern}
    return lambda a, b=None: tuple(kernel_fn(a, b, **kwargs)), net.shape, net.kink


def derivatives(k):
    """Along `s` of x1 and `t` of x2: of the first, of the second, of both, and mixed."""

    def found(x, s, t):
        def one_moved(b):
            return jax.jvp(lambda a: k(a, b), (x,), (s,))

        (_, one), (two, mixed) = jax.jvp(one_moved, (x,), (t,))
        both = jax.jvp(lambda a: k(a), (x,), (s,))[1]
        return one, two, both, mixed

    return jitted(found)


def check(found, expected, tolerance, what):
    for a, b in zip(found, expected, strict=True):
        assert np.isfinite(a).all(), what
        assert np.abs(a - b).max() < tolerance * np.abs(b).max(), what


def off_diagonal(kernels):
    """All but the pairs of one example with itself."""
    n = kernels[0].shape[0]
    return tuple(k[~np.eye(n, dtype=bool)] for k in kernels)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=FULL if net.full else ()) for n, net in NETS.items()]
)
def test_derivatives_at_equal_inputs(name):
    k, shape, kink = kernels_of(name)
    x, s, t = (drawn(3, *shape, seed=i) for i in range(3))
    one, two, both, mixed = derivatives(k)(x, s, t)
    value = jitted(k)
    tolerance = 5e-5 if kink else 2e-6  # of differences across a kink

    def slope(f, h=1e-4):
        return [(a - b) / (2 * h) for a, b in zip(f(h), f(-h), strict=True)]

    check(one, slope(lambda h: value(x + h * s, x)), tolerance, "x1")
    check(two, slope(lambda h: value(x, x + h * t)), tolerance, "x2")
    check(both, slope(lambda h: value(x + h * s, x + h * s)), tolerance, "both")
    expected = slope(lambda g: slope(lambda h: value(x + g * s, x + h * t)))
    check(mixed[:1], expected[:1], 1e-3 if kink else tolerance, "mixed")
    if kink:
        assert np.isfinite(mixed[1]).all()
        mixed, expected = off_diagonal(mixed), off_diagonal(expected)
    check(mixed, expected, tolerance, "mixed")


# --- Every way to ask


def mixed_of(kernel_fn, get):
    """`d^2 k / da db^T` of two examples."""
    return jax.jacfwd(jax.grad(lambda a, b: kernel_fn(a[None], b[None], get)[0, 0]), 1)


def mixed_along(kernel_fn, get, s, t):
    """The same along `s` of the first and `t` of the second."""
    k = lambda a, b: kernel_fn(a[None], b[None], get)[0, 0]  # noqa: E731
    one = lambda a, b: jax.jvp(lambda a: k(a, b), (a,), (s,))[1]  # noqa: E731
    return lambda a, b: jax.jvp(lambda b: one(a, b), (b,), (t,))[1]


def test_every_mode_and_every_caller_agree():
    kernel_fn, x, y = mlp(stax.Erf()).kernel_fn, drawn(3, 4), drawn(3, 4)
    weights, step = drawn(3, 3, seed=1), drawn(3, 4, seed=2)
    total = lambda a, b: jnp.sum(weights * kernel_fn(a, b, "ntk"))  # noqa: E731
    # Eagerly their values tell before anything is compiled.
    eager = [jax.grad(total, argnum)(x, y) for argnum in (0, 1)]
    found = jax.jit(jax.grad(total, (0, 1)))(x, y)
    np.testing.assert_allclose(found, eager, rtol=1e-10)
    forward = jax.jvp(lambda a: total(a, y), (x,), (step,))[1]
    np.testing.assert_allclose(np.sum(eager[0] * step), forward, rtol=1e-10)
    for both in (lambda a: total(a, None), lambda a: total(a, a), lambda a: total(a, a * 1.0)):
        np.testing.assert_allclose(jax.grad(both)(x), sum(eager), rtol=1e-10)


def test_mixed_derivatives_of_single_examples():
    kernel_fn, x = mlp(stax.Erf()).kernel_fn, drawn(3, 4)
    mixed = mixed_of(kernel_fn, "nngp")
    expected = jitted(jax.vmap(mixed))(x, x * (1 + 1e-9))
    np.testing.assert_allclose(mixed(x[0], x[0] * 1.0), expected[0], rtol=1e-6)
    np.testing.assert_allclose(jitted(jax.vmap(mixed))(x, x), expected, rtol=1e-6)
    scanned = jitted(lambda x: jax.lax.scan(lambda _, a: (None, mixed(a, a * 1.0)), None, x)[1])
    np.testing.assert_allclose(scanned(x), expected, rtol=1e-6)
    k = lambda a, b: kernel_fn(a[None], b[None], "nngp")[0, 0]  # noqa: E731
    reverse = jitted(jax.jacrev(jax.grad(k), 1))(x[0], x[0])
    np.testing.assert_allclose(reverse, expected[0], rtol=1e-6)


def test_rows_reach_their_own_example():
    x = drawn(3, 4)
    k = lambda a: mlp(stax.Relu()).kernel_fn(a, x.copy(), "nngp")[2, 0]  # noqa: E731
    gradient = jax.grad(k)(x)
    assert np.all(gradient[2] != 0)
    np.testing.assert_array_equal(gradient[:2], 0)


@pytest.mark.parametrize(
    "layer",
    (
        pytest.param(stax.Erf(), marks=FULL),
        stax.Gelu(),
        pytest.param(stax.Sin(), marks=FULL),
        pytest.param(stax.ElementwiseNumerical(wave, 25), marks=FULL),
    ),
)
def test_derivatives_of_third_order(layer):
    """Of what has them: along one direction of x1 and two of x2, against differences."""
    x, s, t = (drawn(4, seed=i) for i in range(3))
    mixed = mixed_along(stax.serial(stax.Dense(1, 1.3, 0.2), layer).kernel_fn, "ntk", s, t)
    both = jitted(lambda b: jax.jvp(lambda b: mixed(x, b), (b,), (t,)))
    expected = (both(x + 1e-4 * t)[0] - both(x - 1e-4 * t)[0]) / 2e-4
    np.testing.assert_allclose(both(x)[1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [pytest.param(False, marks=FULL), True])
def test_parameters_of_a_numerical_function(given):
    """They may be traced, in the function and in the derivative that is `given` for it."""
    x, s, t = (drawn(4, seed=i) for i in range(3))

    def mixed(scales, layer_of):
        net = stax.serial(stax.Dense(1, 1.3, 0.2), layer_of(scales))
        return mixed_along(net.kernel_fn, "nngp", s, t)(x, x * 1.0)

    def function(scales):
        return lambda x: scales[0] * jax.lax.erf(scales[1] * x)

    def slope(scales):
        factor = scales[0] * scales[1] * 2 / np.sqrt(np.pi)
        return lambda x: factor * jnp.exp(-((scales[1] * x) ** 2))

    scales = np.array([1.2, 0.3])
    exact = lambda scales: mixed(scales, lambda scales: stax.Erf(scales[0], scales[1]))  # noqa: E731
    expected = jitted(jax.grad(exact))(scales)

    def layer_of(scales):
        more = [slope(scales)] if given else []
        return stax.ElementwiseNumerical(function(scales), 20, *more)

    found = jitted(jax.grad(lambda scales: mixed(scales, layer_of)))(scales)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_numerical_function_with_a_kink():
    """First derivatives need no second one of the function; they have the quadrature's error."""
    x, y = drawn(3, 4), drawn(2, 4, seed=1)

    def gradient(layer):
        return jitted(jax.grad(lambda a: jnp.sum(mlp(layer).kernel_fn(a, y, "nngp"))))(x)

    numerical, exact = (
        gradient(layer) for layer in (stax.ElementwiseNumerical(jax.nn.relu, 100), stax.Relu())
    )
    np.testing.assert_allclose(numerical, exact, atol=0.1 * np.abs(exact).max())


# --- Where inputs are zero, parallel, antipodal


ZERO, A, B = np.zeros(3), np.array([0.7, -1.1, 0.4]), np.array([0.2, 0.5, 1.3])
POINTS1, POINTS2 = np.array([ZERO, A, B]), np.array([A, ZERO, 2 * B, -A])


@pytest.mark.parametrize(
    "layer",
    (
        stax.Relu(),
        stax.ABRelu(-0.5, 2.0),
        stax.Erf(),
        stax.Gelu(),
        stax.Cos(1.0, 1.0, 0.4),
        stax.ElementwiseNumerical(wave, 15),
    ),
)
def test_derivatives_at_zero_parallel_and_antipodal_inputs(layer):
    """Differences across a kink are the mean over directions, as the derivatives are."""
    kernel_fn = stax.serial(stax.Dense(1, 1.2), layer, stax.Dense(1)).kernel_fn
    k = lambda a, b: tuple(kernel_fn(a, b))  # noqa: E731
    s, t = drawn(3, 3), drawn(4, 3, seed=1)

    @jitted
    def found(x1, x2, s, t):
        one = lambda b: jax.jvp(lambda a: k(a, b), (x1,), (s,))  # noqa: E731
        (_, first), (second, mixed) = jax.jvp(one, (x2,), (t,))
        return first, second, mixed

    value, h = jitted(k), 1e-4
    with jax.debug_nans(True):
        double = found(POINTS1, POINTS2, s, t)
        single = found(*(a.astype(np.float32) for a in (POINTS1, POINTS2, s, t)))
    for which, (u, v) in enumerate(((h * s, 0), (0, h * t))):
        ends = zip(value(POINTS1 + u, POINTS2 + v), value(POINTS1 - u, POINTS2 - v), strict=True)
        check(double[which], [(a - b) / (2 * h) for a, b in ends], 2e-3, which)
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=2e-3 * np.abs(b).max())


def test_relu_at_a_zero_input():
    """Of an input with itself the kernels are squares, whose derivatives are these."""
    kernel_fn = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)).kernel_fn
    both = lambda a: jnp.stack(kernel_fn(a[None], None))[:, 0, 0]  # noqa: E731
    pair = lambda a, b: jnp.stack(kernel_fn(a[None], b[None]))[:, 0, 0]  # noqa: E731
    hessian, gradient = jitted(jax.hessian(both)), jitted(jax.jacrev(both))
    mixed = jitted(jax.jacfwd(jax.jacrev(pair), 1))
    factors = np.array([1, 2])[:, None, None]
    for row in (ZERO, A):
        np.testing.assert_allclose(hessian(row), factors * np.eye(3) / 3, atol=1e-12)
        np.testing.assert_allclose(gradient(row), factors[..., 0] * row / 3, atol=1e-12)
        # The slope of the NTK jumps, and has no derivative: what is left without it.
        np.testing.assert_allclose(mixed(row, row), factors * np.eye(3) / 6, atol=1e-12)
    # A zero input with another: the mean of the two one-sided slopes.
    slope = jax.grad(lambda a: pair(a, A)[0])(ZERO)
    np.testing.assert_allclose(slope, A / 12, rtol=1e-12)


def test_numerical_moments_of_a_zero_input():
    x1, x2 = POINTS1[:2], POINTS2
    numerical = stax.ElementwiseNumerical(lambda x: jnp.cos(x + 0.4), 25)
    found, expected = (
        stax.serial(stax.Dense(1), layer, stax.Dense(1)).kernel_fn(x1, x2)
        for layer in (numerical, stax.Cos(1.0, 1.0, 0.4))
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_dropout_keeps_its_masks_at_equal_inputs():
    """Derivatives are those of the variance that equal inputs have."""
    nets = [stax.serial(stax.Dense(2), *more, stax.Dense(1)) for more in ((), (stax.Dropout(0.5),))]
    x, s = drawn(3, 4), drawn(3, 4, seed=1)
    plain, dropped = (
        jax.jvp(lambda a, net=net: net.kernel_fn(a, x.copy(), "nngp"), (x,), (s,))[1]
        for net in nets
    )
    np.testing.assert_allclose(dropped, plain * (1 + np.eye(3)), rtol=1e-12)


# --- Deep networks


def recursion(x, layers):
    """Both kernels of so many layers of relus of mean square one, in long doubles."""
    x = x.astype(np.longdouble)
    k = x @ x.T / x.shape[1]
    theta, pi = k.copy(), 2 * np.arccos(np.longdouble(0))
    for _ in range(layers):
        p = np.diag(k)[:, None] * np.diag(k)[None]
        root = np.sqrt(np.maximum(p - k * k, 0))
        np.fill_diagonal(root, 0)
        slope = 1 - np.arctan2(root, k) / pi
        k = root / pi + slope * k
        theta = k + theta * slope
    return k, theta


def deep_net(layers):
    return stax.serial(stax.Dense(1), *[stax.Relu(), stax.Dense(1, 2**0.5)] * layers)


@pytest.mark.parametrize(
    "layers, dtype, tolerance",
    (
        (100, np.float64, 1e-12),
        pytest.param(100, np.float32, 1e-4, marks=FULL),
        pytest.param(300, np.float64, 1e-11, marks=FULL),
        pytest.param(300, np.float32, 1e-3, marks=FULL),
        pytest.param(1000, np.float64, 1e-9, marks=FULL),
    ),
)
def test_deep_networks(layers, dtype, tolerance):
    """Angles between inputs go to zero as one over the depth, and digits with them."""
    x = drawn(3, 5).astype(dtype)
    kernels = jitted(deep_net(layers).kernel_fn)(x)
    for found, exact in zip(kernels, recursion(x, layers), strict=True):
        np.testing.assert_allclose(found, exact.astype(float), rtol=tolerance)


def test_programs_grow_with_the_depth_not_with_its_square():
    """Of values and of gradients: what is shared is not copied into every loop."""
    x = drawn(3, 5)

    def size(layers, derive):
        k = deep_net(layers).kernel_fn
        total = lambda a: sum(map(jnp.sum, k(a)))  # noqa: E731
        return jax.jit(derive(total)).lower(x).compile().as_text().count("\n")

    for derive in (lambda f: f, jax.grad):
        small, large = (size(layers, derive) for layers in (3, 9))
        assert large < 4 * small
