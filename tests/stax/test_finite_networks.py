"""Finite networks of `stax`: kernels whose limit is known, and means over initialisations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.networks_of_stax import CASES, VECTORS, drawn

import tangax as nt
from tangax import stax

KEY = jax.random.key(0)


def test_aggregate_under_vmap_axes():
    """A graph for each example, as the page on empirical kernels has it."""
    case = CASES["graph of one axis"]
    init_fn, apply_fn, _ = case.build(stax)
    x1, x2 = case.inputs(4, 0), case.inputs(3, 1)
    pattern = case.patterns(4, 0), case.patterns(3, 1)
    _, params = init_fn(KEY, x1.shape)
    mapped = nt.empirical_kernel_fn(apply_fn, vmap_axes=(0, 0, {"pattern": 0}), check_vmap=False)
    whole = nt.empirical_kernel_fn(apply_fn, implementation=1, check_vmap=False)
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


# That each layer is right at finite and at infinite width `test_stax_reference.py` says; this, that
# the two are of one scale.
@pytest.mark.parametrize(
    "kind", ["mlp", *(pytest.param(k, marks=pytest.mark.full) for k in ("cnn", "residual"))]
)
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


def test_monte_carlo_is_the_mean_over_initialisations():
    init_fn, apply_fn, _ = stax.serial(*wide("mlp", 16))
    x1, x2 = drawn(4, *VECTORS), drawn(3, *VECTORS, seed=1)
    kernel_fn = nt.monte_carlo_kernel_fn(init_fn, apply_fn, KEY, [1, 3], vmap_axes=0)
    found = list(kernel_fn(x1, x2))
    assert [k._fields for k in found] == [("nngp", "ntk")] * 2
    empirical = nt.empirical_kernel_fn(apply_fn, vmap_axes=0, check_vmap=False)
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
