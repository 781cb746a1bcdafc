"""Halves of an NTK: the factors of the Jacobian, some leaves multiplied out, and the outputs.

A leaf is multiplied out if the whole kernel is then computed with less work: every example meets
all others, so that `A G` is best multiplied once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from ..._engine.contract.cost import fitted, plan_pair
from ..._engine.contract.materialise import jacobian
from ..._engine.contract.orders import MATERIALISE, allowed
from ..._engine.contract.tiles import unfolded
from ..._engine.factors import ByLeaf
from ..._engine.kinds import Factor, Factored, Materialised, OneHot, cotangent, outputs
from ..._engine.linearise import Source
from ..._engine.output_axes import Frame
from ..._engine.pairing import in_leaf, layouts, pair_shapes
from ..._engine.plan import OutputPlan, resized_pair
from ..._engine.ranges import Block
from ..._methods.factored import FactorMethod
from ..._shared.memory import nbytes
from ..._shared.pair import Pair
from ..._shared.precision import full_precision
from ..._shared.trees import kernel_dtype
from .base import Call, Half, OneExample, Tile, of_size, outputs_first, restored, shapes_of

# What becomes of a leaf's factors: they stay, or are multiplied out in the normal form or the
# leaf's own.
FACTORED, NORMAL, LEAF = "kept", "normal form", "leaf"
# No bound, in bytes: orders are then chosen by their cost alone.
ANY = 2**62


@dataclass(frozen=True, eq=False)
class InFactors:
    """Factors, and their contraction by `method`. `forms`: what becomes of each leaf's."""

    call: Call
    method: FactorMethod
    examples: Pair[OneExample]
    forms: tuple[str, ...]
    kind: str = "factors"

    @staticmethod
    def of(call: Call, memory: int, forms: Sequence[str] | None) -> InFactors:
        """From the shapes of one example; `forms` chosen by cost unless they are given."""
        method = replace(call.fn.ntk_fn.method, memory=memory)
        examples, forms = _measured(call, method, forms)
        return InFactors(call, method, examples, tuple(forms))

    def half(self, x: Any, params: Any, kwargs: dict[str, Any]) -> Half:
        with full_precision(self.method.precision):
            given = self.call.read(x, params, kwargs)
            return _half_of(self.method.sources(given).first, self.forms)

    def tile(self, first: Half, second: Half | None, params: Any) -> list[jax.Array]:
        blocks = restored(first, second, self.examples)
        return jax.tree.leaves(self.method.kernels(self.call.names, blocks, told=False))

    def price(self, sizes: tuple[int, int]) -> Tile:
        plans: list[OutputPlan] = []

        def trace(first: Half, second: Half) -> None:
            plans.extend(self.method.plans(restored(first, second, self.examples))[1])

        halves = (one.of(n) for one, n in zip(self.examples.sides, sizes, strict=True))
        shapes_of(trace, *halves)
        peak = max((plan.peak_bytes for plan in plans), default=0)
        return Tile(peak, sum(p.pairs * c.multiply_adds for p in plans for c in p.costs))


def _half_of(source: Source, forms: Sequence[str]) -> Half:
    factors = source.whole()
    return outputs_first(factors.outputs, factors.meta.out_axes), _compact(factors.by_leaf, forms)


def _compact(by_leaf: ByLeaf, forms: Sequence[str]) -> ByLeaf:
    """The factors, those of some leaves multiplied out and put side by side as one Jacobian."""
    leaves = list(zip(by_leaf, forms, strict=True))
    factored = [leaf for leaf, form in leaves if form == FACTORED]
    built = [J for leaf, form in leaves if form != FACTORED for J in _multiplied_out(leaf, form)]
    return [*factored, [Materialised(jnp.concatenate(built, -1))]] if built else factored


def _multiplied_out(leaf: list[Factor], form: str) -> list[jax.Array]:
    """The Jacobians `[n, o, p]` of a leaf's factors, or their sum in the leaf's own layout."""
    if form == LEAF:
        return [in_leaf(leaf).J]
    jacobians = []
    for factor in leaf:
        whole = unfolded(factor, (1, 1, cotangent(factor).shape[1]))
        J = jacobian(whole, whole, Block(1, 1), 0)
        jacobians.append(J.reshape(J.shape[0], outputs(whole)[2], J.shape[-1]))
    return jacobians


# From shapes


def _measured(
    call: Call, method: FactorMethod, forms: Sequence[str] | None
) -> tuple[Pair[OneExample], Sequence[str]]:
    traced: list[Any] = []

    def trace(inputs: Pair[Any], params: Any) -> Pair[Half]:
        with full_precision(method.precision):
            sources = inputs.map(
                lambda side: method.sources(call.read(side[0], params, side[1])).first
            )
            chosen = _choose(call, sources) if forms is None else forms
            traced.append((chosen, sources.map(lambda s: (s.meta, *_costs(s, chosen)))))
            return sources.map(lambda source: _half_of(source, chosen))

    def example(half: Half, cost: Any) -> OneExample:
        meta, needed, build = cost
        dtypes = {"ntk": list(meta.dtypes), "nngp": [kernel_dtype(y) for y in half[0]]}
        return OneExample(meta, half, needed + nbytes(half), build, dtypes)

    halves = shapes_of(trace, call.sides.map(lambda side: side.shapes(1)), call.params)
    chosen, costs = traced[0]
    return halves.map(example, costs), chosen


def _costs(source: Source, forms: Sequence[str]) -> tuple[int, int]:
    """Bytes needed to compute the factors of one example, and multiply-adds."""
    load, total = source.load(), sum(source.meta.sizes())
    forward, backward = source.flops()
    build = forward + total * backward
    for leaf, form in zip(source.unit, forms, strict=True):
        for factor in leaf if form != FACTORED else []:
            if isinstance(factor, Factored) and not isinstance(factor.A, OneHot):
                build += total * math.prod(factor.G.shape[2:]) * factor.A.shape[-1]
    return load.fixed + load.output * total, build


def _choose(call: Call, sources: Pair[Source]) -> list[str]:
    """What becomes of each leaf's factors, by the cost of the whole kernel."""
    frames = call.frames(sources.map(lambda source: source.meta), call.lengths)
    factored = call.fn.ntk_fn.method.factored
    forms = []
    units = (source.unit for source in sources.sides)
    for f1, f2, pairs in zip(*units, pair_shapes(sources), strict=True):
        pays = pairs and _multiplying_pays(pairs, frames, call.lengths, factored=factored)
        forms.append(FACTORED if not pays else NORMAL if layouts(f1) == layouts(f2) else LEAF)
    return forms


def _multiplying_pays(
    pairs: Sequence[Pair[Factor]], frames: Sequence[Frame], sizes: Sequence[int], *, factored: bool
) -> bool:
    """Whether multiplying out is the cheapest order for all examples and outputs, or the only."""
    least = materialised = 0
    for pair in pairs:
        if allowed(pair) == (MATERIALISE,):
            return True
        if factored:
            continue
        whole = pair.map(of_size, Pair(*sizes))
        for frame in frames:
            (d, r, o), q = frame.counts(0), frame.counts(1)[2]
            plan = OutputPlan(Block(d, d), Block(r, r), Block(o, o), Block(q, q), pair.same)
            resized = resized_pair(whole, plan)
            least += plan_pair(resized, frame, ANY, factored=True).total
            options = fitted(resized, frame, MATERIALISE, ANY)
            materialised += min(option.total for option in options)
    return not factored and materialised < least
