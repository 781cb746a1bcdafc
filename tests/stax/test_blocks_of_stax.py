"""What is tracked of a network, and blocks of its examples."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import lax
from support.networks_of_stax import CASES, IMAGES, cnn, drawn, relu

from tangax import stax
from tangax._shared import tuning
from tangax.stax import _blocked


def largest(kernel_fn, *args):
    """Entries of the largest value that a call computes."""

    def sizes(jaxpr):
        for eqn in jaxpr.eqns:
            yield from (int(np.prod(v.aval.shape)) for v in eqn.outvars)
            for value in eqn.params.values():
                for inner in value if isinstance(value, (list, tuple)) else [value]:
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(kernel_fn)(*args).jaxpr))


def test_flatten_tracks_equal_positions_only_and_pooling_pairs():
    x1, x2 = drawn(4, *IMAGES), drawn(3, *IMAGES, seed=1)
    positions = IMAGES[0] * IMAGES[1]

    def net(*last):
        return cnn(relu, *(lambda stax, layer=layer: layer for layer in last), padding="SAME")(stax)

    flat = net(stax.Flatten()).kernel_fn
    assert largest(flat, x1, x2) <= 4 * 3 * (IMAGES[0] + 2) * (IMAGES[1] + 1)
    pooled = net(stax.GlobalAvgPool()).kernel_fn
    assert largest(pooled, x1, x2) >= 4 * 3 * positions**2
    # After the last pooling, pairs are not needed any more.
    conv = [stax.Conv(4, (1, 1)), stax.Relu()]
    once = stax.serial(stax.AvgPool((1, 1)), *conv * 2, stax.Flatten()).kernel_fn
    text = str(jax.make_jaxpr(once)(x1, x2))
    of_pairs = f"[{IMAGES[0]},{IMAGES[0]},{IMAGES[1]},{IMAGES[1]},4,3]"
    roots = [line for line in text.splitlines() if "= sqrt" in line]
    assert of_pairs in text
    assert roots
    assert not any(of_pairs in line for line in roots)


@pytest.mark.parametrize("last", (stax.Flatten(), stax.GlobalAvgPool(), stax.Identity()))
def test_blocks_of_examples_do_not_matter(monkeypatch, last):
    net = stax.serial(stax.Conv(2, (2, 2), W_std=1.2, b_std=0.2), stax.Relu(), last)
    x1, x2 = drawn(7, 3, 4, 2), drawn(5, 3, 4, 2, seed=1)
    whole, whole_same = net.kernel_fn(x1, x2), net.kernel_fn(x1)
    each = 12 if last.kernel_fn.name == "Flatten" else 144
    monkeypatch.setattr(tuning, "CPU", replace(tuning.CPU, pairs=8 * each * 6))
    original, grids = _blocked.assembled, []
    monkeypatch.setattr(
        _blocked, "assembled", lambda *args: (grids.append(args[2]), original(*args))[1]
    )
    # What was compiled before is not used again.
    net = stax.serial(stax.Conv(2, (2, 2), W_std=1.2, b_std=0.2), stax.Relu(), last)
    for a, b in zip(net.kernel_fn(x1, x2), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    for a, b in zip(net.kernel_fn(x1), whole_same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
        twins = [axis + 1 if axis % 2 == 0 else axis - 1 for axis in range(a.ndim)]
        upper = np.triu_indices(7, 1)
        np.testing.assert_array_equal(a[upper], np.transpose(a, twins)[upper])
    assert set(grids) == {(4, 2), (4, 4)}


def test_blocks_below_the_diagonal_are_left_out(monkeypatch):
    lengths = []
    original = lax.map
    monkeypatch.setattr(tuning, "CPU", replace(tuning.CPU, pairs=8 * 4))
    monkeypatch.setattr(
        jax.lax, "map", lambda f, xs, **kw: (lengths.append(len(xs)), original(f, xs, **kw))[1]
    )
    net = stax.serial(stax.Dense(2), stax.Relu())
    x = drawn(8, 3)
    net.kernel_fn(x, drawn(8, 3, seed=1), "nngp")
    net.kernel_fn(x, None, "nngp")
    assert lengths == [16, 10]


def test_patterns_go_with_their_blocks(monkeypatch):
    case = CASES["graph of one axis"]
    x1, x2 = case.inputs(5, 0), case.inputs(4, 1)
    pattern = case.patterns(5, 0), case.patterns(4, 1)
    whole = case.build(stax).kernel_fn(x1, x2, "ntk", pattern=pattern)
    itself = case.build(stax).kernel_fn(x1, None, "ntk", pattern=pattern[0])
    monkeypatch.setattr(tuning, "CPU", replace(tuning.CPU, pairs=8 * 48**2 * 4))
    kernel_fn = case.build(stax).kernel_fn
    np.testing.assert_allclose(kernel_fn(x1, x2, "ntk", pattern=pattern), whole, rtol=1e-10)
    found = kernel_fn(x1, None, "ntk", pattern=pattern[0])
    np.testing.assert_allclose(found, itself, rtol=1e-10)
