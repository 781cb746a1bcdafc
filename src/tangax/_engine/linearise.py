"""The Jacobian of `f` over the examples of one side, in factors: of all outputs, or block by block.

`Linear` holds what one forward pass leaves behind and takes the factors of any outputs on demand;
`Factors` holds those of all outputs, and is what a user may keep.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .. import _jaxpr
from .._arguments.sides import Pair, Side
from .._shared import derivatives
from .._shared.memory import nbytes
from .._shared.meshes import shape_like, varying, varying_axes
from .._shared.trees import kernel_dtype
from .._shared.tuning import tuning
from . import evaluate
from .kinds import Factor, Factored, Materialised, cotangent, with_cotangent
from .output_axes import even, loop
from .plan import Load
from .program import Program, describe, find, largest

logger = logging.getLogger("tangax")

ByLeaf = list[list[Factor]]


@dataclass(frozen=True)
class Meta:
    """What is static of one side's factors: outputs by name, shape, batch axis; the tree.

    `leaves`: path and shape of every parameter.
    """

    leaves: tuple[tuple[str, tuple[int, ...]], ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    out_axes: tuple[int | None, ...]
    dtypes: tuple[Any, ...]
    treedef: Any

    def sizes(self) -> list[int]:
        """The number of outputs of one example, for each output of `f`."""
        return [
            math.prod(d for a, d in enumerate(shape) if a != axis)
            for shape, axis in zip(self.shapes, self.out_axes, strict=True)
        ]


class Source(Protocol):
    """The factors of one side."""

    @property
    def meta(self) -> Meta:
        """What is static."""
        ...

    @property
    def outputs(self) -> list[jax.Array]:
        """`f(params, x)`, leaf by leaf."""
        ...

    def whole(self) -> Factors:
        """The factors of all outputs."""
        ...

    def block(self, output: int, index: Any) -> ByLeaf:
        """The factors, `[n, len(index), ...]`, of some of the entries of one output of `f`."""
        ...

    def held(self) -> Source:
        """What does not depend on the outputs asked for, computed now."""
        ...

    @property
    def unit(self) -> ByLeaf:
        """The shapes of the factors of a single entry of any output."""
        ...

    def load(self) -> Load:
        """The bytes held."""
        ...


@partial(jax.tree_util.register_dataclass, data_fields=["outputs", "by_leaf"], meta_fields=["meta"])
@dataclass(frozen=True)
class Factors:
    """The Jacobian of `f` over the examples of one input, factored leaf by leaf.

    `outputs` are `f(params, x)`, leaf by leaf; `by_leaf` holds, for every floating-point leaf of
    the parameters, its factors with a leading axis of examples.
    """

    outputs: list[jax.Array]
    by_leaf: ByLeaf
    meta: Meta

    def whole(self) -> Factors:
        """Themselves."""
        return self

    def block(self, output: int, index: Any) -> ByLeaf:
        """Some of the entries of one output."""
        sizes = self.meta.sizes()
        start, count = sum(sizes[:output]), sizes[output]
        if isinstance(index, np.ndarray) and np.array_equal(index, np.arange(count)):
            return on_cotangents(lambda G: G[:, start : start + count], self.by_leaf)
        return on_cotangents(lambda G: jnp.take(G, start + index, axis=1), self.by_leaf)

    def held(self) -> Factors:
        """Themselves."""
        return self

    @property
    def unit(self) -> ByLeaf:
        """The shapes of the factors of a single entry of any output."""
        one = self.by_leaf if self.meta.shapes else []
        return jax.eval_shape(lambda: on_cotangents(lambda G: G[:, :1], one))

    def load(self) -> Load:
        """Blocks of them are copies; they themselves are the caller's."""
        output = nbytes([cotangent(f) for leaf in self.unit for f in leaf])
        return Load(0, output, output, sys.maxsize, 0)


