"""Arrays and small networks that many tests use, and what it is for kernels to be equal."""

import jax
import jax.numpy as jnp
import numpy as np

# For programs that are compiled and run once: compiling is all the time there is to save.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def uniform(seed, *shape, dtype=None):
    """Random numbers in +-[0.2, 0.95]."""
    rng = np.random.default_rng(seed)
    numbers = rng.uniform(0.2, 0.95, shape) * rng.choice([-1.0, 1.0], shape)
    return jax.device_put(np.asarray(numbers, dtype))  # `jnp.asarray` compiles for every shape


def mlp(params, x):
    h = jnp.tanh(x @ params["w"] + params["b"])
    return h @ params["v"]


def mlp_params(dtype=None, d=4, width=5, outputs=2):
    return {
        "w": uniform(1, d, width, dtype=dtype),
        "b": uniform(2, width, dtype=dtype),
        "v": uniform(3, width, outputs, dtype=dtype),
    }


def assert_equal(actual, expected, tolerance=1e-10):
    """Equal trees of float64 arrays, to a tolerance relative to the largest entry."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == np.shape(e)
        assert a.dtype == np.float64
        if a.size:
            error = np.abs(np.asarray(a) - e).max()
            assert error <= tolerance * np.abs(e).max(), f"{error=} of {np.abs(e).max()}"


def has_parameters(case):
    return any(
        jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        for leaf in jax.tree.leaves(case.params)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
