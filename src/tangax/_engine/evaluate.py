"""Running a program: cotangents and factors at the sites where parameters enter.

`run` evaluates a program with zeros added to the results of every site: the cotangents of the zeros
are every `G`, the operands kept on the way give every `A`, and `collected` makes the factors of
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import _jaxpr
from .._shared.tuning import tuning
from .kinds import Factor, Materialised, grouped, over_layers, over_time, pulled_back, real, scaled
from .program import Call, Loop, Program, Site, Slot, Step

# The scales of views that have one, by operand and number.
Scales = dict[Slot, Any]


def zeros(program: Program) -> list[Any]:
    """The zeros that a run adds to the results of its sites."""
    taps = []
    for action in program.actions:
        if isinstance(action, Site):
            taps.append([_site_zeros(action), _entered_zeros(action)])
        elif isinstance(action, Call):
            taps.append(zeros(action.body))
        elif isinstance(action, Loop):
            inner = jax.tree.map(
                lambda z, n=action.scan.length: jnp.zeros((n, *z.shape), z.dtype),
                zeros(action.body),
            )
            taps.append([inner, _entered_zeros(action)])
        else:
            taps.append(None)
    return [taps, [_site_zeros(site) for _, site in program.returned]]


def _site_zeros(site: Site) -> list[jax.Array]:
    return [jnp.zeros(r.shape, r.dtype) for r in site.results if r is not None]


def _entered_zeros(action: Site | Loop) -> list[list[jax.Array]]:
    return [_site_zeros(site) for _, site in action.entered]


def run(
    program: Program, args: Sequence[Any], scales: Scales, taps: list[Any]
) -> tuple[list[Any], Scales, list[Any]]:
    """Evaluate. Returns the results, the scales of those that are views, and the records of sites.

    `scales`: of the views among the arguments.
    """
    jaxpr = program.jaxpr
    env = jaxpr.environment(args)
    scale_of: dict[Any, dict[int, Any]] = {}
    for (a, r), scale in scales.items():
        scale_of.setdefault(jaxpr.invars[a], {})[r] = scale
    records: list[Any] = []
    for eqn, action, tap in zip(jaxpr.equations, program.actions, taps[0], strict=True):
        values = [_jaxpr.read(env, v) for v in eqn.invars]
        known = _scales_at(eqn.invars, scale_of)
        record, new_scales = None, {}
        if isinstance(action, Call):
            results, new_scales, record = run(action.body, values, known, tap)
        elif isinstance(action, Loop):
            results, record = _run_loop(action, values, known, tap)
        elif isinstance(action, Site):
            results, record = _run_site(action, values, known, tap)
        else:
            results = _jaxpr.bind(eqn, values)
        if isinstance(action, Step):
            new_scales = _scales(action, values, known)
        for (a, r), scale in new_scales.items():
            scale_of.setdefault(eqn.outvars[a], {})[r] = scale
        records.append(record)
        env |= dict(zip(eqn.outvars, results, strict=True))
    results = [_jaxpr.read(env, v) for v in jaxpr.outvars]
    out_scales = _scales_at(jaxpr.outvars, scale_of)
    returned = []
    for (a, site), tap in zip(program.returned, taps[1], strict=True):
        returned.append(_record(site, [results[a]], _of_operand(out_scales, a)))
        (results[a],) = _tapped(site, [results[a]], tap)
    return results, out_scales, [records, returned]


def _scales_at(atoms: Sequence[Any], scale_of: dict[Any, dict[int, Any]]) -> Scales:
    variables = [(a, v) for a, v in enumerate(atoms) if not _jaxpr.is_literal(v)]
    return {(a, r): scale for a, v in variables for r, scale in scale_of.get(v, {}).items()}


def _of_operand(scales: Scales, operand: int) -> Scales:
    return {(0, r): scale for (a, r), scale in scales.items() if a == operand}


def _scales(step: Step, values: Sequence[Any], known: Scales) -> Scales:
    new: Scales = {}
    for a, views in enumerate(step.views):
        for r, (slot, _) in enumerate(views):
            scale = known.get(slot)
            if step.scale is not None:
                scale = _multiplied(step, scale, jnp.asarray(values[step.scale]))
            if scale is not None:
                new[a, r] = scale
    return new


def _multiplied(step: Step, scale: Any, factor: jax.Array) -> Any:
    if _jaxpr.divides(step.eqn):
        return 1 / factor if scale is None else scale / factor
    return factor if scale is None else scale * factor


def _run_site(
    site: Site, values: list[Any], scales: Scales, taps: list[Any]
) -> tuple[list[Any], list[Any]]:
    """The results of an equation, the zeros added, and what its sites keep."""
    own, entered = taps
    values, records = _enter(site, values, scales, entered)
    last = bool(site.uses) and not tuning().any_convolution
    results = (_jaxpr.convolved if last else _jaxpr.bind)(site.eqn, values)
    return _tapped(site, results, own), [_record(site, values, scales), records]


def _enter(
    action: Site | Loop, values: Sequence[Any], scales: Scales, taps: list[Any]
) -> tuple[list[Any], list[Any]]:
    """The operands with the zeros added to those that are sites, and what these keep."""
    values, records = list(values), []
    for (a, site), tap in zip(action.entered, taps, strict=True):
        records.append(_record(site, [values[a]], _of_operand(scales, a)))
        (values[a],) = _tapped(site, [values[a]], tap)
    return values, records


def _tapped(site: Site, results: Sequence[Any], taps: list[jax.Array]) -> list[Any]:
    remaining = iter(taps)
    return [
        y if r is None else y + next(remaining) for y, r in zip(results, site.results, strict=True)
    ]


def _record(site: Site, values: list[Any], scales: Scales) -> list[Any]:
    """For each use what its kind keeps, and the scale of its view."""
    return [(use.kind.record(values), scales.get(use.slot)) for use in site.uses]


def _run_loop(
    loop: Loop, values: list[Any], scales: Scales, taps: list[Any]
) -> tuple[list[Any], list[Any]]:
    """A scan with the zeros as further xs and the records as further ys.

    Several sites may keep the same value, as the kernels of an attention do: it is kept once. The
    body, which is traced once, tells by `order` and `shape` which is whose.
    """
    scan, inner_taps = loop.scan, taps[0]
    values, records = _enter(loop, values, scales, taps[1])
    consts, init, xs = scan.parts(values)

    def body(carry: list[Any], x: Any) -> tuple[list[Any], Any]:
        inner_xs, tap = x
        results, _, record = run(loop.body, [*consts, *carry, *inner_xs], {}, tap)
        recorded, treedef = jax.tree.flatten(record)
        once = {id(value): value for value in recorded}
        order[:] = [list(once).index(id(value)) for value in recorded]
        shape[:] = [treedef]
        return results[: scan.carry], (results[scan.carry :], list(once.values()))

    order: list[int] = []
    shape: list[Any] = []
    carry, (ys, stacked) = scan.run(body, init, (xs, inner_taps))
    inner = shape[0].unflatten([stacked[a] for a in order])
    outer_scales = [scales.get(slot) for slot, _ in loop.views]
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
    return [list(map(_flat, grouped(list(map(real, found))))) for found in by_leaf]


def _flat(factor: Factor) -> Factor:
    """A materialised Jacobian as `[o, p]`."""
    if isinstance(factor, Materialised):
        return replace(factor, J=factor.J.reshape(len(factor.J), math.prod(factor.J.shape[1:])))
    return factor


def _collect(program: Program, cotangents: list[Any], records: list[Any]) -> Iterator[Any]:
    """`(leaf, factor)` for every use, in the layout of the program's parameters."""
    for action, G, record in zip(program.actions, cotangents[0], records[0], strict=True):
        if isinstance(action, Site):
            yield from _site_factors(action, G[0], record[0])
            yield from _entered_factors(action, G[1], record[1])
        elif isinstance(action, Call):
            yield from _collect(action.body, G, record)
        elif isinstance(action, Loop):
            yield from _loop_factors(action, G, record)
    for (_, site), G, record in zip(program.returned, cotangents[1], records[1], strict=True):
        yield from _site_factors(site, G, record)


