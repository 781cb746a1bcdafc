"""What is known of a layer's activations in the limit of infinite width.

Channels are then independent draws of one random function `a(x, s)` of the example and the position
(pixel, token). Its second moments are all that the layers need:

    nngp[s, n, m]   = E[a(x1[n], s) a(x2[m], s)]
    ntk[s, n, m]    = the limit of J(x1[n]) J(x2[m])^T, for one channel

and, with `pairs`, the same between any two positions. Examples are the last axes, so that loops
over positions take whole rows. An axis of positions is one axis of the arrays, or with `pairs` two
neighbouring ones: `[h, w, n, m]` or `[h, h', w, w', n, m]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._angles import valued
from ._barrier import apart

# A linear map of positions: `op(array, axes)`, with the axes of each axis of positions.
Op = Callable[[jax.Array, list[tuple[int, ...]]], jax.Array]


class Moments(NamedTuple):
    """After a function `f` of one variable, of two Gaussians `u` and `v`.

    `nngp`: `E[f(u) f(v)]`. `slope`: `E[f'(u) f'(v)]`, the factor of the NTK. `near`: what the slope
    comes to close by, where it is another, at a variable that is zero; for derivatives.
    """

    nngp: jax.Array
    slope: jax.Array
    near: jax.Array | None = None


# `dual(c, p, q, itself)` of the covariance `c` of two Gaussians of variances `p` and `q`, and
# whether they are the same.
Dual = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], Moments]


@dataclass(frozen=True)
class Need:
    """What must be known of a layer's input: of all `pairs` of positions, or of equal ones only.

    `axes`: the batch and the channel axis of the first layer that names any, `layer`; the latter is
    `None` where only channels are left.
    """

    pairs: bool
    axes: tuple[int, int | None] | None = None
    layer: str = ""


@dataclass(frozen=True)
class Covariance:
    """The second moments of one layer's activations.

    `own1`, `own2`: as `nngp`, of each example with itself, `[s, n]` and `[s, m]`. `ntk`: `None`
    before the first parameter, where it is zero. `same`: which examples are the same one, `[n, m]`;
    `None` where none is known to be. `channels`: the number of them in the finite network. `axes`:
    where its arrays have the batch and the channels. `gaussian`: whether `a` is a Gaussian process;
    `centred`: whether its mean is zero; `depth`: how many functions of one variable it came
    through; `shared`: the branchings that it shares randomness with.
    """

    nngp: jax.Array
    ntk: jax.Array | None
    own1: jax.Array
    own2: jax.Array
    same: jax.Array | None
    pairs: bool
    channels: int
    axes: tuple[int, int]
    gaussian: bool = False
    centred: bool = False
    depth: int = 0
    shared: frozenset[Any] = frozenset()

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(self.nngp.shape[a[0]] for a in self.position_axes)

    @property
    def position_axes(self) -> list[tuple[int, ...]]:
        """The axes of the arrays for each axis of positions."""
        each = 1 + self.pairs
        count = (self.nngp.ndim - 2) // each
        return [tuple(range(each * a, each * (a + 1))) for a in range(count)]

    @property
    def places(self) -> list[int]:
        """Where the finite network's arrays have the axes of positions."""
        return [a for a in range(len(self.position_axes) + 2) if a not in self.axes]

    def map(self, op: Op) -> Covariance:
        """After a map of positions that is linear in the moments."""
        return self.each(lambda a: op(a, self.position_axes))

    def each(self, op: Callable[[jax.Array], jax.Array]) -> Covariance:
        """After a linear map of the moments."""
        return replace(
            self,
            nngp=op(self.nngp),
            ntk=None if self.ntk is None else op(self.ntk),
            own1=op(self.own1),
            own2=op(self.own2),
        )

    def shifted(self, scale: float, shift: float) -> Covariance:
        """Scaled; all moments but the NTK then shifted."""
        scaled = self.each(lambda a: scale * a)
        moments = {name: getattr(scaled, name) + shift for name in ("nngp", "own1", "own2")}
        return replace(scaled, **moments)

    def variances(self) -> tuple[jax.Array, jax.Array]:
        """`p[s, n]` and `q[s, m]`: of each example at each position."""
        return self._equal_positions(self.own1), self._equal_positions(self.own2)

    def without_pairs(self) -> Covariance:
        """Of equal positions only."""
        return replace(self.each(self._equal_positions), pairs=False)

    def spread(self, variance: jax.Array, which: int) -> jax.Array:
        """Of `[s, n]` the positions as the first (0) or second (1) of each pair."""
        if not self.pairs:
            return variance
        return jnp.expand_dims(variance, [2 * a + 1 - which for a in range(len(self.positions))])

    def _equal_positions(self, array: jax.Array) -> jax.Array:
        for axis in range(len(self.positions) if self.pairs else 0):
            array = jnp.moveaxis(jnp.diagonal(array, 0, axis, axis + 1), -1, axis)
        return array

    def pointwise(self, dual: Dual, *, odd: bool = False) -> Covariance:
        """After a function of one variable, applied to every entry of a Gaussian process."""
        given = (self.nngp, self.ntk, self.own1, self.own2)
        nngp, ntk, *own = apart(given, self.depth)
        before = replace(self, nngp=nngp, ntk=ntk, own1=own[0], own2=own[1])
        p, q = before.variances()
        same = jnp.zeros((1, 1), bool) if self.same is None else self.same
        one, two = self.spread(p, 0)[..., :, None], self.spread(q, 1)[..., None, :]
        after = _exactly(dual, nngp, one, two, self.itself(same))
        own1, own2 = (
            _exactly(dual, each, self.spread(v, 0), self.spread(v, 1), self.own_itself).nngp
            for each, v in zip(own, (p, q), strict=True)
        )
        if ntk is not None and after.near is not None:
            ntk = valued(ntk * after.slope, ntk * after.near)
        elif ntk is not None:
            ntk = ntk * after.slope
        return replace(
            self,
            nngp=after.nngp,
            ntk=ntk,
            own1=own1,
            own2=own2,
            gaussian=False,
            centred=odd and self.centred,
            depth=self.depth + 1,
        )

    def itself(self, same: jax.Array) -> jax.Array:
        """Whether both are one variable: the same example at the same position."""
        same = same.reshape(*[1] * (self.nngp.ndim - 2), *same.shape)
        if self.pairs:
            for axis, size in enumerate(self.positions):
                shape = [1] * (2 * len(self.positions) + 2)
                shape[2 * axis : 2 * axis + 2] = size, size
                same = same & jnp.eye(size, dtype=bool).reshape(shape)
        return same

    @property
    def own_itself(self) -> jax.Array:
        """The same of `own1` and `own2`, whose examples are always the same."""
        return self.itself(jnp.ones((1, 1), bool))[..., 0]


