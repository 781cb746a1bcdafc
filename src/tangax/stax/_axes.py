"""Axes of a layer's arrays."""

from __future__ import annotations

from collections.abc import Sequence

from .._shared.axes import canonical_axes, is_int


def checked_axes(name: str, axes: int | Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Different axes of an array with a batch and channels, as given, counted from the front."""
    if len(shape) < 2:
        raise ValueError(
            f"{name} takes arrays with a batch and a channel axis, got shape {tuple(shape)}."
        )
    canonical_axes(f"{name}: axes", axes, "an input", tuple(shape))
    every = [axes] if is_int(axes) else axes
    return tuple(int(a) % len(shape) for a in every)  # pyright: ignore[reportGeneralTypeIssues]


def checked_axis(name: str, axis: int, shape: Sequence[int]) -> int:
    return checked_axes(name, axis, shape)[0]


def spatial(name: str, shape: Sequence[int], batch_axis: int, channel_axis: int) -> tuple[int, ...]:
    others = checked_axes(name, (batch_axis, channel_axis), shape)
    return tuple(a for a in range(len(shape)) if a not in others)
