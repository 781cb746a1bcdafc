"""The normal form of a leaf's Jacobian for one example.

    df_o/dw[k,i,j] = sum_s A[s,k,i] G[o,s,k,j]

either kept as `Factored(A, G)` or built as `Materialised(J)`, in the leaf's own shape.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ... import _jaxpr
from ..views import View


@dataclass(frozen=True)
class Layout:
    """Where the entries of a weight stand in `[k, i, j]`.

    Equal keys mean equal places: such factors add along `s`. `to_leaf` maps `[o, k, i, j]` back to
    `[o, *shape]`. `bounds` is the part of the leaf that the weight is a slice of, if it is one:
    `(start, limit)` for each axis.
    """

    key: tuple[Any, ...]
    to_leaf: Callable[[jax.Array], jax.Array] = field(compare=False, repr=False)
    bounds: tuple[tuple[int, int], ...] | None = None


@partial(jax.tree_util.register_dataclass, data_fields=["ids"], meta_fields=["size"])
@dataclass(frozen=True)
class OneHot:
    """One-hot rows, never built: `A[s,k,i] = (ids[s,k] == i)`; an id of `size` is no row."""

    ids: jax.Array
    size: int


@partial(jax.tree_util.register_dataclass, data_fields=["A", "G"], meta_fields=["layout"])
@dataclass(frozen=True)
class Factored:
    """`A: [s, k, i]` or one-hot, `G: [o, s, k, j]`."""

    A: jax.Array | OneHot
    G: jax.Array
    layout: Layout


@partial(jax.tree_util.register_dataclass, data_fields=["J"], meta_fields=["layout"])
@dataclass(frozen=True)
class Materialised:
    """`J: [o, *shape]`; with a layout of the part of the leaf that it says, zero elsewhere."""

    J: jax.Array
    layout: Layout | None = None


Factor = Factored | Materialised


def cotangent(factor: Factor) -> jax.Array:
    """What of a factor depends on the output: `G` or `J`."""
    return factor.J if isinstance(factor, Materialised) else factor.G


def with_cotangent(factor: Factor, array: Any) -> Factor:
    if isinstance(factor, Materialised):
        return replace(factor, J=array)
    return replace(factor, G=array)


def examples(factor: Factor) -> int:
    return cotangent(factor).shape[0]


def outputs(factor: Factor) -> tuple[int, ...]:
    """The numbers of diagonal, traced and free outputs, once they are unfolded."""
    return cotangent(factor).shape[1:4]


def groups(factor: Factor) -> int:
    """The extent of `k`; one of a materialised factor."""
    return 1 if isinstance(factor, Materialised) else factor.G.shape[-2]


def units(factor: Factor) -> int:
    """The extent of `j`; one of a materialised factor."""
    return 1 if isinstance(factor, Materialised) else factor.G.shape[-1]


def is_one_hot(factor: Factor) -> bool:
    """Whether its `A` are one-hot rows."""
    return isinstance(factor, Factored) and isinstance(factor.A, OneHot)


def alike(f1: Factor, f2: Factor) -> bool:
    """Whether two factored Jacobians have one layout, and so meet in normal form."""
    if isinstance(f1, Materialised) or isinstance(f2, Materialised):
        return False
    return f1.layout == f2.layout


class Kind(Protocol):
    """A kind of site, of one example: its name, what it records going forward, its factors."""

    @property
    def name(self) -> str:
        """What `explain` calls it."""
        ...

    @property
    def factored(self) -> bool:
        """Whether such an operand has a product for a Jacobian."""
        ...

    def record(self, values: list[Any]) -> Any:
        """What is needed of the equation's operands."""
        ...

    def factor(self, record: Any, cotangents: list[jax.Array]) -> Factor:
        """The factors of the operand, from `[o, *y.shape]` for each differentiable result `y`."""
        ...


