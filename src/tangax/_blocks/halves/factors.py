"""Halves of an NTK: the factors of the Jacobian, some leaves multiplied out, and the outputs.

A leaf is multiplied out if the whole kernel is then computed with less work: every example meets
all others, so that `A G` is best multiplied once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp

from ..._engine.contract.cost import allowed, fitted, plan_pair
from ..._engine.contract.einsum import unfolded
from ..._engine.contract.materialise import jacobian
from ..._engine.explain import backward_flops, forward_flops
from ..._engine.kernel import in_leaf, kernels, layout, pairs_by_leaf
from ..._engine.kinds import Factor, Factored, Materialised, OneHot, cotangent, outputs
from ..._engine.linearise import ByLeaf, Source
from ..._engine.output_axes import Block, Frame
from ..._engine.plan import OutputPlan, resized_pair
from ..._methods.kernel_fns import NtkFn
from ..._shared.memory import nbytes
from ..._shared.precision import full_precision
from ..._shared.trees import kernel_dtype
from .base import Call, Half, OneExample, Tile, assembled, of_size, outputs_first, shapes_of

# What becomes of a leaf's factors: kept, or multiplied out in the normal form or the leaf's own.
KEPT, NORMAL, LEAF = "kept", "normal form", "leaf"
# No bound, in bytes: orders are then chosen by their cost alone.
ANY = 2**62


@dataclass(frozen=True, eq=False)
class InFactors:
    """Factors, and their contraction within `memory`. `forms`: what becomes of each leaf's."""

    call: Call
    ntk_fn: NtkFn
    examples: tuple[OneExample, OneExample]
    forms: tuple[str, ...]
    kind: str = "factors"

    @staticmethod
    def of(call: Call, memory: int, forms: Sequence[str] | None) -> InFactors:
        """From the shapes of one example; `forms` chosen by cost unless they are given."""
        ntk_fn = call.fn.ntk_fn.varied(memory=memory)
        examples, forms = measured(call, ntk_fn, forms)
        return InFactors(call, ntk_fn, examples, tuple(forms))

    def of_call(self, call: Call) -> Self:
        """Those of another call of the same shapes."""
        return replace(self, call=call)

    def half(self, x: Any, params: Any, kwargs: dict[str, Any]) -> Half:
        """Outputs and factors."""
        with full_precision(self.ntk_fn.precision):
            return half_of(self.ntk_fn._side(x, params, kwargs), self.forms)

    def tile(self, first: Half, second: Half | None, params: Any) -> list[jax.Array]:
        """Contracted as `ntk_fn` plans it."""
        a = assembled(first, self.examples[0].meta)
        b = a if second is None else assembled(second, self.examples[1].meta)
        with full_precision(self.ntk_fn.precision):
            found = kernels(self.call.names, a, b, *self.ntk_fn._planned(a, b))
        return jax.tree.leaves(found)

    def price(self, sizes: tuple[int, int]) -> Tile:
        """From the plan of a tile."""
        found: list[OutputPlan] = []

        def trace(first: Half, second: Half) -> None:
            a = assembled(first, self.examples[0].meta)
            b = assembled(second, self.examples[1].meta)
            found.extend(self.ntk_fn._planned(a, b)[1])

        with full_precision(self.ntk_fn.precision):
            shapes_of(trace, *(e.of(size) for e, size in zip(self.examples, sizes, strict=True)))
        held = max((plan.held for plan in found), default=0)
        return Tile(held, sum(p.pairs * c.multiply_adds for p in found for c in p.costs))


def half_of(source: Source, forms: Sequence[str]) -> Half:
    """What is kept of a block of examples."""
    factors = source.whole()
    return outputs_first(factors.outputs, factors.meta.out_axes), compact(factors.by_leaf, forms)


def compact(by_leaf: ByLeaf, forms: Sequence[str]) -> ByLeaf:
    """The factors, those of some leaves multiplied out and put side by side as one Jacobian."""
    leaves = list(zip(by_leaf, forms, strict=True))
    kept = [leaf for leaf, form in leaves if form == KEPT]
    built = [J for leaf, form in leaves if form != KEPT for J in multiplied_out(leaf, form)]
    return [*kept, [Materialised(jnp.concatenate(built, -1))]] if built else kept


