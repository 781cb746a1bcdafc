"""Whole models of Flax, Equinox and Haiku, as cases: rows of a table of their own.

`get(name)` builds one, and skips the test where its library is missing. All parameters are cast to
float64 and shaken a little, so that no bias is zero and no gain is one.
"""

import functools
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support.cases.table import Case, fill

MODELS: dict[str, Callable[[], Case]] = {}
LIBRARIES: dict[str, str] = {}
CORE: list[str] = []  # one of each architecture


@functools.cache
def get(name: str) -> Case:
    """The model of that name, built once; the test is skipped without its library."""
    pytest.importorskip(LIBRARIES[name])
    return MODELS[name]()


def model(library, *, x=(4,), core=False, **flags):
    """Put a builder `x -> (f, params)` into the table; `x` is one example's shape."""

    def register(make):
        name = make.__name__

        def build():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            x1, x2 = fill(x, rng, (3,)), fill(x, rng, (2,))
            f, params = make(x1)
            return Case(
                name,
                f,
                in_float64(params, lambda shape: 0.1 * rng.normal(size=shape)),
                x1,
                x2,
                {},
                **flags,
            )

        assert name not in MODELS, f"two models are called {name!r}"
        MODELS[name], LIBRARIES[name] = build, library
        if core:
            CORE.append(name)
        return make

    return register


def in_float64(tree, noise=lambda shape: 0.0):
    """Floating leaves in float64, with noise added; all other leaves as they are."""

    def leaf(a):
        if not hasattr(a, "dtype") or not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        return jnp.asarray(np.asarray(a, np.float64) + noise(a.shape))

    return jax.tree.map(leaf, tree)
