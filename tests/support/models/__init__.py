"""Whole models of Flax, Equinox and Haiku: importing their files fills the table."""

from support.models import equinox, flax, haiku
from support.models.table import MODELS, get

__all__ = ["MODELS", "equinox", "flax", "get", "haiku"]
