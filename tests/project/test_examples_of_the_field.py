"""The five examples of Neural Tangents' page on empirical kernels, in plain JAX.

The shapes are those that the page states: 32x32x3 images, 20 for training and 5 for testing, 10
outputs. The networks are narrower than the page's, so that a slow machine runs them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import oracles

import tangax as nt

KEY1, KEY2, KEY3 = jax.random.split(jax.random.key(1), 3)
X_TRAIN = jax.random.normal(KEY1, (20, 32, 32, 3), jnp.float32)
X_TEST = jax.random.normal(KEY2, (5, 32, 32, 3), jnp.float32)
CHANNELS, WIDTH, OUTPUTS = 2, 64, 10


def conv(params, x):
    y = jax.lax.conv_general_dilated(
        x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + params["b"]


def dense(params, x):
    return x @ params["w"] + params["b"]


def layer(key, *shape):
    fan_in = np.prod(shape[:-1])
    w_key, b_key = jax.random.split(key)
    return {
        "w": jax.random.normal(w_key, shape, jnp.float32) / float(np.sqrt(fan_in)),
        "b": 0.05 * jax.random.normal(b_key, shape[-1:], jnp.float32),
    }


def cnn(params, x):
    """Two convolutions, global pooling and ten outputs."""
    x = jax.nn.relu(conv(params[0], x))
    x = jax.nn.relu(conv(params[1], x))
    return dense(params[2], jnp.mean(x, (1, 2)))


def cnn_params(key=KEY3):
    k1, k2, k3 = jax.random.split(key, 3)
    return [
        layer(k1, 3, 3, 3, CHANNELS),
        layer(k2, 3, 3, CHANNELS, CHANNELS),
        layer(k3, CHANNELS, OUTPUTS),
    ]


def mlp(params, x):
    """A wide layer on flattened images."""
    x = jax.nn.relu(dense(params[0], x.reshape(len(x), -1)))
    return dense(params[1], x)


def mlp_params(width=WIDTH):
    k1, k2 = jax.random.split(KEY3)
    return [layer(k1, 32 * 32 * 3, width), layer(k2, width, OUTPUTS)]


def as_float64(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float64), tree)


def test_traced_kernels_of_a_cnn():
    kernel_fn = nt.empirical_kernel_fn(
        cnn, trace_axes=(-1,), vmap_axes=0, implementation=nt.NtkImplementation.AUTO
    )
    params = cnn_params()
    kernel = functools.partial(jax.jit(kernel_fn, static_argnums=2), X_TEST, X_TRAIN)
    # (5, 20) np.ndarray test-train kernels
    nngp, ntk = kernel("nngp", params), kernel("ntk", params)
    assert nngp.shape == ntk.shape == (5, 20)
    assert nngp.dtype == ntk.dtype == np.float32
    exact = oracles.naive_ntk(
        cnn, as_float64(params), X_TEST[:2].astype(float), X_TRAIN[:3].astype(float)
    )
    expected = oracles.apply_axes(exact, (-1,), ())
    np.testing.assert_allclose(ntk[:2, :3], expected, atol=1e-5 * np.abs(expected).max())
    # Without x2, a symmetric train-train kernel.
    shapes = jax.eval_shape(lambda x: kernel_fn(x, None, params), X_TRAIN)
    assert shapes.nngp.shape == shapes.ntk.shape == (20, 20)


def test_full_kernels_of_a_cnn():
    kernel_fn = nt.empirical_kernel_fn(cnn, trace_axes=(), vmap_axes=0)
    params = cnn_params()
    for call in (
        lambda params: kernel_fn(X_TEST, X_TRAIN, None, params),
        lambda params: kernel_fn(X_TEST, X_TRAIN, params),
        lambda params: kernel_fn(X_TEST, X_TRAIN, ("nngp", "ntk"), params),
    ):
        kernel = jax.eval_shape(call, params)
        assert isinstance(kernel, nt.EmpiricalKernel)
        assert kernel.nngp.shape == (5, 20, 10, 10)
        assert kernel.ntk.shape == (5, 20, 10, 10)
    kernel = jax.jit(kernel_fn)(X_TEST, X_TRAIN, params)
    assert kernel.nngp.shape == kernel.ntk.shape == (5, 20, 10, 10)
    traced = jax.jit(nt.empirical_ntk_fn(cnn, vmap_axes=0))(X_TEST, X_TRAIN, params)
    mean = np.trace(kernel.ntk, axis1=2, axis2=3) / 10
    np.testing.assert_allclose(mean, traced, atol=1e-5 * np.abs(traced).max())


def test_a_wide_mlp_by_vector_products():
    ntk_fn = nt.empirical_ntk_fn(
        mlp, vmap_axes=0, implementation=nt.NtkImplementation.NTK_VECTOR_PRODUCTS
    )
    # The page's width, for the shape; a narrower one for the numbers.
    wide = jax.eval_shape(lambda: mlp_params(1024))
    assert jax.eval_shape(lambda p: ntk_fn(X_TEST, None, p), wide).shape == (5, 5)
    params = mlp_params()
    ntk = jax.jit(ntk_fn)(X_TEST, None, params)
    assert ntk.shape == (5, 5)
    contraction = nt.empirical_ntk_fn(mlp, vmap_axes=0, implementation=1)
    expected = jax.jit(contraction)(X_TEST, None, params)
    np.testing.assert_allclose(ntk, expected, atol=1e-5 * np.abs(expected).max())


def test_the_diagonal_of_an_nngp():
    nngp_fn = nt.empirical_nngp_fn(cnn, diagonal_axes=(0,))
    params = cnn_params()
    variances = jax.jit(nngp_fn)(X_TRAIN, None, params)
    assert variances.shape == (20,)
    outputs = jax.jit(cnn)(params, X_TRAIN)
    np.testing.assert_allclose(variances, np.mean(np.asarray(outputs) ** 2, -1), rtol=1e-5)


def test_linearize_and_taylor_expand():
    params, other = cnn_params(), cnn_params(jax.random.key(7))
    f_lin = nt.linearize(cnn, params)
    f_quadratic = nt.taylor_expand(cnn, params, 2)
    y = jax.jit(cnn)(params, X_TEST)
    for expansion in (f_lin, f_quadratic):
        expansion = jax.jit(expansion)
        assert expansion(params, X_TEST).shape == (5, 10)
        np.testing.assert_allclose(expansion(params, X_TEST), y, atol=1e-5 * np.abs(y).max())

    @functools.partial(jax.jit, static_argnums=0)
    def error(expansion, step):
        near = jax.tree.map(lambda a, b: a + step * (b - a), as_float64(params), as_float64(other))
        x = X_TEST.astype(jnp.float64)
        return jnp.abs(cnn(near, x) - expansion(near, x)).max()

    # Closer by a power of the step.
    exact = as_float64(params)
    f_lin, f_quadratic = nt.linearize(cnn, exact), nt.taylor_expand(cnn, exact, 2)
    linear, quadratic = (
        [float(error(expansion, step)) for step in (1e-4, 1e-5)]
        for expansion in (f_lin, f_quadratic)
    )
    assert linear[0] / linear[1] == pytest.approx(100, rel=0.5)
    assert quadratic[0] < 0.1 * linear[0]
    assert quadratic[1] < 0.1 * linear[1]
