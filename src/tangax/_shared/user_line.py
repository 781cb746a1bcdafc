"""Where warnings point, and lines of the log go."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

import jax

logger = logging.getLogger("tangax")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, at the line of the user's that called."""
    warnings.warn(message, category, stacklevel=_user_stacklevel())


def warn_first(warned: set[Any], key: str, message: str) -> None:
    """Warn, unless `key` was warned of."""
    if key not in warned:
        warned.add(key)
        warn(message)


def _user_stacklevel() -> int:
    """The `stacklevel` at which the caller's `warnings.warn` points at the user's line."""
    ours = (
        os.path.dirname(os.path.dirname(__file__)) + os.sep,
        os.path.dirname(jax.__file__) + os.sep,
    )
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    return level
