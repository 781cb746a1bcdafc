"""Halves: what is computed once for a block of examples, kept, and paired with that of others.

Of an NTK the factors of the Jacobian, of an NNGP the outputs; where factors do not fit, or the
implementation has none, the examples themselves.
"""

from __future__ import annotations

from .base import Call as Call
from .base import Half as Half
from .base import Halves as Halves
from .base import OneExample as OneExample
from .base import Tile as Tile
from .examples import InExamples as InExamples
from .factors import ANY as ANY
from .factors import InFactors as InFactors
from .outputs import InOutputs as InOutputs
from .outputs import pair_of as pair_of
