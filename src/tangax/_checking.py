"""The checks of a call: examples are independent, and factors give the derivative of `f` itself.

On two examples, for random `v`, `v^T J` by the factors equals that of `jax.vjp`, leaf by leaf:
whatever rule of the engine is wrong for a program, known or not, shows here. `f` is evaluated on
the two together, for `jax.vjp`, and on each apart, for the factors: where it mixes them, those
differ. The cost is that of a backward pass of two examples both ways, and of compiling it.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _jaxpr, _sites
from ._factors import Factor, Materialised, product
from ._kernel import full_precision
from ._linear import Linear, linearise, on_cotangents, trace_side
from ._meshes import gathered
from ._modes import REFUSALS
from ._sides import Pair, Side, first_other, is_close, moved, user_stacklevel
from ._sites import Found
from ._structured import in_leaf
from ._trees import is_concrete, kernel_dtype

# Derivatives differ if by more than so many square roots of the precision.
TOLERANCE = 4
# What is compiled runs two to four times, on two examples: compiling is all that there is to save.
QUICK = {"cpu": {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}}


def has_values(tree: Any) -> bool:
    """Whether arrays have values, and what is made of them would: not so within a trace."""
    return is_concrete(tree) and is_concrete(jnp.zeros(()))


def differences(pair: Pair, side: Side, mixed: str) -> dict[str, float]:
    """By leaf how far factors and `jax.vjp` are apart, over what rounding explains.

    More than one: they differ. Empty where there are no factors, as without reverse mode.
    `ValueError`, with the message `mixed`, where `f` mixes the two examples. At the parameters, and
    a little away, since a head of zeros hides what is below. A leaf that differs is asked again
    close by, with another `v`: at a kink rounding decides.
    """
    params = pair.params
    assert params is not None
    if side.n == 0:
        return {}
    given = gathered(params.leaves)
    side = few(replace(side, data=gathered(side.data)))
    check_shapes(side, given, pair.names, mixed)
    eps: list[float] = []

    def compare(leaves: list[jax.Array], data: list[jax.Array], v: list[jax.Array]) -> Any:
        here = replace(side, data=data)
        source = linearise(replace(pair, params=replace(params, leaves=leaves)), here)
        together, expected = by_vjp(here, leaves, v)
        if not isinstance(source, Linear):
            eps[:] = [_jaxpr.epsilon(_jaxpr.trace(side.batch, leaves, side.data))]
            return together, source.outputs, []
        eps[:] = [_jaxpr.epsilon(source.program.jaxpr)]
        pairs = zip(by_factors(source, v), expected, strict=True)
        return together, source.outputs, [distance(parts, g) for parts, g in pairs]

    compiled = jax.jit(compare, compiler_options=QUICK.get(jax.default_backend(), {}))

    def at(leaves: list[jax.Array], seed: int) -> np.ndarray:
        together, apart, found = compiled(leaves, side.data, vectors(side, seed))
        for name, a, b in zip(pair.names, together, apart, strict=True):
            if not is_close(a, b, eps[0]):
                raise ValueError(mixed.format(name))
        return beyond_rounding(np.reshape(np.array(found, np.float64), (-1, 2)), eps[0])

    with full_precision(None):
        worst: Any = 0.0
        for leaves in (given, moved(given)):
            found = at(leaves, 0)
            if (found > 1).any():
                found = np.minimum(found, at(moved(leaves, 1e-3, 1), 1))
            worst = np.maximum(worst, found)
    return dict(zip(params.paths, worst.tolist(), strict=False))


def check_shapes(side: Side, leaves: list[jax.Array], names: list[str], mixed: str) -> None:
    """Refuse an `f` whose outputs for two examples are not twice those for one."""
    for name, y, expected in zip(
        names, jax.eval_shape(side.batch, leaves, side.data), side.outputs, strict=True
    ):
        if y.shape != tuple(expected.shape):
            raise ValueError(mixed.format(name))


def beyond_rounding(found: np.ndarray, eps: float) -> np.ndarray:
    """Differences, beside the largest entries, over a bound: of a leaf's own, or of all leaves'."""
    apart, largest = found.T
    bound = TOLERANCE * eps**0.5 * (largest + eps**0.5 * largest.max(initial=0))
    return np.divide(apart, bound, out=np.zeros(len(apart)), where=bound > 0)


def few(side: Side) -> Side:
    """The side with two examples that differ, or with what there is."""
    if side.n is None or side.n < 2:
        return side
    ends = np.array([0, first_other(side)])
    outputs = [
        jax.ShapeDtypeStruct([2 if b == a else d for b, d in enumerate(y.shape)], y.dtype)
        for y, a in zip(side.outputs, side.out_axes, strict=True)
    ]
    data = [jnp.take(d, ends, a) for d, a in zip(side.data, side.axes, strict=True)]
    return replace(side, data=data, n=2, outputs=outputs)


def vectors(side: Side, seed: int) -> list[jax.Array]:
    """A random `v` for each output, the examples in front."""
    rng = np.random.default_rng(seed)
    shapes = [
        (1, *y.shape) if a is None else (y.shape[a], *y.shape[:a], *y.shape[a + 1 :])
        for y, a in zip(side.outputs, side.out_axes, strict=True)
    ]
    return [
        jnp.asarray(rng.standard_normal(shape), y.dtype)
        for shape, y in zip(shapes, side.outputs, strict=True)
    ]


def by_factors(source: Linear, v: list[jax.Array]) -> list[list[jax.Array]]:
    """`v_n^T J_n`, `[n, p]`, for each leaf and each of its factors."""
    own = jnp.arange(v[0].shape[0])  # of every example the row of its own v
    by_leaf = on_cotangents(lambda G: G[own, own][:, None], source.taken(v))
    return [[as_kept(f) for f in leaf] for leaf in by_leaf]


def as_kept(factor: Factor) -> jax.Array:
    """One factor multiplied out in the leaf, where it has the length that it has in normal form.

    Factors are contracted as they are: a step of a view that repeats entries would show here.
    """
    J = in_leaf([factor]).J[:, 0]
    if isinstance(factor, Materialised):
        return J
    normal = jax.vmap(product)(factor)
    length, kept = jnp.linalg.norm(normal), jnp.linalg.norm(J)
    return J * jnp.where(kept > 0, length / jnp.where(kept > 0, kept, 1), 1)


def by_vjp(
    side: Side, leaves: list[jax.Array], v: list[jax.Array]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """`f` itself, of the examples together, and its `v^T J`."""
    try:
        outputs, pullback = jax.vjp(lambda w: side.batch(w, side.data), leaves)
        (found,) = pullback(side.placed(v) if side.n is not None else [a[0] for a in v])
    except REFUSALS:  # no reverse mode, and so no factors
        return side.batch(leaves, side.data), []
    return outputs, [jnp.ravel(g) for g in found]


def distance(parts: list[jax.Array], expected: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest difference of `v^T J` from what is expected, and the largest entry of both.

    Where both are finite. Factors of one leaf must not overlap: their products are left out.
    """
    wide = kernel_dtype(expected, *parts)
    zero = jnp.zeros((1, expected.size), wide)
    rows = jnp.stack([zero.sum(0), *(J.astype(wide).sum(0) for J in parts)])
    a, b = rows.sum(0), expected.astype(wide)
    finite = jnp.isfinite(a) & jnp.isfinite(b)
    overlap = jnp.abs(rows).sum(0) - jnp.abs(rows).max(0)
    apart = jnp.where(finite, jnp.abs(a - b) + overlap, 0).max(initial=0)
    largest = jnp.where(finite, jnp.maximum(jnp.abs(a), jnp.abs(b)), 0).max(initial=0)
    return apart, largest


# What is said of a leaf that differs


def entrances(pair: Pair, leaf: str) -> str:
    """Where a leaf enters, as `dot_general at model.py:12`."""
    assert pair.params is not None
    found: list[Found] = []

    def describe(leaves: list[jax.Array]) -> None:
        found.extend(_sites.describe(trace_side(pair.first, leaves)))

    jax.eval_shape(describe, pair.params.leaves)
    index = pair.params.paths.index(leaf)
    places = dict.fromkeys(
        f"{f.primitive} at {f.source}" if f.source else f.primitive
        for f in found
        if f.leaf == index
    )
    return ", ".join(places) or "nothing"


def warn_of_difference(leaf: str, enters: str) -> None:
    """Say it once, and ask for a report."""
    msg = (
        f"The factors of {leaf}, which enters at {enters}, give another derivative than jax.vjp of "
        "f, on two examples. From now on its whole Jacobian is taken from jax.vjp: right, but "
        "slower. This is a fault of Tangax: please report it, with f."
    )
    warnings.warn(msg, stacklevel=user_stacklevel())
