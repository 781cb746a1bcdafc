"""Kinds of sites, one file each: which equations they recognise, how their factors are taken."""

from __future__ import annotations

from .._jaxpr import Equation
from .base import Factor as Factor
from .base import Factored as Factored
from .base import Kind as Kind
from .base import Layout as Layout
from .base import Materialised as Materialised
from .base import OneHot as OneHot
from .base import View as View
from .base import alike as alike
from .base import cotangent as cotangent
from .base import examples as examples
from .base import grouped as grouped
from .base import groups as groups
from .base import materialise as materialise
from .base import outputs as outputs
from .base import over_layers as over_layers
from .base import over_time as over_time
from .base import product as product
from .base import pulled_back as pulled_back
from .base import real as real
from .base import scaled as scaled
from .base import units as units
from .base import with_cotangent as with_cotangent
from .conv import match_conv
from .dense import match_dense
from .embedding import match_embedding
from .generic import GENERIC as GENERIC
from .generic import RETURNED as RETURNED
from .part import Part as Part
from .part import part_of as part_of
from .vector import match_vector

_MATCHERS = (match_dense, match_conv, match_embedding, match_vector)


def kind_of(eqn: Equation, operand: int) -> Kind | None:
    """The kind of the site at which operand `operand` of `eqn`, a parameter, enters, if known."""
    return next((kind for match in _MATCHERS if (kind := match(eqn, operand)) is not None), None)
