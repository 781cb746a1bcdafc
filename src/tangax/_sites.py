"""Where parameters enter a function, and the factors taken there.

`find` walks a jaxpr once. A value that only moves a parameter's entries is a `View`; the equation
that consumes a view is a `Site`. `find` returns a `Program`: the jaxpr with an action for every
equation that a parameter reaches directly. `run` evaluates the program with zeros added to the
results of every site: the cotangents of the zeros are every `G`, the operands kept on the way give
every `A`, and `collected` makes the factors of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import _jaxpr
from ._factors import (
    Factor,
    Kind,
    Materialised,
    Returned,
    View,
    grouped,
    kind_of,
    over_layers,
    over_time,
    pulled_back,
    scaled,
)


@dataclass(frozen=True)
class Use:
    """One operand of a site: which parameter, seen how, and of which kind."""

    operand: int
    view: View
    kind: Kind


@dataclass(frozen=True)
class Site:
    """An equation, or a returned variable, that consumes views. `results`: its tapped results."""

    uses: tuple[Use, ...]
    results: tuple[jax.ShapeDtypeStruct | None, ...]
    eqn: _jaxpr.Equation | None = None


@dataclass(frozen=True)
class Step:
    """An equation whose result is a view: it moves entries, or multiplies by operand `scale`."""

    eqn: _jaxpr.Equation
    operand: int
    scale: int | None = None


@dataclass(frozen=True)
class Call:
    """A call that is inlined."""

    body: Program


@dataclass(frozen=True)
class Loop:
    """A scan with parameters among its operands.

    `views` by operand; `carries`: sites where a view enters as the initial carry.
    """

    scan: _jaxpr.Scan
    body: Program
    views: tuple[tuple[int, View], ...]
    carries: tuple[tuple[int, Site], ...]


@dataclass(frozen=True)
class Program:
    """A jaxpr; an action for each equation (`None`: evaluate it); sites where it returns views."""

    jaxpr: _jaxpr.Jaxpr
    actions: tuple[Site | Step | Call | Loop | None, ...]
    returned: tuple[tuple[int, Site], ...]
    outviews: tuple[View | None, ...]


@dataclass(frozen=True)
class Found:
    """What `explain` tells of a use: the parameter, the kind, the equation, the user's line.

    `why`: what keeps it from being factored, if anything does.
    """

    leaf: int
    kind: str
    primitive: str
    source: str
    why: str = ""


def find(jaxpr: _jaxpr.Jaxpr, leaves: int) -> Program:
    """The program of a jaxpr whose first `leaves` arguments are the parameters."""
    views = [View(i, _jaxpr.shape_dtype(v)) for i, v in enumerate(jaxpr.invars[:leaves])]
    others = len(jaxpr.invars) - leaves
    return _walk(jaxpr, [*views, *[None] * others], [False] * len(jaxpr.invars), keep=False)


def _walk(
    jaxpr: _jaxpr.Jaxpr, args: Sequence[View | None], dependent: Sequence[bool], *, keep: bool
) -> Program:
    """`args`: the arguments that are views; `dependent`: those computed from parameters.

    `keep`: views that are returned stay views (a call that is inlined), else each is a site.
    """
    views = {v: w for v, w in zip(jaxpr.invars, args, strict=True) if w is not None}
    tainted = {v for v, d in zip(jaxpr.invars, dependent, strict=True) if d} | set(views)
    actions: list[Site | Step | Call | Loop | None] = []
    for eqn in jaxpr.equations:
        found = {
            a: views[v] for a, v in enumerate(eqn.invars) if not _jaxpr.is_literal(v) and v in views
        }
        action = _action(eqn, found, views, tainted) if found else None
        actions.append(action)
        if isinstance(action, Step):
            view = found[action.operand]
            views |= {v: _stepped(action, view, r) for r, v in enumerate(eqn.outvars)}
        if isinstance(action, Call):
            out = zip(eqn.outvars, action.body.outviews, strict=True)
            views |= {v: w for v, w in out if w is not None}
        reached = any(not _jaxpr.is_literal(v) and v in tainted for v in eqn.invars)
        if reached and _jaxpr.name(eqn) != "stop_gradient":
            tainted |= set(eqn.outvars)
    outviews = [None if _jaxpr.is_literal(v) else views.get(v) for v in jaxpr.outvars]
    returned = [(a, _identity(w)) for a, w in enumerate(outviews) if w is not None and not keep]
    return Program(jaxpr, tuple(actions), tuple(returned), tuple(outviews if keep else ()))


def _action(
    eqn: _jaxpr.Equation, found: dict[int, View], views: dict[Any, View], tainted: set[Any]
) -> Site | Step | Call | Loop | None:
    """What to do at an equation with views among its operands."""
    if _jaxpr.name(eqn) == "stop_gradient" or not any(map(_jaxpr.is_differentiable, eqn.outvars)):
        return None
    step = _step(eqn, found, tainted)
    if step is not None:
        return step
    body = _jaxpr.called(eqn)
    if body is not None:
        args = [found.get(a) for a in range(len(eqn.invars))]
        dependent = [not _jaxpr.is_literal(v) and v in tainted for v in eqn.invars]
        return Call(_walk(body, args, dependent, keep=True))
    scan = _jaxpr.scan(eqn)
    if scan is not None:
        return _loop(eqn, scan, found)
    results = tuple(
        _jaxpr.shape_dtype(v) if _jaxpr.is_differentiable(v) else None for v in eqn.outvars
    )
    uses = tuple(Use(a, view, kind_of(eqn, a)) for a, view in found.items())
    return Site(uses, results, eqn)


def _step(eqn: _jaxpr.Equation, found: dict[int, View], tainted: set[Any]) -> Step | None:
    """A step: layout, broadcast, or multiplication by a scalar that no parameter reaches."""
    if len(found) != 1:
        return None
    (operand,) = found
    if _jaxpr.is_layout(eqn) or _jaxpr.is_broadcast(eqn):
        return Step(eqn, operand)
    name = _jaxpr.name(eqn)
    if name == "mul" or (name == "div" and operand == 0):
        other = eqn.invars[1 - operand]
        scalar = other.aval.shape == () and (_jaxpr.is_literal(other) or other not in tainted)
        if scalar:
            return Step(eqn, operand, 1 - operand)
    return None


def _stepped(step: Step, view: View, result: int) -> View:
    """The view after a step."""
    if step.scale is not None:
        return view
    return view.then(step.eqn, result, _jaxpr.is_layout(step.eqn))


def _loop(eqn: _jaxpr.Equation, scan: _jaxpr.Scan, found: dict[int, View]) -> Loop:
    """A scan: consts and xs that are views stay views in its body; a carry does not."""
    carry = range(scan.consts, scan.consts + scan.carry)
    kept = [(a, view) for a, view in found.items() if a not in carry]
    args: list[View | None] = [None] * len(eqn.invars)
    for i, (a, _) in enumerate(kept):
        args[a] = View(i, _jaxpr.shape_dtype(scan.body.invars[a]))
    dependent = [True] * len(eqn.invars)
    body = _walk(scan.body, args, dependent, keep=False)
    carries = tuple((a, _identity(found[a])) for a in carry if a in found)
    return Loop(scan, body, tuple(kept), carries)


def _identity(view: View) -> Site:
    """A site where a view leaves the program as it is."""
    out = jax.eval_shape(view.apply, view.aval)
    return Site((Use(0, view, Returned()),), (jax.ShapeDtypeStruct(out.shape, out.dtype),))


# Running a program


def zeros(program: Program) -> list[Any]:
    """The zeros that a run adds to the results of its sites."""
    taps = []
    for action in program.actions:
        if isinstance(action, Site):
            taps.append(_site_zeros(action))
        elif isinstance(action, Call):
            taps.append(zeros(action.body))
        elif isinstance(action, Loop):
            inner = jax.tree.map(
                lambda z, n=action.scan.length: jnp.zeros((n, *z.shape), z.dtype),
                zeros(action.body),
            )
            taps.append([inner, [_site_zeros(site) for _, site in action.carries]])
        else:
            taps.append(None)
    return [taps, [_site_zeros(site) for _, site in program.returned]]


def _site_zeros(site: Site) -> list[jax.Array]:
    return [jnp.zeros(r.shape, r.dtype) for r in site.results if r is not None]


def run(
    program: Program, args: Sequence[Any], scales: dict[int, Any], taps: list[Any]
) -> tuple[list[Any], dict[int, Any], list[Any]]:
    """Evaluate. Returns the results, the scales of those that are views, and the records of sites.

    `scales`: by argument, of those that are scaled views.
    """
    jaxpr = program.jaxpr
    env = jaxpr.environment(args)
    scale_of = {jaxpr.invars[a]: s for a, s in scales.items()}
    records: list[Any] = []
    for eqn, action, tap in zip(jaxpr.equations, program.actions, taps[0], strict=True):
        values = [_jaxpr.read(env, v) for v in eqn.invars]
        known = {
            a: scale_of[v]
            for a, v in enumerate(eqn.invars)
            if not _jaxpr.is_literal(v) and v in scale_of
        }
        record = None
        if isinstance(action, Call):
            results, out_scales, record = run(action.body, values, known, tap)
            scale_of |= {eqn.outvars[a]: s for a, s in out_scales.items()}
        elif isinstance(action, Loop):
            results, record = _run_loop(action, values, known, tap)
        else:
            results = _jaxpr.bind(eqn, values)
        if isinstance(action, Site):
            results = _tapped(action, results, tap)
            record = _record(action, values, known)
        if isinstance(action, Step):
            scale = _scale(action, values, known)
            if scale is not None:
                scale_of |= dict.fromkeys(eqn.outvars, scale)
        records.append(record)
        env |= dict(zip(eqn.outvars, results, strict=True))
    results = [_jaxpr.read(env, v) for v in jaxpr.outvars]
    out_scales = {
        a: scale_of[v]
        for a, v in enumerate(jaxpr.outvars)
        if not _jaxpr.is_literal(v) and v in scale_of
    }
    returned = []
    for (a, site), tap in zip(program.returned, taps[1], strict=True):
        returned.append(_record(site, [results[a]], {0: out_scales[a]} if a in out_scales else {}))
        (results[a],) = _tapped(site, [results[a]], tap)
    return results, out_scales, [records, returned]


def _scale(step: Step, values: Sequence[Any], known: dict[int, Any]) -> Any:
    """The scale of a view after a step."""
    before = known.get(step.operand)
    if step.scale is None:
        return before
    factor = jnp.asarray(values[step.scale])
    if _jaxpr.name(step.eqn) == "div":
        return 1 / factor if before is None else before / factor
    return factor if before is None else before * factor


def _tapped(site: Site, results: Sequence[Any], taps: list[jax.Array]) -> list[Any]:
    """The results with the zeros added."""
    remaining = iter(taps)
    return [
        y if r is None else y + next(remaining) for y, r in zip(results, site.results, strict=True)
    ]


def _record(site: Site, values: list[Any], scales: dict[int, Any]) -> list[Any]:
    """For each use what its kind keeps, and the scale of its view."""
    return [(use.kind.record(values), scales.get(use.operand)) for use in site.uses]


def _run_loop(
    loop: Loop, values: list[Any], scales: dict[int, Any], taps: list[Any]
) -> tuple[list[Any], list[Any]]:
    """A scan with the zeros as further xs and the records as further ys."""
    scan, inner_taps = loop.scan, taps[0]
    records = []
    for (a, site), tap in zip(loop.carries, taps[1], strict=True):
        records.append(_record(site, [values[a]], {0: scales[a]} if a in scales else {}))
        (values[a],) = _tapped(site, [values[a]], tap)
    first = scan.consts + scan.carry
    consts, init, xs = values[: scan.consts], values[scan.consts : first], values[first:]

    def body(carry: list[Any], x: Any) -> tuple[list[Any], Any]:
        inner_xs, tap = x
        results, _, record = run(loop.body, [*consts, *carry, *inner_xs], {}, tap)
        return results[: scan.carry], (results[scan.carry :], record)

    carry, (ys, inner) = lax.scan(
        body,
        init,
        (xs, inner_taps),
        length=scan.length,
        reverse=scan.reverse,
        unroll=scan.unroll,
    )
    outer_scales = [scales.get(a) for a, _ in loop.views]
    return [*carry, *ys], [inner, outer_scales, records]


# Taking factors


def collected(
    program: Program, leaves: int, cotangents: list[Any], records: list[Any]
) -> list[list[Factor]]:
    """Every leaf's factors for one example, without cross terms between them.

    `cotangents`: `[o, ...]` for every zero that was added; `records`: those of `run`.
    """
    by_leaf: list[list[Factor]] = [[] for _ in range(leaves)]
    for leaf, factor in _collect(program, cotangents, records):
        by_leaf[leaf].append(factor)
    return [list(map(flat, grouped(found))) for found in by_leaf]


def flat(factor: Factor) -> Factor:
    """A materialised Jacobian as `[o, p]`."""
    if isinstance(factor, Materialised):
        return Materialised(factor.J.reshape(factor.J.shape[0], math.prod(factor.J.shape[1:])))
    return factor


def basis(outputs: Sequence[jax.ShapeDtypeStruct]) -> list[jax.Array]:
    """The unit cotangents of all outputs, `[o, *output.shape]` each."""
    total = sum(y.size for y in outputs)
    eyes, start = [], 0
    for y in outputs:
        eye = jnp.eye(total, y.size, -start, dtype=y.dtype)
        eyes.append(eye.reshape(total, *y.shape))
        start += y.size
    return eyes


def _collect(program: Program, cotangents: list[Any], records: list[Any]) -> Iterator[Any]:
    """`(leaf, factor)` for every use, in the layout of the program's parameters."""
    for action, G, record in zip(program.actions, cotangents[0], records[0], strict=True):
        if isinstance(action, Site):
            yield from _site_factors(action, G, record)
        elif isinstance(action, Call):
            yield from _collect(action.body, G, record)
        elif isinstance(action, Loop):
            yield from _loop_factors(action, G, record)
    for (_, site), G, record in zip(program.returned, cotangents[1], records[1], strict=True):
        yield from _site_factors(site, G, record)


