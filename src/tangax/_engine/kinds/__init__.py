"""Kinds of sites, one file each: which equations they recognise, how their factors are taken."""

from __future__ import annotations

from ..._jaxpr import Equation
from .conv import match_conv
from .dense import match_dense
from .elementwise import match_vector
from .embedding import match_embedding
from .generic import GENERIC as GENERIC
from .generic import RETURNED as RETURNED
from .joined import Part as Part
from .joined import part_of as part_of
from .normal_form import Factor as Factor
from .normal_form import Factored as Factored
from .normal_form import Kind as Kind
from .normal_form import Layout as Layout
from .normal_form import Materialised as Materialised
from .normal_form import OneHot as OneHot
from .normal_form import alike as alike
from .normal_form import cotangent as cotangent
from .normal_form import examples as examples
from .normal_form import grouped as grouped
from .normal_form import groups as groups
from .normal_form import is_one_hot as is_one_hot
from .normal_form import materialise as materialise
from .normal_form import outputs as outputs
from .normal_form import over_layers as over_layers
from .normal_form import over_time as over_time
from .normal_form import product as product
from .normal_form import pulled_back as pulled_back
from .normal_form import real as real
from .normal_form import scaled as scaled
from .normal_form import units as units
from .normal_form import with_cotangent as with_cotangent

_MATCHERS = (match_dense, match_conv, match_embedding, match_vector)


def kind_of(eqn: Equation, operand: int) -> Kind | None:
    """The kind of the site at which operand `operand` of `eqn`, a parameter, enters, if known."""
    return next((kind for match in _MATCHERS if (kind := match(eqn, operand)) is not None), None)
