"""The checks of a call: examples are independent, and factors give the derivative of `f` itself.

For random `v`, `v^T J` by the factors equals that of `jax.vjp`, leaf by leaf: whatever rule of the
engine is wrong for a program, known or not, shows here. Where there is a batch axis, two examples
that differ are taken, and `f` is evaluated on the two together and on each apart: where it mixes
them, those differ. The cost is that of a backward pass of these both ways, and of compiling it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _jaxpr
from .._arguments.mixing import (
    MIXED,
    NOISE,
    check_examples_are_independent,
    checking,
    elsewhere,
    few,
    is_close,
    nearby,
    rounded,
    row,
    size_of,
)
from .._arguments.sides import Arguments, Side
from .._engine.factors import ByLeaf, on_cotangents
from .._engine.kinds import Factor, Materialised, product
from .._engine.linearise import linearise, trace_side
from .._engine.pairing import in_leaf
from .._engine.program import Found, describe
from .._shared.trees import kernel_dtype
from .._shared.tuning import tuning
from .._shared.user_line import warn
from .plain import mapped

# Derivatives differ if by more than so many square roots of the precision.
_TOLERANCE = 4


def check_arguments(
    given: Arguments, distrusted: set[str], *, by_factors: bool, mixed: str = MIXED
) -> dict[str, float]:
    """Refuse an `f` that mixes examples; distrust factors that differ from its derivative.

    The message `mixed` says the former. By leaf the difference; without factors no leaf.
    """
    worst: dict[str, float] = {}
    for side in given.sides.distinct:
        if by_factors:
            for leaf, over in _differences(given, side, mixed).items():
                worst[leaf] = max(over, worst.get(leaf, 0.0))
        elif side.n is not None:
            check_examples_are_independent(side, given.params.leaves, given.names, mixed)
    for leaf, over in worst.items():
        if over > 1 and leaf not in distrusted:
            distrusted.add(leaf)
            _warn_of_difference(leaf, _entrances(given, leaf))
    return worst


def _differences(given: Arguments, side: Side, mixed: str) -> dict[str, float]:
    """By leaf how far factors and `jax.vjp` are apart, over what rounding explains.

    More than one: they differ. `nan`: no entry is finite. Empty where there are no factors, as
    without reverse mode. `ValueError`, with the message `mixed`, where `f` mixes the two examples.
    At the parameters, and a little away, since a head of zeros hides what is below; if `f` can be
    evaluated there. A leaf that differs is asked again close by, with another `v`: at a kink
    rounding decides. If it still does, rounding is measured.
    """
    params = given.params
    if side.n == 0:
        return {}
    side = few(side)
    own = params.leaves
    closed = _hoisted(side, own)
    _check_shapes(closed[side.n], side, given.names, mixed)
    eps = max(_jaxpr.epsilon(jaxpr, len(own)) for jaxpr in closed.values())
    # Each once: a program may be given a `jax.Ref` no more often.
    unique = {id(c): c for jaxpr in closed.values() for c in jaxpr.consts}

    def compare(
        consts: list[Any], leaves: list[jax.Array], data: list[jax.Array], v: list[jax.Array]
    ) -> Compared:
        known = dict(zip(unique, consts, strict=True))
        here = replace(side, data=data, batch=_replay(side, closed, known))
        source = linearise(replace(given, params=replace(params, leaves=leaves)), here)
        together = here.batch(leaves, data)
        by_leaf = source.pulled(v)
        if by_leaf is None:
            return Compared(together, source.outputs, [], [])
        expected = mapped(here, lambda side: _by_vjp(side, leaves, v))
        return Compared(together, source.outputs, _of_own(by_leaf, v), expected)

    compiled = jax.jit(compare, compiler_options=tuning().quick)
    consts = list(unique.values())
    scales = [1.0] * len(side.outputs)

    def at(leaves: list[jax.Array], v: list[jax.Array]) -> Compared:
        return jax.block_until_ready(compiled(consts, leaves, side.data, v))

    def both(values: list[jax.Array]) -> Compared:
        return at(values[: len(own)], values[len(own) :])

    worst: Any = np.nan
    with checking():
        for leaves, compared in nearby(own, lambda leaves: at(leaves, _vectors(side, 0, scales))):
            mixes = [k for k in range(len(given.names)) if side.n and not compared.alike(k, eps)]
            apart = compared.over(eps)
            if mixes or (apart > 1).any():
                values = [*leaves, *_vectors(side, 0, scales)]
                noise = rounded(values, both, eps)
                for k in mixes:
                    if not compared.alike(k, eps, noise):
                        raise ValueError(mixed.format(given.names[k]))
                apart = compared.over(eps, noise)
                v = _vectors(side, 1, scales)
                for _, other in elsewhere(leaves, partial(at, v=v), 1e-3, seed=1):
                    apart = np.fmin(apart, other.over(eps))
            worst = np.fmax(worst, apart)
            # So that none hides behind another that is larger.
            scales[:] = [1 / size_of(y) for y in compared.together]
    return dict(zip(params.paths, np.atleast_1d(worst).tolist(), strict=False))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Compared:
    """What is compared at some parameters and `v`.

    Outputs of `f` for the examples together and apart, which the engine has evaluated. For each
    leaf `v^T J` by each of its factors, and as it should be.
    """

    together: list[jax.Array]
    apart: list[jax.Array]
    parts: list[list[jax.Array]]
    expected: list[jax.Array]

    def alike(self, output: int, eps: float, noise: Sequence[Compared] = ()) -> bool:
        """Whether an output is the same for the examples together and apart."""
        y = self.together[output]
        return is_close(y, self.apart[output], eps, [other.together[output] for other in noise])

    def over(self, eps: float, noise: Sequence[Compared] = ()) -> np.ndarray:
        """By leaf the difference over a bound: of the leaf's own entries, or of all leaves'.

        `noise`: the same where parameters and `v` are rounded otherwise. A derivative that is zero
        but for rounding, or ill-conditioned, is not known better than these agree.
        """
        pairs = zip(self.parts, self.expected, strict=True)
        apart, largest = np.reshape([_distance(*pair) for pair in pairs], (-1, 2)).T
        bound = _TOLERANCE * eps**0.5 * (largest + eps**0.5 * np.nanmax(largest, initial=0))
        for other in noise:
            pairs = zip(self.expected, other.expected, strict=True)
            bound += NOISE * np.array([_distance([b], a)[0] for a, b in pairs])
        return np.divide(apart, bound, out=np.zeros(len(apart)), where=apart != 0)


def _hoisted(side: Side, leaves: list[jax.Array]) -> dict[int | None, _jaxpr.Jaxpr]:
    """`f` of as many examples as there are and of one, as jaxprs: what it closes over is told."""
    if side.n is None:
        return {None: _jaxpr.trace(side.batch, leaves, side.data)}
    one = jax.eval_shape(lambda: row(side, 0))
    return {
        n: _jaxpr.trace(side.batch, leaves, data) for n, data in ((1, one), (side.n, side.data))
    }


def _replay(
    side: Side, closed: dict[int | None, _jaxpr.Jaxpr], known: dict[int, Any]
) -> Callable[[list[jax.Array], list[jax.Array]], list[jax.Array]]:
    """`f` with arrays that it closes over as arguments, since what is compiled in takes long.

    `known`: what stands for each of them, by its id.
    """

    def batch(leaves: list[jax.Array], data: list[jax.Array]) -> list[jax.Array]:
        n = None if side.n is None else data[0].shape[side.axes[0]]
        jaxpr = replace(closed[n], consts=tuple(known[id(c)] for c in closed[n].consts))
        return _jaxpr.evaluated(jaxpr, [*leaves, *data])

    return batch


def _check_shapes(f: _jaxpr.Jaxpr, side: Side, names: list[str], mixed: str) -> None:
    """Refuse an `f` whose outputs for two examples are not twice those for one."""
    for name, y, expected in zip(names, f.outvars, side.outputs, strict=True):
        shape = tuple(expected.shape)
        if y.aval.shape != shape:
            msg = f"{name} has shape {y.aval.shape} for two examples, where {shape} was expected."
            raise ValueError(f"{msg} {mixed.format(name)}")


def _vectors(side: Side, seed: int, scales: Sequence[float]) -> list[jax.Array]:
    """A random `v` for each output, of these sizes, the examples in front."""
    rng = np.random.default_rng(seed)
    shapes = [
        (1, *y.shape) if a is None else (y.shape[a], *y.shape[:a], *y.shape[a + 1 :])
        for y, a in zip(side.outputs, side.out_axes, strict=True)
    ]
    return [
        jax.device_put((scale * rng.standard_normal(shape)).astype(y.dtype))
        for shape, y, scale in zip(shapes, side.outputs, scales, strict=True)
    ]


def _of_own(by_leaf: ByLeaf, v: list[jax.Array]) -> list[list[jax.Array]]:
    """`v^T J`, `[p]`, for each leaf and each of its factors, which are those of every `v`."""
    own = jnp.arange(v[0].shape[0])  # of every example the row of its own v
    by_leaf = on_cotangents(lambda G: G[own, own][:, None], by_leaf)
    return [[_as_kept(f).sum(0) for f in leaf] for leaf in by_leaf]


def _as_kept(factor: Factor) -> jax.Array:
    """One factor multiplied out in the leaf, where it has the length that it has in normal form.

    Factors are contracted as they are: a step of a view that repeats entries would show here.
    """
    J = in_leaf([factor]).J[:, 0]
    if isinstance(factor, Materialised):
        return J
    normal = jax.vmap(product)(factor)
    ratio = jnp.linalg.norm(normal) / jnp.linalg.norm(J)
    return J * jnp.where(jnp.isfinite(ratio), ratio, 1)


def _by_vjp(side: Side, leaves: list[jax.Array], v: list[jax.Array]) -> list[jax.Array]:
    """`v^T J` of `f` itself, of each example apart."""

    def one(data: list[jax.Array], *v: jax.Array) -> list[jax.Array]:
        (pulled,) = jax.vjp(lambda w: side.example(w, data), leaves)[1](list(v))
        return [jnp.ravel(g) for g in pulled]

    if side.n is None:
        return one(side.data, *(a[0] for a in v))
    return [J.sum(0) for J in side.map(one, *v)]


def _distance(parts: list[jax.Array], expected: jax.Array) -> tuple[float, float]:
    """The largest difference of `v^T J` from what is expected, and the largest entry of both.

    Where what is expected is finite; both are `nan` where none is. Factors of one leaf must not
    overlap: their products are left out. In NumPy: to compile it takes as long as a backward pass.
    """
    dtype = kernel_dtype(expected, *parts)
    b, *rows = (np.asarray(a, dtype) for a in (expected, *parts))
    finite = np.isfinite(b)
    if not b.size or not finite.any():
        return (np.nan, np.nan) if b.size else (0.0, 0.0)
    if not finite.all():
        b, *rows = (a[finite] for a in (b, *rows))
    with np.errstate(invalid="ignore", over="ignore"):
        a = sum(rows[1:], rows[0]) if rows else np.zeros_like(b)
        apart = np.abs(a - b)
        if len(rows) > 1:
            apart += sum(map(np.abs, rows)) - np.max(np.abs(rows), 0)
    known = np.isfinite(a)
    largest = max(np.abs(b).max(), np.abs(a).max(where=known, initial=0))
    return float(apart.max() if known.all() else np.inf), float(largest)


# What is said of a leaf that differs


def _entrances(given: Arguments, leaf: str) -> str:
    """Where a leaf enters, as `dot_general at model.py:12`."""
    uses: list[Found] = []

    def trace(leaves: list[jax.Array]) -> None:
        uses.extend(describe(trace_side(given.sides.first, leaves)))

    jax.eval_shape(trace, given.params.leaves)
    index = given.params.paths.index(leaf)
    places = dict.fromkeys(
        f"{f.primitive} at {f.source}" if f.source else f.primitive for f in uses if f.leaf == index
    )
    return ", ".join(places) or "nothing"


def _warn_of_difference(leaf: str, enters: str) -> None:
    msg = (
        f"The factors of {leaf}, which enters at {enters}, give another derivative than jax.vjp of "
        "f, on two examples. From now on its whole Jacobian is taken from jax.vjp: right, but "
        "slower. This is a fault of Tangax: please report it, with f."
    )
    warn(msg)
