"""Where parameters enter a function.

`find` walks a jaxpr once. A value that only moves a parameter's entries is a `View`; one that joins
several has several. The equation that consumes a view is a `Site`. `find` returns a `Program`: the
jaxpr with an action for every equation that a parameter reaches directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from .. import _jaxpr
from .kinds import GENERIC, RETURNED, Kind, Part, kind_of, part_of
from .views import View

# The position of an operand or a result, and which of the views that it holds.
Slot = tuple[int, int]


@dataclass(frozen=True)
class Use:
    """A view among the operands of a site: which one, of which parameter, and of which kind."""

    slot: Slot
    view: View
    kind: Kind


@dataclass(frozen=True)
class Site:
    """An equation, or a variable, that consumes views. `results`: those to which zeros are added.

    `entered`: operands that are sites by themselves, because of no kind that is known here.
    """

    uses: tuple[Use, ...]
    results: tuple[jax.ShapeDtypeStruct | None, ...]
    eqn: _jaxpr.Equation | None = None
    entered: tuple[tuple[int, Site], ...] = ()


@dataclass(frozen=True)
class Step:
    """An equation whose results are views: it moves entries, or multiplies by operand `scale`.

    `views`: of every result, each with the view of an operand that it comes from.
    """

    eqn: _jaxpr.Equation
    views: tuple[tuple[tuple[Slot, View], ...], ...]
    scale: int | None = None


@dataclass(frozen=True)
class Call:
    """A call that is inlined."""

    body: Program


@dataclass(frozen=True)
class Loop:
    """A scan with parameters among its operands.

    `views`: those that the body knows as its parameters, in this order; `entered`: operands whose
    views it does not know, such as an initial carry, and which are therefore sites.
    """

    scan: _jaxpr.Scan
    body: Program
    views: tuple[tuple[Slot, View], ...]
    entered: tuple[tuple[int, Site], ...]


@dataclass(frozen=True)
class Program:
    """A jaxpr; an action for each equation (`None`: evaluate it); sites where it returns views."""

    jaxpr: _jaxpr.Jaxpr
    actions: tuple[Site | Step | Call | Loop | None, ...]
    returned: tuple[tuple[int, Site], ...]
    outviews: tuple[tuple[View, ...], ...]


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
    views = [(View(i, _jaxpr.shape_dtype(v)),) for i, v in enumerate(jaxpr.invars[:leaves])]
    others = len(jaxpr.invars) - leaves
    return _walk(jaxpr, [*views, *[()] * others], [False] * len(jaxpr.invars), keep=False)


def _walk(
    jaxpr: _jaxpr.Jaxpr, args: Sequence[tuple[View, ...]], dependent: Sequence[bool], *, keep: bool
) -> Program:
    """`args`: the views in every argument; `dependent`: those computed from parameters.

    `keep`: views that are returned stay views (a call that is inlined), else each is a site.
    """
    views = {v: views_of for v, views_of in zip(jaxpr.invars, args, strict=True) if views_of}
    tainted = {v for v, d in zip(jaxpr.invars, dependent, strict=True) if d} | set(views)
    actions: list[Site | Step | Call | Loop | None] = []
    for eqn in jaxpr.equations:
        entering = {
            (a, r): view
            for a, v in enumerate(eqn.invars)
            if not _jaxpr.is_literal(v)
            for r, view in enumerate(views.get(v, ()))
        }
        action = _action(eqn, entering, tainted) if entering else None
        actions.append(action)
        views_of: Sequence[tuple[View, ...]] = ()
        if isinstance(action, Step):
            views_of = [tuple(view for _, view in result) for result in action.views]
        if isinstance(action, Call):
            views_of = action.body.outviews
        views |= {
            v: views_of for v, views_of in zip(eqn.outvars, views_of, strict=False) if views_of
        }
        reached = any(not _jaxpr.is_literal(v) and v in tainted for v in eqn.invars)
        if reached and not _jaxpr.stops_gradient(eqn):
            tainted |= set(_jaxpr.affected(eqn))
    outviews = [() if _jaxpr.is_literal(v) else views.get(v, ()) for v in jaxpr.outvars]
    returned = [
        (a, _identity(views_of, jaxpr.outvars[a]))
        for a, views_of in enumerate(outviews)
        if views_of and not keep
    ]
    return Program(jaxpr, tuple(actions), tuple(returned), tuple(outviews if keep else ()))


def _action(
    eqn: _jaxpr.Equation, entering: dict[Slot, View], tainted: set[Any]
) -> Site | Step | Call | Loop | None:
    if _jaxpr.stops_gradient(eqn) or not any(map(_jaxpr.is_differentiable, _jaxpr.affected(eqn))):
        return None
    step = _step(eqn, entering, tainted)
    if step is not None:
        return step
    body = _jaxpr.called(eqn)
    if body is not None:
        args = [_views_of(entering, a) for a in range(len(eqn.invars))]
        dependent = [not _jaxpr.is_literal(v) and v in tainted for v in eqn.invars]
        return Call(_walk(body, args, dependent, keep=True))
    scan = _jaxpr.scan(eqn)
    if scan is not None:
        return _loop(eqn, scan, entering)
    return _site(eqn, entering)


def _site(eqn: _jaxpr.Equation, entering: dict[Slot, View]) -> Site:
    """An equation that consumes views: known by its results, or else by its operands."""
    kinds = {a: kind_of(eqn, a) for a, _ in entering}
    uses = tuple(
        Use(slot, view, part_of(kind, view.place))
        for slot, view in entering.items()
        if (kind := kinds[slot[0]]) is not None
    )
    results = tuple(
        _jaxpr.shape_dtype(v) if uses and _jaxpr.is_differentiable(v) else None for v in eqn.outvars
    )
    entered = tuple(
        (a, _identity(_views_of(entering, a), eqn.invars[a], eqn, GENERIC))
        for a, kind in kinds.items()
        if kind is None
    )
    return Site(uses, results, eqn, entered)


def _views_of(entering: dict[Slot, View], operand: int) -> tuple[View, ...]:
    return tuple(view for (a, _), view in entering.items() if a == operand)


def _step(eqn: _jaxpr.Equation, entering: dict[Slot, View], tainted: set[Any]) -> Step | None:
    """A step: layout, broadcast, join, or multiplication by a scalar that no parameter reaches."""
    join = _jaxpr.join(eqn)
    if join is not None:
        views = [(slot, _joined(eqn, join, slot, view)) for slot, view in entering.items()]
        return Step(eqn, (tuple((slot, view) for slot, view in views if view is not None),))
    if _jaxpr.is_identity(eqn):
        return Step(eqn, tuple(_same(eqn, entering, r) for r in range(len(eqn.outvars))))
    if len({operand for operand, _ in entering}) != 1:
        return None
    ((operand, _), *_) = entering
    if _jaxpr.scales(eqn, operand):
        other = eqn.invars[1 - operand]
        if other.aval.shape == () and (_jaxpr.is_literal(other) or other not in tainted):
            return Step(eqn, (tuple(entering.items()),), 1 - operand)
    if not (_jaxpr.is_layout(eqn) or _jaxpr.is_broadcast(eqn)):
        return None
    results = []
    for r in range(len(eqn.outvars)):
        moved = [(slot, _moved(eqn, r, view)) for slot, view in entering.items()]
        if any(views is None for _, views in moved):
            return None
        results.append(tuple((slot, view) for slot, views in moved for view in views or ()))
    return Step(eqn, tuple(results))


def _same(
    eqn: _jaxpr.Equation, entering: dict[Slot, View], operand: int
) -> tuple[tuple[Slot, View], ...]:
    move = _jaxpr.move(eqn, operand)
    return tuple(
        (slot, view.then(move, view.place)) for slot, view in entering.items() if slot[0] == operand
    )


def _joined(eqn: _jaxpr.Equation, join: _jaxpr.Join, slot: Slot, view: View) -> View | None:
    """The view in the result of a join, if it has any entries."""
    if join.new_axis is not None:
        view = view.expanded(join.new_axis)
    view = view.within(join.places[slot[0]], eqn.outvars[0].aval.shape)
    return None if view.place is not None and 0 in _jaxpr.sizes(view.place) else view


def _moved(eqn: _jaxpr.Equation, result: int, view: View) -> tuple[View, ...] | None:
    """The view in a result of a layout equation: one, none, or `None` if it cannot be told."""
    if view.place is None:
        return (view.then(_jaxpr.move(eqn, result)),)
    bounds = _jaxpr.cut_out(eqn, result)
    if bounds is not None:
        pieces = view.cut(bounds)
        axis = _jaxpr.dropped_axis(eqn)
        return pieces if axis is None or not pieces else (pieces[0].reduced(axis),)
    moved = _jaxpr.move_part(eqn, view.place)
    return None if moved is None else (view.then(*moved),)


def _loop(eqn: _jaxpr.Equation, scan: _jaxpr.Scan, entering: dict[Slot, View]) -> Loop:
    """A scan: consts and xs that are views stay views in its body; a carry does not."""
    first_x = scan.consts + scan.carry
    args: list[tuple[View, ...]] = [()] * len(eqn.invars)
    known: list[tuple[Slot, View]] = []
    entered = []
    for a in dict.fromkeys(operand for operand, _ in entering):
        own = _views_of(entering, a)
        if scan.consts <= a < first_x:
            entered.append((a, _identity(own, eqn.invars[a], eqn)))
            continue
        aval = _jaxpr.shape_dtype(scan.body.invars[a])
        args[a] = tuple(
            _of_step(view, View(len(known) + r, aval), lead=int(a >= first_x))
            for r, view in enumerate(own)
        )
        known += [((a, r), view) for r, view in enumerate(own)]
    body = _walk(scan.body, args, [True] * len(eqn.invars), keep=False)
    return Loop(scan, body, tuple(known), tuple(entered))


def _of_step(outer: View, whole: View, *, lead: int) -> View:
    """A view as the body of a loop sees it at each step, given that of the whole operand."""
    if outer.place is None:
        return whole
    place, shape = outer.place[lead:], whole.aval.shape
    aval = jax.ShapeDtypeStruct(_jaxpr.sizes(place), whole.aval.dtype)
    return View(whole.leaf, aval).at(place, shape)


def _identity(
    views: Sequence[View],
    atom: _jaxpr.Variable,
    eqn: _jaxpr.Equation | None = None,
    kind: Kind = RETURNED,
) -> Site:
    """A site where views leave the program, or enter an equation, as they are."""
    uses = [Use((0, r), view, part_of(kind, view.place)) for r, view in enumerate(views)]
    return Site(tuple(uses), (_jaxpr.shape_dtype(atom),), eqn)


# How much a backward pass meets


def largest(program: Program, dependent: Sequence[bool]) -> int:
    """Bytes of the largest cotangent of a backward pass: as large as the value that it belongs to.

    `dependent`: the arguments that are parameters, or computed from them. What only moves a
    parameter's entries has no cotangent.
    """
    tainted = {v for v, d in zip(program.jaxpr.invars, dependent, strict=True) if d}
    most = 0
    for eqn, action in zip(program.jaxpr.equations, program.actions, strict=True):
        reached = [not _jaxpr.is_literal(v) and v in tainted for v in eqn.invars]
        if not any(reached) or _jaxpr.stops_gradient(eqn):
            continue
        tainted |= set(_jaxpr.affected(eqn))
        if isinstance(action, Call):
            most = max(most, largest(action.body, reached))
        elif isinstance(action, Loop):
            most = max(most, largest(action.body, [True] * len(action.scan.body.invars)))
        elif not isinstance(action, Step):
            most = max(most, _jaxpr.largest(eqn))
    return most


# For a person to read


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
        if isinstance(action, (Site, Loop)):
            for _, site in action.entered:
                yield from _describe_site(site)
    for _, site in program.returned:
        yield from _describe_site(site)


def _describe_site(site: Site) -> Iterator[Found]:
    for use in site.uses:
        primitive = "return" if site.eqn is None else _jaxpr.title(site.eqn)
        where = "" if site.eqn is None else _jaxpr.source(site.eqn)
        why = ""
        if use.kind.name == "generic":
            why = f"there is no factored form for {primitive}"
        elif use.kind.factored and not use.view.isometric:
            why = f"its entries are repeated before they enter {primitive}"
        elif use.kind.factored and isinstance(use.kind, Part):
            why = f"it is joined with others before it enters {primitive}"
        yield Found(use.view.leaf, use.kind.name, primitive, where, why)
