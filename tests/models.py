"""Every model, of all libraries: importing their files fills the table."""

import models_equinox
import models_flax
import models_haiku
from models_table import MODELS, get

__all__ = ["MODELS", "get", "models_equinox", "models_flax", "models_haiku"]
