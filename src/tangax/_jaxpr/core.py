"""What a jaxpr looks like: equations, names, calls and loops. The same on every version of JAX."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.ref
from jax.extend import core as jex

_CALLS = frozenset({"jit", "pjit", "remat2", "checkpoint", "closed_call", "call", "core_call"})


_CALLS |= {"core_closed_call", "eval_jaxpr"}


Equation = Any


Variable = Any


@dataclass(frozen=True)
class Jaxpr:
    """A jaxpr and the values of its constants."""

    jaxpr: Any
    consts: tuple[Any, ...]

    @property
    def equations(self) -> Sequence[Equation]:
        return self.jaxpr.eqns

    @property
    def invars(self) -> Sequence[Variable]:
        return self.jaxpr.invars

    @property
    def outvars(self) -> Sequence[Variable]:
        return self.jaxpr.outvars

    def environment(
        self, args: Sequence[Any], constant: Callable[[Any], Any] = lambda value: value
    ) -> dict[Variable, Any]:
        """The values of arguments, and of constants or what is made of them."""
        env = dict(zip(self.jaxpr.constvars, map(constant, self.consts), strict=True))
        return env | dict(zip(self.jaxpr.invars, args, strict=True))


def trace(f: Callable[..., Any], *args: Any) -> Jaxpr:
    """The jaxpr of `f` at arguments or shapes."""
    return unwrap(jax.make_jaxpr(f)(*args))


def frozen(f: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """`f` as traced once at `args`: what it raises, it raises now, and it is not called again."""
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
    jaxpr, treedef = unwrap(closed), jax.tree.structure(shapes)

    def replay(*args: Any) -> Any:
        return jax.tree.unflatten(treedef, replayed(jaxpr, jax.tree.leaves(args), bind))

    return replay


def replayed(
    jaxpr: Jaxpr, args: Sequence[Any], one: Callable[[Equation, Sequence[Any]], list[Any]]
) -> list[Any]:
    """The results of a jaxpr, its equations evaluated by `one`."""
    env = jaxpr.environment(args)
    for eqn in jaxpr.equations:
        values = [read(env, v) for v in eqn.invars]
        env |= dict(zip(eqn.outvars, one(eqn, values), strict=True))
    return [read(env, v) for v in jaxpr.outvars]


def evaluated(jaxpr: Jaxpr, args: Sequence[Any]) -> list[Any]:
    """The results of a jaxpr as JAX evaluates it: what our own evaluation is compared with."""
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr.jaxpr, list(jaxpr.consts)))(*args)


def unwrap(closed: Any) -> Jaxpr:
    """A closed or an open jaxpr; JAX 0.12 has one class for both."""
    return Jaxpr(getattr(closed, "jaxpr", closed), tuple(getattr(closed, "consts", ())))


def is_literal(atom: Any) -> bool:
    """Whether `atom` is a value rather than a variable."""
    return isinstance(atom, jex.Literal)


def is_primitive(value: Any) -> bool:
    return isinstance(value, jex.Primitive)


def read(env: dict[Variable, Any], atom: Any) -> Any:
    return atom.val if is_literal(atom) else env[atom]


def shape_dtype(atom: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)


def is_differentiable(atom: Any) -> bool:
    """Whether a variable holds floating-point or complex numbers."""
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)


def is_reference(atom: Any) -> bool:
    """Whether a variable is a `jax.Ref`, which equations read and write in place."""
    return isinstance(atom.aval, jax.ref.AbstractRef)


def affected(eqn: Equation) -> list[Variable]:
    """What an equation may change: its results, and the `Ref`s among its operands."""
    return [*eqn.outvars, *filter(is_reference, eqn.invars)]


def has_references(jaxpr: Jaxpr) -> bool:
    """Whether equations of a jaxpr, not only of those within it, read or write a `Ref`."""
    return any(is_reference(v) for eqn in jaxpr.equations for v in affected(eqn))


def name(eqn: Equation) -> str:
    return eqn.primitive.name


def title(eqn: Equation) -> str:
    """What a person is shown of an equation."""
    return name(eqn)


def bind(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation; custom derivative rules and rematerialisation stay in force.

    So does what `f` had set around it, as `jax.threefry_partitionable`.
    """
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ([], bound)
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*functions, *values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def source(eqn: Equation) -> str:
    """The user's line that made the equation, `file.py:12`, or nothing."""
    traceback = getattr(getattr(eqn, "source_info", None), "traceback", None)
    here = os.path.dirname(os.path.dirname(__file__))
    ours = (os.path.dirname(jax.__file__) + os.sep, here + os.sep)
    for frame in getattr(traceback, "frames", ()):
        file = getattr(frame, "file_name", "")
        if file and not file.startswith((*ours, "<")):
            line = getattr(frame, "start_line", None) or getattr(frame, "line_num", "?")
            return f"{os.path.basename(file)}:{line}"
    return ""


def subjaxprs(eqn: Equation) -> list[Any]:
    """Jaxprs among an equation's parameters: branches of a `cond`, bodies of custom rules."""

    def among(value: Any) -> list[Any]:
        if isinstance(value, (tuple, list, dict)):
            values = value.values() if isinstance(value, dict) else value
            return [body for v in values for body in among(v)]
        return [value] if is_jaxpr(value) else []

    return among(eqn.params)


def holds(jaxpr: Jaxpr, test: Callable[[Equation], bool]) -> bool:
    """Whether an equation of a jaxpr, or of one within it, passes a test."""
    return any(
        test(eqn) or any(holds(unwrap(body), test) for body in subjaxprs(eqn))
        for eqn in jaxpr.equations
    )


def is_jaxpr(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def called(eqn: Equation) -> Jaxpr | None:
    """The body of a call that may be inlined (`jit`, `checkpoint`), else nothing."""
    if name(eqn) not in _CALLS:
        return None
    body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return None if body is None else unwrap(body)


@dataclass(frozen=True)
class Scan:
    """A `scan`: its body, and how its operands and results divide into consts, carry, xs and ys."""

    body: Jaxpr
    consts: int
    carry: int
    length: int
    reverse: bool
    unroll: int | bool

    def parts(self, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Operands as consts, carry and xs."""
        first = self.consts + self.carry
        return list(values[: self.consts]), list(values[self.consts : first]), list(values[first:])

    def run(self, step: Callable[..., Any], init: Any, xs: Any) -> Any:
        """The same scan of another step."""
        return jax.lax.scan(
            step, init, xs, length=self.length, reverse=self.reverse, unroll=self.unroll
        )


def scan(eqn: Equation) -> Scan | None:
    """The parts of a `scan`, else nothing.

    JAX 0.12 has no `num_consts` and `num_carry`. On every version `ys` and `xs` have one dimension
    more in the equation than in the body, and consts and carry have the same.
    """
    if name(eqn) != "scan":
        return None
    body = unwrap(eqn.params["jaxpr"])
    stacked = [
        len(outer.aval.shape) > len(inner.aval.shape)
        for outer, inner in zip(eqn.invars, body.invars, strict=True)
    ]
    carry = sum(
        len(outer.aval.shape) == len(inner.aval.shape)
        for outer, inner in zip(eqn.outvars, body.outvars, strict=True)
    )
    params = eqn.params
    return Scan(
        body,
        consts=len(stacked) - sum(stacked) - carry,
        carry=carry,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
