"""Random programs: every implementation equals the oracle. `make fuzz` runs a thousand."""

import os

import hypothesis
import jax
import oracles
import programs
import pytest
from test_empirical import assert_equal

import tangax as nt

# `make fuzz` runs this file in several processes, each with its share of the programs.
COUNT, SEED = int(os.environ.get("TANGAX_PROGRAMS", "0")), os.environ.get("TANGAX_SEED", "0")


@pytest.mark.skipif(not COUNT, reason="run by `make fuzz`")
@pytest.mark.parametrize("part", [0, 1])
def test_random_programs(part):
    ran = []

    @hypothesis.seed(2 * int(SEED) + part)
    @hypothesis.settings(
        max_examples=COUNT,
        deadline=None,
        derandomize=False,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(programs.programs)
    def run(program):
        check(program)
        ran.append(program)
        if COUNT > 100:  # compiled functions of programs that do not come again
            jax.clear_caches()

    run()
    assert len(ran) >= COUNT // 2  # Hypothesis may draw a program twice


def check(program):
    f, params, x1, x2 = programs.build(program)
    once = jax.jit(f)  # else every operation of every derivative is compiled on its own
    full = oracles.naive_ntk(once, params, x1, x2)
    both = oracles.naive_ntk(once, params, x1)
    for implementation in (0, 1, 2, 3):
        ntk_fn = nt.empirical_ntk_fn(f, (), vmap_axes=0, implementation=implementation)
        assert_equal(ntk_fn(x1, x2, params), full, 1e-9)
    one_by_one = nt.empirical_ntk_fn(f, (), vmap_axes=0, memory=1)
    assert_equal(one_by_one(x1, None, params), both, 1e-9)