def multiplied_out(leaf: list[Factor], form: str) -> list[jax.Array]:
    """The Jacobians `[n, o, p]` of a leaf's factors, or their sum in the leaf's own layout."""
    if form == LEAF:
        return [in_leaf(leaf).J]
    found = []
    for factor in leaf:
        whole = unfolded(factor, (1, 1, cotangent(factor).shape[1]))
        J = jacobian(whole, whole, Block(1, 1), 0)
        found.append(J.reshape(J.shape[0], outputs(whole)[2], J.shape[-1]))
    return found


# From shapes


def measured(
    call: Call, ntk_fn: NtkFn, forms: Sequence[str] | None
) -> tuple[tuple[OneExample, OneExample], Sequence[str]]:
    """One example of each side, and the forms."""
    found: list[Any] = []

    def trace(inputs: list[Any], params: Any) -> list[Half]:
        with full_precision(ntk_fn.precision):
            sources = [ntk_fn._side(x, params, kwargs) for x, kwargs in inputs]
            chosen = choose(call, sources[0], sources[-1]) if forms is None else forms
            found.extend((source.meta, *costs(source, chosen)) for source in sources)
            found.append(chosen)
            return [half_of(source, chosen) for source in sources]

    halves = shapes_of(trace, [side.shapes(1) for side in call.sides[: 2 - call.same]], call.params)
    *sides, chosen = found
    examples = []
    for half, (meta, held, build) in zip(halves, sides, strict=True):
        dtypes = {"ntk": list(meta.dtypes), "nngp": [kernel_dtype(y) for y in half[0]]}
        examples.append(OneExample(meta, half, held + nbytes(half), build, dtypes))
    return (examples[0], examples[-1]), chosen


def costs(source: Source, forms: Sequence[str]) -> tuple[int, int]:
    """Bytes held while the factors of one example are computed, and multiply-adds."""
    load, total = source.load(), sum(source.meta.sizes())
    build = forward_flops(source) + total * backward_flops(source)
    for leaf, form in zip(source.unit, forms, strict=True):
        for factor in leaf if form != KEPT else []:
            if isinstance(factor, Factored) and not isinstance(factor.A, OneHot):
                build += total * math.prod(factor.G.shape[2:]) * factor.A.shape[-1]
    return load.fixed + load.output * total, build


def choose(call: Call, first: Source, second: Source) -> list[str]:
    """What becomes of each leaf's factors, by the cost of the whole kernel."""
    sizes = [side.n for side in call.sides]
    frames = call.frames([first.meta, second.meta], sizes)
    if call.same:
        second = first
    found = []
    for f1, f2, pairs in zip(first.unit, second.unit, pairs_by_leaf(first, second), strict=True):
        pays = pairs and multiplying_pays(pairs, frames, sizes, factored=call.fn.ntk_fn._factored)
        alike = [layout(f) for f in f1] == [layout(f) for f in f2]
        found.append(KEPT if not pays else NORMAL if alike else LEAF)
    return found


def multiplying_pays(
    pairs: Sequence[tuple[Factor, Factor]],
    frames: Sequence[Frame],
    sizes: Sequence[int],
    *,
    factored: bool,
) -> bool:
    """Whether multiplying out is the cheapest order for all examples and outputs, or the only."""
    least = materialised = 0
    for f1, f2 in pairs:
        same = f1 is f2
        if allowed(f1, f2) == ["materialise"]:
            return True
        if factored:
            continue
        first = of_size(f1, sizes[0])
        second = first if same else of_size(f2, sizes[1])
        for frame in frames:
            (d, r, o), q = frame.counts(0), frame.counts(1)[2]
            whole = OutputPlan(Block(d, d), Block(r, r), Block(o, o), Block(q, q), same)
            pair = resized_pair(first, second, whole)
            least += plan_pair(*pair, frame, ANY, factored=True).total
            options = fitted(*pair, frame, "materialise", ANY)
            materialised += min(option.total for option in options)
    return not factored and materialised < least
