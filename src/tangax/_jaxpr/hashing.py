"""What a jaxpr computes, as a hash: equal in any process, different for two that differ.

What stands in an equation is told by its value. Of a Python function there is only a name, so it is
refused unless a trace has shown what it does, or compiling the equation does.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp

from .core import (
    Equation,
    Jaxpr,
    Variable,
    affected,
    bind,
    is_jaxpr,
    is_literal,
    name,
    shape_dtype,
    source,
    trace,
    unwrap,
)
from .values import Unseen, combined, reference, told

# Parameters that need not be told. Rules of derivation: a trace of the derivative has followed
# them. Others change no number, or stand beside their own jaxpr.
_SHOWN = {
    "custom_jvp_call": {"jvp_jaxpr_fun"},
    "custom_vjp_call": {"fwd_jaxpr_thunk", "bwd", "out_trees"},
    "linear_call": {"transpose_thunk"},
    "remat_opt": {"fun_jaxpr_thunk"},
    "remat2": {"policy"},
    "checkpoint": {"policy"},
    "reduce": {"computation"},
    "jit": {"name", "inline"},
    "pallas_call": {"name", "name_and_src_info"},
}

# What no trace of `f` shows, whatever the equation itself computes, and what to do about it.
_HIDDEN = {
    "custom_vmap_call": ("a rule for vmap", "write it without custom_vmap"),
    "custom_lin": (
        "the backward rule of a custom_vjp, in an f that has no reverse mode",
        "give its loops a fixed length, or write it with custom_jvp",
    ),
}
# The same of a derivative that was traced in forward mode alone.
_HIDDEN_FORWARD = _HIDDEN | {
    "linear_call": (
        "a rule for transposing, in an f that has no reverse mode",
        "give its loops a fixed length, or write it without linear_call",
    )
}


def digest(jaxpr: Jaxpr, *, forward: bool = False, inside: tuple[Any, ...] = ()) -> bytes:
    """A hash of equations, parameters, and the values of constants; variables count in order.

    `forward`: the derivative was traced in forward mode alone. `inside`: primitives whose
    implementation this is. `ValueError` for an equation that could compute anything.
    """
    numbers: dict[Variable, int] = {}
    nested = functools.partial(digest, forward=forward)

    def value(v: Any) -> bytes:
        return told(v, lambda v: nested(unwrap(v), inside=inside) if is_jaxpr(v) else None)

    def atom(a: Any) -> bytes:
        known = value(a.val) if is_literal(a) else numbers.setdefault(a, len(numbers))
        return combined("atom", known, str(a.aval))

    def parameters(eqn: Equation) -> list[Any]:
        told_of = []
        for key in sorted(set(eqn.params) - _SHOWN.get(name(eqn), set())):
            try:
                told_of += [key, value(eqn.params[key])]
            except Unseen as unseen:
                body = implementation(eqn, inside)
                if body is not None:
                    return ["as", nested(body, inside=(*inside, eqn.primitive))]
                if affected(eqn):  # else it cannot change any result
                    told_of += [key, _compiled(eqn, f"{unseen} (its {key})")]
        return told_of

    def equation(eqn: Equation) -> bytes:
        hidden = (_HIDDEN_FORWARD if forward else _HIDDEN).get(name(eqn))
        if hidden is not None:
            raise _refusal(eqn, *hidden)
        if reference(eqn.primitive) is None:
            raise _refusal(eqn, "a primitive of your own", "write it in terms of JAX's")
        if any(_has_own_keys(v) for v in (*eqn.invars, *eqn.outvars)):
            raise _refusal(eqn, "a generator of random numbers of your own", "use one of JAX's")
        atoms = map(atom, (*eqn.invars, *eqn.outvars))
        set_around = [eqn.ctx.threefry_partitionable] if any(map(_is_key, eqn.invars)) else []
        return combined(name(eqn), len(eqn.invars), *parameters(eqn), *set_around, *atoms)

    constants = [value(c) for c in jaxpr.consts]
    bound = list(map(atom, (*jaxpr.jaxpr.constvars, *jaxpr.invars)))
    equations = list(map(equation, jaxpr.equations))
    results = list(map(atom, jaxpr.outvars))
    counts = [len(part) for part in (constants, bound, equations, results)]
    return combined("jaxpr", *counts, *constants, *bound, *equations, *results)


def _is_key(atom: Any) -> bool:
    dtype = getattr(atom.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _has_own_keys(atom: Any) -> bool:
    return _is_key(atom) and str(atom.aval.dtype) not in ("key<fry>", "key<rbg>", "key<urbg>")


def implementation(eqn: Equation, inside: tuple[Any, ...]) -> Jaxpr | None:
    """What the primitive of a package, none of JAX's, computes; nothing if it will not be traced.

    That of one of JAX's would call Python functions.
    """
    known = reference(eqn.primitive)
    if eqn.primitive in inside or known is None or known.split(".")[0] == "jax":
        return None
    try:
        return trace(lambda *values: eqn.primitive.impl(*values, **eqn.params), *_shapes(eqn))
    except Exception:  # whatever it needs around it
        return None


def _compiled(eqn: Equation, what: str) -> str:
    """The program that an equation compiles to; `ValueError` if that calls Python."""
    try:
        text = jax.jit(lambda *values: bind(eqn, values)).lower(*_shapes(eqn)).as_text()
    except Exception as error:  # whatever it needs around it
        raise _refusal(eqn, what, "write it without") from error
    if re.search(r"custom_call\s*@\w*callback", text):
        raise _refusal(eqn, what, "write it in JAX")
    return text


def _shapes(eqn: Equation) -> list[jax.ShapeDtypeStruct]:
    return list(map(shape_dtype, eqn.invars))


def _refusal(eqn: Equation, what: str, mend: str) -> ValueError:
    line = source(eqn)
    at = f" at {line}" if line else ""
    return ValueError(
        f"store= must tell f from any other function, but '{name(eqn)}'{at} calls {what}, and what "
        f"that computes is not to be seen: the store could return another function's kernel. "
        f"{mend[0].upper()}{mend[1:]}, or leave store= out."
    )