def _site_factors(site: Site, G: list[jax.Array], record: list[Any]) -> Iterator[Any]:
    for use, (recorded, scale) in zip(site.uses, record, strict=True):
        factor = use.kind.factor(recorded, G)
        if scale is not None:
            factor = scaled(factor, scale)
        yield use.view.leaf, pulled_back(factor, use.view)


def _loop_factors(loop: Loop, G: list[Any], record: list[Any]) -> Iterator[Any]:
    """The body's factors, taken for all steps at once, then moved into `s` or `k`."""
    inner, outer_scales, entered = record
    order: list[int] = []

    def step(G: list[Any], record: list[Any]) -> list[Factor]:
        pairs = list(_collect(loop.body, G, record))
        order[:] = [leaf for leaf, _ in pairs]
        return [factor for _, factor in pairs]

    length = loop.scan.length
    steps = jax.vmap(step, in_axes=(1, 0), axis_size=length)
    stacks = steps(G[0], inner) if length else []
    first_x = loop.scan.consts + loop.scan.carry
    for i, stack in zip(order, stacks, strict=True):
        (operand, _), view = loop.views[i]
        if operand >= first_x and view.place is not None:  # some of the layers
            stack = jax.tree.map(lambda a, l=view.place[0]: a[slice(*l)], stack)
        factor = over_layers(stack) if operand >= first_x else over_time(stack)
        if outer_scales[i] is not None:
            factor = scaled(factor, outer_scales[i])
        yield view.leaf, pulled_back(factor, view)
    yield from _entered_factors(loop, G[1], entered)


def _entered_factors(action: Site | Loop, G: list[Any], records: list[Any]) -> Iterator[Any]:
    for (_, site), tap, record in zip(action.entered, G, records, strict=True):
        yield from _site_factors(site, tap, record)
