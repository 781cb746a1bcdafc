"""Axes of a layer's arrays."""

from __future__ import annotations

from collections.abc import Sequence

from .._axes import is_int


def as_axes(axis: int | Sequence[int]) -> tuple[int, ...]:
    """One axis or several as a tuple."""
    return (axis,) if is_int(axis) else tuple(axis)  # pyright: ignore[reportReturnType, reportArgumentType]


def checked_axis(name: str, axis: int, shape: Sequence[int]) -> int:
    """An axis of an array with a batch and channels, counted from the front."""
    if len(shape) < 2 or not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"{name} takes arrays with a batch and a channel axis; axis {axis} does not fit an "
            f"input of shape {tuple(shape)}."
        )
    return int(axis) % len(shape)


def checked_axes(name: str, axes: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Axes that differ, counted from the front."""
    found = tuple(checked_axis(name, axis, shape) for axis in axes)
    if len(set(found)) < len(found):
        raise ValueError(f"{name}: axes {tuple(axes)} are not different ones of {len(shape)}.")
    return found


def spatial(name: str, shape: Sequence[int], batch_axis: int, channel_axis: int) -> tuple[int, ...]:
    """The axes of positions."""
    others = checked_axes(name, (batch_axis, channel_axis), shape)
    return tuple(a for a in range(len(shape)) if a not in others)
