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
from jax import lax

from .. import _jaxpr
from .base import Factored, Layout


@dataclass(frozen=True)
class Convolution:
    """The kernel of a `conv_general_dilated`."""

    conv: _jaxpr.Conv
    shape: tuple[int, ...]

    name = "conv"
    factored = True

    @property
    def window(self) -> tuple[int, ...]:
        """The kernel's extent in space."""
        return tuple(self.shape[a] for a in self.conv.rhs_spec[2:])

    def record(self, values: list[Any]) -> Any:
        """The input."""
        return values[0]

    def factor(self, record: jax.Array, cotangents: list[jax.Array]) -> Factored:
        """Patches and the cotangent, positions first."""
        (G,) = cotangents
        c = self.conv
        dims = lax.ConvDimensionNumbers(c.lhs_spec, c.rhs_spec, c.out_spec)
        patches = lax.conv_general_dilated_patches(
            record,
            self.window,
            c.strides,
            c.padding,
            lhs_dilation=c.lhs_dilation,
            rhs_dilation=c.rhs_dilation,
            dimension_numbers=dims,
        )
        batch, feature, *space = c.out_spec
        i = self.shape[c.rhs_spec[1]] * math.prod(self.window)
        patches = jnp.transpose(patches, (batch, *space, feature))
        A = patches.reshape(math.prod(patches.shape[:-1]), c.groups, i)
        G = jnp.transpose(G, (0, 1 + batch, *(1 + a for a in space), 1 + feature))
        G = G.reshape(G.shape[0], A.shape[0], c.groups, G.shape[-1] // c.groups)
        return Factored(A, G, self.layout())

    def layout(self) -> Layout:
        """Patch features run over `(channel, *window)`, output channels over `(group, channel)`."""
        c, window = self.conv, self.window
        cin, cout = self.shape[c.rhs_spec[1]], self.shape[c.rhs_spec[0]]
        inverse = [c.rhs_spec.index(a) for a in range(len(self.shape))]

        def to_leaf(M: jax.Array) -> jax.Array:
            M = M.reshape(M.shape[0], c.groups, cin, *window, cout // c.groups)
            M = jnp.moveaxis(M, -1, 2).reshape(M.shape[0], cout, cin, *window)
            return jnp.transpose(M, (0, *(1 + a for a in inverse)))

        return Layout(("conv", c.rhs_spec, c.groups, self.shape), to_leaf)


def match_conv(eqn: _jaxpr.Equation, operand: int) -> Convolution | None:
    """A convolution whose kernel is the weight."""
    conv = _jaxpr.conv(eqn)
    if conv is None or operand != 1 or 0 in eqn.invars[0].aval.shape:
        return None
    return Convolution(conv, tuple(eqn.invars[1].aval.shape))