def product(factor: Factored) -> jax.Array:
    """`[o, k, i, j]`, the Jacobian in normal form."""
    A, G = factor.A, factor.G
    dtype = jnp.promote_types(G.dtype, jnp.float32)  # shorter floats are accumulated in float32
    if isinstance(A, OneHot):
        o, _, k, j = G.shape
        zeros = jnp.zeros((k, A.size, o, j), dtype)
        rows = zeros.at[jnp.arange(k), A.ids].add(
            jnp.transpose(G, (1, 2, 0, 3)).astype(dtype), mode="drop"
        )
        return jnp.transpose(rows, (2, 0, 1, 3))
    return jnp.einsum("ski,oskj->okij", A, G, preferred_element_type=dtype)


def materialise(factor: Factor) -> jax.Array:
    """`[o, *shape]`, the whole leaf."""
    if isinstance(factor, Factored):
        return factor.layout.to_leaf(product(factor))
    return factor.J if factor.layout is None else factor.layout.to_leaf(factor.J)


def scaled(factor: Factor, scale: Any) -> Factor:
    """The factor of `scale * w`, given that of `w`: one-hot rows leave the scale to `G`."""
    if isinstance(factor, Materialised):
        return replace(factor, J=scale * factor.J)
    if isinstance(factor.A, OneHot):
        return replace(factor, G=scale * factor.G)
    return replace(factor, A=scale * factor.A)


def real(factor: Factor) -> Factor:
    """The factor as real floating-point numbers of at least 16 bits.

    Where complex data meets a real weight, `J = Re(A G) = Re A Re G - Im A Im G` is a product of
    twice as many positions. Integers are data, too, and shorter floats are for storage.
    """
    if isinstance(factor, Materialised):
        return replace(factor, J=_computable(jnp.real(factor.J)))
    A, G = factor.A, factor.G
    if isinstance(A, OneHot):
        return replace(factor, G=_computable(jnp.real(G)))
    if jnp.iscomplexobj(A) and jnp.iscomplexobj(G):
        A = jnp.concatenate([jnp.real(A), jnp.imag(A)], 0)
        G = jnp.concatenate([jnp.real(G), -jnp.imag(G)], 1)
    G = _computable(jnp.real(G))
    return replace(factor, A=_computable(jnp.real(A), G.dtype), G=G)


def _computable(array: jax.Array, other: Any = jnp.float32) -> jax.Array:
    """Floating-point numbers with which devices compute; integers take the other's dtype."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(jnp.promote_types(other, jnp.float32))
    return array if array.dtype.itemsize > 1 else array.astype(jnp.float32)


def _common(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The arrays in the dtype to which they are promoted."""
    dtype = functools.reduce(jnp.promote_types, (a.dtype for a in arrays))
    return [a.astype(dtype) for a in arrays]


def pulled_back(factor: Factor, view: View) -> Factor:
    """The factor of `w`, given that of `view(w)`.

    A view that repeats entries has no normal form. A Jacobian of a slice stays as small as it is.
    """
    if not view.steps:
        return factor
    inner, bounds = factor.layout, view.bounds
    if not view.isometric or (isinstance(factor, Materialised) and bounds is None):
        return Materialised(view.pull(materialise(factor)))
    shape = factor.J.shape[1:] if isinstance(factor, Materialised) else None

    def to_leaf(M: jax.Array) -> jax.Array:
        if shape is not None:  # as it was before it was flattened
            M = M.reshape(M.shape[0], *shape)
        return view.pull(M if inner is None else inner.to_leaf(M))

    key = (None if inner is None else inner.key, view.key)
    return replace(factor, layout=Layout(key, to_leaf, bounds))


def over_time(stack: Factor) -> Factor:
    """Steps of a loop that use the same weight: `[l, ...]` factors with `l` moved into `s`."""
    if isinstance(stack, Materialised):
        return replace(stack, J=stack.J.sum(0))
    G = jnp.moveaxis(stack.G, 0, 1)
    G = G.reshape(G.shape[0], G.shape[1] * G.shape[2], *G.shape[3:])
    A = jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), stack.A)
    return replace(stack, A=A, G=G)


