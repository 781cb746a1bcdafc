"""How kernels of `stax` are asked for: `get`, inputs that are equal, dtypes, traced arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks_of_stax import CASES, IMAGES, LINES, VECTORS, drawn

from tangax import stax


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


@functools.cache
def kernel_of_bits():
    x = drawn(3, *VECTORS) > 0
    return x, CASES["mlp erf"].build(stax).kernel_fn(x.astype(np.float64), None, "nngp")


@pytest.mark.parametrize("dtype", (np.int32, np.float16, jnp.bfloat16, bool))
def test_short_dtypes_give_float32(dtype):
    x, expected = kernel_of_bits()
    kernel = CASES["mlp erf"].build(stax).kernel_fn(x.astype(dtype), None, "nngp")
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, expected, rtol=1e-5)


def test_hyperparameters_can_be_traced():
    x = drawn(3, *VECTORS)

    def total(h):
        layers = [stax.Dense(3, h["W"], h["b"]), stax.LeakyRelu(h["alpha"])]
        layers += [stax.Dense(3), stax.Sin(h["a"], 0.5, h["c"]), stax.Dense(3), stax.Erf(c=h["c"])]
        return jnp.sum(stax.serial(*layers, stax.Dense(1)).kernel_fn(x).ntk)

    value = jax.jit(total)
    h = {"W": 1.3, "b": 0.2, "alpha": 0.1, "a": 1.4, "c": 0.3}
    gradient = jax.jit(jax.grad(total))(h)
    for name in h:
        up, down = ({**h, name: h[name] + step} for step in (1e-5, -1e-5))
        np.testing.assert_allclose(gradient[name], (value(up) - value(down)) / 2e-5, rtol=1e-5)