def _exactly(dual: Dual, c: jax.Array, p: jax.Array, q: jax.Array, itself: jax.Array) -> Moments:
    """`dual`, of a variable with itself exactly, whatever `c` was rounded to."""
    return dual(valued(jnp.where(itself, p, c), c), p, q, itself)


def of_inputs(
    x1: jax.Array, x2: jax.Array, same: jax.Array | None, pairs: bool, axes: tuple[int, int]
) -> Covariance:
    """The moments of inputs `[n, *positions, channels]`: means over their channels."""
    channels, count = x1.shape[-1], x1.ndim - 2
    first, second = list(range(count)), list(range(count))
    result = first
    n, m, channel = 2 * count, 2 * count + 1, 2 * count + 2
    if pairs:
        second = [count + a for a in first]
        result = [s for both in zip(first, second, strict=True) for s in both]

    def moments(a: jax.Array, b: jax.Array, i: int, j: int) -> jax.Array:
        examples = [i, j] if i != j else [i]
        product = jnp.einsum(a, [i, *first, channel], b, [j, *second, channel], result + examples)
        return product / channels

    return Covariance(
        nngp=moments(x1, x2, n, m),
        ntk=None,
        own1=moments(x1, x1, n, n),
        own2=moments(x2, x2, m, m),
        same=same,
        pairs=pairs,
        channels=channels,
        axes=axes,
    )
