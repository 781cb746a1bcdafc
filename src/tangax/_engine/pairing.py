"""Pairs of factors: what the kernel of two sides is a sum over."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from .._shared.pair import Pair
from .factors import ByLeaf
from .kinds import Factor, Layout, Materialised, materialise
from .linearise import Source


def pairs_by_leaf(factors: Pair[ByLeaf]) -> list[list[Pair[Factor]]]:
    """Every leaf's pairs; of one side with itself, each factor with itself."""
    if factors.same:
        return [[Pair(factor) for factor in leaf] for leaf in factors.first]
    return list(map(_leaf_pairs, *factors.sides))


def pair_shapes(sources: Pair[Source]) -> list[list[Pair[Factor]]]:
    """The same of a single output, as shapes."""
    units = sources.map(lambda source: source.unit)
    return pairs_by_leaf(units) if units.same else jax.eval_shape(pairs_by_leaf, units)


def _leaf_pairs(f1: list[Factor], f2: list[Factor]) -> list[Pair[Factor]]:
    """One by one where both sides have the leaf in the same layouts.

    Otherwise, as where `f` slices a leaf by the length of `x`, any two may share entries, and
    each side is summed in the leaf's own layout.
    """
    if not f1 or not f2:
        return []
    if layouts(f1) == layouts(f2):
        return list(map(Pair, f1, f2))
    return [Pair(in_leaf(f1), in_leaf(f2))]


def layouts(factors: list[Factor]) -> list[Layout | None]:
    """Their layouts; nothing of a Jacobian that is of the whole leaf as it is."""
    return [factor.layout for factor in factors]


def in_leaf(factors: list[Factor]) -> Materialised:
    """The sum of factors, `[n, o, p]` in the leaf's layout."""

    def flat(factor: Factor) -> jax.Array:
        if isinstance(factor, Materialised) and factor.layout is None:
            return factor.J
        J = jax.vmap(materialise)(factor)
        return J.reshape(*J.shape[:2], math.prod(J.shape[2:]))

    return Materialised(functools.reduce(jnp.add, map(flat, factors)))
