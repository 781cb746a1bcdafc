"""Which keyword arguments a function takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be given an argument by its name."""
    return names_argument(function, name) or any(
        p.kind is p.VAR_KEYWORD for p in _parameters(function)
    )


def names_argument(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has an argument of that name."""
    return any(p.name == name for p in _parameters(function))


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []
