"""Windows of positions: of a convolution or of pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

_PADDINGS = ("SAME", "VALID", "CIRCULAR")


@dataclass(frozen=True)
class Windows:
    """Windows of some size, at some strides, with zeros or the other side (CIRCULAR) around."""

    name: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str

    @property
    def size(self) -> int:
        return math.prod(self.sizes)

    def check(self, positions: Sequence[int]) -> None:
        """`ValueError` where no window fits into so many positions along each axis."""
        if len(positions) != len(self.sizes):
            raise ValueError(
                f"{self.name} has windows of {len(self.sizes)} axes, {self.sizes}, but its input "
                f"has {len(positions)} besides batch and channels, {tuple(positions)}."
            )
        if self.padding == "VALID" and any(
            p < w for p, w in zip(positions, self.sizes, strict=True)
        ):
            raise ValueError(
                f"{self.name}: no window {self.sizes} fits into the positions {tuple(positions)} "
                "with padding='VALID'. Use a smaller window, or padding='SAME'."
            )

    def pads(self, positions: Sequence[int]) -> list[tuple[int, int]]:
        """How much is put around each axis."""
        self.check(positions)
        padding = "SAME" if self.padding == "CIRCULAR" else self.padding
        return list(jax.lax.padtype_to_pads(positions, self.sizes, self.strides, padding))

    def outputs(self, positions: Sequence[int]) -> tuple[int, ...]:
        pads = self.pads(positions)
        each = zip(positions, pads, self.sizes, self.strides, strict=True)
        return tuple((p + sum(pad) - w) // stride + 1 for p, pad, w, stride in each)

    def padded(self, x: jax.Array, axes: Sequence[tuple[int, ...]]) -> jax.Array:
        """With what is around; `axes` are those of the array for each axis of positions."""
        pads = self.pads([x.shape[a[0]] for a in axes])
        config = [(0, 0)] * x.ndim
        for each, pad in zip(axes, pads, strict=True):
            for axis in each:
                config[axis] = pad
        if not any(map(any, config)):
            return x
        return jnp.pad(x, config, "wrap" if self.padding == "CIRCULAR" else "constant")

    def sums(self, x: jax.Array, axes: Sequence[tuple[int, ...]]) -> jax.Array:
        """The sum over each window; axes of one tuple go along together.

        `y[r, r'] = sum_d x[stride r + d, stride r' + d]` for `axes = [(0, 1)]`, one axis after
        another: slices and additions, which a compiler makes one loop of.
        """
        outputs = self.outputs([x.shape[a[0]] for a in axes])
        x = self.padded(x, axes)
        for each, size, stride, out in zip(axes, self.sizes, self.strides, outputs, strict=True):
            starts, strides = [0] * x.ndim, [1] * x.ndim
            limits = list(x.shape)
            total = None
            for d in range(size):
                for axis in each:
                    starts[axis], strides[axis] = d, stride
                    limits[axis] = d + (out - 1) * stride + 1
                piece = jax.lax.slice(x, starts, limits, strides)
                total = piece if total is None else total + piece
            assert total is not None
            x = total
        return x


def windows(
    name: str, sizes: Sequence[int], strides: Sequence[int] | None, padding: str
) -> Windows:
    if not isinstance(sizes, Sequence) or not isinstance(strides, Sequence | None):
        raise TypeError(
            f"{name}: windows and strides are sequences like (3, 3), got {sizes!r} and {strides!r}."
        )
    sizes = tuple(sizes)
    strides = (1,) * len(sizes) if strides is None else tuple(strides)
    if not isinstance(padding, str) or padding.upper() not in _PADDINGS:
        raise ValueError(f"{name}: padding must be one of {_PADDINGS}, got {padding!r}.")
    if len(strides) != len(sizes):
        raise ValueError(f"{name}: strides {strides} and windows {sizes} differ in length.")
    if any(v < 1 for v in sizes + strides):
        msg = f"{name}: windows and strides must be positive, got {sizes} and {strides}."
        raise ValueError(msg)
    return Windows(name, sizes, strides, padding.upper())
