"""Whole models of Flax, Equinox and Haiku: importing their files fills the table."""

from support.models import equinox, flax, haiku
from support.models.table import CORE, MODELS, get

__all__ = ["CORE", "MODELS", "equinox", "flax", "get", "haiku"]
