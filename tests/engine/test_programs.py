"""Random programs: every implementation equals the oracle. `make fuzz` runs a thousand."""

import os

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from support import oracles, programs
from support.arrays import QUICK

import tangax as nt

# Two tests, which `make fuzz` runs in a process each.
COUNT = os.environ.get("TANGAX_PROGRAMS")


@pytest.mark.parametrize("part", [0, 1])
def test_random_programs(part, request):
    count = int(COUNT or (8 if request.config.getoption("full") else 3))
    ran = set()

    @hypothesis.seed(part)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(programs.programs, st.booleans())
    def run(program, tight):
        check(program, tight)
        ran.add((*program, tight))
        if count > 100:  # compiled functions of programs that do not come again
            jax.clear_caches()

    run()
    print(f"{len(ran)} programs")
    assert len(ran) >= 0.9 * count  # Hypothesis may draw one twice


def check(program, tight):
    """All methods in one compilation. `tight`: AUTO, of `x1` with itself, may hold one byte."""
    f, params, x1, x2 = programs.build(program)

    @lambda kernels: jax.jit(kernels, compiler_options=QUICK)
    def kernels(params, x1, x2):
        found = []
        for implementation in (1, 2, 3):
            ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0, implementation=implementation)
            found.append(ntk_fn(x1, x2, params))
        auto = nt.empirical_ntk_fn(f, (), vmap_axes=0, memory=1 if tight else None)
        return found, auto(x1, None if tight else x2, params)

    both = oracles.naive_ntk(f, params, jnp.concatenate([x1, x2]))
    apart, alone = both[: len(x1), len(x1) :], both[: len(x1), : len(x1)]
    found, auto = kernels(params, x1, x2)
    for kernel, expected in [*((k, apart) for k in found), (auto, alone if tight else apart)]:
        # A program may be constant, and its kernel rounding errors.
        atol = 1e-9 * max(1e-3, np.abs(expected).max())
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=atol, strict=True)