def _site_factors(site: Site, G: list[jax.Array], record: list[Any]) -> Iterator[Any]:
    for use, (kept, scale) in zip(site.uses, record, strict=True):
        factor = use.kind.factor(kept, G)
        if scale is not None:
            factor = scaled(factor, scale)
        yield use.view.leaf, pulled_back(factor, use.view)


def _loop_factors(loop: Loop, G: list[Any], record: list[Any]) -> Iterator[Any]:
    """The body's factors, taken for all steps at once, then moved into `s` or `k`."""
    inner, outer_scales, carry_records = record
    order: list[int] = []

    def step(G: list[Any], record: list[Any]) -> list[Factor]:
        found = list(_collect(loop.body, G, record))
        order[:] = [leaf for leaf, _ in found]
        return [factor for _, factor in found]

    length = loop.scan.length
    steps = jax.vmap(step, in_axes=(1, 0), axis_size=length)
    stacks = steps(G[0], inner) if length else []
    first_x = loop.scan.consts + loop.scan.carry
    for i, stack in zip(order, stacks, strict=True):
        operand, view = loop.views[i]
        factor = over_layers(stack) if operand >= first_x else over_time(stack)
        if outer_scales[i] is not None:
            factor = scaled(factor, outer_scales[i])
        yield view.leaf, pulled_back(factor, view)
    for (_, site), tap, kept in zip(loop.carries, G[1], carry_records, strict=True):
        yield from _site_factors(site, tap, kept)


def describe(program: Program) -> Iterator[Found]:
    """Every use, for a person to read, in the order of `collected`."""
    for action in program.actions:
        if isinstance(action, Site):
            yield from _describe_site(action)
        elif isinstance(action, Call):
            yield from describe(action.body)
        elif isinstance(action, Loop):
            for found in describe(action.body):
                yield replace(found, leaf=action.views[found.leaf][1].leaf)
            for _, site in action.carries:
                yield from _describe_site(site)
    for _, site in program.returned:
        yield from _describe_site(site)


def _describe_site(site: Site) -> Iterator[Found]:
    for use in site.uses:
        primitive = "return" if site.eqn is None else _jaxpr.name(site.eqn)
        where = "" if site.eqn is None else _jaxpr.source(site.eqn)
        why = ""
        if use.kind.name == "generic":
            why = f"there is no factored form for {primitive}"
        elif not use.view.isometric:
            why = f"its entries are repeated before they enter {primitive}"
        yield Found(use.view.leaf, use.kind.name, primitive, where, why)
