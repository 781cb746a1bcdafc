"""Layers made of layers: several inputs, branches, what reaches each, and which may be added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks_of_stax import LINES, VECTORS, drawn

from tangax import stax

KEY = jax.random.key(0)


def test_networks_of_several_inputs():
    branches = stax.parallel(stax.Dense(3, 1.2), stax.serial(stax.Conv(3, (2,)), stax.Flatten()))
    # 3 channels from a vector and 5 * 3 from a line, joined.
    init_fn, apply_fn, kernel_fn = stax.serial(
        branches, stax.FanInConcat(), stax.Dense(4), stax.Relu()
    )
    x1 = drawn(4, *VECTORS), drawn(4, *LINES, seed=1)
    x2 = drawn(2, *VECTORS, seed=2), drawn(2, *LINES, seed=3)
    shape, params = init_fn(KEY, tuple(x.shape for x in x1))
    assert shape == (4, 4)
    assert apply_fn(params, x1).shape == shape
    k = kernel_fn(x1, x2)
    assert k.nngp.shape == k.ntk.shape == (4, 2)
    own = [
        layer.kernel_fn(a, b, "nngp")
        for layer, a, b in zip(
            (stax.Dense(3, 1.2), stax.serial(stax.Conv(3, (2,)), stax.Flatten())),
            x1,
            x2,
            strict=True,
        )
    ]
    joined = stax.serial(branches, stax.FanInConcat()).kernel_fn(x1, x2, "nngp")
    np.testing.assert_allclose(joined, (3 * own[0] + 15 * own[1]) / 18, rtol=1e-12)


@pytest.mark.parametrize("turned", (False, True))
def test_a_branch_that_flattens_leaves_the_others_their_positions(turned):
    branches = [stax.Flatten(), stax.serial(stax.Conv(5, (2,)), stax.Relu(), stax.Flatten())]
    branches = branches[::-1] if turned else branches
    x1, x2 = drawn(4, *LINES), drawn(3, *LINES, seed=1)
    net = stax.serial(stax.FanOut(2), stax.parallel(*branches), stax.FanInConcat(-1))
    own = [branch.kernel_fn(x1, x2, "nngp") for branch in branches]
    sizes = [branch.init_fn(KEY, x1.shape)[0][1] for branch in branches]
    expected = sum(size * k for size, k in zip(sizes, own, strict=True)) / sum(sizes)
    np.testing.assert_allclose(net.kernel_fn(x1, x2, "nngp"), expected, rtol=1e-12)
    # One that sees positions only where they are joined.
    joined = stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.serial(stax.Identity(), stax.Dense(3)), stax.Conv(3, (1,))),
        stax.FanInConcat(1),
        stax.Flatten(),
    )
    assert joined.kernel_fn(x1, x2, "nngp").shape == (4, 3)


def test_layers_of_layers_are_layers():
    block = stax.serial(stax.Dense(3), stax.Relu())
    init_fn, apply_fn, kernel_fn = stax.serial(block, stax.serial(block, stax.Dense(2)))
    shape, params = init_fn(KEY, (5, 4))
    assert shape == (5, 2)
    assert [w.shape for w in jax.tree.leaves(params)] == [(4, 3), (3, 3), (3, 2)]
    flat = stax.serial(stax.Dense(3), stax.Relu(), stax.Dense(3), stax.Relu(), stax.Dense(2))
    x = drawn(5, 4)
    np.testing.assert_array_equal(kernel_fn(x, None, "ntk"), flat.kernel_fn(x, None, "ntk"))
    unpacked = stax.serial((init_fn, apply_fn, kernel_fn), stax.Relu())
    assert unpacked.kernel_fn(x, None, "ntk").shape == (5, 5)


def test_arguments_reach_every_layer():
    """`rng` through every combinator, a mask of its own for each; `pattern` likewise."""
    drop = stax.Dropout(0.5)
    aggregate = stax.Aggregate()
    branch = stax.serial(drop, aggregate)
    net = stax.serial(
        stax.FanOut(2), stax.parallel(branch, stax.serial(branch)), stax.FanInConcat(0), drop
    )
    x = np.ones((3, 5, 4))
    pattern = np.broadcast_to(np.eye(5), (3, 5, 5))
    shape, params = net.init_fn(KEY, x.shape)
    y = net.apply_fn(params, x, rng=KEY, pattern=2 * pattern)
    assert y.shape == shape == (6, 5, 4)
    assert set(np.unique(y)) == {0.0, 8.0}
    assert not np.array_equal(y[:3] > 0, y[3:] > 0)
    np.testing.assert_array_equal(y, net.apply_fn(params, x, rng=KEY, pattern=2 * pattern))
    other = net.apply_fn(params, x, rng=jax.random.key(1), pattern=2 * pattern)
    assert not np.array_equal(y, other)


def test_a_layer_of_the_user_gets_what_it_takes():
    plain = (lambda rng, shape: (shape, ()), lambda params, x: jnp.sin(x))
    keyed = (lambda rng, shape: (shape, ()), lambda params, x, rng=None: x + (rng is not None))
    init_fn, apply_fn, _ = stax.serial(plain, keyed)
    x = drawn(3, 4)
    _, params = init_fn(KEY, x.shape)
    np.testing.assert_allclose(apply_fn(params, x, pattern=1), np.sin(x))
    np.testing.assert_allclose(apply_fn(params, x, rng=KEY), np.sin(x) + 1)


def test_dependent_branches_are_refused_and_independent_ones_are_not():
    x = drawn(2, *VECTORS)
    dense = lambda: stax.Dense(3)  # noqa: E731
    block = stax.serial(dense(), stax.Relu())

    def total(*branches):
        fan = stax.serial(
            stax.FanOut(len(branches)), stax.parallel(*branches), stax.FanInSum(), dense()
        )
        return stax.serial(dense(), fan).kernel_fn(x, None, "nngp")

    total(stax.Identity(), dense(), dense())
    total(block, dense())
    total(block, stax.serial(dense(), stax.Erf()))  # erf keeps the mean zero
    inner = stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.serial(stax.Relu(), dense()), stax.Identity()),
        stax.FanInSum(),
    )
    total(stax.serial(dense(), inner), stax.Identity())
    for branches in (
        (stax.Identity(), stax.Relu()),
        (block, block),
        (inner, stax.Identity()),
        (stax.Identity(), stax.Identity(), dense()),
    ):
        with pytest.raises(NotImplementedError, match="FanInSum"):
            total(*branches)
