"""Taylor expansions of a function in its parameters."""

from .expand import linearize as linearize
from .expand import taylor_expand as taylor_expand