@dataclass(frozen=True)
class Linear:
    """`f` linearised at every example of one side: cotangents in, factors out.

    `pullback` takes cotangents of the outputs to those of the zeros added at sites, shaped as
    `taps`; `records`: what the sites kept; `widest`: bytes of the largest array that a backward
    pass meets; `unit`: shapes of the factors of one output; `whole_leaves`: those whose Jacobians
    are taken whole from `f` itself, by `whole_pullback`; `fixed`: the factors `A`, once computed.
    """

    meta: Meta
    outputs: list[jax.Array]
    program: Program
    pullback: Callable[..., Any]
    records: Any
    n: int | None
    taps: Any
    leaves: list[jax.Array]
    widest: int
    unit: ByLeaf
    in_sequence: bool = False
    whole_leaves: tuple[int, ...] = ()
    whole_pullback: Callable[..., Any] = lambda seeds: ([],)
    fixed: list[list[Any]] | None = None

    def whole(self) -> Factors:
        """The factors of all outputs, from one backward pass for each."""
        total = sum(self.meta.sizes())
        return Factors(self.outputs, self._of_entries(np.arange(total)), self.meta)

    def block(self, output: int, index: Any) -> ByLeaf:
        """Some of the entries of one output."""
        return self._of_entries(sum(self.meta.sizes()[:output]) + index)

    def _of_entries(self, index: Any) -> ByLeaf:
        """Some of the entries of all outputs in a row: as many at a time as `chunk` says."""
        some = even(len(index), self.chunk)
        if some.whole:
            return self._pulled(index)
        index, source = jnp.asarray(index), self if self.fixed else self.held()

        def part(start: Any) -> ByLeaf:
            return source._pulled(jax.lax.dynamic_slice(index, (start,), (some.size,)))

        def filled(by_leaf: ByLeaf, start: Any) -> ByLeaf:
            def put(G: jax.Array, new: jax.Array) -> jax.Array:
                return jax.lax.dynamic_update_slice_in_dim(G, new, start, 1)

            return on_cotangents(put, by_leaf, part(start))

        def room(G: Any) -> jax.Array:
            shape = (G.shape[0], len(index), *G.shape[2:])
            return varying(jnp.zeros(shape, G.dtype), varying_axes(self.outputs))

        return loop(filled, on_cotangents(room, source._with_fixed(source.unit)), some.starts)

    def _pulled(self, index: Any) -> ByLeaf:
        """Some of the entries, at once."""
        cotangents, start = [], 0
        for y in self._examples():
            rows = index[:, None] == start + np.arange(y.size)
            cotangents.append(jnp.asarray(rows, y.dtype).reshape(len(index), *y.shape))
            start += y.size
        return self._with_fixed(self.taken(cotangents))

    def _with_fixed(self, by_leaf: ByLeaf) -> ByLeaf:
        """With the factors `A` that were computed before, if they were."""
        if self.fixed is None:
            return by_leaf
        return [
            [f if A is None else replace(f, A=A) for f, A in zip(*leaf, strict=True)]
            for leaf in zip(by_leaf, self.fixed, strict=True)
        ]

    @property
    def chunk(self) -> int:
        """How many outputs are pulled back at a time."""
        if self.slow_in_loops:
            return sys.maxsize
        return max(1, tuning().pulled // max(1, self.widest))

    @property
    def slow_in_loops(self) -> bool:
        """Whether there are convolutions, and they are slower so, and with channels in front."""
        return not tuning().any_convolution and _jaxpr.convolves(self.program.jaxpr)

    def held(self) -> Linear:
        """The same, with the factors that do not depend on the outputs computed once."""
        by_leaf = self._pulled(jnp.zeros(1, int))
        fixed = [[f.A if isinstance(f, Factored) else None for f in leaf] for leaf in by_leaf]
        return replace(self, fixed=fixed)

    def load(self) -> Load:
        """Residuals, records and `A`; for each output its cotangents, and factors made of them."""
        factors = [f for leaf in self.unit for f in leaf]
        fixed = [f.A for f in factors if isinstance(f, Factored)]
        kept = [self.outputs, self.records, fixed, jax.tree.leaves(self.pullback)]
        own = {id(leaf) for leaf in self.leaves}
        arrays = [a for a in jax.tree.leaves(kept) if id(a) not in own]
        seeds = nbytes(self.outputs) + nbytes(self._examples())
        kept = nbytes(list(map(cotangent, factors)))
        steps = _jaxpr.equations(self.program.jaxpr)
        return Load(nbytes(arrays), seeds + nbytes(self.taps) + kept, kept, self.chunk, steps)

    def _examples(self) -> Sequence[jax.ShapeDtypeStruct]:
        """The outputs of one example."""
        return [
            jax.ShapeDtypeStruct([d for a, d in enumerate(y.shape) if a != axis], y.dtype)
            for y, axis in zip(self.outputs, self.meta.out_axes, strict=True)
        ]

    def cotangents(self) -> list[jax.ShapeDtypeStruct]:
        """The shapes that `pullback` takes."""
        n = () if self.n is None else (self.n,)
        return [jax.ShapeDtypeStruct((*n, *y.shape), y.dtype) for y in self._examples()]

    def taken(self, cotangents: list[jax.Array]) -> ByLeaf:
        """The factors for cotangents `[o, *output.shape]` of one example, the same for all."""
        n = () if self.n is None else (self.n,)

        def pull(e: list[jax.Array]) -> tuple[list[Any], list[Any]]:
            seeds = [jnp.broadcast_to(a, (*n, *a.shape)) for a in e]
            pairs = zip(seeds, self.outputs, strict=True)
            seeds = [varying(a, varying_axes(y)) for a, y in pairs]
            return self.pullback(seeds)[0], self.whole_pullback(seeds)[0]

        def collected(G: list[Any], records: list[Any]) -> ByLeaf:
            return evaluate.collected(self.program, len(self.leaves), G, records)

        every = derivatives.in_turn(pull) if self.in_sequence else jax.vmap(pull)
        if self.slow_in_loops:
            every = _jaxpr.channels_last(every)
        G, whole = every(cotangents)
        found: ByLeaf
        if self.n is None:
            found = jax.tree.map(lambda a: a[None], collected(G, self.records))
        else:
            found = jax.vmap(collected, in_axes=(1, 0), axis_size=self.n)(G, self.records)
        for leaf, J in zip(self.whole_leaves, whole, strict=True):
            J = J[:, None] if self.n is None else J
            J = jnp.swapaxes(J, 0, 1).reshape(*J.shape[1::-1], self.leaves[leaf].size)
            found[leaf] = [Materialised(J)]
        return found


def on_cotangents(function: Callable[..., jax.Array], by_leaf: ByLeaf, *others: ByLeaf) -> ByLeaf:
    """`function` of every `G` or `J`, and of those of others, in place of it."""
    return [
        [
            with_cotangent(f, function(*map(cotangent, (f, *rest))))
            for f, *rest in zip(*leaf, strict=True)
        ]
        for leaf in zip(by_leaf, *others, strict=True)
    ]


def unfactored(source: Source) -> dict[int, str]:
    """By leaf, what keeps it from being factored."""
    if not isinstance(source, Linear):
        return {}
    return {site.leaf: site.why for site in describe(source.program) if site.why}


def check_halves(first: Any, second: Any) -> None:
    """Refuse what are not the factors of one function at two inputs."""
    for name, factors in (("factors1", first), ("factors2", second)):
        if not isinstance(factors, Factors):
            msg = f"{name} must come from ntk_fn.factors(x, params), got {type(factors).__name__}."
            raise TypeError(msg)
        for output, y, shape in zip(
            factors.meta.names, factors.outputs, factors.meta.shapes, strict=True
        ):
            if y.shape != shape:
                raise ValueError(
                    f"{name} were cut or joined: {output} had shape {shape}, now {y.shape}. "
                    "Take factors of each block of examples."
                )
    of_one, of_two = first.meta, second.meta
    if of_one.leaves != of_two.leaves:
        odd = min(set(of_one.leaves) ^ set(of_two.leaves))
        msg = f"factors1 and factors2 are of different parameters: {odd[0]} {odd[1]} is in one."
        raise ValueError(msg)
    if of_one.treedef != of_two.treedef:
        msg = f"factors1 and factors2 have outputs {of_one.treedef} and {of_two.treedef}."
        raise ValueError(msg)


# Linearising


def trace_side(side: Side, leaves: list[jax.Array]) -> Program:
    """The program of one example."""
    data = [
        shape_like(d, (*d.shape[:a], *d.shape[a + 1 :]))
        for d, a in zip(side.data, side.axes, strict=True)
    ]
    return find(_jaxpr.trace(side.example, leaves, data), len(leaves))


def meta_of(pair: Pair, side: Side) -> Meta:
    """What is static of one side."""
    leaves = pair.params.leaves
    paths = zip(pair.params.paths, (a.shape for a in leaves), strict=True)
    return Meta(
        leaves=tuple(paths),
        names=tuple(pair.names),
        shapes=tuple(y.shape for y in side.outputs),
        out_axes=tuple(side.out_axes),
        dtypes=tuple(kernel_dtype(y, *leaves) for y in side.outputs),
        treedef=pair.treedef,
    )


def linearise(pair: Pair, side: Side, whole: Collection[str] = ()) -> Source:
    """The factors of one side, on demand; all at once where `f` has no reverse mode.

    `whole`: paths of leaves whose factors are not to be trusted.
    """
    leaves, meta = pair.params.leaves, meta_of(pair, side)
    program = trace_side(side, leaves)
    known = tuple(i for i, path in enumerate(pair.params.paths) if path in whole)
    try:
        return by_reverse_mode(side, leaves, program, meta, known)
    except derivatives.REFUSALS as refusal:
        if not derivatives.has_reverse_mode(lambda w: side.batch(w, side.data), leaves):
            logger.info("f has no reverse mode: its whole Jacobian is taken in forward mode.")
            return by_forward_mode(side, leaves, meta)
        try:
            side = replace(side, in_sequence=True)
            source = by_reverse_mode(side, leaves, program, meta, known)
        except derivatives.REFUSALS:
            raise refusal from None
        logger.info("vmap refuses f: examples and outputs are taken one after the other.")
        return source


def by_reverse_mode(
    side: Side,
    leaves: list[jax.Array],
    program: Program,
    meta: Meta,
    whole: tuple[int, ...],
) -> Linear:
    """One forward pass over all examples, with zeros added at the sites."""

    def run(data: list[jax.Array], taps: list[Any]) -> Any:
        results, _, records = evaluate.run(program, [*leaves, *data], {}, taps)
        return [jnp.asarray(y) for y in results], records

    taps = evaluate.zeros(program)
    if side.n is not None:
        taps = jax.tree.map(lambda z: jnp.zeros((side.n, *z.shape), z.dtype), taps)
    taps = varying(taps, varying_axes(leaves, side.data))
    outputs, pullback, records = jax.vjp(lambda taps: side.map(run, taps), taps, has_aux=True)
    dependent = [True] * len(leaves) + [False] * len(side.data)
    source = Linear(
        meta,
        side.placed(outputs),
        program,
        pullback,
        records,
        side.n,
        taps,
        leaves,
        widest=(side.n or 1) * largest(program, dependent),
        unit=[],
        in_sequence=side.in_sequence,
    )
    if whole:
        pullback = by_whole_leaves(side, leaves, whole)
        source = replace(source, whole_leaves=whole, whole_pullback=pullback)
    if not meta.shapes:
        return source
    return replace(source, unit=jax.eval_shape(lambda: source._pulled(jnp.zeros(1, int))))


def by_whole_leaves(
    side: Side, leaves: list[jax.Array], whole: tuple[int, ...]
) -> Callable[..., Any]:
    """The pull-back of every example's outputs to some leaves, by `jax.vjp` of `f` alone.

    All leaves are perturbed: a rule of the user's may ask which are.
    """
    n = () if side.n is None else (side.n,)
    zeros = [jnp.zeros((*n, *w.shape), w.dtype) for w in leaves]
    zeros = varying(zeros, varying_axes(leaves, side.data))

    def example(data: list[jax.Array], *steps: jax.Array) -> list[jax.Array]:
        # As traced at the leaves: a Python number among them takes the dtype of what it meets.
        f = _jaxpr.frozen(lambda ws: side.example(ws, data), leaves)
        return f([w + step for w, step in zip(leaves, steps, strict=True)])

    pullback = jax.vjp(lambda zeros: side.map(example, *zeros), zeros)[1]

    def some(seeds: Any) -> tuple[list[jax.Array]]:
        (found,) = pullback(seeds)
        return ([found[i] for i in whole],)

    return some


def by_forward_mode(side: Side, leaves: list[jax.Array], meta: Meta) -> Factors:
    """Whole Jacobians."""

    def one(data: list[jax.Array]) -> Any:
        def flat(w: list[jax.Array]) -> jax.Array:
            return jnp.concatenate([jnp.ravel(y) for y in side.example(w, data)])

        rows = derivatives.jacobian(flat, leaves)
        return side.example(leaves, data), [
            [Materialised(j.reshape(j.shape[0], w.size))] for j, w in zip(rows, leaves, strict=True)
        ]

    outputs, by_leaf = side.map(one)
    if side.n is None:
        by_leaf = jax.tree.map(lambda a: a[None], by_leaf)
    return Factors(side.placed(outputs), by_leaf, meta)
