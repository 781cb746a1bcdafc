"""A network of images whose leaves are held in different forms, and images."""

import functools

import jax
import jax.numpy as jnp

from support import oracles
from support.arrays import uniform


def conv(params, x):
    """Two convolutions, whose Jacobians are multiplied out, and a dense layer, whose is not."""
    dims = ("NHWC", "HWIO", "NHWC")
    for w in params["convs"]:
        x = jnp.tanh(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims))
    return x.reshape(x.shape[0], -1) @ params["w"] + params["b"]


def conv_params():
    convs = [uniform(1, 3, 3, 2, 3), uniform(2, 3, 3, 3, 3)]
    return {"convs": convs, "w": uniform(3, 75, 4), "b": uniform(4, 4)}


PARAMS = conv_params()
X1, X2 = uniform(5, 7, 5, 5, 2), uniform(6, 5, 5, 5, 2)


def two(params, x):
    """Two outputs, the second with its examples last."""
    y = conv(params, x)
    return {"a": y, "b": jnp.sin(y).T}


@functools.cache
def linearised():
    """`conv` at `X1` and at `X2`: one compilation each for all kernels of the tests."""
    return [oracles.linearised(conv, PARAMS, x, {}) for x in (X1, X2)]


def exact_ntk(rows1=slice(None), rows2=None, *, other=False, trace_axes=(), diagonal_axes=()):
    """The NTK of some rows of `X1` with some of `X2`, or of `X1` itself."""
    first, second = linearised()[0], linearised()[1 if other else 0]
    first, second = rows_of(first, rows1), rows_of(second, rows1 if rows2 is None else rows2)
    return oracles.ntk_of(first, second, trace_axes, diagonal_axes)


def rows_of(linearised, rows):
    """The same of some examples."""
    return jax.tree.map(lambda a: a[rows], linearised)
