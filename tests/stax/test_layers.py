"""Single layers: shapes, axes and padding."""

import itertools

import jax
import numpy as np
from support.networks_of_stax import IMAGES, drawn

from tangax import stax

KEY = jax.random.key(0)


def test_circular_padding_is_periodic():
    net = stax.serial(
        stax.Conv(3, (3, 2), padding="CIRCULAR"), stax.AvgPool((2, 3), None, "CIRCULAR")
    )
    x = drawn(2, *IMAGES)
    shape, params = net.init_fn(KEY, x.shape)
    assert shape == (2, *IMAGES)
    rolled = net.apply_fn(params, np.roll(x, (2, 3), (1, 2)))
    expected = np.roll(net.apply_fn(params, x), (2, 3), (1, 2))
    np.testing.assert_allclose(rolled, expected, rtol=1e-10, atol=1e-12)


def test_flatten_batch_axes():
    x = drawn(3, 4, 5, seed=4)
    for axis, out in itertools.product((0, 1, 2, -1), (0, 1, -1)):
        init_fn, apply_fn, kernel_fn = stax.Flatten(axis, out)
        y = apply_fn((), x)
        assert init_fn(None, x.shape)[0] == y.shape
        rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        np.testing.assert_array_equal(y, rows if out == 0 else rows.T)
        expected = rows @ rows.T / rows.shape[1]
        np.testing.assert_allclose(kernel_fn(x, None, "nngp"), expected, rtol=1e-12)


def test_unknown_batch_size_in_shapes():
    layers = stax.Conv(4, (3, 3), padding="SAME"), stax.AvgPool((2, 2)), stax.Flatten()
    shape, _ = stax.serial(*layers).init_fn(KEY, (-1, 6, 5, 3))
    assert shape == (-1, 5 * 4 * 4)
