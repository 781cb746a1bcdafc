"""The Jacobian of `f` over the examples of one side, linearised: factors of any outputs on demand.

`Passes` are the backward passes that one forward pass leaves behind; `Linear` takes them for as
many outputs at a time as are fast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _jaxpr
from .._arguments.sides import Arguments, Side
from .._shared import derivatives
from .._shared.memory import nbytes
from .._shared.meshes import shape_like, varying, varying_axes
from .._shared.trees import kernel_dtype
from .._shared.tuning import tuning
from .._shared.user_line import logger
from . import evaluate
from .factors import ByLeaf, Factors, Load, Meta, on_cotangents
from .kinds import Factored, Materialised, cotangent
from .program import Found, Program, describe, find, largest
from .ranges import even, loop


@dataclass(frozen=True)
class Passes:
    """Backward passes of `f` over the `n` examples of one side (`None`: the batch is one example).

    `pullback` takes cotangents of the outputs to those of the zeros added at sites; `records`: what
    the sites recorded; `whole_leaves`: those whose Jacobians are taken whole from `f` itself, by
    `whole_pullback`. `outputs`: as `f` has them, the examples along `out_axes`.
    """

    program: Program
    pullback: Callable[..., Any]
    records: Any
    n: int | None
    outputs: list[jax.Array]
    out_axes: tuple[int | None, ...]
    leaves: list[jax.Array]
    in_sequence: bool
    whole_leaves: tuple[int, ...]
    whole_pullback: Callable[..., Any]

    @property
    def slow_in_loops(self) -> bool:
        """Whether there are convolutions, and they are slower so, and with channels in front."""
        return not tuning().any_convolution and _jaxpr.convolves(self.program.jaxpr)

    def examples(self) -> Sequence[jax.ShapeDtypeStruct]:
        return [
            jax.ShapeDtypeStruct([d for a, d in enumerate(y.shape) if a != axis], y.dtype)
            for y, axis in zip(self.outputs, self.out_axes, strict=True)
        ]

    def cotangents(self) -> list[jax.ShapeDtypeStruct]:
        n = () if self.n is None else (self.n,)
        return [jax.ShapeDtypeStruct((*n, *y.shape), y.dtype) for y in self.examples()]

    def of_entries(self, index: Any) -> ByLeaf:
        """The factors of some of the entries of all outputs in a row."""
        cotangents, start = [], 0
        for y in self.examples():
            rows = index[:, None] == start + np.arange(y.size)
            cotangents.append(jnp.asarray(rows, y.dtype).reshape(len(index), *y.shape))
            start += y.size
        return self.of_cotangents(cotangents)

    def of_cotangents(self, cotangents: list[jax.Array]) -> ByLeaf:
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
        if self.n is None:
            by_leaf: ByLeaf = jax.tree.map(lambda a: a[None], collected(G, self.records))
        else:
            by_leaf = jax.vmap(collected, in_axes=(1, 0), axis_size=self.n)(G, self.records)
        for leaf, J in zip(self.whole_leaves, whole, strict=True):
            J = J[:, None] if self.n is None else J
            J = jnp.swapaxes(J, 0, 1).reshape(*J.shape[1::-1], self.leaves[leaf].size)
            by_leaf[leaf] = [Materialised(J)]
        return by_leaf


@dataclass(frozen=True)
class Linear:
    """`f` linearised at every example of one side.

    `unit`: shapes of the factors of one output; `tap_bytes`: of the zeros added at sites; `widest`:
    bytes of the largest array that a backward pass meets; `fixed`: the factors `A`, once computed.
    """

    meta: Meta
    passes: Passes
    unit: ByLeaf
    tap_bytes: int
    widest: int
    fixed: list[list[Any]] | None = None

    @property
    def outputs(self) -> list[jax.Array]:
        return self.passes.outputs

    def whole(self) -> Factors:
        """The factors of all outputs, from one backward pass for each."""
        total = sum(self.meta.sizes())
        return Factors(self.outputs, self._of_entries(np.arange(total)), self.meta)

    def block(self, output: int, index: Any) -> ByLeaf:
        return self._of_entries(sum(self.meta.sizes()[:output]) + index)

    def pulled(self, cotangents: list[jax.Array]) -> ByLeaf:
        """The factors for any cotangents of one example, the same for all."""
        return self.passes.of_cotangents(cotangents)

    def _of_entries(self, index: Any) -> ByLeaf:
        """Some of the entries of all outputs in a row: as many at a time as `chunk` says."""
        some = even(len(index), self.chunk)
        if some.whole:
            return self._with_fixed(self.passes.of_entries(index))
        index, source = jnp.asarray(index), self if self.fixed else self.prepared()

        def part(start: Any) -> ByLeaf:
            entries = jax.lax.dynamic_slice(index, (start,), (some.size,))
            return source._with_fixed(source.passes.of_entries(entries))

        def filled(by_leaf: ByLeaf, start: Any) -> ByLeaf:
            def put(G: jax.Array, new: jax.Array) -> jax.Array:
                return jax.lax.dynamic_update_slice_in_dim(G, new, start, 1)

            return on_cotangents(put, by_leaf, part(start))

        def room(G: Any) -> jax.Array:
            shape = (G.shape[0], len(index), *G.shape[2:])
            return varying(jnp.zeros(shape, G.dtype), varying_axes(self.outputs))

        return loop(filled, on_cotangents(room, source._with_fixed(self.unit)), some.starts)

    def _with_fixed(self, by_leaf: ByLeaf) -> ByLeaf:
        if self.fixed is None:
            return by_leaf
        return [
            [f if A is None else replace(f, A=A) for f, A in zip(*leaf, strict=True)]
            for leaf in zip(by_leaf, self.fixed, strict=True)
        ]

    @property
    def chunk(self) -> int:
        """How many outputs are pulled back at a time."""
        if self.passes.slow_in_loops:
            return sys.maxsize
        return max(1, tuning().pulled // max(1, self.widest))

    def prepared(self) -> Linear:
        """The same, with the factors that do not depend on the outputs computed once."""
        by_leaf = self._with_fixed(self.passes.of_entries(jnp.zeros(1, int)))
        fixed = [[f.A if isinstance(f, Factored) else None for f in leaf] for leaf in by_leaf]
        return replace(self, fixed=fixed)

    def load(self) -> Load:
        """Residuals, records and `A`; for each output its cotangents, and factors made of them."""
        passes, factors = self.passes, [f for leaf in self.unit for f in leaf]
        fixed = [f.A for f in factors if isinstance(f, Factored)]
        residuals = [passes.outputs, passes.records, fixed, jax.tree.leaves(passes.pullback)]
        own = {id(leaf) for leaf in passes.leaves}
        arrays = [a for a in jax.tree.leaves(residuals) if id(a) not in own]
        seeds = nbytes(passes.outputs) + nbytes(passes.examples())
        made = nbytes(list(map(cotangent, factors)))
        steps = _jaxpr.equations(passes.program.jaxpr)
        return Load(nbytes(arrays), seeds + self.tap_bytes + made, made, self.chunk, steps)

    def uses(self) -> list[Found]:
        return list(describe(self.passes.program))

    def flops(self) -> tuple[int, int]:
        """Multiply-adds of `f` on all examples, and of a backward pass from an output of each."""
        passes = self.passes
        forward = _jaxpr.multiply_adds(passes.program.jaxpr) * (passes.n or 1)
        if not self.meta.shapes:
            return forward, 0
        backward = _jaxpr.trace(passes.pullback, passes.cotangents())
        return forward, _jaxpr.multiply_adds(backward)


Source = Linear | Factors


def unfactored(source: Source) -> dict[int, str]:
    """By leaf, what keeps it from being factored."""
    return {use.leaf: use.why for use in source.uses() if use.why}


def trace_side(side: Side, leaves: list[jax.Array]) -> Program:
    data = [
        shape_like(d, (*d.shape[:a], *d.shape[a + 1 :]))
        for d, a in zip(side.data, side.axes, strict=True)
    ]
    return find(_jaxpr.trace(side.example, leaves, data), len(leaves))


def meta_of(given: Arguments, side: Side) -> Meta:
    leaves = given.params.leaves
    paths = zip(given.params.paths, (a.shape for a in leaves), strict=True)
    return Meta(
        leaves=tuple(paths),
        names=tuple(given.names),
        shapes=tuple(y.shape for y in side.outputs),
        out_axes=tuple(side.out_axes),
        dtypes=tuple(kernel_dtype(y, *leaves) for y in side.outputs),
        treedef=given.treedef,
    )


def linearise(given: Arguments, side: Side, whole: Collection[str] = ()) -> Source:
    """The factors of one side, on demand; all at once where `f` has no reverse mode.

    `whole`: paths of leaves whose factors are not to be trusted.
    """
    leaves, meta = given.params.leaves, meta_of(given, side)
    program = trace_side(side, leaves)
    known = tuple(i for i, path in enumerate(given.params.paths) if path in whole)
    try:
        return _by_reverse_mode(side, leaves, program, meta, known)
    except derivatives.REFUSALS as refusal:
        if not derivatives.has_reverse_mode(lambda w: side.batch(w, side.data), leaves):
            logger.info("f has no reverse mode: its whole Jacobian is taken in forward mode.")
            return _by_forward_mode(side, leaves, meta)
        try:
            side = replace(side, in_sequence=True)
            source = _by_reverse_mode(side, leaves, program, meta, known)
        except derivatives.REFUSALS:
            raise refusal from None
        logger.info("vmap refuses f: examples and outputs are taken one after the other.")
        return source


def _by_reverse_mode(
    side: Side, leaves: list[jax.Array], program: Program, meta: Meta, whole: tuple[int, ...]
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
    passes = Passes(
        program,
        pullback,
        records,
        side.n,
        side.placed(outputs),
        meta.out_axes,
        leaves,
        side.in_sequence,
        whole,
        _by_whole_leaves(side, leaves, whole) if whole else lambda seeds: ([],),
    )
    unit = jax.eval_shape(lambda: passes.of_entries(jnp.zeros(1, int))) if meta.shapes else []
    return Linear(meta, passes, unit, nbytes(taps), (side.n or 1) * largest(program, dependent))


def _by_whole_leaves(
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
        (pulled,) = pullback(seeds)
        return ([pulled[i] for i in whole],)

    return some


def _by_forward_mode(side: Side, leaves: list[jax.Array], meta: Meta) -> Factors:
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
