"""The oracle's kernels of the cases, whose outputs and Jacobians a process computes once."""

import functools

import jax
import jax.numpy as jnp

from support import cases, oracles


@functools.lru_cache(maxsize=64)
def linearised(name):
    """The oracle's outputs and Jacobians of a case, at `x1` and at `x2`."""
    case = cases.get(name)
    if not (case.batched and alike(case.x1, case.x2)):
        return tuple(_linearised(case, x) for x in (case.x1, case.x2))
    # Examples are independent: those of `x1` and `x2` in one batch, which is compiled once.
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), case.x1, case.x2)
    both = _linearised(case, joined)
    n = len(jax.tree.leaves(case.x1)[0])
    return jax.tree.map(lambda a: a[:n], both), jax.tree.map(lambda a: a[n:], both)


def full_ntk(name, given):
    """The oracle's kernel of all pairs of outputs; `given` whether there is an `x2`."""
    first, second = linearised(name)
    return oracles.ntk_of(first, second if given else first)


def full_nngp(name, given):
    """The same of the outputs themselves."""
    first, second = linearised(name)
    return oracles.nngp_of(first.outputs, (second if given else first).outputs)


def alike(x1, x2):
    """Whether their examples have the same shapes."""
    return jax.tree.map(lambda a: a.shape[1:], x1) == jax.tree.map(lambda a: a.shape[1:], x2)


def _linearised(case, x):
    return oracles.linearised(case.f, case.params, x, case.kwargs, forward=not case.reverse)
