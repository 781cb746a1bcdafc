"""Where warnings point."""

from __future__ import annotations

import os
import sys

import jax


def user_stacklevel() -> int:
    """The `stacklevel` at which the caller's `warnings.warn` points at the user's line."""
    ours = (os.path.dirname(__file__) + os.sep, os.path.dirname(jax.__file__) + os.sep)
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    return level
