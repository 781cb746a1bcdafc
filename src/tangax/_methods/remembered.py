"""What is known of one `f` from call to call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._shared.user_line import logger


class Remembered:
    """Warnings are given, and lines logged, once; what was checked is not checked again.

    `checked`: the leaves that were compared, by what calls that are checked alike have in common;
    `distrusted`: those whose factors gave another derivative than `f` itself.
    """

    def __init__(self) -> None:
        self.warned: set[str] = set()
        self.checked: dict[Any, tuple[str, ...]] = {}
        self.distrusted: set[str] = set()
        self._logged: set[str] = set()

    def log_unfactored(self, reasons: Mapping[str, str]) -> None:
        """Log of leaves, by path, what keeps them from being factored."""
        for path, why in reasons.items():
            if path not in self._logged:
                logger.info("The Jacobian of %s is not factored: %s.", path, why)
                self._logged.add(path)
