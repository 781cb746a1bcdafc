"""Taylor-mode differentiation: a curve's derivatives pushed through a jaxpr, all orders at once.

A value on the curve is its series `x_0 ... x_d`, `x_k = d^k x / dt^k` at `t = 0`, with `None` where
that is zero. An equation that is linear in its operands is applied to every order, and to all of
them stacked where it is a product,

    y_k = sum_{a+b=k} C(k,a) (x_a * w_b);

what `jax.experimental.jet` has a rule for is left to it; of any other `y = h(x)` the derivative is
a function of `x` and `x'` alone, `y' = dh(x)[x']`, and is pushed to one order less.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import jet

from .. import _jaxpr
from .._shared.derivatives import pushforward

Series = list[Any]


def derivatives(f: Callable[..., Any], primals: Any, direction: Any, degree: int) -> list[Series]:
    """The series of every output of `f` on the line through `primals` along `direction`."""
    rest = [None] * (degree - 1)
    line = [
        [x, d, *rest] if degree else [x]
        for x, d in zip(jax.tree.leaves(primals), jax.tree.leaves(direction), strict=True)
    ]
    return _push(_jaxpr.trace(f, primals), line, degree)


def _push(jaxpr: _jaxpr.Jaxpr, args: Sequence[Series], degree: int) -> list[Series]:
    if _jaxpr.has_references(jaxpr):  # written in place, by one equation or another: all at once
        whole = functools.partial(_jaxpr.replayed, jaxpr, one=_jaxpr.bind)
        return by_recursion(whole, jaxpr.outvars, args, degree)
    env: dict[Any, Series] = jaxpr.environment(args, lambda value: _still(value, degree))
    for eqn in jaxpr.equations:
        operands = [read(env, v, degree) for v in eqn.invars]
        env |= dict(zip(eqn.outvars, _through(eqn, operands, degree), strict=True))
    return [read(env, v, degree) for v in jaxpr.outvars]


def read(env: dict[Any, Series], atom: Any, degree: int) -> Series:
    """The series of a variable or literal."""
    return _still(atom.val, degree) if _jaxpr.is_literal(atom) else env[atom]


def _still(value: Any, degree: int) -> Series:
    """The series of what does not move."""
    return [value, *[None] * degree]


def moves(x: Series) -> bool:
    """Whether any derivative is not zero."""
    return any(term is not None for term in x[1:])


def _through(eqn: _jaxpr.Equation, operands: list[Series], degree: int) -> list[Series]:
    moving = [moves(x) for x in operands]
    if not any(moving) or not any(map(_jaxpr.is_differentiable, eqn.outvars)):
        return [_still(y, degree) for y in _jaxpr.bind(eqn, [x[0] for x in operands])]
    body, scan = _jaxpr.called(eqn), _jaxpr.scan(eqn)
    if body is not None:
        return _push(body, operands, degree)
    if scan is not None:
        return through_loop(scan, operands, degree)
    if _jaxpr.is_linear(eqn, moving):
        return linear(eqn, operands)
    if _jaxpr.is_product(eqn):
        return [product(eqn, *operands)]
    if _jaxpr.suits_jet(eqn):
        try:
            return by_jet(eqn, operands)
        except Exception:  # jet refuses in many ways: missing rules, parameters, dtypes
            pass
    return by_recursion(functools.partial(_jaxpr.bind, eqn), eqn.outvars, operands, degree)


def _along(
    whole: Callable[[list[Any]], list[Any]], operands: Sequence[Series]
) -> tuple[Callable[..., Any], list[int]]:
    """A function of all operands as one of those that move, and which those are."""
    moving = [a for a, x in enumerate(operands) if moves(x)]

    def function(*primals: Any) -> list[Any]:
        values = [x[0] for x in operands]
        for a, value in zip(moving, primals, strict=True):
            values[a] = value
        return whole(values)

    return function, moving


def filled(x: Series, order: int) -> Any:
    """The term, zeros if it is zero."""
    return jnp.zeros_like(x[0]) if x[order] is None else x[order]


def linear(eqn: _jaxpr.Equation, operands: list[Series]) -> list[Series]:
    """An equation that is affine in the operands that move: its derivative, of every order."""
    function, moving = _along(functools.partial(_jaxpr.bind, eqn), operands)
    results, slope = jax.linearize(function, *(operands[a][0] for a in moving))
    orders = [
        k for k in range(1, len(operands[0])) if any(operands[a][k] is not None for a in moving)
    ]
    terms = [[filled(operands[a], k) for a in moving] for k in orders]
    each = _stacked if _jaxpr.is_contraction(eqn) else map
    found = [_still(y, len(operands[0]) - 1) for y in results]
    for k, ys in zip(orders, each(lambda t: slope(*t), terms), strict=True):
        for series, y in zip(found, ys, strict=True):
            series[k] = y
    return found


def product(eqn: _jaxpr.Equation, x: Series, w: Series) -> Series:
    """A product of two operands that move, every term of the shorter with all of the longer."""
    swapped = sum(term is not None for term in w) > sum(term is not None for term in x)
    many, few = (w, x) if swapped else (x, w)
    result: Series = [None] * len(x)
    for b, term in enumerate(few):
        orders = [a for a, other in enumerate(many[: len(x) - b]) if other is not None]
        if term is None or not orders:
            continue

        def times(other: Any, term: Any = term) -> Any:
            return _jaxpr.bind(eqn, [term, other] if swapped else [other, term])[0]

        terms = [many[a] for a in orders]
        found = _stacked(times, terms) if _jaxpr.is_contraction(eqn) else map(times, terms)
        for a, y in zip(orders, found, strict=True):
            ways = math.comb(a + b, a)
            y = y if ways == 1 else float(ways) * y
            result[a + b] = y if result[a + b] is None else result[a + b] + y
    return result


def _stacked(function: Callable[..., Any], terms: Sequence[Any]) -> list[Any]:
    """A linear function of each term: of all at once, which reads what it holds once."""
    if len(terms) == 1:
        return [function(terms[0])]
    results = jax.vmap(function)(jax.tree.map(lambda *x: jnp.stack(x), *terms))
    return [jax.tree.map(lambda y, r=r: y[r], results) for r in range(len(terms))]


def by_jet(eqn: _jaxpr.Equation, operands: list[Series]) -> list[Series]:
    """The rule of `jax.experimental.jet`."""
    function, moving = _along(functools.partial(_jaxpr.bind, eqn), operands)
    orders = range(1, len(operands[0]))
    primals = tuple(operands[a][0] for a in moving)
    series = tuple([filled(operands[a], k) for k in orders] for a in moving)
    results = function(*primals)  # jet's own are less exact: tanh by a logistic, log1p by a log
    _, terms = jet.jet(function, primals, series)
    return [
        [y, *ys] if _jaxpr.is_differentiable(v) else _still(y, len(ys))
        for v, y, ys in zip(eqn.outvars, results, terms, strict=True)
    ]


def by_recursion(
    whole: Callable[[list[Any]], list[Any]],
    outvars: Sequence[Any],
    operands: Sequence[Series],
    degree: int,
) -> list[Series]:
    """The derivative `(x, x') -> dh(x)[x']`, pushed along the series of `x` and of `x'`."""
    function, moving = _along(whole, operands)
    results = whole([x[0] for x in operands])
    if not moving:
        return [_still(y, degree) for y in results]
    floats = [r for r, v in enumerate(outvars) if _jaxpr.is_differentiable(v)]

    def derivative(primals: Any, tangents: Any) -> list[Any]:
        _, higher = pushforward(lambda primals: function(*primals), primals, tangents)
        return [higher[r] for r in floats]

    primals = [operands[a][0] for a in moving]
    velocities = [filled(operands[a], 1) for a in moving]
    args = [operands[a][:-1] for a in moving]
    args += [[v, *operands[a][2:]] for a, v in zip(moving, velocities, strict=True)]
    higher = _push(_jaxpr.trace(derivative, primals, velocities), args, degree - 1)
    series = [_still(y, degree) for y in results]
    for r, terms in zip(floats, higher, strict=True):
        series[r][1:] = terms
    return series


def through_loop(scan: _jaxpr.Scan, operands: list[Series], degree: int) -> list[Series]:
    """A scan over series: the terms of the carry are carried, those of `xs` taken step by step."""
    consts, init, xs = scan.parts(operands)

    def body(carry: list[Series], x: list[Series]) -> tuple[list[Series], list[Series]]:
        results = _push(scan.body, [*consts, *carry, *x], degree)
        return results[: scan.carry], results[scan.carry :]

    def step(carry: list[Series], x: list[Series]) -> tuple[list[Series], list[Series]]:
        after, y = body(carry, x)
        return _widened(after, carry), y

    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    while True:  # terms that are zero at first may not be later
        after, _ = jax.eval_shape(body, init, x)
        wider = _widened(init, after)
        if jax.tree.structure(wider) == jax.tree.structure(init):
            break
        init = wider
    carry, ys = scan.run(step, init, xs)
    return [*carry, *ys]


def _widened(some: list[Series], others: list[Series]) -> list[Series]:
    """The series with zeros where the others have a term."""
    return [
        [filled(x, k) if y[k] is not None else x[k] for k in range(len(x))]
        for x, y in zip(some, others, strict=True)
    ]
