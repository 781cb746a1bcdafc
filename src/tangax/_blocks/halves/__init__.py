"""Halves: what is computed once for a block of examples, kept, and paired with that of others.

Of an NTK the factors of the Jacobian, of an NNGP the outputs; where factors do not fit, or the
implementation has none, the examples themselves.
"""

from __future__ import annotations

from .base import Call as Call
from .base import Half as Half
from .base import OneExample as OneExample
from .base import Tile as Tile
from .base import metas as metas
from .examples import InExamples as InExamples
from .factors import ANY as ANY
from .factors import InFactors as InFactors
from .outputs import InOutputs as InOutputs

# A kind of half. What `half` and `tile` do can be compiled; `price` reads shapes alone.
Halves = InExamples | InFactors | InOutputs