def over_layers(stack: Factor) -> Factor:
    """Steps of a loop that use a slice of a stack each: `[l, ...]` factors, `l` moved into `k`."""
    if isinstance(stack, Materialised):
        return Materialised(jnp.moveaxis(jax.vmap(materialise)(stack), 0, 1))
    length = stack.G.shape[0]
    G = jnp.moveaxis(stack.G, 0, 2)
    G = G.reshape(*G.shape[:2], G.shape[2] * G.shape[3], G.shape[4])

    def into_k(a: jax.Array) -> jax.Array:
        a = jnp.moveaxis(a, 0, 1)
        return a.reshape(a.shape[0], a.shape[1] * a.shape[2], *a.shape[3:])

    inner = stack.layout

    def to_leaf(M: jax.Array) -> jax.Array:
        M = M.reshape(M.shape[0], length, M.shape[1] // length, *M.shape[2:])
        return jax.vmap(inner.to_leaf, in_axes=1, out_axes=1)(M)

    layout = Layout(("layers", length, inner.key), to_leaf)
    return Factored(jax.tree.map(into_k, stack.A), G, layout)


def grouped(factors: list[Factor]) -> list[Factor]:
    """The factors of all sites of a leaf, as few as have no cross terms with each other.

    Equal layouts join along `s`, or are added. What then overlaps is materialised and added: all
    cross terms between the sites belong to the kernel. Slices that share no entry stay apart.
    """
    groups: dict[Any, list[Factor]] = {}
    for f in factors:
        A = f.A if isinstance(f, Factored) else None
        groups.setdefault((f.layout, jax.tree.structure(A)), []).append(f)
    apart: list[list[Factor]] = []
    for f in map(joined, groups.values()):
        meets = [not all(disjoint(f, g) for g in part) for part in apart]
        touching = itertools.chain(*itertools.compress(apart, meets))
        apart = [*itertools.compress(apart, map(operator.not_, meets)), [*touching, f]]
    return [part[0] if len(part) == 1 else added(part) for part in apart]


def joined(group: list[Factor]) -> Factor:
    """Factors of equal layout as one: along `s`, or added."""
    if len(group) == 1:
        return group[0]
    arrays = _common([cotangent(f) for f in group])
    factored = [f for f in group if isinstance(f, Factored)]
    if not factored:
        return with_cotangent(group[0], functools.reduce(jnp.add, arrays))
    A = jax.tree.map(lambda *a: jnp.concatenate(_common(a), 0), *(f.A for f in factored))
    return replace(factored[0], A=A, G=jnp.concatenate(arrays, 1))


def added(part: list[Factor]) -> Materialised:
    """The sum of factors that share entries, of as much of the leaf as they reach."""
    J = functools.reduce(jnp.add, _common(list(map(materialise, part))))
    layouts = [f.layout for f in part if f.layout is not None]
    bounds = [layout.bounds for layout in layouts if layout.bounds is not None]
    if len(bounds) < len(part):
        return Materialised(J)
    box = tuple(
        (min(a for a, _ in axis), max(b for _, b in axis)) for axis in zip(*bounds, strict=True)
    )
    pads = [(a, d - b, 0) for (a, b), d in zip(box, J.shape[1:], strict=True)]
    shape = _jaxpr.sizes(box)

    def to_leaf(M: jax.Array) -> jax.Array:
        M = M.reshape(M.shape[0], *shape)
        return jax.lax.pad(M, jnp.zeros((), M.dtype), [(0, 0, 0), *pads])

    J = J[:, *(slice(a, b) for a, b in box)]
    return Materialised(J, Layout(("sum", *(layout.key for layout in layouts)), to_leaf, box))


def disjoint(f: Factor, g: Factor) -> bool:
    """Whether two factors are of slices of the leaf that share no entry."""
    bounds = [h.layout and h.layout.bounds for h in (f, g)]
    if not all(bounds):
        return False
    return any(
        limit1 <= start2 or limit2 <= start1
        for (start1, limit1), (start2, limit2) in zip(*bounds, strict=True)
    )
