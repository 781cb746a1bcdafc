"""Moments of activations: against integrals, at extremes, at zero, and the user's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks_of_stax import ACTIVATIONS, drawn

from tangax import stax

P, Q, COVARIANCES = 1.3, 0.8, (-0.8, 0.3, 0.9)
# A fine grid of the standard normal plane; kinks cost it digits.
GRID = np.linspace(-9, 9, 1801)
DENSITY = np.exp(-(GRID[:, None] ** 2 + GRID[None] ** 2) / 2)
DENSITY /= DENSITY.sum()


def moments(layer):
    """`E[f(u) f(v)]` and its factor of the NTK for each covariance, of layers `[n, m]`."""
    # Pairs of inputs with two channels, whose means of products are c, P, Q.
    roots = np.stack([np.linalg.cholesky(np.array([[P, c], [c, Q]])) for c in COVARIANCES])
    x1, x2 = np.moveaxis(np.sqrt(2) * roots, 1, 0)
    k = stax.serial(stax.Dense(1), layer).kernel_fn(x1, x2)
    return np.diag(k.nngp), np.diag(k.ntk) / COVARIANCES


def integral(f, c):
    """`E[f(u) f(v)]`, of `f` at the grid's first coordinate and at what makes the covariance."""
    (a, _), (b, d) = np.linalg.cholesky(np.array([[P, c], [c, Q]]))
    u, v = a * GRID, (b * GRID[:, None] + d * GRID[None])
    return np.asarray(f(u)) @ np.sum(DENSITY * np.asarray(f(v)), 1)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_moments_are_integrals(name):
    layer = ACTIVATIONS[name](stax)
    fn = jax.jit(functools.partial(layer.apply_fn, ()))
    slope = jax.jit(lambda x: jax.jvp(fn, (x,), (jnp.ones_like(x),))[1])
    nngp, factor = moments(layer)
    expected = [integral(fn, c) for c in COVARIANCES]
    expected_slope = [integral(slope, c) for c in COVARIANCES]
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

        both = jax.jit(jax.value_and_grad(total))
        value, gradient = both(x)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        step = drawn(3, 3, seed=1)
        step[0] = 0
        numeric = (both(x + 1e-5 * step)[0] - both(x - 1e-5 * step)[0]) / 2e-5
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
