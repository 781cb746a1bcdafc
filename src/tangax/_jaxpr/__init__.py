"""The only room that knows what a jaxpr looks like: equations, their parameters, their names.

Everything here is a small reading of JAX's intermediate representation, the same on every supported
version; nothing else touches `jax.extend` or an equation's `params`.
"""

from __future__ import annotations

from .convolutions import channels_last as channels_last
from .convolutions import convolved as convolved
from .convolutions import convolves as convolves
from .core import Equation as Equation
from .core import Jaxpr as Jaxpr
from .core import Scan as Scan
from .core import Variable as Variable
from .core import affected as affected
from .core import bind as bind
from .core import called as called
from .core import evaluated as evaluated
from .core import frozen as frozen
from .core import has_references as has_references
from .core import is_differentiable as is_differentiable
from .core import is_literal as is_literal
from .core import read as read
from .core import replayed as replayed
from .core import scan as scan
from .core import shape_dtype as shape_dtype
from .core import source as source
from .core import title as title
from .core import trace as trace
from .hashing import digest as digest
from .linearity import is_linear_if_transposed as is_linear_if_transposed
from .measures import epsilon as epsilon
from .measures import equations as equations
from .measures import is_reverse_only as is_reverse_only
from .measures import keeps_a_rule as keeps_a_rule
from .measures import largest as largest
from .measures import multiply_adds as multiply_adds
from .measures import widest as widest
from .moves import Join as Join
from .moves import Move as Move
from .moves import Place as Place
from .moves import cut_out as cut_out
from .moves import dropped_axis as dropped_axis
from .moves import expansion as expansion
from .moves import is_broadcast as is_broadcast
from .moves import is_identity as is_identity
from .moves import is_layout as is_layout
from .moves import join as join
from .moves import move as move
from .moves import move_part as move_part
from .moves import reduction as reduction
from .moves import sizes as sizes
from .series import is_contraction as is_contraction
from .series import is_linear as is_linear
from .series import is_product as is_product
from .series import suits_jet as suits_jet
from .sites import Conv as Conv
from .sites import Dot as Dot
from .sites import Rows as Rows
from .sites import conv as conv
from .sites import divides as divides
from .sites import dot as dot
from .sites import rows as rows
from .sites import scales as scales
from .sites import sign as sign
from .sites import stops_gradient as stops_gradient
from .values import Unseen as Unseen
from .values import told as told
