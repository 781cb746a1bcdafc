"""Which keyword arguments a function takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def takes(function: Callable[..., Any], name: str, *, by_name: bool = False) -> bool:
    """Whether a function can be given an argument of that name. `by_name`: it has one."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return name in parameters or (anything and not by_name)
