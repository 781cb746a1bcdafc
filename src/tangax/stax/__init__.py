"""Layers of networks that are finite and infinite: `from tangax import stax`.

Each function makes a layer, `(init_fn, apply_fn, kernel_fn)`, with the names, arguments and scales
of Neural Tangents: see `KernelFn` for what the third one computes.
"""

from ._affine import Conv as Conv
from ._affine import Dense as Dense
from ._aggregate import Aggregate as Aggregate
from ._combinators import FanOut as FanOut
from ._combinators import Identity as Identity
from ._combinators import parallel as parallel
from ._combinators import serial as serial
from ._elementwise import ABRelu as ABRelu
from ._elementwise import Cos as Cos
from ._elementwise import Elementwise as Elementwise
from ._elementwise import ElementwiseNumerical as ElementwiseNumerical
from ._elementwise import Erf as Erf
from ._elementwise import Gelu as Gelu
from ._elementwise import LeakyRelu as LeakyRelu
from ._elementwise import Relu as Relu
from ._elementwise import Sin as Sin
from ._fan_in import FanInConcat as FanInConcat
from ._fan_in import FanInSum as FanInSum
from ._layer import KernelFn as KernelFn
from ._layer import Layer as Layer
from ._normalise import Dropout as Dropout
from ._normalise import LayerNorm as LayerNorm
from ._pooling import AvgPool as AvgPool
from ._pooling import Flatten as Flatten
from ._pooling import GlobalAvgPool as GlobalAvgPool
from ._pooling import GlobalSumPool as GlobalSumPool
from ._pooling import SumPool as SumPool
