"""The oracle's kernels of the cases, whose Jacobians a process computes once."""

import functools

import jax
import jax.numpy as jnp

from support import cases, oracles


@functools.lru_cache(maxsize=64)
def jacobians(name):
    """The oracle's Jacobians of a case, at `x1` and at `x2`."""
    case = cases.get(name)
    if not (case.batched and alike(case.x1, case.x2)):
        return tuple(_jacobians(case, x) for x in (case.x1, case.x2))
    # Examples are independent: those of `x1` and `x2` in one batch, which is compiled once.
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), case.x1, case.x2)
    of_outputs, treedef = _jacobians(case, joined)
    n = len(jax.tree.leaves(case.x1)[0])
    first = [[j[:n] for j in of_leaves] for of_leaves in of_outputs]
    second = [[j[n:] for j in of_leaves] for of_leaves in of_outputs]
    return (first, treedef), (second, treedef)


def full_ntk(name, given):
    """The oracle's kernel of all pairs of outputs; `given` whether there is an `x2`."""
    first, second = jacobians(name)
    return oracles.products(first, second if given else first)


def alike(x1, x2):
    """Whether their examples have the same shapes."""
    return jax.tree.map(lambda a: a.shape[1:], x1) == jax.tree.map(lambda a: a.shape[1:], x2)


def _jacobians(case, x):
    return oracles.jacobians(case.f, case.params, x, case.kwargs, forward=not case.reverse)
