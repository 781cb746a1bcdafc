"""`stax` under every setting of JAX."""

import contextlib
import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import QUICK
from support.networks_of_stax import drawn

from tangax import stax

KEY = jax.random.key(0)


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


def kernels_and_network():
    """Sums of both kernels of values equal to one another, and of the finite network, in float32.

    With arguments for each.
    """
    init_fn, apply_fn, kernel_fn = everything()
    x = drawn(2, 3, 2, 2, dtype=np.float32)
    pattern = np.abs(drawn(2, 2, 1, 2, 1, seed=1, dtype=np.float32))

    def total(a, b):
        k = kernel_fn(a, b, pattern=(pattern, pattern))
        return jnp.sum(k.nngp + k.ntk)

    def finite(x, params):
        return jnp.sum(apply_fn(params, x, rng=KEY, pattern=pattern))

    params = jax.eval_shape(lambda: init_fn(KEY, x.shape)[1])
    params = jax.tree.map(lambda w: drawn(*w.shape, dtype=np.float32), params)
    return (total, (x, x.copy())), (finite, (x, params))


def quick(f):
    return jax.jit(f, compiler_options=QUICK)


def results(call, derive):
    return [call(derive(f))(*arguments) for f, arguments in kernels_and_network()]


@functools.cache
def without_nans():
    """Values and gradients; an entry that is not a number raises."""
    with SETTINGS["nans"]():
        return results(quick, jax.value_and_grad)


def check(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("setting", ["rank promotion", "strict dtypes", "leaks"])
def test_nothing_is_promoted_or_leaked(setting):
    """Forward and backward. JAX sees it while it traces, so that nothing need be compiled."""
    with SETTINGS[setting]():
        shapes = results(lambda f: functools.partial(jax.eval_shape, f), jax.value_and_grad)
    for leaf in jax.tree.leaves(shapes):
        assert leaf.dtype == np.float32


def test_every_entry_is_a_number():
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(without_nans()))


@pytest.mark.full
def test_kernels_are_the_same_without_jit():
    (total, arguments), _ = kernels_and_network()
    (expected, _), _ = without_nans()
    with jax.disable_jit():
        check(total(*arguments), expected)


@pytest.mark.full
@pytest.mark.parametrize("setting", SETTINGS)
def test_gradients_under_settings_of_jax(setting):
    expected = without_nans()
    with SETTINGS[setting]():
        found = results((lambda f: f) if setting == "no jit" else quick, jax.value_and_grad)
    check(found, expected)


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
