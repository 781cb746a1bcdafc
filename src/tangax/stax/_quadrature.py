"""Moments of functions of two Gaussian variables, by Gauss-Hermite quadrature.

    E[f(u) g(v)] = 1/pi sum_ij w_i w_j f(sqrt(2 p) x_i) g(sqrt(2 q) (cos(a) x_i + sin(a) x_j))

with the angle `a` between `u` and `v`. The square root in its sine has no derivative where they are
parallel, but the moment has one: by Price's theorem

    dE[f g] = E[f' g'] dc + E[f'' g] / 2 dp + E[f g''] / 2 dq

whose terms are moments again, so that there are derivatives of all orders. The first of them need
no `f''`, of which a kink would be lost: integrated by parts

    E[f'' g] / 2 = E[(f'(u) - f'(0)) (u g(v) - c g'(v))] / (2 p)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._angles import area, triangle


@dataclass(frozen=True)
class Function:
    """`at(x, consts)` of scalars; `slope`: its derivative, where it is given."""

    at: Callable[..., Any]
    slope: Callable[..., Any] | None = None

    def __call__(self, x: jax.Array, consts: Any) -> jax.Array:
        """Entry by entry."""
        return jnp.vectorize(lambda entry: self.at(entry, consts))(x)

    @cached_property
    def derivative(self) -> Function:
        return Function(jax.grad(self.at) if self.slope is None else self.slope)

    def along(self, direction: Any) -> Function:
        return Function(
            lambda x, consts: jax.jvp(lambda k: self.at(x, k), (consts,), (direction,))[1]
        )


def with_consts(fn: Any, df: Any, dtype: Any) -> tuple[Function, Any]:
    """A function, and the traced values that it closes over: a derivative may be asked for."""
    sample = jnp.zeros((), dtype)
    converted, consts = jax.closure_convert(fn, sample)
    slope, more = (None, []) if df is None else jax.closure_convert(df, sample)
    scalar = lambda value: jnp.asarray(value).astype(dtype)  # noqa: E731
    at = lambda x, consts: scalar(converted(x, *consts[0]))  # noqa: E731
    given = None if slope is None else lambda x, consts: scalar(slope(x, *consts[1]))
    return Function(at, given), (list(consts), list(more))


@dataclass(frozen=True)
class Term:
    """`E[f(u) g(v)]`; or what is equal to `E[f''(u) g(v)] / 2`, or `E[f(u) g''(v)] / 2`.

    The last two where `by` is "p" or "q".
    """

    f: Function
    g: Function
    by: str = ""

    @property
    def moment(self) -> tuple[float, Function, Function]:
        if self.by == "p":
            return 0.5, self.f.derivative.derivative, self.g
        if self.by == "q":
            return 0.5, self.f, self.g.derivative.derivative
        return 1.0, self.f, self.g


def terms(deg: int, of: Sequence[Term], *args: Any) -> list[jax.Array]:
    """Each term, of `args = c, p, q, itself, consts`, with derivatives in all but `itself`."""

    @jax.custom_jvp
    def values(*args: Any) -> list[jax.Array]:
        return sums(deg, of, *args)

    def rule(primals: Any, tangents: Any) -> Any:
        *_, consts = primals
        *moved, _, consts_moved = tangents
        products = [
            (i, factor, term, step)
            for i, (factor, f, g) in enumerate(each.moment for each in of)
            for term, step in zip(
                (Term(f.derivative, g.derivative), Term(f, g, "p"), Term(f, g, "q")),
                moved,
                strict=True,
            )
        ]
        products += [
            (i, factor, term, step)
            for direction, step in _directions(consts, consts_moved)
            for i, (factor, f, g) in enumerate(each.moment for each in of)
            for term in (Term(f.along(direction), g), Term(f, g.along(direction)))
        ]
        products = [each for each in products if not _is_zero(each[3])]
        slopes = terms(deg, [term for _, _, term, _ in products], *primals)
        totals = [jnp.zeros_like(primals[0]) for _ in of]
        for (i, factor, _, step), slope in zip(products, slopes, strict=True):
            totals[i] = totals[i] + factor * slope * step
        return values(*primals), totals

    values.defjvp(rule, symbolic_zeros=True)
    return values(*args)


def sums(
    deg: int, of: Sequence[Term], c: Any, p: Any, q: Any, itself: Any, consts: Any
) -> list[jax.Array]:
    """The quadrature: one pair of nodes after the other."""
    nodes, weights = np.polynomial.hermite.hermgauss(deg)
    grid = [*np.meshgrid(nodes, nodes, indexing="ij"), np.outer(weights, weights) / math.pi]
    side, one, two, *_ = triangle(c, p, q)
    zero = (one == 0) | (two == 0)  # at a right angle to any other
    length = jnp.sqrt(jnp.where(zero, 1, one * two))
    cosine = side / length
    sine = jnp.where(zero & ~itself, 1, jnp.sqrt(area(side, one, two, itself)) / length)
    first, second = jnp.sqrt(2 * p), jnp.sqrt(2 * q)

    def slope(
        f: Function, at: Any, scale: Any, g: Function, other: Any, other_scale: Any, x: Any
    ) -> Any:
        """A term of `E[f''(at) g(other)] / 2`."""
        still = jnp.zeros_like(scale)
        origin = f.derivative(still, consts)
        bend = f.derivative(at, consts) - jnp.where(jnp.isfinite(origin), origin, 0)
        rest = x * g(other, consts) - cosine * other_scale / 2 * g.derivative(other, consts)
        return jnp.where(
            scale > 0,
            bend / jnp.where(scale > 0, scale, 1) * rest,
            f.derivative.derivative(still, consts) / 2 * g(other, consts),
        )

    def step(totals: Any, node: Any) -> Any:
        x, y, weight = node
        z = cosine * x + sine * y
        u, v = first * x, second * z
        values = {
            "": lambda f, g: f(u, consts) * g(v, consts),
            "p": lambda f, g: slope(f, u, first, g, v, second, x),
            "q": lambda f, g: slope(g, v, second, f, u, first, z),
        }
        return [
            total + weight * values[term.by](term.f, term.g)
            for total, term in zip(totals, of, strict=True)
        ], None

    xs = [jnp.asarray(a.ravel(), c.dtype) for a in grid]
    return jax.lax.scan(step, [jnp.zeros_like(c) for _ in of], xs)[0]


def _directions(consts: Any, moved: Any) -> Iterator[tuple[Any, Any]]:
    """Each direction in which what is closed over moves, and how far."""
    leaves, treedef = jax.tree.flatten(consts)
    steps = treedef.flatten_up_to(moved)
    for place, (leaf, step) in enumerate(zip(leaves, steps, strict=True)):
        for k in () if _is_zero(step) else np.ndindex(leaf.shape):
            basis = [jnp.zeros_like(other) for other in leaves]
            basis[place] = basis[place].at[k].set(1)
            yield treedef.unflatten(basis), step[k]


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)
