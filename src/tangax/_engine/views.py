"""A parameter, seen after steps that move its entries."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax

from .. import _jaxpr
from .._shared.meshes import shape_like


@dataclass(frozen=True)
class View:
    """A parameter after steps that only move its entries, and perhaps a scalar factor.

    `leaf` counts among the parameters of the program that holds the view. `place`: which part it is
    of a value that was joined of several. The scale is known when the program runs, and travels
    beside its values.
    """

    leaf: int
    aval: jax.ShapeDtypeStruct
    steps: tuple[_jaxpr.Move, ...] = ()
    isometric: bool = True
    place: _jaxpr.Place | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for views that move entries alike."""
        return tuple(part for move in self.steps for part in move.key)

    @property
    def bounds(self) -> tuple[tuple[int, int], ...] | None:
        """The part of the leaf that the view is a slice of, or a slice of a slice: its first steps.

        Casts, whose key is empty, keep every entry in its place.
        """
        found = None
        for move in self.steps:
            if not move.key:
                continue
            if move.bounds is None:
                break
            starts = [0] * len(move.bounds) if found is None else [a for a, _ in found]
            found = tuple((s + a, s + b) for s, (a, b) in zip(starts, move.bounds, strict=True))
            if not move.aligned:
                break
        return found

    def then(self, move: _jaxpr.Move, place: _jaxpr.Place | None = None) -> View:
        """The view after one more step, and where that puts it, if it is a part."""
        isometric = self.isometric and move.isometric
        return replace(self, steps=(*self.steps, move), isometric=isometric, place=place)

    def at(self, place: _jaxpr.Place, shape: tuple[int, ...]) -> View:
        """The view as the part at `place` of a value of that shape."""
        whole = tuple((0, d) for d in shape)
        return replace(self, place=None if place == whole else place)

    def within(self, place: _jaxpr.Place, shape: tuple[int, ...]) -> View:
        """The view as part of a value of that shape, in which its own value has that place."""
        if self.place is None:
            return self.at(place, shape)
        pairs = zip(place, self.place, strict=True)
        return self.at(tuple((s + a, s + b) for (s, _), (a, b) in pairs), shape)

    def expanded(self, axis: int) -> View:
        place = self.place
        if place is not None:
            place = (*place[:axis], (0, 1), *place[axis:])
        return self.then(_jaxpr.expansion(axis), place)

    def reduced(self, axis: int) -> View:
        place = self.place
        if place is not None:
            place = (*place[:axis], *place[axis + 1 :])
        return self.then(_jaxpr.reduction(axis), place)

    def cut(self, bounds: _jaxpr.Place) -> tuple[View, ...] | None:
        """The view in a slice of the value that it is part of; `None` if that cuts the part."""
        assert self.place is not None
        pairs = list(zip(self.place, bounds, strict=True))
        if any(b <= start or limit <= a for (a, b), (start, limit) in pairs):
            return ()
        if any(a < start or limit < b for (a, b), (start, limit) in pairs):
            return None
        place = tuple((a - start, b - start) for (a, b), (start, _) in pairs)
        return (self.at(place, _jaxpr.sizes(bounds)),)

    def apply(self, leaf: jax.Array) -> jax.Array:
        """The steps, without the scale and the others that it is joined with."""
        return functools.reduce(lambda w, move: move.apply(w), self.steps, leaf)

    def pull(self, J: jax.Array) -> jax.Array:
        """From `[o, *view.shape]` to `[o, *leaf.shape]`: the transpose of the steps.

        In the dtype of `J`, which is not rounded to that of the leaf, and may be complex.
        """
        if all(move.in_order for move in self.steps):  # most views; saves a trace
            return J.reshape(J.shape[0], *self.aval.shape)
        transpose = jax.linear_transpose(self.apply, shape_like(J, self.aval.shape))
        return jax.vmap(lambda g: transpose(g)[0])(J)
