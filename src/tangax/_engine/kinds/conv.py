"""Convolutions with the weight as kernel.

`A` are the patches of the input under the window, `[s = output positions, k = groups,
i = channels of a group x window]`; `j` are the output channels of a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ... import _jaxpr
from .normal_form import Factored, Layout


@dataclass(frozen=True)
class Convolution:
    """The kernel of a `conv_general_dilated`."""

    conv: _jaxpr.Conv
    shape: tuple[int, ...]

    name = "conv"
    factored = True

    @property
    def window(self) -> tuple[int, ...]:
        return tuple(self.shape[a] for a in self.conv.rhs_spec[2:])

    def record(self, values: list[Any]) -> Any:
        return values[0]

    def factor(self, record: jax.Array, cotangents: list[jax.Array]) -> Factored:
        """Patches and the cotangent, positions first."""
        (G,) = cotangents
        c = self.conv
        batch, feature, *space = (1 + a for a in c.out_spec)
        G = jnp.transpose(G, (0, batch, *space, feature))
        patches = self.patches(record, G.shape[2:-1])
        positions, window = math.prod(G.shape[1:-1]), math.prod(self.window)
        channels = patches.shape[-1] // c.groups
        A = patches.reshape(positions, window, c.groups, channels)
        A = jnp.moveaxis(A, 2, 1).reshape(positions, c.groups, window * channels)
        G = G.reshape(G.shape[0], positions, c.groups, G.shape[-1] // c.groups)
        return Factored(A, G, self.layout())

    def patches(self, x: jax.Array, positions: tuple[int, ...]) -> jax.Array:
        """`[batch, *positions, *window, channels]`: gathered, which a product need not do."""
        c = self.conv
        batch, feature, *space = c.lhs_spec
        dilated = zip(c.padding, c.lhs_dilation, strict=True)
        edges = [(lo, hi, dilation - 1) for (lo, hi), dilation in dilated]
        x = jnp.transpose(x, (batch, *space, feature))
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        d = len(space)
        index = []
        for a, (size, window) in enumerate(zip(positions, self.window, strict=True)):
            at = np.arange(size)[:, None] * c.strides[a] + np.arange(window) * c.rhs_dilation[a]
            others = tuple(b for b in range(2 * d) if b not in (a, d + a))
            index.append(np.expand_dims(at, others))
        return x.at[:, *index].get(mode="promise_in_bounds")

    def layout(self) -> Layout:
        """Patch features run over `(*window, channel)`, output channels over `(group, channel)`."""
        c, window = self.conv, self.window
        cin, cout = self.shape[c.rhs_spec[1]], self.shape[c.rhs_spec[0]]
        inverse = [c.rhs_spec.index(a) for a in range(len(self.shape))]

        def to_leaf(M: jax.Array) -> jax.Array:
            M = M.reshape(M.shape[0], c.groups, *window, cin, cout // c.groups)
            M = jnp.moveaxis(M, (-1, -2), (2, 3)).reshape(M.shape[0], cout, cin, *window)
            return jnp.transpose(M, (0, *(1 + a for a in inverse)))

        return Layout(("conv", c.rhs_spec, c.groups, self.shape), to_leaf)


def match_conv(eqn: _jaxpr.Equation, operand: int) -> Convolution | None:
    """A convolution whose kernel is the weight."""
    conv = _jaxpr.conv(eqn)
    if conv is None or operand != 1 or 0 in eqn.invars[0].aval.shape:
        return None
    return Convolution(conv, tuple(eqn.invars[1].aval.shape))
